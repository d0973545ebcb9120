#!/usr/bin/env python3
"""quarry submit without a Slurm: the script for GPUs and CPUs, its shell syntax and quoting, what sbatch is called with; its
exit code is passed on, and nothing is left behind where it refuses. usage: test_submit.py QUARRY"""
import json, os, stat, subprocess, sys
from quarry_job import DATA, run, scratch, tree, write_job

quarry = os.path.abspath(sys.argv[1])

SBATCH = """#!/bin/sh
printf '%s\\n' "$@" > "{folder}/called"
[ -z "$FAIL" ] || {{ echo "sbatch: error: $FAIL" >&2; exit 7; }}
echo Submitted batch job 12
"""


def script(job, *words, folder, env=None):
    code, out = run([quarry, "submit", job, *words, "--dry-run"], env=env, cwd=folder)
    assert code == 0, (words, out)
    check = subprocess.run(["bash", "-n"], input=out, text=True, capture_output=True)
    assert check.returncode == 0, check.stderr
    return out


with scratch() as folder:
    env = {"XDG_CACHE_HOME": os.path.join(folder, "cache"), "PATH": folder + ":" + os.environ["PATH"]}
    job, run_dir = write_job(folder), os.path.join(folder, "run")

    text = script(job, "--nodes", "4", "--gpus-per-node", "8", folder=folder, env=env)
    for line in ("--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=4", "--time=30", "--requeue",
                 "--open-mode=append", "--signal=B:USR1@300", "--job-name=quarry-run",
                 '--comment="block-ap w2g64 of tiny-llama-kjv"', f'--output="{run_dir}/slurm/job-%j.out"'):
        assert f"#SBATCH {line}\n" in text, (line, text)
    assert "launcher=(mpirun --bind-to none)" in text and "--set 'resources.device=cuda'" in text
    assert f"command=('{quarry}' run '{job}'" in text, text

    task = f"evaluate=[{{name: kjv, task: {DATA}/tasks/kjv.mc.jsonl}}]"  # which has no sequence length
    assert "#SBATCH --time=30\n" in script(job, "--gpus-per-node", "8", "--set", task, folder=folder, env=env)

    text = script(job, "--ranks-per-node", "2", "--launcher", "srun", "--cpus-per-rank", "3", "--set", "seed=3", "--attempts",
                  "5", folder=folder, env=env)
    assert "launcher=(srun --mpi=pmix --kill-on-bad-exit=1 --cpu-bind=none --cpus-per-task=3)" in text
    assert "--gpus" not in text and "max_idle=5" in text and "--set 'seed=3' --set 'resources.device=cpu'" in text
    memory = [int(l.split("=")[1][:-2]) for l in text.splitlines(True) if l.startswith("#SBATCH --mem=")]
    assert len(memory) == 1 and 2048 < memory[0] < 4096, memory  # two ranks, a gigabyte each and what the plan counts
    assert not os.path.exists(run_dir)

    odd = os.path.join(folder, "it's 100% here")
    os.mkdir(odd)
    text = script(write_job(odd), "--ranks-per-node", "1", "--set", f"run_dir={folder}/a b%c", folder=folder, env=env)
    assert f"'{folder}/it'\\''s 100% here/job.yaml'" in text and f'--output="{folder}/a b%%c/slurm/job-%j.out"' in text, text
    code, out = run([quarry, "submit", write_job(odd), "--ranks-per-node", "1", "--dry-run"], env=env)
    assert code == 2 and "cannot hold quotes" in out, (code, out)

    # A link to a job: what is relative in it is so to the link's folder, in the script too.
    os.mkdir(os.path.join(folder, "linked"))
    link = os.path.join(folder, "linked", "link.yaml")
    os.symlink(job, link)
    text = script("linked/link.yaml", "--ranks-per-node", "1", folder=folder, env=env)
    assert f"command=('{quarry}' run '{link}'" in text, text

    with open(os.path.join(folder, "sbatch"), "w") as f:
        f.write(SBATCH.format(folder=folder))
    os.chmod(f.name, os.stat(f.name).st_mode | stat.S_IXUSR)
    words = [quarry, "submit", job, "--ranks-per-node", "1", "--", "--partition=gpu", "--account", "lab"]
    code, out = run(words, env=dict(env, FAIL="no such account"))
    assert code == 7 and out == "sbatch: error: no such account\n" and not os.path.exists(run_dir), (code, out)
    code, out = run(words, env=env)
    assert code == 0 and out.startswith("Submitted batch job 12\n"), (code, out)
    called = open(os.path.join(folder, "called")).read().split("\n")[:-1]
    assert called == ["--partition=gpu", "--account", "lab", os.path.join(run_dir, "slurm/job.sbatch")], called
    assert sorted(os.listdir(run_dir)) == ["config.json", "job.yaml", "plan.json", "slurm"], os.listdir(run_dir)
    code, out = run(words, env=dict(env, FAIL="queue closed"))
    assert code == 7 and os.path.exists(os.path.join(run_dir, "plan.json")), "what was there before stays"

    # A run at work, on another host or in a job of Slurm's: its tasks read job.yaml and plan.json anew.
    lock, kept = os.path.join(run_dir, "lock.json"), tree(run_dir)
    squeue = os.path.join(folder, "squeue")
    with open(squeue, "w") as f:
        f.write("#!/bin/sh\necho 4711\n")
    os.chmod(squeue, 0o755)
    for slurm_job in ("", "4711"):
        with open(lock, "w") as f:
            json.dump({"host": "elsewhere", "pid": 1, "start": 1, "boot": "", "slurm_job": slurm_job}, f)
        for verb in ([quarry, "submit", job, "--ranks-per-node", "1"], [quarry, "plan", job, "--save"]):
            code, out = run([*verb, "--set", "resources.worker_timeout=77"], env=env)
            assert code == 2 and "another run works here: host elsewhere" in out, (code, out)
            assert {k: v for k, v in tree(run_dir).items() if k != "lock.json"} == kept, verb
    with open(squeue, "w") as f:  # by Slurm's word that job is over: its lock is only still warm
        f.write("#!/bin/sh\n")
    code, out = run(words, env=env)
    assert code == 0 and os.path.exists(lock), (code, out)
    os.utime(lock, (1, 1))
    code, out = run([quarry, "plan", job, "--save", "--set", "resources.worker_timeout=77"], env=env)
    assert code == 0 and "worker_timeout: 77" in open(os.path.join(run_dir, "job.yaml")).read(), (code, out)
    assert not os.path.exists(lock)

    # what run would refuse is refused before anybody waits in a queue
    for verb in ([quarry, "plan", job], [quarry, "submit", job, "--ranks-per-node", "1", "--dry-run"]):
        code, out = run([*verb, "--set", "seed=99"], env=env)
        assert code == 2 and "is another run: seed: 99" in out, (code, out)

    code, out = run(words, env=dict(env, PATH="/nowhere"))
    assert code == 1 and "sbatch: No such file" in out, (code, out)
    print("scripts for GPUs and CPUs, quoting, sbatch's options and exit code")
