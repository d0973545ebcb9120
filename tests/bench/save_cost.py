#!/usr/bin/env python3
"""What checkpoints inside a block cost: one block of random weights (by default of Llama-2-70B's shape) is trained with a checkpoint
every few seconds. From the progress in metrics.jsonl: time of a step before the first checkpoint is due, and how much longer the
steps around each checkpoint took; from it the share of time that a checkpoint a minute costs. Not part of ctest; wants numpy.
usage: save_cost.py QUARRY [--hidden N --mlp N --heads N --kv N --length N --samples N --epochs N --minutes M] [--set KEY=VALUE]..."""
import argparse, json, os, re, shutil, struct, sys, tempfile, time
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "system"))
from quarry_job import DATA, run  # noqa: E402  (found by the line above)

p = argparse.ArgumentParser()
p.add_argument("quarry")
for name, value in dict(hidden=8192, mlp=28672, heads=64, kv=8, length=2048, samples=64, epochs=10).items():
    p.add_argument(f"--{name}", type=int, default=value)
p.add_argument("--minutes", type=float, default=0.05)
p.add_argument("--set", action="append", default=[])
p.add_argument("--folder", default=tempfile.gettempdir())
a = p.parse_args()
VOCAB = 2048
head = a.hidden // a.heads


def make_model(path):
    os.makedirs(path)
    shutil.copy(os.path.join(DATA, "models/tiny-llama-kjv/tokenizer.json"), path)
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=a.hidden, intermediate_size=a.mlp, num_hidden_layers=1,
                  num_attention_heads=a.heads, num_key_value_heads=a.kv, head_dim=head, vocab_size=VOCAB, max_position_embeddings=a.length,
                  rms_norm_eps=1e-5, tie_word_embeddings=True, dtype="float16", hidden_act="silu")
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(config, f)
    h, q, kv, b = a.hidden, a.heads * head, a.kv * head, "model.layers.0."
    shapes = {"model.embed_tokens.weight": (VOCAB, h), "model.norm.weight": (h,), b + "input_layernorm.weight": (h,), b + "post_attention_layernorm.weight": (h,),
              b + "self_attn.q_proj.weight": (q, h), b + "self_attn.k_proj.weight": (kv, h), b + "self_attn.v_proj.weight": (kv, h), b + "self_attn.o_proj.weight": (h, q),
              b + "mlp.gate_proj.weight": (a.mlp, h), b + "mlp.up_proj.weight": (a.mlp, h), b + "mlp.down_proj.weight": (h, a.mlp)}
    header, at = {}, 0
    for name, shape in shapes.items():
        n = 2 * int(np.prod(shape))
        header[name] = dict(dtype="F16", shape=list(shape), data_offsets=[at, at + n])
        at += n
    text = json.dumps(header).encode()
    tile = (np.random.default_rng(2).standard_normal(1 << 24, np.float32) * 0.02).astype(np.float16)
    with open(os.path.join(path, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            n = int(np.prod(shape))
            if len(shape) == 1:
                f.write(np.ones(n, np.float16).tobytes())
                continue
            for first in range(0, n, tile.size):
                f.write(tile[:min(tile.size, n - first)].tobytes())


folder = tempfile.mkdtemp(prefix="quarry-save-", dir=a.folder)
try:
    began = time.time()
    make_model(os.path.join(folder, "model"))
    job = os.path.join(folder, "job.yaml")
    with open(job, "w") as f:
        f.write(f"model: {folder}/model\nrun_dir: {folder}/run\n"
                f"calibration: {{text: {DATA}/text/kjv/train.txt, samples: {a.samples}, sequence_length: {a.length}, validation_samples: 2}}\n"
                f"quantize: {{weights: {{bits: 2, group_size: 64}}, segments: 1}}\nblock_ap: {{batch_size: 2, epochs: {a.epochs}}}\n"
                f"checkpoint: {{minutes: {a.minutes}}}\n")
    made = time.time()
    code, out = run([a.quarry, "run", job, "--quiet", *(x for s in a.set for x in ("--set", s))])
    assert code == 0, out
    print(f"model made in {made - began:.1f} s, job {time.time() - made:.1f} s")
    tokens = 2 * a.length
    series = [(0, 0.0)]  # (step, s since the first step)
    for line in open(os.path.join(folder, "run/metrics.jsonl")):
        m = json.loads(line)
        if m.get("phase") == "quantize" and m.get("tokens_per_s", 0) > 0 and m["step"] > series[-1][0]:
            series.append((m["step"], m["step"] * tokens / m["tokens_per_s"]))
    saves = [(int(s), float(c), float(w)) for s, c, w in re.findall(r"saved after step (\d+): copied in ([\d.]+) s, written beside the training in ([\d.]+) s",
                                                                    open(os.path.join(folder, "run/logs/rank-000.log")).read())]
    calm = [(n2 - n1, t2 - t1) for (n1, t1), (n2, t2) in zip(series[1:], series[2:]) if t2 < a.minutes * 60]
    step = sum(t for _, t in calm) / sum(n for n, _ in calm)
    steps, seconds = series[-1]
    lost = seconds - steps * step
    print(f"{steps} steps; {1e3 * step:.2f} ms a step before the first checkpoint; {len(saves)} checkpoints (step, s copying, s writing beside): {saves}")
    print("ms a step in each stretch: " + " ".join(f"{n2}:{1e3 * (t2 - t1) / (n2 - n1):.2f}" for (n1, t1), (n2, t2) in zip(series, series[1:])))
    assert saves, "no checkpoint was due"
    print(f"{seconds:.2f} s with {len(saves)} checkpoints, {steps * step:.2f} s at the calm pace: {lost / len(saves):.2f} s each, "
          f"{100 * lost / len(saves) / 60:.2f} % of the time with one a minute (memory for the copy included)")
finally:
    shutil.rmtree(folder)
