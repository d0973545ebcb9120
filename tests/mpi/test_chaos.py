#!/usr/bin/env python3
"""Chaos: SIGKILL of rank 0, another rank, a task's process or the launcher, at random moments of a job, of its resume, and between a
file's writing and its renaming, with another number of ranks after each. However often it was killed the job ends with the bytes of
one that nobody disturbed; no finished block is touched again; nothing is left running, and no lock keeps the next start out.
Seeded: the same seed draws the same kills.
usage: test_chaos.py QUARRY [--kills N] [--seed S] [--ranks MOST] [--job FILE] [--pause S] [--seconds S] [--set KEY=VALUE]..."""
import argparse, json, os, random, re, signal, subprocess, sys, time
import launch
from quarry_job import random_llama, results, same_results, scratch, write_job

JOB = """
model: {model}
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 3, sequence_length: 64, validation_samples: 1}}
quantize: {{weights: {{bits: 2, group_size: 32}}, segments: 2}}
block_ap: {{epochs: 500, batch_size: 1}}
e2e_qp: {{loss: distill, samples: 4, batch_size: 2, epochs: 80}}
evaluate: [{{name: kjv, text: {text}, sequence_length: 64}}]
export: [gptq]
resources: {{threads: 1}}
checkpoint: {{minutes: 0.001}}
"""
# What may be about to be renamed when a whole rank dies, and the phase that this is; in the order of a job.
COMMITS = {"plan.json": "start", "tokens/": "tokens", "segments/01": "capture", "segments/teacher": "capture", "000.partial": "quantize",
           "blocks/000.h5": "quantize", "001.partial": "quantize", "blocks/001.h5": "quantize", "model/model.h5": "stitch",
           "e2e/step-": "e2e_qp", "/000.h5": "e2e_qp", "export/": "export"}

p = argparse.ArgumentParser()
p.add_argument("quarry")
p.add_argument("--kills", type=int, default=100)
p.add_argument("--seed", type=int, default=1)
p.add_argument("--ranks", type=int, default=4, help="at most")
p.add_argument("--job", help="instead of the toy; its run_dir is replaced")
p.add_argument("--pause", type=float, default=1.2, help="longest time from a start to its kill, s")
p.add_argument("--seconds", type=float, default=1e9, help="no kill is begun after so long")
p.add_argument("--set", action="append", default=[])
args = p.parse_args()
rng = random.Random(args.seed)
# Where a job has to be killed once, whatever is drawn: at each commit, and in the one phase that renames nothing.
due = [] if args.job else [*COMMITS][:-1] + ["evaluate", "export/"]


def processes(mark):
    """(pid, kind, parent) of the job's live processes: launcher, rank 0, rank, task."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline").read().split("\0")
            state, parent = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[:2]
            if state in "ZX":
                continue
            if any(mark in w for w in words):
                kind = "launcher" if "mpirun" in words[0] else "rank"
                if kind == "rank" and b"OMPI_COMM_WORLD_RANK=0\0" in open(f"/proc/{pid}/environ", "rb").read():
                    kind = "rank 0"
                found.append((int(pid), kind, int(parent)))
            elif words[:2] == ["quarry", "task"]:
                found.append((int(pid), "task", int(parent)))
        except OSError:
            continue
    ours = {pid for pid, kind, _ in found if kind != "task"}
    return [f for f in found if f[1] != "task" or f[2] in ours]


class Job:
    """One run directory on its way from nothing to a finished job."""

    def __init__(self, folder, number, model):
        self.run_dir, self.mark = os.path.join(folder, f"run{number}"), f"{number}-chaos.yaml"
        self.path = write_job(folder, self.mark, f"run{number}", JOB, model=model) if not args.job else args.job
        self.settings = [f"run_dir={self.run_dir}"] + args.set
        self.blocks, self.tasks = {}, set()

    def command(self, ranks):
        words = [args.quarry, "run", self.path, "--quiet"] + [x for s in self.settings for x in ("--set", s)]
        return words if ranks == 1 else ["mpirun", "-n", str(ranks), *words]

    def start(self, ranks, folder, **env):
        env = dict(launch.ENV, OMPI_MCA_orte_tmpdir_base=folder, OMPI_MCA_btl_vader_backing_directory=folder, **env)
        self.log = open(os.path.join(folder, "out.txt"), "w+")
        return subprocess.Popen(self.command(ranks), env=env, start_new_session=True, stdout=self.log, stderr=subprocess.STDOUT)

    def alive(self):
        found = processes(self.run_dir)
        self.tasks |= {pid for pid, kind, _ in found if kind == "task"}
        return found

    def wait_gone(self, seconds=30):
        """Of tasks those count that were seen: a task has no mark of its job, and an orphan has lost its parent."""
        end = time.time() + seconds
        while True:
            left = [f for f in processes(self.run_dir)] + [pid for pid in self.tasks if is_task(pid)]
            if not left or time.time() > end:
                break
            time.sleep(0.02)
        assert not left, f"still running {seconds} s after the kill: {left}"

    def events(self):
        try:
            return [json.loads(line.split("\t")[0]) for line in open(os.path.join(self.run_dir, "ledger.jsonl")) if line.endswith("\n")]
        except OSError:
            return []

    def phase(self):
        """Where the latest start has come to: "start" until it has done something."""
        events = self.events()
        since = max((i for i, e in enumerate(events) if e["event"] == "start"), default=-1) + 1
        phases = [e["phase"] for e in events[since:] if e.get("phase")]
        return phases[-1] if phases else "start"

    def look_at_blocks(self):
        folder, now = os.path.join(self.run_dir, "blocks"), {}
        if os.path.isdir(folder):
            for name in os.listdir(folder):
                if name.endswith(".h5") and "partial" not in name:
                    s = os.stat(os.path.join(folder, name))
                    now[name] = (s.st_ino, s.st_mtime_ns)
        for name, stamp in self.blocks.items():
            assert now.get(name) == stamp, f"{name} was finished, and touched again"
        self.blocks = now

    def resumed_inside(self):
        return sum(open(os.path.join(self.run_dir, "logs", n)).read().count("goes on after step") for n in os.listdir(os.path.join(self.run_dir, "logs")))


def is_task(pid):
    try:
        return open(f"/proc/{pid}/cmdline").read().startswith("quarry\0task") and open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def strike(job, p, pause, phase):
    """Kills one process of a random kind after a pause, which begins in that phase (None: at once); (kind, phase), or None where the
    run ended before."""
    end = time.time() + 20
    while phase and p.poll() is None and job.phase() != phase and time.time() < end:
        time.sleep(0.02)
    try:
        p.wait(pause)
    except subprocess.TimeoutExpired:
        pass
    alive = job.alive()
    if p.poll() is not None or not alive:
        return None
    kind = rng.choice(sorted({k for _, k, _ in alive}))
    pid, where = rng.choice([f[0] for f in alive if f[1] == kind]), job.phase()
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return kind if len(alive) > 1 or kind != "rank" else "rank", where


def redone(folder, model):
    """What kills in the training of a block cost, s: the time since the newest checkpoint, at most the interval between two, and then
    the next start goes on after it. The job is not brought to its end."""
    interval, slack = 1, 2  # s; slack: a step, the checkpoint's way to the disk, and others on this machine
    job, costs = Job(folder, "redone", model), []
    job.settings += [f"checkpoint.minutes={interval / 60}", "block_ap.epochs=1000", "calibration.samples=512", "quantize.segments=1"]
    log, saved = os.path.join(job.run_dir, "logs/rank-000.log"), 0
    for _ in range(3):
        p, end = job.start(1, folder), time.time() + 60
        while job.phase() != "quantize" and p.poll() is None and time.time() < end:
            time.sleep(0.02)
        time.sleep(rng.uniform(interval + slack + 0.5, interval + slack + 1.5))
        assert p.poll() is None and job.phase() == "quantize", "not in a block's training"
        killed = time.time()
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()
        since = time.time() - killed
        state = json.loads(subprocess.run([args.quarry, "status", job.run_dir, "--json"], check=True, capture_output=True).stdout)
        costs.append(state["saved_s"] - since)
        assert costs[-1] <= interval + slack, f"{costs[-1]:.2f} s since the last checkpoint, which are {interval} s apart"
        job.wait_gone()
        went_on = re.findall(r"block 0 goes on after step (\d+)", open(log).read())
        assert len(went_on) == len(costs) - 1 and (not went_on or int(went_on[-1]) >= saved), (went_on, saved)
        saved = max(map(int, re.findall(r"block 0 saved after step (\d+)", open(log).read())))
    print(f"killed in the training of a block, checkpoints every {interval} s: work of " + ", ".join(f"{c:.2f}" for c in costs) + " s to do again")


class Table:
    def __init__(self):
        self.cells, self.ranks, self.starts, self.jobs, self.inside = {}, {}, 0, 0, 0

    def add(self, kind, phase):
        self.cells[kind, phase] = self.cells.get((kind, phase), 0) + 1

    def kills(self):
        return sum(self.cells.values())

    def show(self):
        phases = [x for x in ("start", "tokens", "capture", "quantize", "stitch", "e2e_qp", "evaluate", "export") if any(x == f for _, f in self.cells)]
        print(f"{'killed':<18}" + "".join(f"{f:>10}" for f in phases) + f"{'all':>8}")
        for kind in sorted({k for k, _ in self.cells}):
            row = [self.cells.get((kind, f), 0) for f in phases]
            print(f"{kind:<18}" + "".join(f"{n:>10}" for n in row) + f"{sum(row):>8}")
        print(f"{'all':<18}" + "".join(f"{sum(n for (_, g), n in self.cells.items() if g == f):>10}" for f in phases) + f"{self.kills():>8}")


def one_start(job, folder, table):
    """Starts the job once and kills it, unless there were kills enough; True when it has come to its end."""
    ranks, commit = rng.choice([1, rng.randint(1, args.ranks)]), rng.choice([*COMMITS]) if rng.random() < 0.35 else None
    pause = rng.uniform(0.02, 0.3) if rng.random() < 0.25 else rng.uniform(0.1, args.pause)
    phase = rng.choice(["capture", "quantize", "e2e_qp", "evaluate"]) if rng.random() < 0.3 else None
    if due:
        commit, phase = (due[0], None) if due[0] in COMMITS else (None, due[0])
    if phase:
        pause = rng.uniform(0, 0.2)
    over = table.kills() >= args.kills or time.time() - began > args.seconds
    env = {"QUARRY_TEST_KILL": commit} if commit and not over else {}
    p = job.start(ranks, folder, **env)
    table.starts += 1
    table.ranks[ranks] = table.ranks.get(ranks, 0) + 1
    struck = None if over or env else strike(job, p, pause, phase)
    end = time.time() + 120
    while p.poll() is None and time.time() < end:
        job.alive()
        try:
            p.wait(0.1)
        except subprocess.TimeoutExpired:
            pass
    if p.poll() is None:
        left = [(kind, pid, open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0], open(f"/proc/{pid}/wchan").read()) for pid, kind, _ in job.alive()]
        os.killpg(p.pid, signal.SIGKILL)
        for _, pid, _, _ in left:
            os.kill(pid, signal.SIGKILL)
        job.log.seek(0)
        raise AssertionError(f"hangs for 120 s after {struck or commit}, {ranks} ranks; left {left}; said {job.log.read()[-600:]}")
    job.wait_gone()
    job.look_at_blocks()
    job.log.seek(0)
    out = job.log.read()
    if struck:
        table.add(*struck)
        if struck[1] in due:
            due.remove(struck[1])
    elif env and p.returncode != 0:
        table.add("rank, at a commit", COMMITS[commit])
        if commit in due:
            due.remove(commit)
    else:
        assert p.returncode == 0, f"exit {p.returncode} after {table.kills()} kills, nobody killed it\n{out}"
    assert p.returncode != 2, out
    return p.returncode == 0


with scratch() as folder:
    model, table = random_llama(folder, 2), Table()
    if not args.job:
        redone(folder, model)
    calm = Job(folder, "0", model)
    p = calm.start(1, folder)
    assert p.wait(600) == 0, open(os.path.join(folder, "out.txt")).read()
    want, began = results(calm.run_dir), time.time()
    while table.kills() < args.kills and time.time() - began < args.seconds:
        table.jobs += 1
        job = Job(folder, table.jobs, model)
        while not one_start(job, folder, table):
            pass
        different = same_results(want, results(job.run_dir))
        assert not different, f"job {table.jobs} differs from the undisturbed one in {different}"
        left = [os.path.join(r, f) for r, _, fs in os.walk(job.run_dir) for f in fs if ".tmp." in f or "partial" in f or f.startswith("lock.json")]
        assert not left, left
        table.inside += job.resumed_inside()
    table.show()
    print(f"{table.jobs} jobs, {table.starts} starts on {dict(sorted(table.ranks.items()))} ranks, {table.inside} times a block went on in its midst; "
          f"{len(want)} files of each job equal to the undisturbed one's; {time.time() - began:.0f} s, seed {args.seed}")
    assert not due or table.kills() < 60, f"never killed at {due}"
