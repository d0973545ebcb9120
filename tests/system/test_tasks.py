#!/usr/bin/env python3
"""Zero-shot tasks: `quarry eval --task` against transformers' scores (tests/golden/tasks, made by
tests/accuracy/score_torch.py), and as an evaluation of a job. usage: test_tasks.py QUARRY"""
import json, math, os, sys
from quarry_job import DATA, HERE, run, scratch, write_job

quarry = sys.argv[1]
TASK = os.path.join(DATA, "tasks/kjv.mc.jsonl")
GOLDEN = os.path.join(os.path.dirname(HERE), "golden/tasks")
# nats a token: measured 4e-6 at most, f32 against f32
TOLERANCE = 5e-5


def lines(path):
    with open(path) as f:
        return [json.loads(line) for line in f]


def accuracy(items, gold, key):
    right = sum(i[key] == g for i, g in zip(items, gold)) / len(items)
    return right, math.sqrt(right * (1 - right) / (len(items) - 1))


def check_model(folder, name):
    """Every continuation's score, what follows from the scores, and what is printed."""
    out_path = os.path.join(folder, name + ".jsonl")
    code, out = run([quarry, "eval", os.path.join(DATA, "models", name), "--task", TASK, "--items", out_path,
                     "--device", "cpu"])
    assert code == 0, out
    items, task = lines(out_path), lines(TASK)
    golden = lines(os.path.join(GOLDEN, name + ".jsonl"))
    assert len(items) == len(golden) == len(task) == 60
    for ours, theirs, item in zip(items, golden, task):
        assert ours["gold"] == item["gold"]
        for i, (a, b) in enumerate(zip(ours["nll"], theirs["nll"], strict=True)):
            assert abs(a - b) <= TOLERANCE * 40, f"{name} item {ours['item']}: {a}, transformers {b}"
            assert ours["bytes"][i] == len(item["continuations"][i].encode()) - 1
        n = range(len(theirs["nll"]))
        assert ours["chosen"] == min(n, key=lambda i: theirs["nll"][i])
        assert ours["chosen_by_bytes"] == min(n, key=lambda i: theirs["nll"][i] / ours["bytes"][i])
    gold = [item["gold"] for item in task]
    plain, by_bytes = accuracy(items, gold, "chosen"), accuracy(items, gold, "chosen_by_bytes")
    line = f"accuracy {plain[0]:.4f} +- {plain[1]:.4f}, by bytes {by_bytes[0]:.4f} +- {by_bytes[1]:.4f}"
    assert line in out, f"{line}\n{out}"
    return items


def check_alone(folder, items):
    """A sequence scores the same beside others, padded, and alone."""
    for number in (0, 7, 23):
        path, scores = os.path.join(folder, "one.mc.jsonl"), os.path.join(folder, "one.jsonl")
        with open(TASK) as f, open(path, "w") as out:
            out.write(f.readlines()[number])
        code, out = run([quarry, "eval", os.path.join(DATA, "models/tiny-llama-kjv"), "--task", path, "--items",
                         scores, "--device", "cpu"])
        assert code == 0, out
        for a, b in zip(items[number]["nll"], lines(scores)[0]["nll"], strict=True):
            assert abs(a - b) <= TOLERANCE, f"item {number}: {a} beside others, {b} alone"


def status(run_dir):
    code, out = run([quarry, "status", run_dir, "--json"])
    assert code == 0, out
    return json.loads(out)


def finished(ledger):
    """Tasks that the ledger calls done."""
    with open(ledger) as f:
        return sum('"event":"done"' in line for line in f)


def check_job(folder, items):
    """As an evaluation of a job: every variant, the same numbers, redone only where the task changes."""
    evaluate = f"evaluate=[{{name: kjv, task: {TASK}}}]"
    job = write_job(folder, run_dir="run")
    cheap = [job, "--quiet", "--set", evaluate, "--set", "quantize.method=rtn", "--set", "e2e_qp.epochs=0",
             "--set", "resources.device=cpu"]
    code, out = run([quarry, "run", *cheap])
    assert code == 0 and "acc" in out, out
    run_dir = os.path.join(folder, "run")
    found = status(run_dir)["accuracy"]
    assert len(found) == 1 and found[0]["task"] == "kjv"
    gold = [item["gold"] for item in lines(TASK)]
    for key, names in (("chosen", ("accuracy", "error")), ("chosen_by_bytes", ("by_bytes", "by_bytes_error"))):
        for name, expected in zip(names, accuracy(items, gold, key)):
            assert abs(found[0]["original"][name] - expected) <= 1e-9, (name, found)
    for variant in ("rounded", "stitched"):
        assert found[0][variant]["items"] == 60 and 0.3 < found[0][variant]["accuracy"] < 1, found
    assert found[0]["final"] is None
    # The model card of an export says the same.
    with open(os.path.join(run_dir, "export/hf/README.md")) as f:
        card = f.read()
    values = [100 * found[0][v][n] for v in ("original", "rounded", "stitched") for n in ("accuracy", "by_bytes")]
    row = "| kjv | 60 | {:.2f}, {:.2f} | {:.2f}, {:.2f} | {:.2f}, {:.2f} | ".format(*values)
    assert row in card, f"{row}\n{card}"
    # The run's model alone gives what the run measured.
    code, out = run([quarry, "eval", run_dir, "--task", TASK, "--device", "cpu"])
    assert code == 0 and f"accuracy {found[0]['stitched']['accuracy']:.4f} " in out, out
    # The same command again does nothing; a changed task is evaluated again.
    ledger = os.path.join(run_dir, "ledger.jsonl")
    done = finished(ledger)
    code, out = run([quarry, "run", *cheap])
    assert code == 0, out
    assert finished(ledger) == done
    shorter = os.path.join(folder, "short.mc.jsonl")
    with open(TASK) as f, open(shorter, "w") as out_file:
        out_file.writelines(f.readlines()[:20])
    cheap[3] = f"evaluate=[{{name: kjv, task: {shorter}}}]"
    code, out = run([quarry, "run", *cheap])
    assert code == 0, out
    assert finished(ledger) == done + 3
    assert status(run_dir)["accuracy"][0]["original"]["items"] == 20


def check_refused(folder):
    broken = os.path.join(folder, "broken.mc.jsonl")
    with open(broken, "w") as f:
        f.write('{"context": "a", "continuations": [" b"], "gold": 3}\n')
    model = os.path.join(DATA, "models/tiny-llama-kjv")
    for arguments, words in (([model, "--task", broken], "line 1"),
                             ([model, "--task", broken + "x"], "No such file"),
                             ([model, "--items", "x"], "--task"),
                             ([model, "--text", broken, "--items", "x"], "only a --task")):
        code, out = run([quarry, "eval", *arguments, "--device", "cpu"])
        assert code == 2 and words in out, out
    job = write_job(folder, run_dir="refused")
    code, out = run([quarry, "run", job, "--quiet", "--set", f"evaluate=[{{name: t, task: {broken}}}]"])
    assert code == 2 and "line 1" in out, out
    assert not os.path.exists(os.path.join(folder, "refused"))


with scratch() as folder:
    llama = check_model(folder, "tiny-llama-kjv")
    check_model(folder, "tiny-opt-kjv")
    check_alone(folder, llama)
    check_job(folder, llama)
    check_refused(folder)
    print("tasks: 2 models, a job, refusals")
