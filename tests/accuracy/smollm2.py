#!/usr/bin/env python3
"""The table of docs/smollm2.md: jobs on SmolLM2-135M-Instruct, groups of 64, calibrated on C4, judged on WikiText-2 and
three zero-shot tasks. Runs are kept (and resumed) in --runs; each ended job adds a line of JSON to RUNS/results.jsonl,
and --print makes the table of those lines.

usage: smollm2.py --model DIR_OR_GGUF --data DIR --runs DIR [--quarry PATH] [--only NAME,...] [--at-once N] [--device NAME]
       smollm2.py --runs DIR --print
--data holds c4.slice.jsonl, wiki.train.head.txt, wiki.valid.txt, and piqa, arc_easy, hellaswag .mc.jsonl under tasks/."""
import argparse, glob, json, os, queue, subprocess, sys, threading, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
JOB = """model: {model}
run_dir: {runs}/{name}
seed: 2
calibration: {{text: {data}/c4.slice.jsonl, samples: 512, sequence_length: 1024, validation_samples: 16}}
quantize: {{method: block-ap, weights: {{bits: {bits}, group_size: 64}}, segments: 1}}
evaluate:
  - {{name: train, text: {data}/wiki.train.head.txt, sequence_length: 1024}}
  - {{name: valid, text: {data}/wiki.valid.txt, sequence_length: 1024}}
{tasks}resources: {{device: {device}, threads: 2, gpu_memory: 30000000000}}
"""
TASKS = ("piqa", "arc_easy", "hellaswag")
DISTILL = "e2e_qp={loss: distill, epochs: 4, batch_size: 32, micro_batch_size: 8}"
NEXT = "e2e_qp={loss: next-token, epochs: 1, batch_size: 32, micro_batch_size: 8}"
PUBLISHED = "block_ap={init: min-max, lr_unit: absolute, shuffle: false}"


def all_jobs():
    """name, bits, settings, whether tasks are scored; the most wanted first."""
    kinds = [("distill", [DISTILL], True), ("next", [NEXT], False), ("gptq", ["quantize.method=gptq"], False),
             ("gptq-sink", ["quantize.method=gptq", "gptq={static_groups: true, act_order: true, first_token: 0.3}"], False),
             ("s30", ["quantize.segments=30", DISTILL], False), ("published", [PUBLISHED], False),
             ("rtn", ["quantize.method=rtn"], False), ("s4", ["quantize.segments=4", DISTILL], False),
             ("long", ["block_ap={epochs: 4}", DISTILL], False), ("norms", ["block_ap={norm_lr: 1.0e-4}"], False)]
    return [(f"w{bits}-{kind}", bits, settings, tasks) for kind, settings, tasks in kinds for bits in (2, 3, 4)]


def phases(run):
    seconds = {}
    with open(os.path.join(run, "ledger.jsonl")) as f:
        for line in f:
            e = json.loads(line.split("\t")[0])
            if e["event"] == "phase" and e["seconds"] > 0:
                seconds[e["phase"]] = round(seconds.get(e["phase"], 0) + e["seconds"], 2)
    return seconds


def run_job(args, job):
    name, bits, settings, with_tasks = job
    tasks = "".join(f"  - {{name: {t}, task: {glob.glob(f'{args.data}/tasks/{t}/*.mc.jsonl')[0]}}}\n" for t in TASKS) if with_tasks else ""
    path, run = f"{args.runs}/{name}.yaml", f"{args.runs}/{name}"
    with open(path, "w") as f:
        f.write(JOB.format(model=args.model, runs=args.runs, data=args.data, name=name, bits=bits, tasks=tasks, device=args.device))
    began = time.time()
    r = subprocess.run([args.quarry, "run", path, "--quiet"] + [x for s in settings for x in ("--set", s)], capture_output=True, text=True)
    row = {"name": name, "exit": r.returncode, "seconds": round(time.time() - began, 1)}
    if r.returncode:
        return dict(row, error=(r.stdout + r.stderr)[-400:])
    s = json.loads(subprocess.run([args.quarry, "status", run, "--json"], check=True, capture_output=True, text=True).stdout)
    row["perplexity"] = {e["text"]: {k: v for k, v in e.items() if isinstance(v, float)} for e in s["perplexity"]}
    row["accuracy"] = {e["task"]: {k: v for k, v in e.items() if isinstance(v, dict)} for e in s.get("accuracy", [])}
    return dict(row, phases=phases(run))


def work(args, jobs, lock):
    while True:
        try:
            row = run_job(args, jobs.get_nowait())
        except queue.Empty:
            return
        with lock, open(f"{args.runs}/results.jsonl", "a") as f:
            f.write(json.dumps(row) + "\n")
            print(summary(row), flush=True)


def number(v):
    return "-" if v is None else f"{v:.2f}"


def summary(row):
    if row["exit"]:
        return f"{row['name']}: exit {row['exit']} {row['error']}"
    cells = [f"{row['name']:14s} {row['seconds']:6.1f} s"]
    for text, p in row["perplexity"].items():
        cells.append(f"{text} " + " ".join(number(p.get(v)) for v in ("original", "rounded", "stitched", "final")))
    for task, a in row["accuracy"].items():
        cells.append(f"{task} " + " ".join(f"{v}:{a[v]['accuracy']:.4f}/{a[v]['by_bytes']:.4f}" for v in ("original", "stitched", "final") if v in a))
    return " | ".join(cells) + " | " + json.dumps(row["phases"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quarry", default=os.path.join(ROOT, "build/quarry"))
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--runs", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--print", action="store_true")
    args = parser.parse_args()
    args.runs = os.path.abspath(args.runs)
    if args.print:
        with open(f"{args.runs}/results.jsonl") as f:
            print("\n".join(summary(json.loads(line)) for line in f))
        return 0
    args.model, args.data, args.quarry = os.path.abspath(args.model), os.path.abspath(args.data), os.path.abspath(args.quarry)
    os.makedirs(args.runs, exist_ok=True)
    wanted, jobs, lock = set(filter(None, args.only.split(","))), queue.Queue(), threading.Lock()
    for job in all_jobs():
        if not wanted or job[0] in wanted:
            jobs.put(job)
    threads = [threading.Thread(target=work, args=(args, jobs, lock)) for _ in range(args.at_once)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return 0


sys.exit(main())
