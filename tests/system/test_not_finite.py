#!/usr/bin/env python3
"""A weight that is not a number: the run ends with exit 1 naming segment, block and step; everything before it is finished and the
block itself is not written. usage: test_not_finite.py QUARRY"""
import json, os, shutil, struct, sys
from quarry_job import DATA, run, scratch, write_job

quarry = sys.argv[1]
with scratch() as folder:
    model = os.path.join(folder, "model")
    shutil.copytree(os.path.join(DATA, "models/tiny-llama-kjv"), model)
    path = os.path.join(model, "model.safetensors")
    data = bytearray(open(path, "rb").read())
    n = struct.unpack("<Q", data[:8])[0]
    at = 8 + n + json.loads(data[8:8 + n])["model.layers.5.mlp.down_proj.weight"]["data_offsets"][0]
    data[at:at + 2] = b"\x00\x7e"  # NaN in f16
    with open(path, "wb") as f:
        f.write(data)
    job = write_job(folder)
    settings = [x for s in (f"model={model}", "e2e_qp.epochs=0") for x in ("--set", s)]
    code, out = run([quarry, "run", job, "--quiet", *settings])
    assert code == 1 and "segment 2" in out and "block 5" in out and "step 1" in out, f"exit {code}\n{out}"
    blocks = sorted(os.listdir(os.path.join(folder, "run/blocks")))
    assert blocks == [f"{b:03d}.h5" for b in range(5)], blocks
    assert not os.path.exists(os.path.join(folder, "run/model/model.h5"))
    print(out.strip())
