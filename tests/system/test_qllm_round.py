#!/usr/bin/env python3
"""A kill, and a stop request, inside a round of QLLM's blocks, and a kill between its files: the next start goes on after the last
saved step, and the bytes are those of a run that nobody touched. Nor do they depend on what memory held before. usage: test_qllm_round.py QUARRY"""
import os, re, signal, subprocess, sys, time
from quarry_job import random_llama, results, run, same_results, scratch, write_job

quarry = sys.argv[1]
STEPS = 64 * 64
JOB = """
model: {model}
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 64, sequence_length: 32, validation_samples: 2}}
quantize: {{method: qllm, weights: {{bits: 4, group_size: -1}}, activations: {{bits: 4}}, kv_cache: {{bits: 8}}, segments: 1}}
qllm: {{epochs: 64, blocks_per_round: 3, least_gain: 0, search_samples: 4}}
resources: {{threads: 1}}
checkpoint: {{minutes: {minutes}}}
"""


def interrupt(job, run_dir, first, how):
    """Ends the run inside the round that begins at block `first`: kills all of it once a checkpoint is there, or asks it to stop."""
    sign = os.path.join(run_dir, f"blocks/{first:03d}.partial.h5")
    metrics, end = os.path.join(run_dir, "metrics.jsonl"), time.time() + 300
    p = subprocess.Popen([quarry, "run", job, "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def there():
        if how == signal.SIGKILL:
            return os.path.exists(sign)
        return os.path.exists(metrics) and f'"block":{first},"step":' in open(metrics).read()
    while not there():
        assert p.poll() is None and time.time() < end, f"no round in work at block {first}: {p.communicate()[0]}"
        time.sleep(0.002)
    (os.killpg if how == signal.SIGKILL else os.kill)(p.pid, how)
    out, _ = p.communicate(timeout=60)
    assert p.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 75), f"{how}: exit {p.returncode}\n{out}"
    saved = [n for n in os.listdir(os.path.join(run_dir, "blocks")) if n.endswith("partial.h5")]
    assert saved == [os.path.basename(sign)], saved


with scratch(memory=True) as folder:
    model = random_llama(folder, 5)
    calm = write_job(folder, "calm.yaml", "calm", JOB, model=model, minutes=600)
    code, out = run([quarry, "run", calm, "--quiet"])
    assert code == 0, out
    want = results(os.path.join(folder, "calm"))
    assert len([p for p in want if p.startswith("norm/")]) > 0, sorted(want)
    for how, minutes in ((signal.SIGKILL, 0), (signal.SIGUSR1, 600)):
        name = signal.Signals(how).name
        job, run_dir = write_job(folder, f"{name}.yaml", name, JOB, model=model, minutes=minutes), os.path.join(folder, name)
        for first in (0, 3):
            interrupt(job, run_dir, first, how)
        code, out = run([quarry, "run", job, "--quiet"])
        assert code == 0, f"exit {code}\n{out}"
        log = open(os.path.join(run_dir, "logs/rank-000.log")).read()
        went_on = [(int(b), int(s)) for b, s in re.findall(rf"block (\d+) goes on after step (\d+) of {STEPS}", log)]
        assert [b for b, _ in went_on] == [0, 3] and all(0 < s < STEPS for _, s in went_on), went_on
        assert sorted(os.listdir(os.path.join(run_dir, "blocks"))) == [f"{b:03d}.h5" for b in range(5)]
        different = same_results(want, results(run_dir))
        assert not different, f"{name}: differ {different}"
        print(f"{name}: went on after steps {[s for _, s in went_on]} of {STEPS}; {len(want)} files equal")

    # The first of a round's files is there, the others are not: the round is made again, but from its checkpoint.
    job, run_dir = write_job(folder, "between.yaml", "between", JOB, model=model, minutes=0), os.path.join(folder, "between")
    few = ["--set", "qllm.epochs=2"]
    code, out = run([quarry, "run", job, "--quiet", *few], env={"QUARRY_TEST_KILL": "blocks/001.h5"})
    assert code == -signal.SIGKILL and os.path.exists(os.path.join(run_dir, "blocks/000.h5")), f"exit {code}\n{out}"
    code, out = run([quarry, "run", job, "--quiet", *few])
    assert code == 0, f"exit {code}\n{out}"
    went_on = re.findall(r"block 0 goes on after step (\d+) of 128", open(os.path.join(run_dir, "logs/rank-000.log")).read())
    assert len(went_on) == 1, f"the round began anew: {went_on}"
    calm = write_job(folder, "short.yaml", "short", JOB, model=model, minutes=600)
    code, out = run([quarry, "run", calm, "--quiet", *few])
    assert code == 0, out
    different = same_results(results(os.path.join(folder, "short")), results(run_dir))
    assert not different, f"between the files of a round: differ {different}"
    print(f"between the files of a round: went on after step {went_on[0]} of 128")

    # The last training windows share a batch with validation windows, and are looked at all the same: memory that is never
    # written would show in the bytes.
    keys = [x for key in ("qllm.epochs=1", "qllm.batch_size=24", "qllm.search_samples=64") for x in ("--set", key)]
    made = []
    for filled in ("0", "7"):  # of all that malloc gives: as it comes, or numbers that are none
        job = write_job(folder, f"filled-{filled}.yaml", f"filled-{filled}", JOB, model=model, minutes=600)
        code, out = run([quarry, "run", job, "--quiet", *keys], env={"MALLOC_PERTURB_": filled})
        assert code == 0, f"memory filled with {filled}: exit {code}\n{out}"
        made.append(results(os.path.join(folder, f"filled-{filled}")))
    different = same_results(*made)
    assert not different, f"memory that was filled shows in {different}"
