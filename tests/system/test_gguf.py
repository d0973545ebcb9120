#!/usr/bin/env python3
"""GGUF in whole jobs: an exported file evaluates as the run does; a job whose model is a GGUF file gives what the same
job gives with the imported directory, and its exports are whole checkpoints. usage: test_gguf.py QUARRY"""
import os, re, sys
from quarry_job import run, scratch, short_text, tree, write_job

quarry = sys.argv[1]
JOB = """
model: {model}
run_dir: {run_dir}
quantize: {{method: rtn, weights: {{bits: 2, group_size: 64, symmetric: true}}}}
export: [gguf, hf, gptq]
resources: {{device: cpu, threads: 1}}
"""
TINY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../data/models/tiny-llama-kjv")


def quarry_run(*words, code=0):
    got, out = run([quarry, *words])
    assert got == code, f"{words}: exit {got}\n{out}"
    return out


def job(folder, name, model):
    quarry_run("run", write_job(folder, f"{name}.yaml", name, text=JOB, model=model), "--quiet")
    return os.path.join(folder, name)


def gguf_of(run_dir):
    (name,) = [n for n in os.listdir(f"{run_dir}/export/gguf") if n.endswith(".gguf")]
    return f"{run_dir}/export/gguf/{name}"


with scratch() as folder:
    text = os.path.join(folder, "line.txt")
    os.rename(short_text(folder, lines=1), text)

    def perplexity(what):
        out = quarry_run("eval", what, "--text", text, "--sequence-length", "64", "--device", "cpu", "--threads", "1")
        return re.search(r"perplexity ([0-9.]+)", out)[1]

    first = job(folder, "first", TINY)
    file = gguf_of(first)
    assert file.endswith("tiny-llama-kjv-Q2_0.gguf"), file
    want = perplexity(first)
    assert perplexity(file) == want, f"{perplexity(file)}, not {want}"
    assert os.path.basename(file) in quarry_run("eval", os.path.dirname(file), "--text", text, code=2)

    imported = os.path.join(folder, "imported")
    quarry_run("import", file, "--output", imported)
    assert "--overwrite" in quarry_run("import", file, "--output", imported, code=2)
    assert perplexity(imported) == want

    file_run, from_folder = job(folder, "a", file), job(folder, "b", imported)
    a, b = tree(f"{file_run}/export"), tree(f"{from_folder}/export")
    for name in ("hf/model.safetensors", "gptq/model.safetensors", "hf/tokenizer.json", "hf/config.json", "gptq/generation_config.json"):
        assert a[name] == b[name], f"{name} differs"
    assert perplexity(gguf_of(file_run)) == perplexity(file_run)

    for source in (TINY, os.path.join(folder, "nothing.gguf")):
        assert source in quarry_run("import", source, "--output", os.path.join(folder, "no"), code=2)
    assert not os.path.exists(os.path.join(folder, "no"))
    print(f"{len(a)} files")
