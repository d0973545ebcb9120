#!/usr/bin/env python3
"""The same bytes for 1, 2, 3 and 5 ranks, 1 and 2 threads each, E2E-QP's pipeline included; every rank finishes a task.
usage: test_ranks.py QUARRY"""
import json, os, sys
import launch
from quarry_job import results, same_results, scratch, write_job

quarry, want = sys.argv[1], None
with scratch() as folder:
    for ranks, threads in ((1, 1), (2, 2), (3, 1), (5, 1)):
        name = f"{ranks}x{threads}"
        job, run_dir = write_job(folder, f"{name}.yaml", name), os.path.join(folder, name)
        code, out = launch.run(quarry, ranks, job, f"resources.threads={threads}")
        assert code == 0, f"{name}: exit {code}\n{out}"
        made = results(run_dir)
        want = want or made
        different = same_results(want, made)
        assert not different, f"{name} differs from 1x1 in {different}"
        done = set()
        for line in open(os.path.join(run_dir, "ledger.jsonl")):
            event = json.loads(line.split("\t")[0])
            if event["event"] == "done" and event["task_id"] >= 0:
                done.add(event["rank"])
        assert done == set(range(ranks)), f"{name}: only ranks {sorted(done)} finished a task"
        print(f"{ranks} ranks, {threads} threads: {len(made)} files equal")
