#!/usr/bin/env python3
"""Plants outlier channels into a checkpoint without changing what it computes: some channels behind each norm, and before
each block's last layer, become 2^k times larger, the columns that read them 2^k times smaller. usage: outliers.py MODEL OUT"""
import json, os, shutil, struct, sys

import numpy as np

EVERY, FACTORS = 64, (64, 16, 32)  # of every 64 channels one, by turns


def read(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    return header, {k: bytearray(data[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])
                    for k, v in header.items() if k != "__metadata__"}


def values(header, raw, name):
    kind, flat = header[name]["dtype"], raw[name]
    if kind == "BF16":
        flat = (np.frombuffer(flat, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        flat = np.frombuffer(flat, {"F16": np.float16, "F32": np.float32}[kind]).astype(np.float32)
    return flat.reshape(header[name]["shape"]).copy()


def put(header, raw, name, x):
    kind = header[name]["dtype"]
    if kind == "BF16":
        out = (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    else:
        out = x.astype({"F16": np.float16, "F32": np.float32}[kind])
    raw[name][:] = out.tobytes()


def plant(header, raw, larger, readers, offset):
    """Channels of the tensors larger (along their first axis) times a factor, columns of readers divided by it."""
    factor = np.ones(header[larger[0]]["shape"][0], np.float32)
    for i, c in enumerate(range(offset % EVERY, len(factor), EVERY)):
        factor[c] = FACTORS[i % len(FACTORS)]
    for name in larger:
        x = values(header, raw, name)
        put(header, raw, name, x * factor.reshape(-1, *([1] * (x.ndim - 1))))
    for name in readers:
        put(header, raw, name, values(header, raw, name) / factor)


def main():
    model, out = sys.argv[1:]
    shutil.copytree(model, out, dirs_exist_ok=True)
    path = os.path.join(out, "model.safetensors")
    header, raw = read(path)
    llama = any(".mlp.up_proj." in k for k in header)
    prefix = "model.layers." if llama else "model.decoder.layers."
    for b in range(json.load(open(os.path.join(model, "config.json")))["num_hidden_layers"]):
        p = f"{prefix}{b}."
        qkv = [f"{p}self_attn.{x}_proj.weight" for x in "qkv"]
        if llama:
            plant(header, raw, [p + "input_layernorm.weight"], qkv, 5 + 7 * b)
            plant(header, raw, [p + "post_attention_layernorm.weight"], [p + "mlp.gate_proj.weight", p + "mlp.up_proj.weight"], 9 + 5 * b)
            plant(header, raw, [p + "mlp.up_proj.weight"], [p + "mlp.down_proj.weight"], 3 + 11 * b)
        else:
            for norm, readers, offset in (("self_attn_layer_norm", qkv, 5 + 7 * b), ("final_layer_norm", [p + "fc1.weight"], 9 + 5 * b)):
                plant(header, raw, [f"{p}{norm}.weight", f"{p}{norm}.bias"], readers, offset)
            plant(header, raw, [p + "fc1.weight", p + "fc1.bias"], [p + "fc2.weight"], 3 + 11 * b)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    at = 0
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(raw, key=lambda k: header[k]["data_offsets"][0]):
            assert header[name]["data_offsets"][0] == at, name
            f.write(raw[name])
            at += len(raw[name])


main()
