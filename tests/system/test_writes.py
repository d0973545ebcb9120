#!/usr/bin/env python3
"""A whole job, exports and scratch included, writes nowhere but in its run directory and its scratch: every file that it or its tasks
open for writing, make, rename or remove is below them. Needs strace. usage: test_writes.py QUARRY"""
import os, re, shutil, subprocess, sys
from quarry_job import random_llama, scratch, write_job

JOB = """
model: {model}
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 4, sequence_length: 64, validation_samples: 1}}
quantize: {{weights: {{bits: 2, group_size: 32}}, segments: 2}}
block_ap: {{epochs: 2, batch_size: 1}}
e2e_qp: {{loss: distill, samples: 4, batch_size: 2}}
evaluate: [{{name: kjv, text: {text}, sequence_length: 64}}]
export: [gptq, hf]
resources: {{threads: 1, host_cache: 1, scratch: {scratch}}}
checkpoint: {{minutes: 0, recompute_minutes: 0}}
"""
ALLOWED = ("/proc/self/oom_score_adj", "/dev/null", "/dev/tty")

if not shutil.which("strace"):
    print("SKIP: strace is not here")
    sys.exit(0)
with scratch() as folder:
    job = write_job(folder, text=JOB, model=random_llama(folder, 2), scratch=os.path.join(folder, "scratch"))
    trace = os.path.join(folder, "trace")
    p = subprocess.run(["strace", "-f", "-s", "4096", "-o", trace, "-e", "trace=open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,unlink,truncate",
                        sys.argv[1], "run", job, "--quiet"], capture_output=True, text=True)
    if p.returncode != 0 and "ptrace" in p.stderr:
        print("SKIP: tracing is not allowed here")
        sys.exit(0)
    assert p.returncode == 0, p.stderr
    inside, outside = 0, set()
    for line in open(trace):
        if " = -1 " in line or not re.search(r"O_WRONLY|O_RDWR|O_CREAT|mkdir|rename|link\(|creat\(|truncate\(", line):
            continue
        for path in re.findall(r'"([^"]*)"', line):
            if not path.startswith("/"):  # below a folder that is open: that one was seen
                continue
            if path.startswith((os.path.join(folder, "run"), os.path.join(folder, "scratch"))):
                inside += 1
            elif not path.startswith(ALLOWED):
                outside.add(path)
    assert inside > 50 and not outside, (inside, sorted(outside))
    print(f"{inside} files opened for writing, made, renamed or removed; none outside of run_dir and scratch")
