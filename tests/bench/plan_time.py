#!/usr/bin/env python3
"""What `quarry plan` says a job will take, against what it took: calibrates, runs, compares by phase; three times, median.
On a shared CPU the run's CPU seconds tell more than the clock, so both are printed.
usage: plan_time.py QUARRY JOB.yaml [--set KEY=VALUE]..."""
import json, os, resource, statistics, subprocess, sys, tempfile, time

quarry, job, settings = sys.argv[1], sys.argv[2], sys.argv[3:]
ratios, cpu_ratios = [], []
with tempfile.TemporaryDirectory(prefix="quarry-time-") as folder:
    os.environ["XDG_CACHE_HOME"] = os.path.join(folder, "cache")
    for i in range(3):
        run_dir = os.path.join(folder, f"run{i}")
        words = [job, *settings, "--set", f"run_dir={run_dir}"]
        began = time.time()
        out = subprocess.run([quarry, "plan", *words, "--calibrate"], stdout=subprocess.PIPE, text=True)
        if i == 0:
            print(out.stdout, flush=True)
        calibrated, began = time.time() - began, time.time()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([quarry, "run", *words, "--quiet"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = time.time() - began
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        plan = json.load(open(os.path.join(run_dir, "plan.json")))["estimate"]["phase_s"]
        phases = {}
        for line in open(os.path.join(run_dir, "ledger.jsonl")):
            event = json.loads(line.split("\t")[0])
            if event["event"] == "phase" and event["seconds"] >= 0:
                phases[event["phase"]] = phases.get(event["phase"], 0) + event["seconds"]
        ratios.append(sum(plan.values()) / took)
        cpu_ratios.append(sum(plan.values()) / cpu)
        print(f"calibrated in {calibrated:.1f} s; estimate {sum(plan.values()):.1f} s, took {took:.1f} s ({ratios[-1]:.2f}), "
              f"CPU {cpu:.1f} s ({cpu_ratios[-1]:.2f}); by phase: "
              + ", ".join(f"{k} {plan[k]:.1f} / {phases.get(k, 0):.1f}" for k in plan if plan[k] or k in phases), flush=True)
print(f"estimate / took, median of three: {statistics.median(ratios):.2f}; estimate / CPU seconds: "
      f"{statistics.median(cpu_ratios):.2f}")
