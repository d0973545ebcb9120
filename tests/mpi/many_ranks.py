#!/usr/bin/env python3
"""What a message costs the coordinator: many ranks, oversubscribed, on a toy of as many segments whose tasks do next to nothing
(plain rounding of a small random block). Not part of ctest. usage: many_ranks.py QUARRY [RANKS]"""
import json, os, sys, time
import launch
from quarry_job import random_llama, scratch, short_text

quarry, ranks = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 64


with scratch() as folder:
    job = os.path.join(folder, "job.yaml")
    with open(job, "w") as f:
        f.write(f"model: {random_llama(folder, ranks)}\nrun_dir: {folder}/run\nquantize: {{method: rtn, weights: {{bits: 2, group_size: 32}}, segments: {ranks}}}\n"
                f"evaluate: [{{name: kjv, text: {short_text(folder, 20)}, sequence_length: 64}}]\nresources: {{threads: 1}}\n")
    began = time.time()
    code, out = launch.run(quarry, ranks, job, timeout=560)
    assert code == 0, out
    events = [json.loads(line.split("\t")[0]) for line in open(os.path.join(folder, "run/ledger.jsonl"))]
    workers = {e["rank"] for e in events if e["event"] == "done"}
    messages, seconds = events[-1]["values"]
    print(f"{ranks} ranks, {ranks} segments: {time.time() - began:.1f} s in all; {len(workers)} ranks finished a task; "
          f"the coordinator took in {messages:.0f} messages in {seconds:.2f} s: {1e6 * seconds / messages:.0f} us each, ledger writes included")
