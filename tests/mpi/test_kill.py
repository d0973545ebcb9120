#!/usr/bin/env python3
"""SIGKILL of rank 0, a worker, a task's process or mpirun at random moments, with another number of ranks after each: the
job ends with the bytes of one that nobody disturbed, no finished block is redone, nothing is left running.
usage: test_kill.py QUARRY [KILLS [SEED]]"""
import json, os, random, signal, sys, time
import launch
from quarry_job import results, run, same_results, scratch, write_job

quarry, kills, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 30, int(sys.argv[3]) if len(sys.argv) > 3 else 1
rng = random.Random(seed)


def processes(run_dir):
    """(pid, kind) of the job's processes: mpirun, rank, task."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline").read().split("\0")
            state = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]
            parent = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if state == "Z":
            continue
        if any(w.startswith(run_dir) for w in words):
            found.append((int(pid), "mpirun" if "mpirun" in words[0] else "rank", parent))
        elif words[:2] == ["quarry", "task"]:
            found.append((int(pid), "task", parent))
    ranks = {pid for pid, kind, _ in found if kind == "rank"}
    return [(pid, kind) for pid, kind, parent in found if kind != "task" or parent in ranks]


def wait_gone(run_dir, seconds=20):
    end = time.time() + seconds
    while processes(run_dir) and time.time() < end:
        time.sleep(0.05)
    left = processes(run_dir)
    assert not left, f"still there {seconds} s after the kill: {left}"


def phase_of(run_dir):
    last = "start"
    try:
        for line in open(os.path.join(run_dir, "ledger.jsonl")):
            last = json.loads(line.split("\t")[0]).get("phase", last)
    except (OSError, ValueError):
        pass
    return last


with scratch() as folder:
    calm = write_job(folder, "calm.yaml", "calm")
    code, out = run([quarry, "run", calm, "--quiet", "--set", "resources.threads=1", "--set", "export=[]"])
    assert code == 0, out
    want = results(os.path.join(folder, "calm"))

    killed, phases, done, blocks, rounds, starts = {}, {}, 0, {}, 0, 0
    while done < kills:
        rounds += 1
        job, run_dir = write_job(folder, f"{rounds}.yaml", f"run{rounds}"), os.path.join(folder, f"run{rounds}")
        blocks = {}
        while True:
            starts += 1
            ranks = rng.randint(1, 4)
            p = launch.start(quarry, ranks, job, "resources.threads=1", "export=[]")
            end = time.time() + rng.uniform(0.3, 3.0)
            while time.time() < end and p.poll() is None:
                time.sleep(0.02)
            alive = processes(os.path.join(folder, f"{rounds}.yaml"))
            if p.poll() is None and alive and done < kills:
                kind = rng.choice(sorted({k for _, k in alive}))
                pid = rng.choice([q for q, k in alive if k == kind])
                where = phase_of(run_dir)
                try:
                    os.kill(pid, signal.SIGKILL)
                    done += 1
                    killed[kind] = killed.get(kind, 0) + 1
                    phases[where] = phases.get(where, 0) + 1
                except ProcessLookupError:
                    pass
            try:
                out, _ = p.communicate(timeout=120)
            except Exception:
                os.killpg(p.pid, signal.SIGKILL)
                raise AssertionError(f"hangs after the kill of a {kind} in {where}")
            wait_gone(os.path.join(folder, f"{rounds}.yaml"))
            for name, stamp in blocks.items():
                s = os.stat(os.path.join(run_dir, "blocks", name))
                assert (s.st_ino, s.st_mtime_ns) == stamp, f"{name} was redone"
            if os.path.isdir(os.path.join(run_dir, "blocks")):
                for name in os.listdir(os.path.join(run_dir, "blocks")):
                    if name.endswith(".h5"):
                        s = os.stat(os.path.join(run_dir, "blocks", name))
                        blocks[name] = (s.st_ino, s.st_mtime_ns)
            if p.returncode == 0:
                break
        different = same_results(want, results(run_dir))
        assert not different, f"round {rounds} differs from the undisturbed run in {different}"
    print(f"{done} kills of {killed} in {phases}; {rounds} jobs, {starts} starts; results equal")
    assert len(killed) == 3 or kills < 10, killed
