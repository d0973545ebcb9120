#!/usr/bin/env python3
"""A job that is killed with SIGKILL (its whole process group) in every phase, most of them at the worst moment, just
before a file is renamed into place, ends with the same bytes as one that nobody disturbed; finished blocks stay as
they are. usage: test_resume.py QUARRY"""
import os, random, signal, subprocess, sys, time
from quarry_job import results, run, same_results, scratch, write_job

quarry = sys.argv[1]
# What is being committed when the group dies; each is one kill in the phase named beside it.
# In the order of a run: a name that is not reached any more would let the run finish.
KILLS = [("tokens/calibration", "tokens"), ("segments/01/02", "capture"), ("segments/02/02", "capture"), ("segments/teacher/01", "capture"), *((f"blocks/{b:03d}", f"block {b}") for b in range(6)),
         ("model/model.h5", "stitch"), ("e2e/step-00001/003", "e2e_qp"), ("e2e/step-00003/000", "e2e_qp"),
         ("export/hf", "export")]


def finished_blocks(run_dir):
    folder = os.path.join(run_dir, "blocks")
    names = [n for n in os.listdir(folder) if n.endswith(".h5")] if os.path.isdir(folder) else []
    return {n: (os.stat(os.path.join(folder, n)).st_ino, os.stat(os.path.join(folder, n)).st_mtime_ns) for n in names}


def random_kill(job, run_dir, seconds):
    p = subprocess.Popen([quarry, "run", job, "--quiet"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    alive = p.poll() is None
    if alive:
        os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    return alive


with scratch() as folder:
    calm = write_job(folder, "calm.yaml", "calm")
    code, out = run([quarry, "run", calm, "--quiet"])
    assert code == 0, f"undisturbed run: exit {code}\n{out}"
    want = results(os.path.join(folder, "calm"))
    assert any(k.startswith("e2e/") for k in want) and "model/model.h5" in want, sorted(want)

    job, run_dir, hits, blocks = write_job(folder, "job.yaml", "run"), os.path.join(folder, "run"), {}, {}
    for where, phase in KILLS:
        code, out = run([quarry, "run", job, "--quiet"], env={"QUARRY_TEST_KILL": where})
        assert code == -signal.SIGKILL, f"{where} was not reached: exit {code}\n{out}"
        hits[phase] = hits.get(phase, 0) + 1
        now = finished_blocks(run_dir)
        for name, stamp in blocks.items():
            assert now.get(name) == stamp, f"{name} was touched after it had been finished"
        blocks = now
    rng, at_random = random.Random(7), 0
    for _ in range(3):
        at_random += random_kill(job, run_dir, rng.uniform(0.02, 0.4))
    code, out = run([quarry, "run", job, "--quiet"])
    assert code == 0, f"after the kills: exit {code}\n{out}"
    different = same_results(want, results(run_dir))
    assert not different, f"differ from the undisturbed run: {different}"
    for name, stamp in blocks.items():
        assert finished_blocks(run_dir)[name] == stamp, f"{name} was touched after it had been finished"
    again = run([quarry, "run", job, "--quiet"])
    assert again[0] == 0 and finished_blocks(run_dir) == blocks or len(blocks) < 6, again[1]
    leftovers = [os.path.join(r, f) for r, _, fs in os.walk(run_dir) for f in fs if ".tmp." in f]
    assert not leftovers, leftovers
    print(f"{sum(hits.values())} kills at a commit {hits}, {at_random} at random moments; compared {len(want)} files")
    assert sum(hits.values()) >= 10
