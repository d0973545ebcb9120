"""What the system tests share: small jobs on the tiny models that ship with the project, and looks at run directories."""
import hashlib, json, os, shutil, signal, struct, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(os.path.dirname(HERE), "data")

TOY = """
model: {data}/models/tiny-llama-kjv
run_dir: {run_dir}
calibration: {{text: {data}/text/kjv/train.txt, samples: 8, sequence_length: 32, validation_samples: 2}}
quantize: {{method: block-ap, weights: {{bits: 2, group_size: 64}}, segments: 3}}
block_ap: {{epochs: 1, batch_size: 2}}
e2e_qp: {{loss: distill, batch_size: 4, epochs: 2}}
evaluate: [{{name: kjv, text: {text}, sequence_length: 64}}]
export: [gptq, hf]
checkpoint: {{minutes: 0}}
"""


def short_text(folder, lines=4):
    """The first lines of the test text: some thousand tokens."""
    path = os.path.join(folder, "short.txt")
    with open(os.path.join(DATA, "text/kjv/test.txt")) as source, open(path, "w") as out:
        out.writelines(line for _, line in zip(range(lines), source))
    return path


def write_job(folder, name="job.yaml", run_dir="run", text=TOY, **keys):
    path = os.path.join(folder, name)
    with open(path, "w") as out:
        out.write(text.format(data=DATA, run_dir=os.path.join(folder, run_dir), text=short_text(folder), **keys))
    return path


def random_llama(folder, blocks, hidden=32, mlp=32, vocab=2048):
    """A Llama of `blocks` small blocks, weights from a counter, with the tokenizer of the tiny Llama."""
    path = os.path.join(folder, "model")
    os.mkdir(path)
    shutil.copy(os.path.join(DATA, "models/tiny-llama-kjv/tokenizer.json"), path)
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=blocks,
                  num_attention_heads=hidden // 32, num_key_value_heads=hidden // 32, head_dim=32, vocab_size=vocab, max_position_embeddings=64, rms_norm_eps=1e-5,
                  tie_word_embeddings=True, dtype="float16", hidden_act="silu")
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(config, f)
    shapes = {"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden]}
    for b in range(blocks):
        p = f"model.layers.{b}."
        shapes.update({p + f"self_attn.{n}_proj.weight": [hidden, hidden] for n in "qkvo"})
        shapes.update({p + "mlp.gate_proj.weight": [mlp, hidden], p + "mlp.up_proj.weight": [mlp, hidden], p + "mlp.down_proj.weight": [hidden, mlp],
                       p + "input_layernorm.weight": [hidden], p + "post_attention_layernorm.weight": [hidden]})
    header, data = {}, b""
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = [1.0] * n if len(shape) == 1 else [((i * 7919 + j * 104729) % 2001 - 1000) / 10000 for j in range(n)]
        raw = struct.pack(f"<{n}e", *values)
        header[name] = dict(dtype="F16", shape=shape, data_offsets=[len(data), len(data) + len(raw)])
        data += raw
    text = json.dumps(header).encode()
    with open(os.path.join(path, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    return path


def run(command, env=None, timeout=300, **keys):
    """Runs in a process group of its own, so that a SIGKILL of the group does not take the test."""
    p = subprocess.Popen(command, env=dict(os.environ, **(env or {})), start_new_session=True, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **keys)
    try:
        out, _ = p.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        out, _ = p.communicate()
        sys.exit(f"timed out after {timeout} s: {command}\n{out}")
    return p.returncode, out


def tree(folder):
    """relative path -> SHA-256 of every file below folder."""
    found = {}
    for root, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(root, name)
            with open(path, "rb") as f:
                found[os.path.relpath(path, folder)] = hashlib.sha256(f.read()).hexdigest()
    return found


RESULTS = ("blocks", "model", "norm", "e2e", "export")


def results(run_dir):
    """Hashes of everything that must be the same bytes however the run went. recipe.yaml and the model card
    name the run directory and are left out."""
    out = {}
    for part in RESULTS:
        for path, digest in tree(os.path.join(run_dir, part)).items():
            if not path.endswith(("recipe.yaml", "README.md")):
                out[f"{part}/{path}"] = digest
    return out


def same_results(a, b):
    """Names of the files that differ."""
    return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k) and not older_step(k, a, b))


def older_step(path, a, b):
    """Of E2E-QP's saved steps the newest two are kept; which the older is depends on when saves happened."""
    parts = path.split("/")
    if parts[0] != "e2e":
        return False
    last = max(p.split("/")[1] for p in (*a, *b) if p.startswith("e2e/"))
    return parts[1] != last


def scratch(memory=False):
    """A folder for a test; in memory, where that is possible, for those that wait for what is quickly gone from a slow disk."""
    place = "/dev/shm" if memory and os.access("/dev/shm", os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="quarry-test-", dir=place)
