#!/usr/bin/env python3
"""Disks that fail: a file that may not grow (RLIMIT_FSIZE), a quota, a full disk, a disk that has become read-only. The run ends with
the path and the system's reason, and once there is room the same command ends with the bytes of an undisturbed run. A quota's EDQUOT
is put into system calls by strace; full and read-only disks are small tmpfs mounts, which take root: without them they are skipped.
usage: test_disk.py QUARRY"""
import os, resource, shutil, subprocess, sys, time
from quarry_job import random_llama, results, run, same_results, scratch, write_job

quarry = sys.argv[1]
JOB = """
model: {model}
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 64, sequence_length: 64, validation_samples: 1}}
quantize: {{weights: {{bits: 2, group_size: 32}}, segments: 2}}
block_ap: {{epochs: 8, batch_size: 1}}
e2e_qp: {{loss: distill, samples: 64, batch_size: 8, epochs: 8}}
export: [gptq]
resources: {{threads: 1}}
checkpoint: {{minutes: 0}}
"""


def check(name, code, out, run_dir, reasons):
    last = [line for line in out.splitlines() if line.startswith("quarry:")][-1]
    assert code in (1, 2) and run_dir in last and any(r in last for r in reasons), f"{name}: exit {code}\n{out}"
    return last.replace(run_dir, "RUN")


def go_on(name, job, run_dir, want):
    code, out = run([quarry, "run", job, "--quiet"])
    assert code == 0, f"{name}, with room again: exit {code}\n{out}"
    different = same_results(want, results(run_dir))
    assert not different, f"{name}: differ {different}"


def mounted(folder, size):
    os.makedirs(folder, exist_ok=True)
    return subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder], capture_output=True).returncode == 0


def fill(folder):
    with open(os.path.join(folder, "filler"), "wb", buffering=0) as f:
        for piece in (1 << 20, 4096):
            try:
                while f.write(bytes(piece)) == piece:
                    pass
            except OSError:
                pass


def fill_in(phase, job, run_dir):
    """Starts the job, lets the disk run full when it has come to the phase, and returns its last words."""
    p = subprocess.Popen([quarry, "run", job, "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end, mark = time.time() + 60, f'"phase":"{phase}"'
    while p.poll() is None and time.time() < end:
        try:
            if mark in open(os.path.join(run_dir, "ledger.jsonl")).read():
                break
        except OSError:
            pass
        time.sleep(0.01)
    fill(run_dir)
    out, _ = p.communicate(timeout=120)
    return check(f"disk full in {phase}", p.returncode, out, run_dir, ["No space left on device"])


with scratch() as folder:
    model = random_llama(folder, 2)
    calm = write_job(folder, "calm.yaml", "calm", JOB, model=model)
    code, out = run([quarry, "run", calm, "--quiet"])
    assert code == 0, out
    want = results(os.path.join(folder, "calm"))

    for kib in (8, 60):  # tokens do not fit; what is exported does not
        name = f"files of at most {kib} KiB"
        job, run_dir = write_job(folder, "limit.yaml", f"limit{kib}", JOB, model=model), os.path.join(folder, f"limit{kib}")
        code, out = run([quarry, "run", job, "--quiet"], preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (kib << 10, kib << 10)))
        print(f"{name}: {check(name, code, out, run_dir, ['File too large'])}")
        go_on(name, job, run_dir, want)

    # A quota may be over at a write, or, over a network, only when what was written is synced. Counted in each process from its begin.
    for call, when in (("pwrite64", 4), ("pwrite64", 40), ("fsync", 3), ("fsync", 12)) if shutil.which("strace") else ():
        name = f"over quota at {call} {when} of a process"
        job, run_dir = write_job(folder, "quota.yaml", f"quota-{call}-{when}", JOB, model=model), os.path.join(folder, f"quota-{call}-{when}")
        code, out = run(["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error=EDQUOT:when={when}+",
                         quarry, "run", job, "--quiet"])
        if "ptrace" in out:
            print("SKIP quotas: tracing is not allowed here")
            break
        print(f"{name}: {check(name, code, out, run_dir, ['Disk quota exceeded'])}")
        go_on(name, job, run_dir, want)

    run_dir = os.path.join(folder, "disk")
    if not mounted(run_dir, 16384):
        print("SKIP full and read-only disks: tmpfs cannot be mounted here")
        sys.exit(0)
    try:
        job = write_job(folder, "disk.yaml", "disk", JOB, model=model)
        for phase in ("capture", "quantize", "e2e_qp"):
            out = fill_in(phase, job, run_dir)
            print(f"disk full in {phase}: {out}")
            os.remove(os.path.join(run_dir, "filler"))
        go_on("disk", job, run_dir, want)
        subprocess.run(["mount", "-o", "remount,ro", run_dir], check=True)
        code, out = run([quarry, "run", job, "--quiet", "--set", "export=[hf]"])
        print(f"read-only: {check('read-only', code, out, run_dir, ['Read-only file system'])}")
    finally:
        subprocess.run(["umount", "-l", run_dir])
