#!/usr/bin/env python3
"""A task's process that crashes, is killed as by the OOM killer, or whose device fails costs one attempt of one task: the ledger
says why, the job ends well, with the bytes of an undisturbed run. After a device failure a probe decides whether the rank goes on:
one whose probe fails takes no more tasks and the others do the rest; with none left the run ends and says so. A rank that never
comes up ends the launch, and so do a rank 0 that cannot begin and a rank that hangs in E2E-QP; one that falls silent elsewhere does not
keep a run from its end. usage: test_faults.py QUARRY"""
import glob, json, os, signal, subprocess, sys, time
import launch
from quarry_job import random_llama, results, run, same_results, scratch, write_job

quarry = sys.argv[1]
os.environ["ASAN_OPTIONS"] = "handle_segv=0:detect_leaks=0"  # in sanitized builds: a crash is to be one
JOB = """
model: {model}
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 128, sequence_length: 32, validation_samples: 2}}
quantize: {{weights: {{bits: 2, group_size: 32}}, segments: 2}}
block_ap: {{epochs: 1, batch_size: 2}}
evaluate: [{{name: kjv, text: {text}, sequence_length: 64}}]
resources: {{threads: 1}}
checkpoint: {{minutes: 0}}
"""


def ledger(run_dir, event):
    events = [json.loads(line.split("\t")[0]) for line in open(os.path.join(run_dir, "ledger.jsonl"))]
    return [e for e in events if e["event"] == event]


with scratch() as folder:
    model = random_llama(folder, 2)
    calm = write_job(folder, "calm.yaml", "calm", JOB, model=model)
    code, out = run([quarry, "run", calm, "--quiet"])
    assert code == 0, out
    want = results(os.path.join(folder, "calm"))

    # kind, task, its number of failing attempts, what the ledger says
    for kind, task, n, words in (("crash", "segment 1", 1, "signal 11"), ("kill", "segment 0", 2, "signal 9"),
                                 ("device", "segment 1", 1, "a probe finds the device at work"), ("address", "segment 0", 1, "signal 11"),
                                 ("kill", "evaluate text 0 stitched range 0", 1, "signal 9")):
        name = f"{kind} {task}".replace(" ", "-")
        job, run_dir = write_job(folder, f"{name}.yaml", name, JOB, model=model), os.path.join(folder, name)
        code, out = run([quarry, "run", job, "--quiet"], env={"QUARRY_TEST_FAIL": f"{kind}@{task}#{n}"})
        assert code == 0, f"{name}: exit {code}\n{out}"
        failed = ledger(run_dir, "failed")
        assert len(failed) == n, failed
        assert all(e["task"] == task and words in e["text"] for e in failed), failed
        different = same_results(want, results(run_dir))
        assert not different, f"{name}: differ {different}"
        print(f"{kind} of {task}: {len(failed)} attempts lost, {len(want)} files equal")

    job, run_dir = write_job(folder, "third.yaml", "third", JOB, model=model), os.path.join(folder, "third")
    code, out = run([quarry, "run", job, "--quiet"], env={"QUARRY_TEST_FAIL": "crash@segment 0#9"})
    assert code == 1 and "segment 0" in out and "signal 11" in out and len(ledger(run_dir, "failed")) == 3, f"exit {code}\n{out}"
    code, out = run([quarry, "run", job, "--quiet"])
    assert code == 0 and not same_results(want, results(run_dir)), out
    print("three crashes of one task: the run ends with 1 and names it; the next start goes on")

    job, run_dir = write_job(folder, "probe.yaml", "probe", JOB, model=model), os.path.join(folder, "probe")
    words = [quarry, "run", job, "--quiet"]
    code, out = run(["mpirun", "-n", "1", *words, ":", "-n", "1", "-x", "QUARRY_TEST_FAIL=device@#9", *words], env=launch.ENV)
    assert code == 0, f"exit {code}\n{out}"
    failed = ledger(run_dir, "failed")
    assert len(failed) == 1 and failed[0]["rank"] == 1 and "a probe fails too" in failed[0]["text"], failed
    assert all(e["rank"] == 0 for e in ledger(run_dir, "done") if e["time"] > failed[0]["time"])
    assert not same_results(want, results(run_dir))
    print("one rank of two whose device stays broken: it loses one attempt and takes no more; the other does the rest")

    job, run_dir = write_job(folder, "broken.yaml", "broken", JOB, model=model), os.path.join(folder, "broken")
    code, out = run([quarry, "run", job, "--quiet"], env={"QUARRY_TEST_FAIL": "device@#9"})
    assert code == 1 and "no worker is left of 1" in out and "a probe fails too" in out, f"exit {code}\n{out}"
    print(out.strip().splitlines()[-1])

    # As the first process of a container; the other way round no task is done for a worker that is gone.
    if subprocess.run(["unshare", "-pf", "true"], capture_output=True).returncode == 0:
        job = write_job(folder, "first.yaml", "first", JOB, model=model)
        code, out = run(["unshare", "-pf", quarry, "run", job, "--quiet"])
        assert code == 0 and not same_results(want, results(os.path.join(folder, "first"))), f"exit {code}\n{out}"
        print("a run that is process 1 of its namespace: its tasks are done")
    code, out = run([quarry, "task", "--fd", "0", "--parent", "1"], stdin=subprocess.DEVNULL)
    assert code == 1 and "the worker that started this task is gone" in out, f"exit {code}\n{out}"

    # A rank that never comes: the other does not wait for ever.
    began = time.time()
    job = write_job(folder, "alone.yaml", "alone", JOB, model=model)
    code, out = run(["mpirun", "-n", "1", quarry, "run", job, "--quiet", ":", "-n", "1", "sleep", "200"], env=dict(launch.ENV, QUARRY_START_S="3"))
    assert code != 0 and "the ranks do not find each other" in out and time.time() - began < 60, f"exit {code} after {time.time() - began:.0f} s\n{out}"
    print(f"a rank that never comes up: the launch ends, after {time.time() - began:.1f} s")

    # A rank that hangs while it has a task: the others do the rest, and the launch ends as the run does.
    job, run_dir = write_job(folder, "silent.yaml", "silent", JOB, model=model), os.path.join(folder, "silent")
    p = launch.start(quarry, 3, job, "resources.worker_timeout=5", env={"QUARRY_END_S": "2"})
    while not (os.path.exists(os.path.join(run_dir, "ledger.jsonl")) and len(ledger(run_dir, "assign")) > 2):
        assert p.poll() is None, p.communicate()[0]
        time.sleep(0.01)
    os.kill(launch.rank_pids(job)[1], signal.SIGSTOP)
    try:
        out, _ = p.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        sys.exit(f"a silent rank keeps the launch from its end\n{p.communicate()[0]}")
    assert p.returncode == 0 and "a rank does not come to its end" in out, f"exit {p.returncode}\n{out}"
    assert "silent for 5 s" in ledger(run_dir, "failed")[0]["text"] and not same_results(want, results(run_dir))
    assert not os.path.exists(os.path.join(run_dir, "lock.json"))
    print("a rank that falls silent: its task is done by another, and the launch ends with 0")

    # A rank that hangs in E2E-QP, where the others wait for it: the launch ends, and the next start goes on.
    e2e = ["e2e_qp.loss=next-token", "e2e_qp.samples=16", "e2e_qp.batch_size=4", "e2e_qp.epochs=400", "resources.worker_timeout=2"]
    whole = write_job(folder, "whole.yaml", "whole", JOB, model=model)
    code, out = launch.run(quarry, 1, whole, *e2e)
    assert code == 0, f"exit {code}\n{out}"
    job, run_dir = write_job(folder, "hang.yaml", "hang", JOB, model=model), os.path.join(folder, "hang")
    p = launch.start(quarry, 2, job, *e2e)
    while not glob.glob(os.path.join(run_dir, "e2e", "step-*")):
        assert p.poll() is None, p.communicate()[0]
        time.sleep(0.01)
    os.kill(launch.rank_pids(job)[1], signal.SIGSTOP)
    began = time.time()
    try:
        out, _ = p.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        sys.exit(f"a rank that hangs in E2E-QP keeps the launch from its end\n{p.communicate()[0]}")
    took = time.time() - began
    assert p.returncode == 1 and "E2E-QP has not got on for 2 s" in out, f"exit {p.returncode}\n{out}"
    code, out = launch.run(quarry, 2, job, *e2e)
    different = same_results(results(os.path.join(folder, "whole")), results(run_dir))
    assert code == 0 and not different, f"exit {code}, differ {different}\n{out}"
    print(f"a rank that hangs in E2E-QP: the launch ends after {took:.1f} s, the next start goes on to the same bytes")

    # Rank 0 alone fails: before the others are told to go on, and after that.
    run_dir = os.path.join(folder, "calm")
    for name, words, want_code in (("ledger.jsonl", "Rename the ledger", 2), ("metrics.jsonl", "metrics.jsonl", 1)):
        path = os.path.join(run_dir, name)
        os.rename(path, path + ".away")
        if name == "ledger.jsonl":
            with open(path, "w") as out:
                out.write("not an event\n" + open(path + ".away").read())
        else:
            os.mkdir(path)
        code, out = launch.run(quarry, 2, calm, timeout=60)
        assert code == want_code and words in out and not os.path.exists(os.path.join(run_dir, "lock.json")), f"exit {code}\n{out}"
        os.remove(path) if os.path.isfile(path) else os.rmdir(path)
        os.rename(path + ".away", path)
        print(f"a rank 0 that cannot use {name}: the launch ends with {code}")
    code, out = launch.run(quarry, 2, calm, timeout=60)
    assert code == 0, f"exit {code}\n{out}"
