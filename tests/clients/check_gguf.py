#!/usr/bin/env python3
"""Checks a GGUF export of a finished run with other people's programs, sharing no code with ours.

  weights     libggml's own dequantizers make of every quantized layer exactly the run's numbers, (c - z) f16(s),
              computed again from its HDF5 files; every other tensor is the checkpoint's or the run's
  transformers  loads the same numbers from the file, where the gguf package knows its blocks (all but Q2_0)
  llama.cpp   cuts a text into the same tokens as Hugging Face's tokenizers, and its perplexity is what
              `quarry eval` says, to 2 %: it rounds activations
"""
import argparse
import contextlib
import ctypes
import io
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

import h5py
import numpy as np
from safetensors import safe_open
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent
TYPES = {  # ggml's number: name, elements and bytes of a block
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 30: ("bf16", 1, 2), 2: ("q4_0", 32, 18), 6: ("q5_0", 32, 22), 8: ("q8_0", 32, 34),
    10: ("q2_K", 256, 84), 11: ("q3_K", 256, 110), 12: ("q4_K", 256, 144), 14: ("q6_K", 256, 210), 42: ("q2_0", 64, 18),
}
LAYERS = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
          "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
          "post_attention_layernorm": "ffn_norm", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
TOLERANCE = 0.02
failures = []


def check(passed, what):
    print(("ok    " if passed else "WRONG ") + what, flush=True)
    if not passed:
        failures.append(what)


# --- the file, read with nothing but struct ---


class Gguf:
    def __init__(self, path):
        self.data = path.read_bytes()
        self.at = 0
        magic, version, n_tensors, n_values = self.take("<4sIQQ")
        assert magic == b"GGUF" and version == 3
        self.values = {}
        for _ in range(n_values):
            key = self.text()
            self.values[key] = self.value(self.take("<I")[0])
        infos = []
        for _ in range(n_tensors):
            name, n_dims = self.text(), self.take("<I")[0]
            infos.append((name, self.take(f"<{n_dims}Q"), *self.take("<IQ")))
        begin = (self.at + 31) // 32 * 32
        self.tensors = {name: (dims, kind, begin + offset) for name, dims, kind, offset in infos}

    def take(self, form):
        values = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return values

    def text(self):
        n = self.take("<Q")[0]
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, n = self.take("<IQ")
            return [self.value(kind) for _ in range(n)]
        return self.take("<" + "BbHhIif?xxQqd"[kind])[0]


def decode(library, label, raw, n):
    """n numbers as libggml decodes them."""
    out = np.empty(n, np.float32)
    if label == "f32":
        out[:] = np.frombuffer(raw, np.float32)
    else:
        function = {"f16": "ggml_fp16_to_fp32_row", "bf16": "ggml_bf16_to_fp32_row"}.get(label, f"dequantize_row_{label}")
        getattr(library, function)(ctypes.c_char_p(raw), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(n))
    return out


def dequantize(library, gguf, name):
    """A tensor in f32: rows × columns, rows in the file's order."""
    dims, kind, offset = gguf.tensors[name]
    label, elements, size = TYPES[kind]
    n = int(np.prod(dims))
    raw = gguf.data[offset:offset + n // elements * size]
    return decode(library, label, raw, n).reshape(dims[::-1]), label


def check_blocks(library):
    """The golden file of the unit tests holds what libggml makes of its blocks."""
    with safe_open(HERE.parent / "golden/gguf/blocks/model.safetensors", "np") as file:
        names = sorted(k.removesuffix(".raw") for k in file.keys() if k.endswith(".raw"))
        wrong = []
        for name in names:
            label = name.lower().replace("_k", "_K")
            want = file.get_tensor(name + ".values")
            got = decode(library, label, file.get_tensor(name + ".raw").tobytes(), want.size)
            if not np.array_equal(got, want.ravel()):
                wrong.append(name)
    check(len(names) >= 13 and not wrong, f"libggml: blocks of {', '.join(names)} as in the unit tests {wrong or ''}")


def unpermute(x, head):
    """llama.cpp turns neighbours, Hugging Face halves: rows of each head back into their order."""
    return x.reshape(-1, head // 2, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


# --- the run's own numbers ---


def exact_weight(codes, zeros, scales, bits, columns):
    """(c - z) f16(s), which f32 holds."""
    rows, groups = zeros.shape
    stream = np.unpackbits(codes.astype("<u4").view(np.uint8), axis=1, bitorder="little")
    c = (stream[:, :columns * bits].reshape(rows, columns, bits).astype(np.int32) << np.arange(bits, dtype=np.int32)).sum(axis=2, dtype=np.int32)
    difference = (c.reshape(rows, groups, -1) - zeros.astype(np.int32)[:, :, None]).astype(np.float32)
    return (difference * scales.astype(np.float16).astype(np.float32)[:, :, None]).reshape(rows, columns)


def run_tensors(run, columns_of):
    """(GGUF name, values) of every tensor of every block."""
    steps = max((run / "e2e").glob("step-*"), default=None, key=lambda p: int(p.name[5:]))
    for path in sorted((run / "blocks").glob("[0-9][0-9][0-9].h5")):
        b = int(path.stem)
        with h5py.File(path) as file:
            trained = h5py.File(steps / path.name) if steps else None
            for name, layer in file.items():
                if name not in LAYERS:
                    continue
                ours = f"blk.{b}.{LAYERS[name]}"
                if "codes" not in layer:
                    yield f"{ours}.weight", layer["weight"][()]
                    continue
                scales = (trained or file)[f"{name}/scales"][()]
                yield f"{ours}.weight", exact_weight(layer["codes"][()], layer["zeros"][()], scales, int(file.attrs["bits"]),
                                                     columns_of(f"{ours}.weight"))
                if "bias" in layer:
                    yield f"{ours}.bias", layer["bias"][()]


def checkpoint_tensors(model):
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                if name in OUTER:
                    yield OUTER[name], file.get_tensor(name).float().numpy()


def check_weights(library, gguf, run, model):
    arch = gguf.values["general.architecture"]
    head = gguf.values[f"{arch}.attention.key_length"]
    used, wrong, seen = {}, [], set()
    expected = list(run_tensors(run, lambda name: gguf.tensors[name][0][0])) + list(checkpoint_tensors(model))
    if "output.weight" not in gguf.tensors:
        expected = [e for e in expected if e[0] != "output.weight"]
    for name, want in expected:
        got, label = dequantize(library, gguf, name)
        if arch == "llama" and re.search(r"attn_[qk]\.", name):
            got = unpermute(got, head)
        if got.shape != want.shape or not np.array_equal(got, want.astype(np.float32)):
            wrong.append(name)
        seen.add(name)
        used[label] = used.get(label, 0) + 1
    rest = set(gguf.tensors) - seen - {"rope_freqs.weight"}
    kinds = ", ".join(f"{n} {label}" for label, n in sorted(used.items()))
    check(expected and not wrong and not rest, f"libggml: {len(expected)} tensors as the run has them ({kinds}) {wrong[:3] or ''}{rest or ''}")
    return set(used)


# --- transformers ---


def check_transformers(library, gguf, path):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):  # a bar of progress that cannot be turned off
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    names = {f"model.layers.{b}.{ours}.{kind}": f"blk.{b}.{theirs}.{kind}" for b in range(10000) if f"blk.{b}.attn_q.weight" in gguf.tensors
             for ours, theirs in LAYERS.items() for kind in ("weight", "bias")} | OUTER
    arch = gguf.values["general.architecture"]
    wrong, count = [], 0
    for name, tensor in model.state_dict().items():
        if names.get(name) not in gguf.tensors:
            continue
        want, _ = dequantize(library, gguf, names[name])
        if arch == "llama" and re.search(r"[qk]_proj", name):
            want = unpermute(want, gguf.values[f"{arch}.attention.key_length"])
        count += 1
        if not np.array_equal(tensor.numpy(), want):
            wrong.append(name)
    check(count >= len(gguf.tensors) - 1 and not wrong, f"transformers: {count} tensors from the file {wrong[:3] or ''}")


# --- llama.cpp ---


def check_llama(node, path, model, quarry, run, text, length, windows):
    """On the first windows of the text."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    whole = pathlib.Path(text).read_bytes().decode()
    encoded = tokenizer.encode(whole, add_special_tokens=False)
    end = encoded.offsets[min(windows * length, len(encoded.ids)) - 1][1]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8", newline="") as part:
        part.write(whole[:end])
        part.flush()
        ids = tokenizer.encode(whole[:end], add_special_tokens=False).ids
        said = subprocess.run(["node", HERE / "llama_cpp.mjs", node, path, part.name, str(length)], check=True, capture_output=True, text=True)
        theirs = json.loads(said.stdout.splitlines()[-1])
        said = subprocess.run([quarry, "eval", run, "--text", part.name, "--sequence-length", str(length)], check=True, capture_output=True, text=True)
    ours = float(re.search(r"perplexity ([0-9.]+)", said.stdout)[1])
    check(theirs["tokens"] == ids, f"llama.cpp: {len(ids)} tokens as Hugging Face's tokenizers cut them")
    value = theirs["perplexity"]
    check(abs(value - ours) <= TOLERANCE * ours, f"llama.cpp: perplexity {value:.3f} of {theirs['windows']} windows, quarry eval {ours:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=pathlib.Path, nargs="?", help="without it, only block formats are checked")
    parser.add_argument("gguf", type=pathlib.Path, nargs="?", help="the file, or the folder of the export")
    parser.add_argument("--model", type=pathlib.Path, help="the original, a Hugging Face directory")
    parser.add_argument("--node", type=pathlib.Path, required=True, help="node_modules with node-llama-cpp")
    parser.add_argument("--quarry")
    parser.add_argument("--text", help="computes perplexity of this file, of its first --windows of --sequence-length tokens")
    parser.add_argument("--sequence-length", type=int, default=256, metavar="T")
    parser.add_argument("--windows", type=int, default=8, metavar="N")
    args = parser.parse_args()

    library = ctypes.CDLL(next(args.node.glob("@node-llama-cpp/linux-x64/bins/*/libggml-base.so")))
    if not args.run:
        check_blocks(library)
        sys.exit(1 if failures else 0)
    path = next(args.gguf.glob("*.gguf")) if args.gguf.is_dir() else args.gguf
    print(f"      {path.name}, {path.stat().st_size} bytes")
    gguf = Gguf(path)
    used = check_weights(library, gguf, args.run, args.model)
    if "q2_0" not in used:
        check_transformers(library, gguf, path)
    if args.text:
        check_llama(args.node, path, args.model, args.quarry, args.run, args.text, args.sequence_length, args.windows)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
