#!/usr/bin/env python3
"""GPTQ in whole jobs: better than rounding, the same bytes with one and two threads and after kills, in every order of
work. usage: test_gptq.py QUARRY"""
import json, os, signal, subprocess, sys
from quarry_job import results, run, same_results, scratch, short_text, write_job

quarry = sys.argv[1]
JOB = """
model: {data}/models/{model}
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 64, sequence_length: 64, validation_samples: 4}}
quantize: {{method: gptq, weights: {{bits: 3, group_size: 64}}, segments: {segments}}}
gptq: {{init: min-max}}
evaluate: [{{name: kjv, text: {few}, sequence_length: 64}}]
export: [gptq, compressed-tensors, hf]
"""
ORDERED = ("--set", "gptq={static_groups: true, act_order: true, sequential: false, init: min-max}")


def few_lines(folder):
    """A tenth of the short text: the models of this test are compared with each other only."""
    path = os.path.join(folder, "few.txt")
    with open(short_text(folder, 6)) as source, open(path, "w") as out:
        out.write(source.read())
    return path


def go(folder, name, *options, env=None, model="tiny-llama-kjv", segments=2, code=0):
    job = write_job(folder, f"{name}.yaml", name, text=JOB, few=few_lines(folder), model=model, segments=segments)
    got, out = run([quarry, "run", job, "--quiet", *options], env=env)
    assert got == code, f"{name}: exit {got}\n{out}"
    return os.path.join(folder, name)


def status(run_dir):
    return json.loads(subprocess.run([quarry, "status", run_dir, "--json"], check=True, capture_output=True, text=True).stdout)


def check(run_dir):
    """Less error than plain rounding in every block and in the end."""
    found = status(run_dir)
    for block in found["block"]:
        assert block["loss_after"] < block["loss_before"], block
        assert block["validation_after"] < block["validation_before"], block
    perplexity = found["perplexity"][0]
    assert perplexity["original"] < perplexity["stitched"] < perplexity["rounded"], perplexity


with scratch() as folder:
    calm = go(folder, "calm", "--set", "resources.threads=1")
    want = results(calm)
    check(calm)
    assert len(want) > 10, sorted(want)
    threads = go(folder, "threads", "--set", "resources.threads=2")
    assert not same_results(want, results(threads)), f"1 and 2 threads differ in {same_results(want, results(threads))}"
    for where in ("blocks/004",):
        go(folder, "killed", env={"QUARRY_TEST_KILL": where}, code=-signal.SIGKILL)
    killed = go(folder, "killed")
    assert not same_results(want, results(killed)), f"killed differs in {same_results(want, results(killed))}"
    ordered = go(folder, "ordered", *ORDERED)
    check(ordered)
    opt = go(folder, "opt", *ORDERED, model="tiny-opt-kjv", segments=1)
    check(opt)
    print(f"{len(want)} files equal")
