#!/usr/bin/env python3
"""SIGUSR1 and SIGTERM to mpirun, or to one rank alone, while blocks are trained and in E2E-QP: all save, mpirun ends with 75 and
the next start, on another number of ranks, ends with the bytes of a run that nobody stopped. (Of a SIGTERM to itself mpirun
makes exit code 1, whatever the ranks say, and it kills them a second later: SIGUSR1 is the way.) usage: test_signal.py QUARRY"""
import os, re, signal, sys, time
import launch
from quarry_job import random_llama, results, run, same_results, scratch, write_job

quarry = sys.argv[1]
JOB = """
model: {model}
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 2048, sequence_length: 32, validation_samples: 2}}
quantize: {{weights: {{bits: 2, group_size: 32}}, segments: 2}}
block_ap: {{epochs: 12, batch_size: 1}}
e2e_qp: {{loss: next-token, samples: 2048, batch_size: 4, epochs: 2}}
resources: {{threads: 1}}
checkpoint: {{minutes: 600}}
"""


def has_metric(run_dir, *words):
    try:
        return any(all(w in line for w in words) for line in open(os.path.join(run_dir, "metrics.jsonl")))
    except OSError:
        return False


def stop_once(ranks, job, run_dir, number, whom, words):
    p = launch.start(quarry, ranks, job)
    end = time.time() + 60
    while not has_metric(run_dir, *words):
        assert p.poll() is None and time.time() < end, f"never came to {words}: {p.communicate()[0]}"
        time.sleep(0.005)
    began = time.time()
    os.kill(p.pid if whom == "mpirun" else launch.rank_pids(job)[-1], number)
    out, _ = p.communicate(timeout=60)
    assert p.returncode == (1 if (number, whom) == (signal.SIGTERM, "mpirun") else 75) and "stopped on request" in out, f"{number} to {whom}: exit {p.returncode}\n{out}"
    return time.time() - began


with scratch() as folder:
    model = random_llama(folder, 2)
    calm = write_job(folder, "calm.yaml", "calm", JOB, model=model)
    code, out = run([quarry, "run", calm, "--quiet"])
    assert code == 0, out
    want = results(os.path.join(folder, "calm"))
    for number, whom in ((signal.SIGUSR1, "mpirun"), (signal.SIGTERM, "last rank"), (signal.SIGTERM, "mpirun")):
        name = f"{number.name}-{whom.split()[0]}"
        job, run_dir = write_job(folder, f"{name}.yaml", name, JOB, model=model), os.path.join(folder, name)
        times = [stop_once(2, job, run_dir, number, whom, ('"phase":"quantize"', '"step"'))]
        saved = [n for n in os.listdir(os.path.join(run_dir, "blocks")) if "partial" in n]
        assert saved, os.listdir(os.path.join(run_dir, "blocks"))
        times.append(stop_once(2, job, run_dir, number, whom, ('"phase":"e2e_qp"',)))
        code, out = launch.run(quarry, 1, job)
        assert code == 0, f"exit {code}\n{out}"
        went_on = sum(len(re.findall("goes on after step", open(os.path.join(run_dir, f"logs/rank-{r:03d}.log")).read())) for r in (0, 1))
        assert went_on == len(saved), (went_on, saved)
        different = same_results(want, results(run_dir))
        assert not different, f"{name}: differ {different}"
        print(f"{number.name} to {whom}: {len(saved)} blocks saved; stopped in {times[0]:.2f} s, in E2E-QP in {times[1]:.2f} s; {len(want)} files equal")
