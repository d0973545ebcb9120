#!/usr/bin/env python3
"""Jobs that `quarry submit` sends to a real Slurm of two virtual nodes: whatever interrupts them, they end with the bytes
of a run that nobody disturbed, and finished blocks stay as they are. Exit 77 (skipped) where there is no Slurm, unless
QUARRY_REQUIRE_SLURM is set. usage: test_slurm.py QUARRY"""
import os, re, signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
import cluster
from cluster import Run, call, wait_for
from quarry_job import results, run, same_results, scratch

quarry = os.path.abspath(sys.argv[1])


def start_time_limit_check():
    """Slurm looks at time limits every 30 s, counted from its start."""
    pid = re.search(r"slurmctld (\d+)", open(os.path.join(os.path.dirname(os.environ["SLURM_CONF"]), "../run/pids")).read())
    ticks = int(open(f"/proc/{pid.group(1)}/stat").read().rsplit(")", 1)[1].split()[19])
    return time.time() - float(open("/proc/uptime").read().split()[0]) + ticks / os.sysconf("SC_CLK_TCK")


def ranks(r):
    """Process ids of the job's ranks."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline").read().split("\0")
            if words[0] == quarry and words[1] == "run" and words[2] == r.yaml:
                found.append(int(pid))
        except (OSError, IndexError):
            continue
    return sorted(found)


def signalled(r, launcher):
    """The warning before the time limit: all ranks save, the job requeues itself and goes on."""
    r.submit("--launcher", launcher)
    blocks = r.wait_for_block()
    assert "start 1, 0 of 6 blocks" in call("squeue", "-h", "-j", r.job, "-o", "%k")[1]
    assert call("scancel", "-b", "--signal=USR1", r.job)[0] == 0
    r.requeued()
    r.finish()
    assert "ends with exit code 75" in r.output() and "requeued" in r.output(), r.output()
    assert [e["text"] for e in r.events("stop")] == ["stopped", "done"], r.events("stop")
    return blocks


def time_limit(r, launcher):
    """The same with a real time limit of a minute, whose warning is due at Slurm's next look."""
    began = start_time_limit_check()
    for _ in range(3):
        time.sleep((25 - (time.time() - began)) % 30)
        r.submit("--launcher", launcher, sbatch=("--time=1", "--signal=B:USR1@59"))
        wait_for("the warning or the end", lambda: "USR1" in r.output() or r.show("JobState") == "COMPLETED")
        if "USR1" in r.output():
            break
        subprocess.run(["rm", "-rf", r.run_dir])
    r.requeued()
    r.finish()
    assert "USR1: saving" in r.output() and "ends with exit code 75" in r.output(), r.output()
    return {}


def cancelled(r, launcher):
    """scancel ends it for good; the same submit goes on."""
    r.submit("--launcher", launcher)
    blocks = r.wait_for_block()
    call("scancel", r.job)
    r.finish("CANCELLED")
    time.sleep(1)
    assert r.show("JobState") == "CANCELLED" and "requeued" not in r.output(), r.output()
    r.submit("--launcher", launcher)
    r.finish()
    return blocks


def taken_back(r, launcher):
    """scontrol requeue, as an administrator or a site's own preemption does: the job goes on."""
    r.submit("--launcher", launcher)
    blocks = r.wait_for_block()
    assert call("scontrol", "requeue", r.job)[0] == 0
    r.requeued()
    r.finish()
    return blocks


def preempted(r, launcher):
    """A job of a partition that goes before takes both nodes: Slurm requeues this one, which goes on afterwards."""
    r.submit("--launcher", launcher)
    blocks = r.wait_for_block()
    code, out = call("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    assert code == 0, out
    r.requeued()
    assert r.show("JobState") != "RUNNING", r.output()
    r.finish()
    return blocks


def node_down(r, launcher):
    """A node is set DOWN in mid-run: Slurm requeues the job, which goes on once it is back."""
    r.submit("--launcher", launcher)
    blocks = r.wait_for_block()
    call("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    r.requeued()
    call("scontrol", "update", "NodeName=n2", "State=RESUME")
    r.finish()
    return blocks


def node_lost(r, launcher):
    """The batch script's own node is lost and stays away: the job waits on another one until the lost node's lock
    has no heartbeat any more."""
    r.submit("--launcher", launcher, nodes=1, ranks=2)
    blocks = r.wait_for_block()
    lock = os.path.join(r.run_dir, "lock.json")
    first = r.show("BatchHost")
    held = open(lock).read()
    for state in ("DOWN", "DRAIN"):  # DOWN alone ends as soon as its slurmd says something
        call("scontrol", "update", f"NodeName={first}", f"State={state}", "Reason=test")
    r.requeued()
    wait_for("the lost node's processes to end", lambda: not ranks(r))
    if not os.path.exists(lock):  # those processes had time to clean up: leave it as a dead node would
        open(lock, "w").write(held)
    wait_for("the second start", lambda: r.show("JobState") == "RUNNING")
    assert r.show("BatchHost") != first
    time.sleep(2)
    assert r.show("JobState") == "RUNNING" and "start 2" not in r.output(), r.output()
    os.utime(lock, (time.time() - 70, time.time() - 70))
    r.finish()
    call("scontrol", "update", f"NodeName={first}", "State=RESUME")
    return blocks


def rank_killed(r, launcher):
    """A rank dies: the launch ends, the job requeues itself and goes on."""
    r.submit("--launcher", launcher)
    blocks = r.wait_for_block()
    os.kill(ranks(r)[-1], signal.SIGKILL)
    r.requeued()
    r.finish()
    if os.environ.get("QUARRY_TEST_SHOW"):
        print(r.output())
    return blocks


def no_progress(r, launcher):
    """A job that dies at the same point each time gives up; once the reason is gone, the same submit goes on."""
    r.submit("--attempts", "2", "--launcher", launcher, nodes=1, env={"QUARRY_TEST_KILL": "tokens/calibration"})
    r.requeued()
    r.finish("FAILED")
    assert "not requeued, for 2 starts in a row brought nothing" in r.output() and r.show("Restarts") == "1", r.output()
    r.submit("--launcher", launcher)
    r.finish()
    return {}


def refused(folder):
    """sbatch's own words and exit code; nothing is left behind."""
    r = Run(quarry, folder, "refused")
    mine = call(quarry, "submit", r.yaml, "--ranks-per-node", "1", "--", "--partition=nowhere")
    own = call("sbatch", "--partition=nowhere", "--wrap=true")
    assert mine == own and mine[0] != 0, f"{mine}, sbatch alone: {own}"
    assert "invalid partition" in mine[1] and not os.path.exists(r.run_dir), mine
    code, out = call(quarry, "submit", r.yaml, "--nodes", "2", "--ranks-per-node", "1", "--dry-run")
    assert code == 0 and "#SBATCH --nodes=2\n" in out and not os.path.exists(r.run_dir), out
    for words, text in ((("--gpus-per-node", "1"), "resources.device is cpu"), ((), "--gpus-per-node is needed"),
                        (("--ranks-per-node", "0"), "not a positive number"),
                        (("--ranks-per-node", "1", "--launcher", "ssh"), "mpirun or srun")):
        code, out = call(quarry, "submit", r.yaml, *words)
        assert code == 2 and text in out, (words, code, out)


# Side by side where they do not touch the cluster itself: most of their time is Slurm's waiting.
LANES = [[(signalled, "mpirun"), (rank_killed, "srun"), (cancelled, "mpirun")],
         [(signalled, "srun"), (rank_killed, "mpirun"), (no_progress, "mpirun")],
         [(time_limit, "mpirun"), (taken_back, "mpirun")]]
ALONE = [(preempted, "mpirun"), (node_down, "mpirun"), (node_lost, "mpirun")]


def play(scenes, folder, want):
    for scene, launcher in scenes:
        if len(sys.argv) > 2 and scene.__name__ not in sys.argv[2:]:
            continue
        began = time.time()
        r = Run(quarry, folder, f"{scene.__name__}-{launcher}")
        blocks = scene(r, launcher)
        different = same_results(want, results(r.run_dir))
        assert not different, f"{scene.__name__} by {launcher}: differs in {different}"
        now = r.finished_blocks()
        assert all(now[n] == stamp for n, stamp in blocks.items()), f"{scene.__name__}: a finished block was redone"
        print(f"{scene.__name__} by {launcher}: {len(r.events('start'))} starts, results equal, {time.time() - began:.1f} s",
              flush=True)


def inside():
    with scratch() as folder, ThreadPoolExecutor() as pool:
        calm = Run(quarry, folder, "calm")
        code, out = run([quarry, "run", calm.yaml, "--quiet"])
        assert code == 0, out
        want = results(calm.run_dir)
        refused(folder)
        for lane in [pool.submit(play, lane, folder, want) for lane in LANES]:
            lane.result()
        play(ALONE, folder, want)


if os.environ.get("QUARRY_SLURM_INSIDE"):
    inside()
    sys.exit(0)
missing = cluster.missing_tools()
status = None
if not missing:
    os.environ["QUARRY_SLURM_INSIDE"] = "1"
    status = cluster.run_inside([sys.executable, os.path.abspath(__file__), quarry] + sys.argv[2:])
if status is None:
    print(f"SKIP: no Slurm here ({'missing: ' + ', '.join(missing) if missing else 'it does not start'})")
    status = 1 if os.environ.get("QUARRY_REQUIRE_SLURM") else 77
sys.exit(status)
