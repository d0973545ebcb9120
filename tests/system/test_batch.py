#!/usr/bin/env python3
"""The batch script of quarry submit, run without a Slurm: starts that only leave half-made things behind are starts that brought
nothing, and a request to stop that comes before the launch is heard. usage: test_batch.py QUARRY"""
import os, signal, stat, subprocess, sys, time
from quarry_job import run, scratch, write_job

quarry = os.path.abspath(sys.argv[1])


def put(path, text):
    with open(path, "w") as out:
        out.write(text)
    os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)


class Job:
    """The script with commands of its own in place of Slurm's and mpirun."""

    def __init__(self, folder, *options, mpirun="exit 1", scontrol=""):
        self.folder, self.run_dir = folder, os.path.join(folder, "run")
        self.env = dict(os.environ, PATH=folder + ":" + os.environ["PATH"], SLURM_JOB_ID="1", SLURM_JOB_NODELIST="n1",
                        XDG_CACHE_HOME=os.path.join(folder, "cache"))
        code, self.script = run([quarry, "submit", write_job(folder), "--ranks-per-node", "1", "--dry-run", *options], env=self.env, cwd=folder)
        assert code == 0, self.script
        os.makedirs(os.path.join(self.run_dir, "slurm"), exist_ok=True)
        self.mpirun(mpirun)
        put(os.path.join(folder, "scontrol"), f"#!/bin/bash\n{scontrol}\n")
        put(os.path.join(folder, "squeue"), "#!/bin/sh\necho RUNNING\n")
        put(os.path.join(folder, "job.sbatch"), self.script)

    def mpirun(self, text):
        put(os.path.join(self.folder, "mpirun"), f"#!/bin/bash\ncd '{self.run_dir}'\n{text}\n")

    def begin(self, restart=0):
        env = dict(self.env, SLURM_RESTART_COUNT=str(restart)) if restart else self.env
        return subprocess.Popen(["bash", os.path.join(self.folder, "job.sbatch")], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def start(self, restart=0):
        return self.begin(restart).communicate(timeout=60)[0]


with scratch() as folder:
    # Half of a step of E2E-QP and of an export, other ones in each start.
    half = """rm -rf export e2e; mkdir -p export/hf.tmp export/gptq.tmp.old e2e/step-00002
              for f in export/hf.tmp/a export/gptq.tmp.old/b e2e/step-00002/00{0..4}.h5; do echo $RANDOM$RANDOM >$f; done; touch ledger.jsonl; exit 1"""
    job = Job(folder, "--attempts", "2", mpirun=half)
    first, second = job.start(), job.start(1)
    assert "requeued" in first and "not requeued" not in first, first
    assert "not requeued, for 2 starts in a row brought nothing" in second, second
    job.mpirun(half.replace("exit 1", "touch e2e/step-00002/005.h5; exit 1"))  # the sixth block's: a step to go on from
    first, second, third = job.start(), job.start(1), job.start(2)
    assert all("not requeued" not in out for out in (first, second)) and "not requeued, for 2 starts" in third, (first, second, third)
    print("starts that leave half-made things behind are counted as what they are")

with scratch() as folder:
    # While Slurm is told about the start, before anything is launched.
    marks = f"cd '{folder}'; touch $1; while [ $1 = update ] && [ ! -e go ]; do sleep 0.05; done"
    job = Job(folder, "--attempts", "1", mpirun=f"touch '{folder}/launched'; exit 1", scontrol=marks)
    p = job.begin()
    while not os.path.exists(os.path.join(folder, "update")):
        time.sleep(0.02)
    p.send_signal(signal.SIGUSR1)
    open(os.path.join(folder, "go"), "w").close()
    out = p.communicate(timeout=60)[0]
    assert p.returncode == 75 and "USR1: saving" in out and out.endswith("requeued\n"), (p.returncode, out)
    assert os.path.exists(os.path.join(folder, "requeue")) and not os.path.exists(os.path.join(folder, "launched")), out

    # And in the midst of the launch, which passes it on.
    job.mpirun("trap 'exit 75' USR1; touch launched; while :; do sleep 0.05; done")
    p = job.begin(1)
    while not os.path.exists(os.path.join(job.run_dir, "launched")):
        assert p.poll() is None
        time.sleep(0.02)
    p.send_signal(signal.SIGUSR1)
    out = p.communicate(timeout=60)[0]
    assert p.returncode == 75 and "ends with exit code 75" in out, (p.returncode, out)
    print("a request to stop is heard before the launch, which then does not happen, and in it")
