#!/usr/bin/env python3
"""A stop request inside a block, by SIGUSR1 or SIGTERM to the run, to its task's process, or by a file `halt`: the block is saved
at the next step, the run ends with 75, the next start goes on after that very step, and the bytes are those of a run that nobody
stopped. usage: test_stop.py QUARRY [KEY=VALUE]...: with settings, such as another device, one signal only"""
import os, re, signal, subprocess, sys, time
from quarry_job import random_llama, results, run, same_results, scratch, write_job

quarry, settings = sys.argv[1], [x for s in sys.argv[2:] for x in ("--set", s)]
JOB = """
model: {model}
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 1024, sequence_length: 32, validation_samples: 2}}
quantize: {{weights: {{bits: 2, group_size: 32}}, segments: 1}}
block_ap: {{epochs: 4, batch_size: 1, norm_lr: 1e-4}}
e2e_qp: {{loss: next-token, samples: 256, batch_size: 4, epochs: 1}}
resources: {{threads: 1}}
checkpoint: {{minutes: 600, recompute_minutes: 0}}
"""


def wait_for(what, seconds=240):  # patience for sanitized builds
    end = time.time() + seconds
    while not what():
        assert time.time() < end, "waited in vain"
        time.sleep(0.002)


def child_of(pid):
    for other in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(open(f"/proc/{other}/stat").read().rsplit(")", 1)[1].split()[1]) == pid and b"task" in open(f"/proc/{other}/cmdline", "rb").read():
                return int(other)
        except OSError:
            pass
    return None


def metric_lines(run_dir, word):
    try:
        return sum(word in line for line in open(os.path.join(run_dir, "metrics.jsonl")))
    except OSError:
        return 0


def stop_once(job, run_dir, how, when):
    log = os.path.join(run_dir, "logs/rank-000.log")
    p = subprocess.Popen([quarry, "run", job, "--quiet", *settings], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    wait_for(lambda: metric_lines(run_dir, when) > 0 or p.poll() is not None)
    assert p.poll() is None, f"over before it could be stopped: {p.communicate()[0]}"
    began = time.time()
    if how == "halt":
        open(os.path.join(run_dir, "halt"), "w").close()
    elif how == "task":
        os.kill(child_of(p.pid), signal.SIGUSR1)
    else:
        os.kill(p.pid, how)
    out, _ = p.communicate(timeout=60)
    assert p.returncode == 75 and "stopped on request" in out, f"{how}: exit {p.returncode}\n{out}"
    if how == "halt":
        code, out = run([quarry, "run", job, "--quiet", *settings])
        assert code == 2 and "halt" in out and "remove" in out, f"with the halt file: exit {code}\n{out}"
        os.remove(os.path.join(run_dir, "halt"))
    return time.time() - began, os.path.getsize(log)


with scratch() as folder:
    model = random_llama(folder, 2)
    calm = write_job(folder, "calm.yaml", "calm", JOB, model=model)
    code, out = run([quarry, "run", calm, "--quiet", *settings])
    assert code == 0, out
    want = results(os.path.join(folder, "calm"))
    for how in (signal.SIGUSR1,) if settings else (signal.SIGUSR1, signal.SIGTERM, "task", "halt"):
        name = how if isinstance(how, str) else signal.Signals(how).name
        job, run_dir = write_job(folder, f"{name}.yaml", name, JOB, model=model), os.path.join(folder, name)
        # in the second block also while a thread of its own saves the streams, which looks for stops as well
        seconds, at = stop_once(job, run_dir, how, '"block":1,' if how == "task" else '"block":0,')
        saved = [n for n in os.listdir(os.path.join(run_dir, "blocks")) if "partial" in n]
        assert len(saved) == 1, saved
        in_e2e = "" if isinstance(how, str) else stop_once(job, run_dir, how, '"phase":"e2e_qp"') and ", in E2E-QP too"
        code, out = run([quarry, "run", job, "--quiet", *settings])
        assert code == 0, f"exit {code}\n{out}"
        went_on = re.findall(rf"block {int(saved[0][:3])} goes on after step (\d+) of 4096", open(os.path.join(run_dir, "logs/rank-000.log")).read()[at:])
        assert len(went_on) == 1, went_on
        assert sorted(os.listdir(os.path.join(run_dir, "blocks"))) == ["000.h5", "001.h5"]
        different = same_results(want, results(run_dir))
        assert not different, f"stopped by {name}: differ {different}"
        print(f"{name}: stopped in {seconds:.2f} s, went on after step {went_on[0]} of 4096{in_e2e}; {len(want)} files equal")
