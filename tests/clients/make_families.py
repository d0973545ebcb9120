#!/usr/bin/env python3
"""Writes small models that differ from the tiny Llama in what GGUF has its own ways for: DIR/llama3 is that model with
Llama 3's scaling of rope, DIR/qwen2 and DIR/qwen3 have random weights, biases or norms of heads, and its tokenizer."""
import json
import pathlib
import shutil
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

TINY = pathlib.Path(__file__).resolve().parent.parent / "data/models/tiny-llama-kjv"
SIZES = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4, vocab_size=2048,
             max_position_embeddings=512, bos_token_id=0, eos_token_id=1)


def copy_tokenizer(out):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, out)


def make_llama3(out):
    shutil.copytree(TINY, out)
    config = json.loads((out / "config.json").read_text())
    config["rope_parameters"] = dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                     original_max_position_embeddings=64)
    (out / "config.json").write_text(json.dumps(config))


def make_random(out, family, **more):
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, **SIZES, **more)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, p in model.named_parameters():
        if p.dim() == 1:
            p.data = 0.3 * torch.randn(p.shape) + (0.0 if name.endswith("bias") else 1.0)
        else:
            p.data = torch.randn(p.shape) * (0.1 if "embed" in name or "lm_head" in name else 1.5 / p.shape[1] ** 0.5)
    model.half().save_pretrained(out)
    copy_tokenizer(out)


def main():
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    root = pathlib.Path(sys.argv[1])
    make_llama3(root / "llama3")
    make_random(root / "qwen2", "qwen2", tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1e6))
    make_random(root / "qwen3", "qwen3", head_dim=64, tie_word_embeddings=False, rope_parameters=dict(rope_type="linear", rope_theta=1e5, factor=2.0))


if __name__ == "__main__":
    main()
