#!/bin/sh
# gptq.sh QUARRY: jobs of GPTQ on the project's small Llama, in each order of columns and at the widths that other
# programs have kernels for, and the checks of all their exports. Works in the clients' folder.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
quarry=$1
clients=$("$here/install.sh")
work=$clients/gptq
data=$here/../data
rm -rf "$work"
mkdir -p "$work"
head -c 8000 "$data/text/kjv/test.txt" >"$work/text.txt" # some programs take seconds for a window
export QUARRY_CLIENTS_TEXT="$work/text.txt"

# job NAME WEIGHTS GPTQ EXPORTS
job() {
    cat >"$work/$1.yaml" <<EOF
model: $data/models/tiny-llama-kjv
run_dir: $1
calibration: {text: $data/text/kjv/train.txt, samples: 32, sequence_length: 256, validation_samples: 4}
quantize: {method: gptq, weights: $2, segments: 1}
gptq: $3
export: $4
resources: {device: cpu}
EOF
    "$quarry" run "$work/$1.yaml" --quiet
    "$here/run.sh" "$quarry" "$work/$1"
}

job w4 "{bits: 4, group_size: 128, symmetric: true}" "{act_order: true, static_groups: true}" "[hf, gptq, compressed-tensors]"
job w3 "{bits: 3, group_size: 64}" "{}" "[hf, gptq, compressed-tensors]"
job w2 "{bits: 2, group_size: 64}" "{sequential: false}" "[hf, gptq, compressed-tensors]"
