#!/usr/bin/env python3
"""quarry plan --calibrate measures in under a minute and keeps it in the user's cache; the estimate is in plan.json
before the run and stays; a GPU that is too small and a disk that is asked for too much are no-go, exit 2.
usage: test_plan_time.py QUARRY"""
import json, os, resource, shutil, sys
from quarry_job import run, scratch, write_job

quarry = sys.argv[1]
with scratch() as folder:
    cache = os.path.join(folder, "cache")
    env = {"XDG_CACHE_HOME": cache}
    job, run_dir = write_job(folder), os.path.join(folder, "run")
    cpu = ["--set", "resources.device=cpu", "--set", "resources.threads=1", "--set", "evaluate=[]"]

    code, out = run([quarry, "plan", job, *cpu], env=env)
    assert code == 0 and "go, as far as is known" in out and "\ntime " not in out, (code, out)
    assert not os.path.exists(cache) and not os.path.exists(run_dir)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    code, out = run([quarry, "plan", job, *cpu, "--calibrate"], env=env)
    assert code == 0 and resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60, (code, out)
    assert "\ntime       about " in out and "measured 20" in out and "\ngo: about " in out and "about 0.0 h" not in out, out
    speeds = json.load(open(os.path.join(cache, "quarry", "speeds.json")))["speeds"]
    assert len(speeds) == 1 and speeds[0]["threads"] == 1 and speeds[0]["train"] > 1e8, speeds
    assert not os.path.exists(run_dir) and not [n for n in os.listdir(folder) if n.startswith(".quarry")]

    code, out = run([quarry, "run", job, *cpu, "--quiet"], env=env)
    assert code == 0, out
    estimate = json.load(open(os.path.join(run_dir, "plan.json")))["estimate"]
    assert "measured" in estimate["source"] and all(estimate["phase_s"][p] > 0 for p in ("quantize", "e2e_qp"))
    code, out = run([quarry, "plan", job, *cpu, "--calibrate", "--save"], env=env)
    assert code == 0 and json.load(open(os.path.join(run_dir, "plan.json")))["estimate"] == estimate, out

    # An H200 from the shipped table: two streams of 275 GB each over little memory, and a model that is too large.
    gpu = ["--set", "resources.device=cuda", "--set", f"run_dir={folder}/gpu"]
    code, out = run([quarry, "plan", job, *gpu], env=env)
    assert code == 0 and "NVIDIA H200, shipped" in out, (code, out)
    speeds[0] |= {"kind": "cuda", "model": "a small GPU", "compute": "bf16", "memory": 1e6}
    json.dump({"speeds": speeds}, open(os.path.join(cache, "quarry", "speeds.json"), "w"))
    code, out = run([quarry, "plan", job, *gpu], env=env)
    assert code == 2 and "no-go: a worker needs" in out and "a small GPU has" in out, (code, out)
    speeds[0] |= {"memory": 1e12, "train": 1e20, "forward": 1e20, "update": 1e20, "start": 1e20, "freeze": 1e20,
                  "load": 1e20, "read": 1e20, "disk": 1e20}
    json.dump({"speeds": speeds}, open(os.path.join(cache, "quarry", "speeds.json"), "w"))
    code, out = run([quarry, "plan", job, *gpu, "--set", "resources.host_cache=1000", "--workers", "2", "--workers-per-node",
                     "2"], env=env)
    assert code == 2 and "no-go: the 2 workers of a node ask" in out and "host_cache" in out, (code, out)

    # A disk that is stated, its room and its speed: a block of 2 epochs trains for a minute and walks for 10 s.
    scratch = [*gpu, "--set", "resources.host_cache=1000", "--set"]
    def no_go(*what, text):
        code, out = run([quarry, "plan", job, *scratch, *what], env=env)
        assert code == 2 and "no-go: " + text in out, (what, code, out)
    no_go("resources.scratch_bytes=1000", text="of its streams each worker holds 1000 B in memory, which leaves ")
    no_go("resources.scratch_gbps=1", text="the 1 workers of a node ask ")
    speeds[0] |= {"train": 1e6, "forward": 1e6}
    json.dump({"speeds": speeds}, open(os.path.join(cache, "quarry", "speeds.json"), "w"))
    code, out = run([quarry, "plan", job, *scratch, "resources.scratch_gbps=1"], env=env)
    assert code == 0 and "while streams advance" in out and "for saved streams" in out, (code, out)
    code, out = run([quarry, "plan", job, *scratch, "checkpoint.recompute_minutes=100000"], env=env)
    assert code == 0 and "for saved streams" not in out, (code, out)

    # A disk that holds the run's files, but not what it will save of its streams: refused before anything is started.
    large = [*gpu, "--set", "calibration.samples=1000000", "--set", "calibration.sequence_length=256", "--set", "quantize.segments=1", "--set", "e2e_qp.samples=8",
             "--set", "e2e_qp.sequence_length=32"]
    small = shutil.disk_usage(folder).free < 5e11
    for words in (["run", job, "--quiet"], ["submit", job, "--gpus-per-node", "1", "--dry-run"]) if small else ():
        code, out = run([quarry, *words, *large], env=env)
        assert code == 2 and "quarry: saved streams need" in out and not os.path.exists(f"{folder}/gpu"), (words, code, out)
    print("calibrated, estimated, recorded; go and no-go")
