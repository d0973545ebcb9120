"""The plan's bytes of device memory are what the tasks take, to the byte; a limit below them is refused
before anything starts; a limit above them is filled with activations that E2E-QP need not recompute, and the
results are the same bytes.  usage: test_memory.py QUARRY"""
import json, os, sys, tempfile

from quarry_job import results, run, same_results, write_job

quarry = sys.argv[1]


def quantize(folder, name, *sets):
    """A run on the CPU: its directory and the bytes that each finished task took."""
    job = write_job(folder, run_dir=name)
    command = [quarry, "run", job, "--set", "resources.device=cpu", "--set", "resources.threads=1"]
    for one in sets:
        command += ["--set", one]
    code, out = run(command)
    run_dir = os.path.join(folder, name)
    if code != 0:
        return code, out, None, None
    taken = {}
    with open(os.path.join(run_dir, "metrics.jsonl")) as lines:
        for line in map(json.loads, lines):
            if "device_bytes" in line:
                taken[line["phase"]] = max(taken.get(line["phase"], 0), line["device_bytes"])
    with open(os.path.join(run_dir, "plan.json")) as f:
        return code, out, taken, json.load(f)["cpu_bytes"]


with tempfile.TemporaryDirectory() as folder:
    code, out, taken, planned = quantize(folder, "free")
    assert code == 0, out
    print(f"planned {planned}, taken {taken}")
    assert sorted(taken) == ["capture", "e2e_qp", "evaluate", "quantize"], taken
    assert max(taken.values()) == planned, (taken, planned)

    # Without the phases that need more, E2E-QP comes to its limit with some of its blocks' activations kept.
    sets = ["evaluate=[]", "export=[]", "quantize.segments=1", "e2e_qp.loss=next-token", "e2e_qp.micro_batch_size=2"]
    code, out, least, most = quantize(folder, "least", *sets)
    assert code == 0, out
    assert max(least.values()) == most, (least, most)
    code, out, held, _ = quantize(folder, "held", *sets, f"resources.gpu_memory={most}")
    assert code == 0, out
    print(f"planned {most}, taken {least}, with that limit {held}")
    assert least["e2e_qp"] < held["e2e_qp"] <= most, (held, least)
    assert not same_results(results(os.path.join(folder, "least")), results(os.path.join(folder, "held")))

    for verb in ("plan", "run"):
        job = write_job(folder, run_dir="tight")
        limit = planned * 85 // 100
        code, out = run([quarry, verb, job, "--set", "resources.device=cpu", "--set", f"resources.gpu_memory={limit}"])
        assert code == 2 and f"({planned} bytes)" in out and f"({limit} bytes)" in out, (verb, code, out)
        assert not os.path.exists(os.path.join(folder, "tight"))
print("ok")
