"""A real Slurm of two virtual nodes on this machine (slurm-testbed), and jobs on it, for test_slurm.py."""
import json, os, re, shutil, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "system"))
import quarry_job  # noqa: E402  (found by the line above)

TESTBED = os.path.join(HERE, "slurm-testbed")
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "mpirun")

# Two segments of three blocks, each block about half a second: time enough to interfere.
JOB = """
model: {data}/models/tiny-llama-kjv
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 64, sequence_length: 64, validation_samples: 2}}
quantize: {{method: block-ap, weights: {{bits: 2, group_size: 64}}, segments: 2}}
block_ap: {{epochs: 2, batch_size: 2}}
e2e_qp: {{loss: next-token, batch_size: 8, epochs: 1}}
export: [hf]
resources: {{device: cpu, threads: 1}}
checkpoint: {{minutes: 0}}
"""

# A second partition whose jobs take the nodes of the first one's, which are requeued.
PREEMPTION = """PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""


def missing_tools():
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    return [t for t in TOOLS if not shutil.which(t, path=path)]


def run_inside(argv):
    """Runs argv on a cluster of its own and returns its exit status; None where no cluster can be had."""
    folder = tempfile.mkdtemp(prefix="quarry-tb-")
    env = dict(os.environ, TB_GPUS="0", TB_NODES="2", TB_EXTRA=os.path.join(folder, "extra.conf"))
    with open(env["TB_EXTRA"], "w") as out:
        out.write(PREEMPTION)
    try:
        isolated = subprocess.run(["unshare", "--net", "ip", "link"], capture_output=True).returncode == 0
        if isolated:  # a network of its own: nothing but loopback, and no port is taken by anybody else
            mark = os.path.join(folder, "reached")
            inner = ["sh", "-c", 'touch "$0" && exec "$@"', mark] + argv
            status = subprocess.run([TESTBED, "run", os.path.join(folder, "tb")] + inner, env=env).returncode
            return status if os.path.exists(mark) else None
        start = subprocess.run([TESTBED, "start", os.path.join(folder, "tb")], env=env, stdout=subprocess.PIPE, text=True)
        if start.returncode != 0:
            return None
        try:
            return subprocess.run(["bash", "-c", start.stdout + '"$@"', "bash"] + argv).returncode
        finally:
            subprocess.run([TESTBED, "stop", os.path.join(folder, "tb")], stdout=subprocess.DEVNULL)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def call(*argv, timeout=60, env=None):
    p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
                       env=dict(os.environ, **(env or {})))
    return p.returncode, p.stdout


def wait_for(what, condition, seconds=120):
    end = time.time() + seconds
    while time.time() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} s")


class Run:
    """A job file, its run directory and the Slurm job that works on it."""

    def __init__(self, quarry, folder, name):
        self.quarry, self.job = quarry, None
        self.run_dir = os.path.join(folder, name)
        self.yaml = quarry_job.write_job(folder, name + ".yaml", name, text=JOB)

    def submit(self, *options, nodes=2, ranks=1, sbatch=(), env=None):
        code, out = call(self.quarry, "submit", self.yaml, "--nodes", str(nodes), "--ranks-per-node", str(ranks), *options,
                         "--", *sbatch, env=env)
        found = re.search(r"Submitted batch job (\d+)", out)
        assert code == 0 and found, f"submit: exit {code}\n{out}"
        self.job = found.group(1)
        return self

    def show(self, key):
        code, out = call("scontrol", "show", "job", self.job)
        found = re.search(rf"\b{key}=(\S*)", out)
        return found.group(1) if found else None

    def output(self):
        text = ""
        folder = os.path.join(self.run_dir, "slurm")
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            if name.endswith(".out"):
                text += open(os.path.join(folder, name)).read()
        return text

    def events(self, kind):
        try:
            lines = open(os.path.join(self.run_dir, "ledger.jsonl")).read().split("\n")
        except OSError:
            return []
        events = [json.loads(line.split("\t")[0]) for line in lines if "\t" in line]
        return [e for e in events if e["event"] == kind]

    def finished_blocks(self):
        folder = os.path.join(self.run_dir, "blocks")
        names = [n for n in os.listdir(folder) if re.fullmatch(r"\d+\.h5", n)] if os.path.isdir(folder) else []
        stats = {n: os.stat(os.path.join(folder, n)) for n in names}
        return {n: (s.st_ino, s.st_mtime_ns) for n, s in stats.items()}

    def wait_for_block(self):
        wait_for("a first block", lambda: self.events("block"))
        return self.finished_blocks()

    def requeued(self, times=1):
        """Waits for the job to be on the queue again, where Slurm keeps it for some seconds."""
        wait_for(f"requeue of job {self.job}", lambda: int(self.show("Restarts") or 0) >= times)

    def finish(self, state="COMPLETED", seconds=240):
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        try:
            found = wait_for("the end", lambda: self.show("JobState") in over and self.show("JobState"), seconds)
        except AssertionError:
            raise AssertionError(f"job {self.job} is {self.show('JobState')}\n{self.output()}")
        assert found == state, f"job {self.job} is {found}, not {state}\n{self.output()}"
