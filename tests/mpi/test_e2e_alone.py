#!/usr/bin/env python3
"""One rank alone fails in the midst of E2E-QP, here at a damaged file of the teacher's states that only the last one reads: the
launch ends at once and says why, instead of waiting for it, and the next start goes on to the bytes of an undisturbed run.
usage: test_e2e_alone.py QUARRY"""
import os, sys, time
import launch
from quarry_job import random_llama, results, run, same_results, scratch, write_job

quarry = sys.argv[1]
JOB = """
model: {model}
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 4, sequence_length: 64, validation_samples: 1}}
quantize: {{weights: {{bits: 2, group_size: 32}}, segments: 2}}
block_ap: {{epochs: 10, batch_size: 1}}
e2e_qp: {{loss: distill, samples: 4, batch_size: 2, epochs: 10}}
resources: {{threads: 1}}
checkpoint: {{minutes: 0}}
"""

with scratch() as folder:
    model = random_llama(folder, 3)
    calm = write_job(folder, "calm.yaml", "calm", JOB, model=model)
    code, out = run([quarry, "run", calm, "--quiet"])
    assert code == 0, out
    want = results(os.path.join(folder, "calm"))
    job, run_dir = write_job(folder, "job.yaml", "run", JOB, model=model), os.path.join(folder, "run")
    code, out = run([quarry, "run", job, "--quiet"], env={"QUARRY_TEST_KILL": "step-00003/002"})
    assert code == -9, out
    path = os.path.join(run_dir, "segments/teacher/02.h5")
    data = bytearray(open(path, "rb").read())
    at = len(data) // 2
    while 0 in data[at - 2:at + 3]:  # HDF5 leaves gaps, of zeros, that nobody reads
        at += 1
    data[at] ^= 16
    with open(path, "wb") as f:
        f.write(data)
    began = time.time()
    code, out = launch.run(quarry, 2, job, timeout=120)
    seconds = time.time() - began
    assert code == 1 and "teacher/02.h5" in out and "set aside" in out, f"exit {code}\n{out}"
    code, out = launch.run(quarry, 2, job)
    assert code == 0, f"exit {code}\n{out}"
    different = same_results(want, results(run_dir))
    assert not different, different
    print(f"the launch ended after {seconds:.1f} s; the next one went on, {len(want)} files equal")
