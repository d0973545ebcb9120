#!/usr/bin/env python3
"""What a message costs the coordinator: many ranks, oversubscribed, on a toy of as many segments whose tasks do next to nothing
(plain rounding of a small random block). Not part of ctest. usage: many_ranks.py QUARRY [RANKS]"""
import json, os, shutil, struct, sys, time
import launch
from quarry_job import DATA, scratch, short_text

quarry, ranks = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 64
HIDDEN, MLP, VOCAB = 32, 32, 2048


def toy(folder, blocks):
    """A Llama of `blocks` small blocks, weights from a counter, with the tokenizer of the tiny Llama."""
    path = os.path.join(folder, "model")
    os.mkdir(path)
    shutil.copy(os.path.join(DATA, "models/tiny-llama-kjv/tokenizer.json"), path)
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=HIDDEN, intermediate_size=MLP, num_hidden_layers=blocks,
                  num_attention_heads=2, num_key_value_heads=2, head_dim=16, vocab_size=VOCAB, max_position_embeddings=64, rms_norm_eps=1e-5,
                  tie_word_embeddings=True, dtype="float16", hidden_act="silu")
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(config, f)
    shapes = {"model.embed_tokens.weight": [VOCAB, HIDDEN], "model.norm.weight": [HIDDEN]}
    for b in range(blocks):
        p = f"model.layers.{b}."
        shapes.update({p + f"self_attn.{n}_proj.weight": [HIDDEN, HIDDEN] for n in "qkvo"})
        shapes.update({p + "mlp.gate_proj.weight": [MLP, HIDDEN], p + "mlp.up_proj.weight": [MLP, HIDDEN], p + "mlp.down_proj.weight": [HIDDEN, MLP],
                       p + "input_layernorm.weight": [HIDDEN], p + "post_attention_layernorm.weight": [HIDDEN]})
    header, data = {}, b""
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = [1.0] * n if len(shape) == 1 else [((i * 7919 + j * 104729) % 2001 - 1000) / 10000 for j in range(n)]
        raw = struct.pack(f"<{n}e", *values)
        header[name] = dict(dtype="F16", shape=shape, data_offsets=[len(data), len(data) + len(raw)])
        data += raw
    text = json.dumps(header).encode()
    with open(os.path.join(path, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    return path


with scratch() as folder:
    job = os.path.join(folder, "job.yaml")
    with open(job, "w") as f:
        f.write(f"model: {toy(folder, ranks)}\nrun_dir: {folder}/run\nquantize: {{method: rtn, weights: {{bits: 2, group_size: 32}}, segments: {ranks}}}\n"
                f"evaluate: [{{name: kjv, text: {short_text(folder, 20)}, sequence_length: 64}}]\nresources: {{threads: 1}}\n")
    began = time.time()
    code, out = launch.run(quarry, ranks, job, timeout=560)
    assert code == 0, out
    events = [json.loads(line.split("\t")[0]) for line in open(os.path.join(folder, "run/ledger.jsonl"))]
    workers = {e["rank"] for e in events if e["event"] == "done"}
    messages, seconds = events[-1]["values"]
    print(f"{ranks} ranks, {ranks} segments: {time.time() - began:.1f} s in all; {len(workers)} ranks finished a task; "
          f"the coordinator took in {messages:.0f} messages in {seconds:.2f} s: {1e6 * seconds / messages:.0f} us each, ledger writes included")
