#!/usr/bin/env python3
"""The accuracy table: runs each job on the tiny Llama that ships with the project, compares its perplexities with what they
must be, and writes docs/accuracy.md. Runs are kept (and resumed) in --runs.

usage: run.py --quarry PATH [--write FILE] [--runs DIR] [--threads N] [--device cpu] [--only NAME[@SEED],...]   exit 1 where a row does not hold
       run.py --list PREFIX   the jobs NAME@SEED of these names, the most telling first; each may go in a process of its own with
                              --only, in the same --runs, and a last run.py then finds them all done"""
import argparse, hashlib, json, os, shutil, subprocess, sys, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = "tests/data"
JOB = """# what every row of the accuracy table starts from
model: {root}/tests/data/models/tiny-llama-kjv
run_dir: {runs}/{name}
seed: {seed}
calibration: {{text: {root}/tests/data/text/kjv/train.txt, samples: 512, sequence_length: 256, validation_samples: 16}}
quantize: {{method: block-ap, weights: {{bits: 2, group_size: 64}}, segments: 1}}
evaluate: [{{name: kjv, text: {root}/tests/data/text/kjv/test.txt, sequence_length: 256}}]
"""
PUBLISHED = ["block_ap={init: min-max, lr_unit: absolute, shuffle: false}"]
E2E_ABSOLUTE = ["e2e_qp={loss: next-token, lr_unit: absolute, lr: 2.0e-4, epochs: 2, batch_size: 32}"]
E2E_DEFAULT = ["e2e_qp={loss: next-token, epochs: 2}"]
DISTILL = ["e2e_qp={loss: distill, epochs: 4}"]


def rtn(init, bits):
    return ["quantize.method=rtn", f"rtn.init={init}", f"quantize.weights.bits={bits}"]


def activations(method, weight_bits, bits, *more):
    """Whole rows of weights, activations, keys and values quantized; 128 windows, as the official QLLM code was run with."""
    return [f"quantize.method={method}", f"quantize.weights.bits={weight_bits}", "quantize.weights.group_size=-1",
            f"quantize.activations.bits={bits}", f"quantize.kv_cache.bits={bits}", "calibration.samples=128", *more]


# What a value must be: a test of it and of the rows so far, by name; None where it cannot be judged.
def about(value, tolerance):
    return lambda x, rows: abs(x - value) <= tolerance, f"{value} ± {tolerance}"


def at_most(value):
    return lambda x, rows: x <= value, f"≤ {value}"


def at_least(value):
    return lambda x, rows: x >= value, f"≥ {value}"


def no_worse(*others, slack=0.03):
    """Than other rows, but for what one seed is from the next."""
    def test(x, rows):
        return x == x and all(x <= rows[o] + slack for o in others) if all(o in rows for o in others) else None
    return test, "≤ " + ", ".join(others) + f" (+{slack})" * (slack > 0) if others else "a number"


def all_of(*tests):
    def test(x, rows):
        found = [one(x, rows) for one, _ in tests]
        return False if False in found else None if None in found else True
    return test, ", ".join(text for _, text in tests)


SEEDS = (2, 3, 4)  # of jobs that say so; others have the first one

# name, settings, [(variant, what the row says, test)], and seeds where there are several
JOBS = [
    ("rtn-w4", rtn("min-max", 4), [("original", "original, fp16", about(21.068, 0.005)), ("stitched", "RTN w4, min-max", about(21.33, 0.05))]),
    ("rtn-w3", rtn("min-max", 3), [("stitched", "RTN w3, min-max", about(22.41, 0.05))]),
    ("rtn-w2", rtn("min-max", 2), [("stitched", "RTN w2, min-max", about(33.22, 0.05))]),
    ("rtn-w2-ls", rtn("least-squares", 2), [("stitched", "RTN w2, least squares", about(26.70, 0.1))]),
    ("default-w2", E2E_DEFAULT, [("stitched", "defaults, w2: Block-AP", at_most(22.5)), ("final", "+ E2E-QP next-token, 2 epochs", at_most(21.9))], SEEDS),
    ("default-w3", ["quantize.weights.bits=3"], [("stitched", "defaults, w3: Block-AP", at_most(21.35))]),
    ("default-w4", ["quantize.weights.bits=4"], [("stitched", "defaults, w4: Block-AP", at_most(21.17))]),
    ("default-w2-s6", ["quantize.segments=6", *DISTILL], [("stitched", "defaults, w2, 6 segments: Block-AP", at_most(24.1)), ("final", "+ E2E-QP distill, 4 epochs", at_most(22.5))]),
    ("published-w2", PUBLISHED + E2E_ABSOLUTE, [("stitched", "published, w2, 1 segment: Block-AP", about(24.10, 0.25)), ("final", "+ E2E-QP absolute 2e-4, 2 epochs", about(23.09, 0.25))]),
    ("published-w2-s2", PUBLISHED + ["quantize.segments=2"], [("stitched", "published, w2, 2 segments", about(24.19, 0.25))]),
    ("published-w2-s6", PUBLISHED + ["quantize.segments=6"], [("stitched", "published, w2, 6 segments", about(24.57, 0.25))]),
    ("published-w3", PUBLISHED + ["quantize.weights.bits=3"], [("stitched", "published, w3, 1 segment", about(21.35, 0.1))]),
    ("published-w4", PUBLISHED + ["quantize.weights.bits=4"], [("stitched", "published, w4, 1 segment", about(21.11, 0.1))]),
    ("ls-absolute-w2", ["block_ap={init: least-squares, lr_unit: absolute, weight_lr: 2.0e-4, shuffle: false}", *E2E_ABSOLUTE],
     [("stitched", "least squares, absolute 2e-4, w2: Block-AP", about(22.26, 0.2)), ("final", "+ E2E-QP absolute 2e-4, 2 epochs", about(21.68, 0.2))]),
]


# What the official QLLM code gives on the small Llama, one seed: plain rounding, reassembly, both and the last norm (3 epochs at 5e-4)
QLLM_OFFICIAL = {(4, 4): (23.376, 23.691, 22.391), (4, 8): (21.539, 21.700, None), (6, 6): (21.160, 21.329, None)}
QLLM_MODELS = {"llama": "tiny-llama-kjv", "opt": "tiny-opt-kjv", "planted": "planted-tiny-llama-kjv", "planted-opt": "planted-tiny-opt-kjv"}
QLLM_E2E = "e2e_qp={loss: distill, samples: 256, epochs: 2, batch_size: 16, micro_batch_size: 16}"


def qllm_rows(short, weight_bits, bits, compat):
    """Plain rounding, and QLLM in steps: reassembly, corrections, both, E2E-QP on that. Each step is judged by those before it, the
    defaults also by compat, and that by the official code."""
    name, model = f"qllm-{short}-w{weight_bits}a{bits}", f"model={QLLM_MODELS[short]}"
    this, label = name + "-compat" * compat, f"{short} w{weight_bits}a{bits}, {'compat' if compat else 'defaults'}: "
    rounded, moved, trained = QLLM_OFFICIAL[weight_bits, bits] if short == "llama" else (None, None, None)

    def goal(official, *steps):
        """compat: the official figure, where there is one, else no worse than rounding where it trains (its reassembly alone is: it never
        leaves a site alone). Defaults: no worse than the official figure, than compat, and than the steps before."""
        if compat:
            return about(official, 0.15) if official else no_worse(*[f"{this}-rounded"] * (steps != () and done != "moved"))
        beside = no_worse(f"{name}-compat-{done}", *(f"{this}-{step}" for step in steps))
        return all_of(at_most(official), beside) if official else beside
    steps = []
    for done, settings, row, official, before, n in (("rounded", [f"rtn.init={'min-max' if compat else 'least-squares'}"], "RTN", rounded, [], 1),
                                                     ("moved", ["qllm.epochs=0"], "+ reassembly", moved, ["rounded"], 3),
                                                     ("corrected", ["qllm.epochs=3", "qllm.reassembly=false"], "+ corrections", None, ["rounded"], 3),
                                                     ("both", ["qllm.epochs=3", QLLM_E2E], "+ both", trained, ["moved", "corrected"], 3)):
        checks = [("stitched", label + row, goal(official, *before))]
        if done == "both":
            # at 6 bits, 0.03 above full precision, there is nothing left to win
            checks.append(("final", label + "+ E2E-QP on both", no_worse(f"{this}-both", slack=0.03 if weight_bits == 6 else 0)))
        method = "rtn" if done == "rounded" else "qllm"
        keys = activations(method, weight_bits, bits, f"qllm.compat={str(compat).lower()}", *settings)
        steps.append((f"{this}-{done}", [model, *keys], checks, SEEDS[:n]))
    return steps


for bits in QLLM_OFFICIAL:
    for short in ("llama", "opt"):
        JOBS += qllm_rows(short, *bits, True) + qllm_rows(short, *bits, False)
JOBS.append(("qllm-llama-w4a4-exact", activations("qllm", 4, 4, "qllm={init: min-max, least_gain: 0, epochs: 0}"),
             [("stitched", "llama w4a4: reassembly by the exact score, one order, every gain taken", about(23.438, 0.15))], SEEDS))
# rounding breaks on planted outliers: QLLM must recover most of it (limits: what was measured, and a tenth)
for short, broken, moved, both in (("planted", 1000, 35, 30), ("planted-opt", 1000, 50, 42)):
    for name, settings, checks, seeds in qllm_rows(short, 4, 4, True) + qllm_rows(short, 4, 4, False):
        step, plain = name.rsplit("-", 1)[1], "-compat" not in name
        limit = {"rounded": at_least(broken), "moved": at_most(moved), "both": at_most(both)}.get(step)
        if limit and (plain or step == "rounded"):
            checks[0] = (*checks[0][:2], limit)
        if step != "corrected":
            JOBS.append((name, settings, checks, seeds))


def rptq(model, scheme, *keys):
    """126 windows, as the official code takes them; planted-NAME is NAME with outlier channels (outliers.py)"""
    return [f"model={model}", "calibration.samples=126", "quantize={method: rptq, segments: 1}", f"rptq={{{', '.join([f'scheme: {scheme}', *keys])}}}"]


OPT, LLAMA = "tiny-opt-kjv", "tiny-llama-kjv"
for bits, group, rounded, seeds in ((2, 64, 26.70, SEEDS), (3, 64, 22.41, SEEDS[:1]), (4, 128, 21.33, SEEDS[:1])):
    JOBS.append((f"gptq-w{bits}", ["quantize.method=gptq", f"quantize.weights.bits={bits}", f"quantize.weights.group_size={group}"],
                 [("stitched", f"GPTQ w{bits}, groups of {group}", at_most(rounded))], seeds))
# What the official code gives on the same model and windows, to 0.1 between its seeds: compat equals it, the default does not exceed it.
OFFICIAL = {"W4A4": 23.616, "W3A3KV": 24.830, "W4A3KV": 24.188, "W4A4KV": 22.979, "W4A8": 22.666, "W4A16": 22.592}
CLUSTERS = {1: 24.377, 4: 23.694, 8: 23.541}
# Llama: no official figure. Planted outliers may cost OPT 0.4 and the Llama 0.2.
LLAMA_MOST = {"W4A16": 21.2, "W4A8": 21.3, "W4A4": 22.6, "W4A4KV": 21.6, "W4A3KV": 22.1, "W3A3KV": 22.3}


def originals(scheme, what, value):
    """A row of the full-precision model, once."""
    return [("original", f"{what}: original, fp16", about(value, 0.005))] if scheme == "W4A16" else []


def clusters(name, what, model, n, test, *keys):
    """So many at every site; inside each head too"""
    JOBS.append((name, rptq(model, "W4A4", f"clusters: {n}", f"head_clusters: {n}", *keys), [("stitched", f"{what}: W4A4, clusters all {n}", test)]))


for scheme, official in OFFICIAL.items():
    JOBS.append((f"rptq-{scheme}", rptq(OPT, scheme), originals(scheme, "tiny OPT", 22.611) + [("stitched", f"tiny OPT: {scheme}", at_most(official))]))
    JOBS.append((f"rptq-{scheme}-compat", rptq(OPT, scheme, "compat: true"), [("stitched", f"tiny OPT: {scheme}, as published", about(official, 0.15))]))
for n, official in CLUSTERS.items():
    clusters(f"rptq-{n}-compat", "tiny OPT, as published", OPT, n, about(official, 0.15), "compat: true")
for n in (1, 4, 8, 32):
    clusters(f"rptq-{n}", "tiny OPT", OPT, n, at_most({1: 24.377, 4: 23.694}.get(n, 23.541)))
    clusters(f"rptq-llama-{n}", "tiny Llama", LLAMA, n, at_most({1: 24.8, 4: 23.5, 8: 23.0}.get(n, 22.6)))
    # One step for all channels does not bear outliers.
    clusters(f"rptq-planted-{n}", "tiny OPT, planted", "planted-" + OPT, n, at_least(100) if n == 1 else at_most(24.1 if n == 32 else 100))
    clusters(f"rptq-planted-llama-{n}", "tiny Llama, planted", "planted-" + LLAMA, n, at_least(100) if n == 1 else at_most(22.8 if n == 32 else 100))
for scheme, most in LLAMA_MOST.items():
    JOBS.append((f"rptq-llama-{scheme}", rptq(LLAMA, scheme), originals(scheme, "tiny Llama", 21.068) + [("stitched", f"tiny Llama: {scheme}", at_most(most))]))
    JOBS.append((f"rptq-planted-{scheme}", rptq("planted-" + OPT, scheme), [("stitched", f"tiny OPT, planted: {scheme}", at_most(round(OFFICIAL[scheme] + 0.4, 3)))]))
    JOBS.append((f"rptq-planted-llama-{scheme}", rptq("planted-" + LLAMA, scheme), [("stitched", f"tiny Llama, planted: {scheme}", at_most(most + 0.2))]))
# The official code's baseline: one static step for each tensor, weights plainly rounded. It does not bear outliers.
TENSOR = ("clusters: 1", "head_clusters: 0", "weights: rtn")
for name, model, what, test, *compat in (("rptq-tensor-rtn-compat", OPT, "tiny OPT, as published", about(25.647, 0.15), "compat: true"),
                                         ("rptq-tensor-rtn", OPT, "tiny OPT", at_most(25.647)),
                                         ("rptq-planted-tensor-rtn", "planted-" + OPT, "tiny OPT, planted", at_least(100))):
    JOBS.append((name, rptq(model, "W4A4", *TENSOR, *compat), [("stitched", f"{what}: W4A4, a static step a tensor, RTN", test)]))
JOBS.append(("rptq-rtn-w4a4", activations("rtn", 4, 4, "rtn.init=min-max", f"model={OPT}"), [("stitched", "tiny OPT: RTN w4a4, a step a token", at_most(25.647))]))
for scheme, most in (("W3A3KV", 24.2), ("W4A4", 23.5)):
    JOBS.append((f"rptq-{scheme}-e2e", rptq(OPT, scheme) + ["e2e_qp={loss: distill, epochs: 2, batch_size: 9, lr: 1.0e-3}"], [("final", f"tiny OPT: {scheme}, + E2E-QP of its steps", at_most(most))]))


def model_of(runs, name):
    """The folder of a model that ships, planted with outliers where its name says so."""
    if not name.startswith("planted-"):
        return os.path.join(ROOT, DATA, "models", name)
    folder = os.path.join(runs, name)
    script = os.path.join(ROOT, "tests/accuracy/outliers.py")
    if not os.path.isdir(folder):  # runs beside this one may be at it too
        made = f"{folder}.{os.getpid()}"
        subprocess.run([sys.executable, script, os.path.join(ROOT, DATA, "models", name[len("planted-"):]), made], check=True)
        try:
            os.rename(made, folder)
        except OSError:
            shutil.rmtree(made)
    return folder


def run_job(args, name, settings, seed):
    """Perplexities by variant, and seconds; those of a job that is done are kept beside its run."""
    name = name if seed == SEEDS[0] else f"{name}-seed-{seed}"
    path, kept = (os.path.join(args.runs, name + end) for end in (".yaml", ".json"))
    settings = [f"model={model_of(args.runs, s[6:])}" if s.startswith("model=") else s for s in settings]
    settings += [f"resources.device={args.device}"] + ([f"resources.threads={args.threads}"] if args.threads else [])
    if os.path.exists(kept):
        with open(kept) as f:
            before = json.load(f)
        if before["settings"] == settings:
            return before["perplexity"], before["seconds"]
    with open(path, "w") as f:
        f.write(JOB.format(root=ROOT, runs=args.runs, name=name, seed=seed))
    began = time.time()
    subprocess.run([args.quarry, "run", path, "--quiet", *(x for s in settings for x in ("--set", s))], check=True, stdout=subprocess.DEVNULL)
    status = subprocess.run([args.quarry, "status", os.path.join(args.runs, name), "--json"], check=True, capture_output=True, text=True).stdout
    done = dict(settings=settings, perplexity=json.loads(status)["perplexity"][0], seconds=time.time() - began)
    with open(kept, "w") as f:
        json.dump(done, f)
    return done["perplexity"], done["seconds"]


def digest(path):
    with open(os.path.join(ROOT, path), "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def write_page(path, rows, quarry):
    version = subprocess.run([quarry, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    with open(path, "w") as f:
        f.write(f"""# Accuracy

Written by `make accuracy` ({version}, CPU device): each row is a job on the small Llama that ships with the project
(`tests/data/models/tiny-llama-kjv`, 6 blocks), groups of 64, calibrated on 512 windows of 256 tokens of
`tests/data/text/kjv/train.txt` (seed 2); perplexity on `tests/data/text/kjv/test.txt` in windows of 256. "published" is
`init: min-max, lr_unit: absolute, shuffle: false` with the paper's rates; "defaults" is everything left out. "a4" is 4-bit
activations, keys and values beside whole rows of weights, calibrated on 128 windows, with what the official QLLM code gives as goals.
RPTQ is calibrated on 126 windows, as the official code; its goals are what that gives (`compat` equals it, the default does not exceed
it). "tiny OPT" is `tests/data/models/tiny-opt-kjv`, "planted" a model with outlier channels that computes what it did
(`tests/accuracy/outliers.py`).
Rows are of seed {SEEDS[0]}; where the largest distance of two seeds stands beside a row, it is the mean of {', '.join(map(str, SEEDS))} (QLLM's are
`qllm-MODEL-BITS-STEP`).

| job | row | perplexity | of seeds | must be | holds |
|---|---|---|---|---|---|
""")
        for name, label, value, spread, text, ok in rows:
            apart = "" if spread is None else f"{spread:.3f}"
            f.write(f"| {name} | {label} | {value:.3f} | {apart} | {text} | {'yes' if ok else '**no**'} |\n")
        f.write("\nThe texts and the model, by SHA-256:\n\n")
        for file in ("text/kjv/train.txt", "text/kjv/test.txt", "models/tiny-llama-kjv/model.safetensors"):
            f.write(f"- `{DATA}/{file}` {digest(os.path.join(DATA, file))}\n")


def by_worth(prefix):
    """NAME@SEED of the jobs of these names: first seeds first, of these the Llama at four bits before the rest."""
    named = [(name, (more or [SEEDS[:1]])[0]) for name, _, _, *more in JOBS if name.startswith(prefix)]
    first = ("llama-w4a4", "planted-w4a4", "opt-w4a4")
    return [f"{name}@{seeds[k]}" for k in range(len(SEEDS)) for part in range(len(first) + 1) for name, seeds in named
            if k < len(seeds) and next((i for i, p in enumerate(first) if name.startswith("qllm-" + p)), len(first)) == part]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quarry", default=os.path.join(ROOT, "build/quarry"))
    parser.add_argument("--write")
    parser.add_argument("--runs", default=os.path.join(ROOT, "build/accuracy"))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="")
    parser.add_argument("--list", metavar="PREFIX")
    args = parser.parse_args()
    if args.list is not None:
        print("\n".join(by_worth(args.list)))
        return 0
    args.quarry, args.runs = os.path.abspath(args.quarry), os.path.abspath(args.runs)
    os.makedirs(args.runs, exist_ok=True)
    wanted, rows, means = set(filter(None, args.only.split(","))), [], {}
    for name, settings, checks, *more in JOBS:
        seeds = [seed for seed in (more[0] if more else SEEDS[:1]) if not wanted or name in wanted or f"{name}@{seed}" in wanted]
        if not seeds:
            continue
        found, took = [], 0
        for seed in seeds:
            perplexity, seconds = run_job(args, name, settings, seed)
            found, took = found + [perplexity], took + seconds
        for variant, label, (test, text) in checks:
            values = [p[variant] for p in found]
            value = means[name + "-final" * (variant == "final")] = sum(values) / len(values)
            spread = max(values) - min(values) if len(values) > 1 else None
            ok = test(value, means)
            rows.append((name, label, value, spread, text, ok))
            apart = "" if spread is None else f"±{spread / 2:.3f}"
            print(f"{'open' if ok is None else 'ok  ' if ok else 'FAIL'} {name:30s} {label:52s} {value:8.3f} {apart:6s}  must be {text}  ({took:.0f} s)", flush=True)
    if args.write:
        write_page(args.write, rows, args.quarry)
    bad, unjudged = sum(row[5] is False for row in rows), sum(row[5] is None for row in rows)
    print(f"{len(rows) - bad - unjudged} of {len(rows)} rows hold" + (f", {unjudged} are to be compared with rows that are not here" if unjudged else ""))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
