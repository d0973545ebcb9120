#!/usr/bin/env python3
"""A Llama checkpoint of any shape with random weights in f16, and token ids to go with it, for measurements
that need a model's sizes and not its sense.
usage: make_model.py DIR [hidden=4096] [intermediate=11008] [heads=32] [kv_heads=32] [blocks=4] [vocab=32000]
                         [samples=16] [length=2048]"""
import json, os, sys

import numpy as np

c = dict(hidden=4096, intermediate=11008, heads=32, kv_heads=32, blocks=4, vocab=32000, samples=16, length=2048)
for word in sys.argv[2:]:
    key, value = word.split("=")
    c[key] = int(value)
out, rng = sys.argv[1], np.random.default_rng(1)
os.makedirs(out, exist_ok=True)
h, m, kv = c["hidden"], c["intermediate"], c["hidden"] // c["heads"] * c["kv_heads"]

shapes = {"model.embed_tokens.weight": (c["vocab"], h), "model.norm.weight": (h,), "lm_head.weight": (c["vocab"], h)}
for i in range(c["blocks"]):
    b = f"model.layers.{i}."
    for name, shape in [("self_attn.q_proj", (h, h)), ("self_attn.k_proj", (kv, h)), ("self_attn.v_proj", (kv, h)),
                        ("self_attn.o_proj", (h, h)), ("mlp.gate_proj", (m, h)), ("mlp.up_proj", (m, h)),
                        ("mlp.down_proj", (h, m)), ("input_layernorm", (h,)), ("post_attention_layernorm", (h,))]:
        shapes[b + name + ".weight"] = shape

noise = (rng.standard_normal(1 << 24) * 0.02).astype(np.float16)  # rolled anew for each piece
header, at = {}, 0
for name, shape in shapes.items():
    size = int(np.prod(shape)) * 2
    header[name] = dict(dtype="F16", shape=list(shape), data_offsets=[at, at + size])
    at += size
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(os.path.join(out, "model.safetensors"), "wb") as f:
    f.write(len(text).to_bytes(8, "little") + text)
    for shape in shapes.values():
        left = int(np.prod(shape))
        if len(shape) == 1:
            f.write(np.ones(left, np.float16).tobytes())
            continue
        while left:
            piece = np.roll(noise, int(rng.integers(noise.size)))[:left]
            f.write(piece.tobytes())
            left -= piece.size
with open(os.path.join(out, "config.json"), "w") as f:
    json.dump(dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=h, intermediate_size=m,
                   num_attention_heads=c["heads"], num_key_value_heads=c["kv_heads"], num_hidden_layers=c["blocks"],
                   vocab_size=c["vocab"], max_position_embeddings=max(4096, c["length"]), rms_norm_eps=1e-5,
                   rope_theta=10000.0, hidden_act="silu", tie_word_embeddings=False, torch_dtype="float16"), f)
ids = rng.integers(0, c["vocab"], (c["samples"], c["length"])).astype(np.int32)
np.save(os.path.join(out, "tokens.npy"), ids)
