#!/usr/bin/env python3
"""A Llama checkpoint of any shape with random bf16 weights, for timing without a download: config.json, one
safetensors file, and the tokenizer of the project's small model. Needs numpy.
usage: random_model.py DIR HIDDEN INTERMEDIATE HEADS KV_HEADS BLOCKS [VOCAB]"""
import json, os, shutil, struct, sys
import numpy

HERE = os.path.dirname(os.path.abspath(__file__))
folder, (hidden, intermediate, heads, kv_heads, blocks) = sys.argv[1], map(int, sys.argv[2:7])
vocab = int(sys.argv[7]) if len(sys.argv) > 7 else 32000
head_dim = hidden // heads
os.makedirs(folder, exist_ok=True)
json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "hidden_act": "silu",
           "intermediate_size": intermediate, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
           "num_hidden_layers": blocks, "vocab_size": vocab, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
           "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16"},
          open(os.path.join(folder, "config.json"), "w"), indent=1)
shutil.copy(os.path.join(HERE, "../data/models/tiny-llama-kjv/tokenizer.json"), folder)

shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
for b in range(blocks):
    p = f"model.layers.{b}."
    shapes |= {p + "self_attn.q_proj.weight": (hidden, hidden), p + "self_attn.k_proj.weight": (kv_heads * head_dim, hidden),
               p + "self_attn.v_proj.weight": (kv_heads * head_dim, hidden), p + "self_attn.o_proj.weight": (hidden, hidden),
               p + "mlp.gate_proj.weight": (intermediate, hidden), p + "mlp.up_proj.weight": (intermediate, hidden),
               p + "mlp.down_proj.weight": (hidden, intermediate), p + "input_layernorm.weight": (hidden,),
               p + "post_attention_layernorm.weight": (hidden,)}
header, at = {}, 0
for name, shape in shapes.items():
    size = 2 * int(numpy.prod(shape))
    header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
    at += size
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
random = numpy.random.default_rng(1)
with open(os.path.join(folder, "model.safetensors"), "wb") as out:
    out.write(struct.pack("<Q", len(text)) + text)
    for name, shape in shapes.items():
        if len(shape) == 1:
            values = numpy.ones(shape, numpy.float32)
        else:  # a size at which activations stay within half precision
            values = random.standard_normal(shape, numpy.float32) * numpy.float32(0.5 / shape[1] ** 0.5)
        out.write((values.view(numpy.uint32) >> 16).astype("<u2").tobytes())
