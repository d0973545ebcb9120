#!/bin/sh
# gguf.sh QUARRY: quantizes the tiny Llama in forms that have block formats of their own, exports each as GGUF and
# checks the file with libggml, transformers and llama.cpp. Minutes; install.sh comes first.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
quarry=$1
env=$("$here/install.sh")
data=$here/../data
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# check BITS GROUP SYMMETRIC [OPTION…]
check() {
    echo "w$1, group $2, symmetric $3"
    run=$work/w$1-$2-$3
    cat >"$run.yaml" <<EOF
model: $data/models/tiny-llama-kjv
run_dir: $run
quantize:
  method: rtn
  weights: {bits: $1, group_size: $2, symmetric: $3}
export: [gguf]
resources: {device: cpu, threads: 1}
EOF
    shift 3
    "$quarry" run "$run.yaml" >"$run.log" 2>&1 || { cat "$run.log"; exit 1; }
    "$env/bin/python" "$here/check_gguf.py" "$run" "$run/export/gguf" --model "$data/models/tiny-llama-kjv" \
        --node "$env/node/node_modules" --quarry "$quarry" "$@"
}

"$env/bin/python" "$here/check_gguf.py" --node "$env/node/node_modules"
check 2 64 true --text "$data/text/kjv/test.txt" # Q2_0
check 3 64 false --text "$data/text/kjv/test.txt" # Q4_0
check 3 256 true                                 # Q3_K
check 4 -1 false                                 # Q4_K
check 4 64 false                                 # Q5_0
check 6 256 true                                 # Q6_K
check 8 64 true                                  # Q8_0
echo "all right"
