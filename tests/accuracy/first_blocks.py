#!/usr/bin/env python3
"""The first blocks of a model as a model of its own (a Hugging Face folder of one safetensors file), for jobs that should end soon.

usage: first_blocks.py MODEL_DIR BLOCKS OUTPUT_DIR"""
import json, os, re, shutil, struct, sys

source, blocks, output = sys.argv[1], int(sys.argv[2]), sys.argv[3]
os.makedirs(output)
for name in os.listdir(source):
    if not name.endswith(".safetensors"):
        shutil.copy(os.path.join(source, name), output)
with open(os.path.join(source, "config.json")) as f:
    config = dict(json.load(f), num_hidden_layers=blocks)
with open(os.path.join(output, "config.json"), "w") as f:
    json.dump(config, f)
with open(os.path.join(source, "model.safetensors"), "rb") as f, open(os.path.join(output, "model.safetensors"), "wb") as out:
    size = struct.unpack("<Q", f.read(8))[0]
    header, kept, at = json.loads(f.read(size)), {}, 0
    for name, tensor in header.items():
        block = re.match(r"model\.layers\.(\d+)\.", name)
        if name == "__metadata__" or (block and int(block[1]) >= blocks):
            continue
        first, end = tensor["data_offsets"]
        kept[name] = (dict(tensor, data_offsets=[at, at + end - first]), 8 + size + first)
        at += end - first
    text = json.dumps({name: t for name, (t, _) in kept.items()}).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
    for tensor, place in kept.values():
        f.seek(place)
        out.write(f.read(tensor["data_offsets"][1] - tensor["data_offsets"][0]))
