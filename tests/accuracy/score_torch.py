#!/usr/bin/env python3
"""Scores zero-shot tasks with transformers, one sequence at a time, and compares with `quarry eval --items`.

    score_torch.py MODEL_DIR [TASK.mc.jsonl...] [--items FILE] [--dtype float32|float16|bfloat16] [--device cpu|cuda]
                   [--tolerance T] [--limit N] [--write FILE] [--text FILE --sequence-length N]

With --text it prints the perplexity of the text, cut as `quarry eval` cuts it, for a look side by side.

Independent of Quarry on purpose: transformers' model and tokenizer, log_softmax in f32, no padding. With --items it
compares the −log likelihood of every continuation (|difference| <= T nats for each of its tokens) and both choices
of every item, which may differ only where two continuations score within that much of each other. Exit code 1
where something does not hold. --write keeps the scores, a JSON line for each item: so tests/golden/tasks was made.
"""
import argparse, json, math, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("tasks", nargs="*")
    p.add_argument("--text")
    p.add_argument("--sequence-length", type=int, default=1024)
    p.add_argument("--items")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--device", default="cpu")
    p.add_argument("--tolerance", type=float, default=1e-3)
    p.add_argument("--write")
    p.add_argument("--limit", type=int, default=10**9)
    return p.parse_args()


@torch.no_grad()
def nll(model, tokenizer, context, continuation, device):
    """−log p of the continuation, and its number of tokens."""
    stripped = context.rstrip()
    n_context = len(tokenizer(stripped)["input_ids"])
    ids = tokenizer(context + continuation)["input_ids"]
    logits = model(torch.tensor([ids], device=device)).logits[0].float()
    logp = torch.log_softmax(logits, dim=-1)
    targets = torch.tensor(ids[1:], device=device)
    picked = logp[:-1].gather(1, targets[:, None])[:, 0].double()
    return -picked[n_context - 1:].sum().item(), len(ids) - n_context


def best(scores):
    return min(range(len(scores)), key=lambda i: (scores[i], i))


def share(name, right):
    p, n = sum(right) / len(right), len(right)
    print(f"  {name} {p:.4f} +- {math.sqrt(p * (1 - p) / max(1, n - 1)):.4f} ({n} items)")


def compare(line, item, scores, tokens, tolerance, worst):
    """What does not hold of one item, as texts."""
    problems = []
    for c, (ours, theirs, n) in enumerate(zip(line["nll"], scores, tokens)):
        worst[0] = max(worst[0], abs(ours - theirs) / n)
        if not abs(ours - theirs) <= tolerance * n:
            problems.append(f"continuation {c}: quarry {ours:.6f}, transformers {theirs:.6f}")
    sizes = [len(c.removeprefix(" ").encode()) for c in item["continuations"]]
    if sizes != line["bytes"]:
        problems.append(f"bytes {line['bytes']}, expected {sizes}")
    for key, values in (("chosen", scores), ("chosen_by_bytes", [s / b for s, b in zip(scores, sizes)])):
        ours, theirs = line[key], best(values)
        near = 2 * tolerance * max(tokens) / (1 if key == "chosen" else min(sizes))
        if ours != theirs:
            worst[1] += 1
            if not abs(values[ours] - values[theirs]) <= near:
                problems.append(f"{key} {ours}, transformers {theirs}: {values}")
    return problems


@torch.no_grad()
def perplexity(model, tokenizer, path, length, device):
    """Of windows scored alone; no special tokens, the rest of the text dropped."""
    with open(path, encoding="utf-8") as f:
        ids = torch.tensor(tokenizer(f.read(), add_special_tokens=False)["input_ids"])
    windows = ids[: len(ids) // length * length].view(-1, length)
    total = 0.0
    for window in windows:
        logits = model(window[None].to(device)).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, window[1:].to(device), reduction="none").double().sum().item()
    return math.exp(total / (len(windows) * (length - 1))), len(windows)


def main():
    a = arguments()
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=getattr(torch, a.dtype)).to(a.device).eval()
    if a.text:
        print("%s: perplexity %.4f (%d windows)" % (a.text, *perplexity(model, tokenizer, a.text, a.sequence_length, a.device)))
    items = {}
    if a.items:
        with open(a.items) as f:
            for line in map(json.loads, f):
                items[line["task"], line["item"]] = line
    failed, kept = 0, []
    for path in a.tasks:
        plain, by_bytes, worst = [], [], [0.0, 0]
        with open(path, encoding="utf-8") as f:
            lines = [json.loads(line) for line in f if line.strip()][:a.limit]
        for i, item in enumerate(lines):
            pairs = [nll(model, tokenizer, item["context"], c, a.device) for c in item["continuations"]]
            scores, tokens = [p[0] for p in pairs], [p[1] for p in pairs]
            kept.append({"item": i, "nll": [round(x, 6) for x in scores]})
            sizes = [len(c.removeprefix(" ").encode()) for c in item["continuations"]]
            plain.append(best(scores) == item["gold"])
            by_bytes.append(best([s / b for s, b in zip(scores, sizes)]) == item["gold"])
            if a.items:
                for problem in compare(items[path, i], item, scores, tokens, a.tolerance, worst):
                    failed += 1
                    print(f"{path}: item {i}: {problem}")
        print(path)
        share("accuracy", plain)
        share("by bytes", by_bytes)
        if a.items:
            print(f"  largest difference {worst[0]:.2e} nats a token, {worst[1]} choices differ")
    if a.write:
        with open(a.write, "w") as f:
            f.writelines(json.dumps(line) + "\n" for line in kept)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
