"""Launching on several ranks of one machine, for the MPI tests."""
import os, subprocess, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "system"))
import quarry_job  # noqa: E402  (found by the line above)

ENV = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_mpi_yield_when_idle="1",
           OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_hwloc_base_binding_policy="none", OMPI_MCA_btl="self,vader",
           ASAN_OPTIONS="detect_leaks=0")  # in sanitized builds: Open MPI keeps memory to the end


def command(quarry, ranks, job, *settings):
    return ["mpirun", "-n", str(ranks), quarry, "run", job, "--quiet"] + [x for s in settings for x in ("--set", s)]


def run(quarry, ranks, job, *settings, timeout=300):
    return quarry_job.run(command(quarry, ranks, job, *settings), env=ENV, timeout=timeout)


def start(quarry, ranks, job, *settings, env=None):
    return subprocess.Popen(command(quarry, ranks, job, *settings), env=dict(ENV, **(env or {})), start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def rank_pids(job):
    """The ranks of this job, in the order of their start."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline").read().split("\0")
        except OSError:
            continue
        if "mpirun" not in words[0] and job in words:
            found.append(int(pid))
    return sorted(found)
