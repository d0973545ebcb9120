#!/usr/bin/env python3
"""A weight that is not a number: the run ends with exit 1 naming segment, block and step; everything before it is finished and the
block itself is not written. usage: test_not_finite.py QUARRY"""
import json, os, shutil, struct, sys
from quarry_job import DATA, run, scratch, write_job

quarry = sys.argv[1]


def spoil(path, original, tensor, numbers=(0,)):
    """The file with these numbers of the tensor replaced."""
    data = bytearray(original)
    n = struct.unpack("<Q", data[:8])[0]
    at = 8 + n + json.loads(data[8:8 + n])[tensor]["data_offsets"][0]
    for i in numbers:
        data[at + 2 * i:at + 2 * i + 2] = b"\x00\x7e"  # NaN in f16
    with open(path, "wb") as f:
        f.write(data)


with scratch() as folder:
    model = os.path.join(folder, "model")
    shutil.copytree(os.path.join(DATA, "models/tiny-llama-kjv"), model)
    path = os.path.join(model, "model.safetensors")
    with open(path, "rb") as f:
        original = f.read()
    spoil(path, original, "model.layers.5.mlp.down_proj.weight")
    job = write_job(folder)
    settings = [x for s in (f"model={model}", "e2e_qp.epochs=0") for x in ("--set", s)]
    code, out = run([quarry, "run", job, "--quiet", *settings])
    assert code == 1 and "segment 2" in out and "block 5" in out and "step 1" in out, f"exit {code}\n{out}"
    blocks = sorted(os.listdir(os.path.join(folder, "run/blocks")))
    assert blocks == [f"{b:03d}.h5" for b in range(5)], blocks
    assert not os.path.exists(os.path.join(folder, "run/model/model.h5"))
    print(out.strip())
    # some tokens' activations, and nothing trained on them: RPTQ's plain rounding
    hidden = json.load(open(os.path.join(model, "config.json")))["hidden_size"]
    spoil(path, original, "model.embed_tokens.weight", [hidden * token for token in range(900, 910)])
    settings = [x for s in (f"model={model}", f"run_dir={folder}/rounded", "quantize={method: rptq, segments: 1}", "rptq.weights=rtn", "export=[]",
                            "e2e_qp.epochs=0") for x in ("--set", s)]
    code, out = run([quarry, "run", job, "--quiet", *settings])
    assert code == 1 and "block 0" in out and "nan" in out, f"exit {code}\n{out}"
    assert not os.path.exists(os.path.join(folder, "rounded/blocks/000.h5"))
    print(out.strip())
