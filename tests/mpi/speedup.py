#!/usr/bin/env python3
"""Two ranks against one, one thread each, on a job of two segments: seconds of the quantize phase in alternating pairs, and how busy
E2E-QP's pipeline was. Wants two free cores; not part of ctest. usage: speedup.py QUARRY [PAIRS]"""
import json, os, statistics, sys
import launch
from quarry_job import scratch, write_job

quarry, pairs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
JOB = """
model: {data}/models/tiny-llama-kjv
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 128, sequence_length: 256, validation_samples: 4}}
quantize: {{weights: {{bits: 2, group_size: 64}}, segments: 2}}
e2e_qp: {{batch_size: 32, epochs: 1}}
"""


def phase(run_dir, name):
    events = [json.loads(line.split("\t")[0]) for line in open(os.path.join(run_dir, "ledger.jsonl"))]
    seconds = [e["seconds"] for e in events if e["event"] == "phase" and e["phase"] == name and e["seconds"] >= 0][-1]
    return seconds, [e["text"] for e in events if e["event"] == "done" and e["task"] == "e2e_qp stage"]


with scratch() as folder:
    quantize, e2e = {1: [], 2: []}, {1: [], 2: []}
    for pair in range(pairs):
        for ranks in (1, 2) if pair % 2 == 0 else (2, 1):
            name = f"{pair}-{ranks}"
            code, out = launch.run(quarry, ranks, write_job(folder, f"{name}.yaml", name, JOB), "resources.threads=1")
            assert code == 0, out
            quantize[ranks].append(phase(os.path.join(folder, name), "quantize")[0])
            seconds, shares = phase(os.path.join(folder, name), "e2e_qp")
            e2e[ranks].append(seconds)
            print(f"{ranks} ranks: quantize {quantize[ranks][-1]:.2f} s, e2e_qp {seconds:.2f} s; {'; '.join(shares)}", flush=True)
    for name, times in (("quantize", quantize), ("e2e_qp", e2e)):
        one, two = statistics.median(times[1]), statistics.median(times[2])
        print(f"{name}: median {one:.2f} s on 1 rank, {two:.2f} s on 2: {two / one:.2f} of the time")
