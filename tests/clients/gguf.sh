#!/bin/sh
# gguf.sh QUARRY: quantizes small models in forms that have block formats of their own, and models of each family that
# GGUF knows, exports them as GGUF and checks the files with libggml, transformers and llama.cpp. Minutes.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
quarry=$1
env=$("$here/install.sh")
tiny=$here/../data/models/tiny-llama-kjv
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# check MODEL BITS GROUP SYMMETRIC [OPTION…]
check() {
    model=$1
    echo "$(basename "$model"): w$2, group $3, symmetric $4"
    run=$work/run-$(basename "$model")-$2-$3-$4
    cat >"$run.yaml" <<EOF
model: $model
run_dir: $run
quantize:
  method: rtn
  weights: {bits: $2, group_size: $3, symmetric: $4}
export: [gguf]
resources: {device: cpu, threads: 1}
EOF
    shift 4
    "$quarry" run "$run.yaml" >"$run.log" 2>&1 || { cat "$run.log"; exit 1; }
    "$env/bin/python" "$here/check_gguf.py" "$run" "$run/export/gguf" --model "$model" \
        --node "$env/node/node_modules" --quarry "$quarry" "$@"
}

text="--text $here/../data/text/kjv/test.txt --windows 4"
"$env/bin/python" "$here/check_gguf.py" --node "$env/node/node_modules"
check "$tiny" 2 64 true $text  # Q2_0
check "$tiny" 3 64 false $text # Q4_0
check "$tiny" 3 256 true       # Q3_K
check "$tiny" 4 -1 false       # Q4_K
check "$tiny" 4 64 false       # Q5_0
check "$tiny" 6 256 true       # Q6_K
check "$tiny" 8 64 true        # Q8_0

"$env/bin/python" "$here/make_families.py" "$work"
for model in llama3 qwen2 qwen3; do
    check "$work/$model" 8 64 true $text
done
echo "all right"
