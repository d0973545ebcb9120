#!/usr/bin/env python3
"""Bad input: one clear line that says what and where, exit 2, nothing left behind. usage: test_bad_input.py QUARRY"""
import json, os, shutil, signal, struct, subprocess, sys, time
from quarry_job import DATA, run, scratch, write_job

quarry, failures = sys.argv[1], []


def check(name, job, *words, sets=(), run_dir=None):
    command = [quarry, "run", job, "--quiet"] + [x for s in sets for x in ("--set", s)]
    before = sorted(os.listdir(run_dir)) if run_dir and os.path.isdir(run_dir) else None
    code, out = run(command)
    lines = [l for l in out.splitlines() if l]
    after = sorted(os.listdir(run_dir)) if run_dir and os.path.isdir(run_dir) else None
    missing = [w for w in words if w not in out]
    if code != 2 or len(lines) != 1 or missing or before != after:
        failures.append(f"{name}: exit {code}, missing {missing}, left {after}, was {before}\n    {out.strip()}")


def model_copy(folder, name, source="tiny-llama-kjv"):
    path = os.path.join(folder, name)
    shutil.copytree(os.path.join(DATA, "models", source), path)
    return path


def edit_json(path, **keys):
    with open(path) as f:
        value = json.load(f)
    value.update(keys)
    with open(path, "w") as f:
        json.dump(value, f)


def edit_header(model, change):
    path = os.path.join(model, "model.safetensors")
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    change(header)
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data[8 + n:])


def offsets(header, name, begin, end):
    header[name]["data_offsets"] = [begin, end]


with scratch() as folder:
    job, run_dir = write_job(folder), os.path.join(folder, "run")
    norm = "model.norm.weight"
    cases = [("missing job file", os.path.join(folder, "nothing.yaml"), ("nothing.yaml",), ()),
             ("missing model", job, ("nowhere",), (f"model={folder}/nowhere",)),
             ("group size", job, ("60", "q_proj"), ("quantize.weights.group_size=60",)),
             ("positions", job, ("1024", "512"), ("calibration.sequence_length=1024",)),
             ("missing text", job, ("none.txt",), (f"calibration.text={folder}/none.txt",)),
             ("unknown key", job, ("quantize.weights.bitz", "bits"), ("quantize.weights.bitz=2",)),
             ("out of range", job, ("bits",), ("quantize.weights.bits=9",)),
             ("unknown method", job, ("method", "block-ap"), ("quantize.method=magic",)),
             ("unknown export", job, ("wav", "gptq"), ("export=[wav]",)),
             ("activation bits", job, ("activations",), ("quantize.activations.bits=5",))]
    empty = os.path.join(folder, "empty")
    os.mkdir(empty)
    cases.append(("directory without config", job, ("config.json",), (f"model={empty}",)))

    cut = model_copy(folder, "cut")
    with open(os.path.join(cut, "model.safetensors"), "r+b") as f:
        f.truncate(100000)
    cases.append(("truncated safetensors", job, ("model.safetensors",), (f"model={cut}",)))
    for name, change, word in [
            ("past", lambda h: offsets(h, norm, h[norm]["data_offsets"][0], 1 << 40), norm),
            ("overlap", lambda h: offsets(h, norm, 0, 512), "model.safetensors"),
            ("dtype", lambda h: h[norm].update(dtype="F12"), norm),
            ("int", lambda h: h[norm].update(dtype="I16"), norm)]:
        copy = model_copy(folder, name)
        edit_header(copy, change)
        cases.append((f"header: {name}", job, (word,), (f"model={copy}",)))
    other = model_copy(folder, "other")
    edit_json(os.path.join(other, "config.json"), model_type="mamba", architectures=["MambaForCausalLM"])
    cases.append(("unknown architecture", job, ("amba", "Llama", "OPT"), (f"model={other}",)))
    pattern = model_copy(folder, "pattern")
    edit_json(os.path.join(pattern, "tokenizer.json"), pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "(unclosed"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]})
    cases.append(("tokenizer with a bad pattern", job, ("(unclosed",), (f"model={pattern}",)))
    tiny = os.path.join(folder, "tiny.txt")
    with open(tiny, "w") as f:
        f.write("In the beginning God created the heaven and the earth.")
    cases.append(("text shorter than a window", job, ("tiny.txt",), (f"calibration.text={tiny}",)))
    for name, text, words in [("tabs", "model: x\n\trun_dir: y\n", ("bad.yaml:2",)),
                              ("duplicate", "model: x\nmodel: y\n", ("bad.yaml:2", "model")),
                              ("list", "seed: [1, 2]\n", ("bad.yaml:1", "seed"))]:
        path = os.path.join(folder, "bad.yaml")
        with open(path, "w") as f:
            f.write(text)
        check(f"yaml: {name}", path, *words, run_dir=run_dir)
    for name, path, words, sets in cases:
        check(name, path, *words, sets=sets, run_dir=run_dir)
    if os.path.exists(run_dir):
        failures.append(f"run directory was left behind: {os.listdir(run_dir)}")

    # A read-only place: root may write anywhere, so a file stands where the folder would have to be.
    with open(os.path.join(folder, "file"), "w"):
        pass
    check("run directory that cannot be made", job, "file", sets=(f"run_dir={folder}/file/run",))
    if os.geteuid() != 0:
        os.mkdir(os.path.join(folder, "ro"), 0o555)
        check("read-only run directory", job, "ro", sets=(f"run_dir={folder}/ro/run",))
        os.mkdir(os.path.join(folder, "closed"), 0)
        code, out = run([quarry, "status", os.path.join(folder, "closed")])
        if code != 2 or "closed: Permission denied" not in out:
            failures.append(f"status of somebody else's run: exit {code}\n    {out.strip()}")

    # A run directory of another plan; a key that does not alter the result is taken.
    code, out = run([quarry, "run", job, "--quiet", "--set", "e2e_qp.epochs=1"])
    assert code == 0, out
    check("another plan", job, "quantize.weights.bits", run_dir=run_dir, sets=("quantize.weights.bits=3", "e2e_qp.epochs=1"))
    code, out = run([quarry, "run", job, "--quiet", "--set", "e2e_qp.epochs=1", "--set", "resources.threads=1"])
    if code != 0:
        failures.append(f"a changed key that does not alter the result: exit {code}\n    {out.strip()}")

    # A second run on a live run directory.
    long = write_job(folder, "long.yaml", "live")
    first = subprocess.Popen([quarry, "run", long, "--quiet", "--set", "block_ap.epochs=200"], start_new_session=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    live = os.path.join(folder, "live")
    for _ in range(200):
        if os.path.exists(os.path.join(live, "ledger.jsonl")):
            break
        time.sleep(0.05)
    code, out = run([quarry, "run", long, "--quiet", "--set", "block_ap.epochs=200"])
    if code != 2 or str(first.pid) not in out:
        failures.append(f"second run: exit {code}\n    {out.strip()}")

    # A request to stop: everything finished is kept, exit 75, and the child is gone.
    first.send_signal(signal.SIGTERM)
    if first.wait(timeout=30) != 75:
        failures.append(f"stop on request: exit {first.returncode}")

print(f"{len(failures)} failures")
sys.exit("\n".join(failures) if failures else 0)
