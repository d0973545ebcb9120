#!/usr/bin/env python3
"""Checks the exports of a finished run with other people's programs, sharing no code with ours.

The finished weights are computed again from the run's HDF5 files, f16((c - z) f16(s)), and must be, bit
for bit, the tensors of RUN_DIR/export/hf and what clients make of the other exports that are there: GPTQModel
of gptq and awq, the compressed-tensors library of compressed-tensors and AutoRound of auto-round when
transformers loads them. Perplexity, by transformers, must be the one that `quarry eval` prints, and a text's
tokens those that the run has made of it. (check_gguf.py checks the gguf export.)
"""
import argparse
import contextlib
import math
import os
import pathlib
import re
import sys
import warnings

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"

import h5py
import numpy as np
import safetensors.numpy
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AwqConfig, CompressedTensorsConfig, GPTQConfig
from transformers.utils import logging

BLOCK_TENSOR = re.compile(r"(.*\blayers\.)(\d+)\.(.+)\.(weight|bias)$")
BATCH = 8  # windows computed together
PACKED = ("gptq", "compressed-tensors", "awq", "auto-round")
HALF = ("awq", "auto-round")  # multiply in f16, which takes a CPU minutes: see as_dense
KL_MOST = 1e-6  # nats a token between two f32 computations with the same weights
failures = []


def check(passed, what):
    print(("ok    " if passed else "WRONG ") + what, flush=True)
    if not passed:
        failures.append(what)


# --- the run's own numbers ---


def unpack(words, bits, columns):
    """Codes (rows, columns) of a dense little-endian bit stream along each row of u32 words."""
    stream = np.unpackbits(words.astype("<u4").view(np.uint8), axis=1, bitorder="little")
    code = stream[:, : columns * bits].reshape(words.shape[0], columns, bits)
    return (code.astype(np.int32) << np.arange(bits, dtype=np.int32)).sum(axis=2, dtype=np.int32)


def finished_weight(codes, zeros, scales, bits, columns):
    """f16((c - z) f16(s)): the product in f32, rounded once."""
    rows, groups = zeros.shape
    c = unpack(codes, bits, columns).reshape(rows, groups, columns // groups)
    difference = (c - zeros.astype(np.int32)[:, :, None]).astype(np.float32)
    step = scales.astype(np.float16).astype(np.float32)[:, :, None]
    return (difference * step).astype(np.float16).reshape(rows, columns)


def last_steps(run):
    """The folder of E2E-QP's last step, or None where the run ended without it."""
    return max((run / "e2e").glob("step-*"), default=None, key=lambda p: int(p.name[5:]))


def read_block(run, block, columns_of):
    """Weights and vectors of one block by their names inside it ("self_attn.q_proj.weight")."""
    tensors = {}
    steps = last_steps(run)
    with h5py.File(run / "blocks" / f"{block:03d}.h5") as file:
        trained = h5py.File(steps / f"{block:03d}.h5") if steps else None
        bits = int(file.attrs["bits"])
        for name, layer in file.items():
            if "codes" not in layer:
                for part, values in layer.items():
                    tensors[f"{name}.{part}"] = values[()].astype(np.float16)
                continue
            scales = (trained or file)[f"{name}/scales"][()]
            weight = f"{name}.weight"
            tensors[weight] = finished_weight(
                layer["codes"][()], layer["zeros"][()], scales, bits, columns_of[weight]
            )
            if "bias" in layer:
                tensors[f"{name}.bias"] = layer["bias"][()].astype(np.float16)
        if trained:
            trained.close()
    return tensors


def same_bits(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


# --- the dense export ---


def load_tensors(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(safetensors.numpy.load_file(path))
    return tensors


def check_hf(run, tensors):
    """Every tensor of every block; returns the finished weights by full name."""
    inside = {}
    for name, tensor in tensors.items():
        match = BLOCK_TENSOR.match(name)
        if match:
            rest = f"{match[3]}.{match[4]}"
            inside.setdefault(int(match[2]), {})[rest] = (name, tensor)
    finished, wrong, count = {}, [], 0
    for block in sorted(inside):
        columns = {rest: t.shape[1] for rest, (_, t) in inside[block].items() if t.ndim == 2}
        own = read_block(run, block, columns)
        wrong += [f"{block}: {rest}" for rest in own.keys() ^ inside[block].keys()]
        for rest in own.keys() & inside[block].keys():
            name, tensor = inside[block][rest]
            count += 1
            if not same_bits(own[rest], tensor):
                wrong.append(name)
            if tensor.ndim == 2:
                finished[name] = own[rest]
    blocks = len(list((run / "blocks").glob("[0-9][0-9][0-9].h5")))
    check(blocks == len(inside), f"hf: {len(inside)} blocks, {blocks} in the run")
    check(count > 0 and not wrong, f"hf: {count} tensors of the blocks bit for bit {wrong[:3] or ''}")
    return finished


# --- what transformers makes of them ---


def load_model(run, name, dtype):
    """Steps of compressed-tensors are cast to the model's type before they multiply: f16 it must be."""
    extra = {}
    if name == "gptq":
        extra["quantization_config"] = GPTQConfig(bits=4, backend="torch")
    elif name == "compressed-tensors":
        dtype = torch.float16
        extra["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    elif name == "awq":
        extra["quantization_config"] = AwqConfig(bits=4, backend="torch_awq")
    elif name == "auto-round":
        dtype = torch.float16
    return AutoModelForCausalLM.from_pretrained(run / "export" / name, dtype=dtype, **extra).eval()


def load_models(run, formats, dtype):
    """The loaders talk a lot: that goes to standard error, so that checks stand alone."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return {name: load_model(run, name, dtype) for name in formats}


def inner_name(name):
    """Of a layer, without what some model classes put before it."""
    return name.removesuffix(".weight").removeprefix("model.")


def awq_weight(layer):
    return layer._dequantize_weight_for_inference(layer.scales, dtype=torch.float16).T


def auto_round_weight(layer):
    """What it multiplies an identity by: every product is a weight or zero."""
    out = layer(torch.eye(layer.infeatures))
    return (out - layer.bias if layer.bias is not None else out).T.half()


@torch.no_grad()
def unpacked_weights(name, model):
    """The packed layers' weights as the client computes them."""
    layers = dict(model.named_modules())
    if name == "gptq":
        return {n: m.dequantize_weight().T for n, m in layers.items() if hasattr(m, "qweight")}
    if name in HALF:
        weight_of = awq_weight if name == "awq" else auto_round_weight
        return {n: weight_of(m) for n, m in layers.items() if hasattr(m, "qweight")}
    return {n: m.weight for n, m in layers.items() if hasattr(m, "quantization_scheme")}


def as_dense(model, weights):
    """Dense layers of the weights that the client unpacked, so that the model computes in any type."""
    for name, weight in weights.items():
        parent, _, last = name.rpartition(".")
        layer = getattr(model.get_submodule(parent), last)
        dense = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None)
        dense.weight.data = weight
        if layer.bias is not None:
            dense.bias.data = layer.bias.data
        setattr(model.get_submodule(parent), last, dense)


def check_packed(name, model, finished):
    unpacked = unpacked_weights(name, model)
    weights = {inner_name(n): w for n, w in unpacked.items()}
    expected = {inner_name(n): w for n, w in finished.items()}
    check(weights.keys() == expected.keys(), f"{name}: {len(weights)} quantized layers")
    wrong = [
        n for n, w in weights.items()
        if not same_bits(w.detach().contiguous().numpy(), expected.get(n, np.empty(0)))
    ]
    check(not wrong, f"{name}: {len(weights)} weights as the client unpacks them {wrong[:3] or ''}")
    if name in HALF:
        as_dense(model, unpacked)


def check_rest(name, models, finished):
    """Embeddings, norms, head and biases: the same in both, in hf's f16."""
    dense = models["hf"].state_dict()
    quantized = {inner_name(n) for n in finished}
    rest = {
        n: t for n, t in models[name].state_dict().items()
        if n in dense and not (n.endswith(".weight") and inner_name(n) in quantized)
    }
    wrong = [n for n, t in rest.items() if not torch.equal(t.half(), dense[n].half())]
    check(rest and not wrong, f"{name}: {len(rest)} other tensors as in hf {wrong[:3] or ''}")


@torch.no_grad()
def check_logits(name, models, ids):
    a, b = (models[n](ids).logits.double().log_softmax(-1) for n in ("hf", name))
    kl = (a.exp() * (a - b)).sum(-1).mean().item()
    most = (a - b).abs().max().item()
    check(abs(kl) <= KL_MOST, f"{name}: logits: KL from hf {kl:.1e}, largest difference {most:.1e}")


@torch.no_grad()
def perplexity(model, windows):
    total = 0.0
    for ids in windows.split(BATCH):
        logits = model(ids).logits[:, :-1].float().flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
        total += loss.double().sum().item()
    return math.exp(total / (len(windows) * (windows.shape[1] - 1)))


# --- perplexity and tokens ---


def check_perplexity(name, value, args, n):
    wanted = args.perplexity or value
    close = abs(value - wanted) <= args.tolerance * wanted
    note = f", quarry eval {args.perplexity:.3f}" if args.perplexity else ""
    check(close, f"{name}: perplexity {value:.3f} of {n} windows{note}")


def check_tokens(run, name, ids):
    """The run's own windows of the text are what the tokenizers library makes of it."""
    with h5py.File(run / "tokens" / f"{name}.h5") as file:
        own = file["ids"][()].reshape(-1).tolist()
    check(own == ids[: len(own)], f"{len(own)} tokens of the run as the tokenizers library has them")


def read_windows(run, text, length, most):
    """Windows of the text, which is tokenized as a whole and without special tokens."""
    tokenizer = Tokenizer.from_file(str(run / "export" / "hf" / "tokenizer.json"))
    ids = tokenizer.encode(pathlib.Path(text).read_bytes().decode(), add_special_tokens=False).ids
    n = len(ids) // length
    n = min(n, most) if most else n
    return ids, torch.tensor(ids[: n * length]).reshape(n, length)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--text", help="computes perplexity of this file")
    parser.add_argument("--sequence-length", type=int, default=256, metavar="T")
    parser.add_argument("--windows", type=int, default=0, metavar="N", help="the first N, not all")
    parser.add_argument("--perplexity", type=float, help="what it must be")
    parser.add_argument("--tolerance", type=float, default=0.002, help="relative (0.002)")
    parser.add_argument("--tokens", metavar="NAME", help="the run's evaluation of that text")
    parser.add_argument("--logits", action="store_true", help="compares the exports' logits")
    parser.add_argument("--dtype", default="float32", help="of transformers' computation (float32)")
    args = parser.parse_args()

    formats = [n for n in ("hf", *PACKED) if (args.run / "export" / n).is_dir()]
    if "hf" not in formats:
        sys.exit(f"{args.run}/export/hf: not there; it is what the others are compared with")
    finished = check_hf(args.run, load_tensors(args.run / "export" / "hf"))
    dtype = getattr(torch, args.dtype)
    with contextlib.redirect_stdout(sys.stderr):
        models = load_models(args.run, formats, dtype)
    vocab = models["hf"].config.vocab_size
    ids = torch.randint(vocab, (2, 128), generator=torch.Generator().manual_seed(1))
    for name in formats[1:]:
        check_packed(name, models[name], finished)
        if name != "gptq":
            models[name].to(dtype)
        check_rest(name, models, finished)
        if args.logits:
            check_logits(name, models, ids)
    if args.text:
        ids, windows = read_windows(args.run, args.text, args.sequence_length, args.windows)
        if args.tokens:
            check_tokens(args.run, args.tokens, ids)
        for name, model in models.items():
            check_perplexity(name, perplexity(model, windows), args, len(windows))
    print(f"{len(failures)} wrong" if failures else "all right")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
