#!/usr/bin/env python3
"""GPTQ and RPTQ in whole jobs, on OPT and Llama: the same bytes for one, two and three ranks. usage: test_rounding.py QUARRY"""
import os, sys
import launch
from quarry_job import results, run, same_results, scratch, write_job

quarry = sys.argv[1]
JOB = """
model: {data}/models/{model}
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 8, sequence_length: 32, validation_samples: 2}}
quantize: {{method: {method}, segments: 3}}
{more}
"""
CASES = [("gptq", "tiny-llama-kjv", "gptq: {static_groups: true, act_order: true}"), ("rptq", "tiny-opt-kjv", "rptq: {scheme: W4A4, clusters: 8}"),
         ("rptq", "tiny-llama-kjv", "rptq: {scheme: W3A3KV, clusters: 8}")]


def go(folder, method, model, more, ranks):
    name = f"{method}-{model}-{ranks}"
    job = write_job(folder, f"{name}.yaml", name, text=JOB, method=method, model=model, more=more)
    code, out = launch.run(quarry, ranks, job) if ranks > 1 else run([quarry, "run", job, "--quiet", "--set", "resources.threads=1"])
    assert code == 0, f"{name}: exit {code}\n{out}"
    return results(os.path.join(folder, name))


with scratch() as folder:
    for method, model, more in CASES:
        want = go(folder, method, model, more, 1)
        assert len(want) > 6, sorted(want)
        for ranks in (2, 3):
            different = same_results(want, go(folder, method, model, more, ranks))
            assert not different, f"{method}, {model}, {ranks} ranks: {different}"
        print(f"{method}, {model}: {len(want)} files equal")
