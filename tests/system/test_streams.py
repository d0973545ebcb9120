#!/usr/bin/env python3
"""Streams in scratch files, and saved to the run directory: the same bytes as in memory, also when a job that is killed
finds them again, whole or damaged. usage: test_streams.py QUARRY"""
import glob, os, re, shutil, signal, subprocess, sys, time
from quarry_job import results, run, same_results, scratch, write_job

quarry = sys.argv[1]
SHORT = [x for key in ("quantize.segments=1", "e2e_qp.epochs=0", "evaluate=[]", "export=[]", "resources.threads=1") for x in ("--set", key)]
AT_HAND = re.compile(r"goes on at block (\d+): of 10 samples (\d+) of the target and (\d+) of the input")


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 1]))


class Job:
    def __init__(self, folder, name, *keys):
        self.run_dir, self.scratch = os.path.join(folder, name), os.path.join(folder, name + "-scratch")
        self.command = [quarry, "run", write_job(folder, name + ".yaml", name), "--quiet", *SHORT, "--set", "resources.scratch=" + self.scratch]
        for key in keys:
            self.command += ["--set", key]

    def run(self, kill=None):
        code, out = run(self.command, env={"QUARRY_TEST_KILL": kill} if kill else None)
        assert code == (-signal.SIGKILL if kill else 0), f"{kill}: exit {code}\n{out}"

    def found(self):
        """(block, target samples, input samples) of each attempt that found something."""
        logs = "".join(open(path).read() for path in glob.glob(os.path.join(self.run_dir, "logs", "*.log")))
        return [tuple(map(int, m)) for m in AT_HAND.findall(logs)]

    def files(self):
        return sorted(glob.glob(os.path.join(self.scratch, "*")))

    def saves(self):
        return sorted(os.path.basename(p) for p in glob.glob(os.path.join(self.run_dir, "streams/00/*")))


def check(job, want, what):
    different = same_results(want, results(job.run_dir))
    assert not different, f"{what}: differ from the run in memory: {different}"
    assert not job.files() and not job.saves(), (what, job.files(), job.saves())


with scratch() as folder:
    calm = Job(folder, "calm")
    calm.run()
    want = results(calm.run_dir)
    assert len(want) > 6, sorted(want)

    # Scratch outlives the process: nothing is computed again but what was torn.
    job = Job(folder, "file", "resources.host_cache=1")
    job.run(kill="blocks/002.h5")
    assert [os.path.basename(p).rsplit("-", 1)[1] for p in job.files()] == ["input.bin", "target.bin"], job.files()
    job.run(kill="blocks/004.h5")
    flip(job.files()[0], 3 * 36864 + 5)
    job.run()
    assert job.found() == [(2, 10, 10), (4, 10, 9)], job.found()
    check(job, want, "scratch")

    # Half of the samples in memory, which are lost; the plan's numbers are the same.
    job = Job(folder, "half", "resources.host_cache=327680")
    job.run(kill="blocks/003.h5")
    job.run()
    assert job.found() == [(3, 5, 5)], job.found()
    check(job, want, "half in memory")

    # In memory, saved in every block but the first, beside its training: the input in front of the block, the target in front of the
    # next. Each save is whole before the stream goes on, and then the one before is removed; damaged ones are recomputed.
    job = Job(folder, "saved", "checkpoint.recompute_minutes=0")
    job.run(kill="blocks/003.h5")
    assert {"002-input.bin", "003-target.bin"} <= set(job.saves()) and not {"001-input.bin", "002-target.bin"} & set(job.saves()), job.saves()
    job.run(kill="streams/00/004-input")
    assert [n for n in job.saves() if ".tmp." not in n] == ["003-input.bin", "004-target.bin"], job.saves()
    flip(os.path.join(job.run_dir, "streams/00/003-input.bin"), 7 * 36864)
    job.run(kill="blocks/005.h5")
    for name in ("005-input.bin", "006-target.bin"):  # where that save has come to its end already
        if name in job.saves():
            os.remove(os.path.join(job.run_dir, "streams/00", name))
    with open(os.path.join(job.run_dir, "streams/00/005-target.bin"), "r+b") as f:
        f.truncate(40000)
    job.run()
    assert job.found() == [(3, 10, 10), (4, 10, 9), (5, 0, 10)], job.found()
    logs = "".join(open(path).read() for path in glob.glob(os.path.join(job.run_dir, "logs", "*.log")))
    assert logs.count("streams saved at block") >= 3 and "are not saved" not in logs, logs
    check(job, want, "saves")

    # Killed when its last block is there, before its streams are removed: the next start has no work on that segment, and cleans up.
    job = Job(folder, "late", "resources.host_cache=1", "checkpoint.recompute_minutes=0")
    job.run(kill="blocks/005.h5")
    assert job.files() and job.saves(), (job.files(), job.saves())
    shutil.copy(os.path.join(calm.run_dir, "blocks/005.h5"), os.path.join(job.run_dir, "blocks"))
    job.run()
    check(job, want, "killed at the end of a segment")

    # A request to stop in the middle, then on: at random moments.
    job, stops = Job(folder, "stops", "resources.host_cache=1", "checkpoint.recompute_minutes=0"), 0
    for wait in (0.4, 0.5, 0.6, 0.7):
        p = subprocess.Popen(job.command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(wait)
        stops += p.poll() is None
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)
        p.wait()
    job.run()
    check(job, want, "kills at random")
    print(f"7 kills at a commit, {stops} at random moments; compared {len(want)} files")
