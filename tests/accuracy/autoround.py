#!/usr/bin/env python3
"""AutoRound (PyPI auto-round==0.16.1, asymmetric, groups of 64) on the windows that a Quarry run was calibrated on, for the
comparison in docs/smollm2.md: prints its seconds and writes a dense f16 checkpoint that `quarry eval` reads.

usage: autoround.py MODEL_DIR RUN_DIR/tokens/calibration.h5 BITS ITERATIONS OUTPUT_DIR"""
import json, os, shutil, sys, time

import h5py
import torch
from auto_round import AutoRound
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

SAMPLES, BATCH, DEVICE = 512, 8, "cuda:0"


class Windows(torch.utils.data.Dataset):
    def __init__(self, path):
        with h5py.File(path) as f:
            self.ids = torch.from_numpy(f["ids"][:SAMPLES].astype("int64"))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {"input_ids": self.ids[i], "attention_mask": torch.ones_like(self.ids[i])}


def save(model, source, names, output):
    os.makedirs(output, exist_ok=True)
    state = {k: v.to(torch.float16).cpu().contiguous() for k, v in model.state_dict().items() if k in names}
    if json.load(open(f"{source}/config.json")).get("tie_word_embeddings"):
        state.pop("lm_head.weight", None)
    save_file(state, f"{output}/model.safetensors", metadata={"format": "pt"})
    for name in os.listdir(source):
        if not name.endswith(".safetensors") and name != "quarry.json":
            shutil.copy(os.path.join(source, name), output)


def main():
    source, tokens, bits, iterations, output = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    names, windows = set(model.state_dict()), Windows(tokens)
    torch.cuda.synchronize()
    began = time.time()
    rounder = AutoRound(model, AutoTokenizer.from_pretrained(source), bits=bits, group_size=64, sym=False, iters=iterations, nsamples=SAMPLES,
                        seqlen=windows.ids.shape[1], batch_size=BATCH, device_map=DEVICE,
                        dataset=torch.utils.data.DataLoader(windows, batch_size=BATCH))
    quantized, _ = rounder.quantize()
    torch.cuda.synchronize()
    print(f"autoround {bits} bits, {iterations} iterations: {time.time() - began:.1f} s, {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB", flush=True)
    save(quantized, source, names, output)


main()
