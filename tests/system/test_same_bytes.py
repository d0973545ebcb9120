#!/usr/bin/env python3
"""One and two threads give the same bytes, with matrix products that use what the CPU has. usage: test_same_bytes.py QUARRY"""
import os, sys
from quarry_job import results, run, same_results, scratch, write_job

quarry = sys.argv[1]
with scratch() as folder:
    made = []
    for threads in (1, 2):
        job = write_job(folder, f"{threads}.yaml", f"run{threads}")
        code, out = run([quarry, "run", job, "--quiet", "--set", f"resources.threads={threads}"])
        assert code == 0, f"{threads} threads: exit {code}\n{out}"
        made.append(results(os.path.join(folder, f"run{threads}")))
    assert len(made[0]) > 10
    different = same_results(*made)
    assert not different, f"1 and 2 threads differ in {different}"
    device = open(os.path.join(folder, "run1", "device.json")).read()
    oldest = "core Prescott" in device
    assert not (oldest and " avx2 " in open("/proc/cpuinfo").read()) or "OPENBLAS_CORETYPE" in os.environ, device
    print(f"{len(made[0])} files equal")
