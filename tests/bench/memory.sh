#!/bin/sh
# The plan's device memory against what the tasks take, on models of several shapes with random weights: to the
# byte, a run held to it, and one held to 85 % of it refused.
# Usage: tests/bench/memory.sh QUARRY [SHAPE…]   shapes: 7b 70b 135m 13b (default: all), tiny; needs python3 with numpy
set -u

here=$(cd "$(dirname "$0")" && pwd)
quarry=$(realpath "${1:?usage: memory.sh QUARRY [SHAPE...]}")
shift
[ $# -gt 0 ] || set -- 7b 70b 135m 13b
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

sizes_of() {
    case $1 in
    7b) echo hidden=4096 intermediate=11008 heads=32 kv_heads=32 blocks=1 ;;
    70b) echo hidden=8192 intermediate=28672 heads=64 kv_heads=8 blocks=1 ;;
    135m) echo hidden=576 intermediate=1536 heads=9 kv_heads=3 blocks=4 vocab=49152 length=1024 ;;
    tiny) echo hidden=256 intermediate=512 heads=4 kv_heads=2 blocks=2 vocab=512 length=64 ;;
    13b) echo hidden=5120 intermediate=13824 heads=40 kv_heads=40 blocks=2 length=1024 ;;
    esac
}
keys_of() {
    case $1 in
    135m) echo quantize.weights.group_size=32 ;;
    13b) echo quantize.weights.bits=4 quantize.weights.group_size=128 block_ap.batch_size=4 \
        block_ap.norm_lr=1e-5 e2e_qp.micro_batch_size=2 ;;
    esac
}
largest() { # of the tasks' bytes
    python3 -c 'import json, sys
print(max(json.loads(l).get("device_bytes", 0) for l in open(sys.argv[1])))' "$1/metrics.jsonl"
}
planned() { python3 -c 'import json, sys; p = json.load(open(sys.argv[1])); print(p["gpu_bytes"] or p["cpu_bytes"])' "$1/plan.json"; }

for shape in "$@"; do
    # shellcheck disable=SC2046  # one word per size
    python3 "$here/make_model.py" "$work/$shape" samples=10 $(sizes_of "$shape")
    length=$(python3 -c 'import numpy, sys; print(numpy.load(sys.argv[1]).shape[1])' "$work/$shape/tokens.npy")
    cat >"$work/job.yaml" <<END
model: $shape
run_dir: run
calibration: {text: $shape/tokens.npy, samples: 8, sequence_length: $length, validation_samples: 2, sampling: documents}
quantize: {method: block-ap, weights: {bits: 2, group_size: 64}, segments: 1}
block_ap: {epochs: 1, batch_size: 2}
e2e_qp: {loss: next-token, samples: 4, batch_size: 4, epochs: 1}
resources: {device: ${DEVICE:-cuda}}
END
    set_keys=""
    for key in $(keys_of "$shape"); do set_keys="$set_keys --set $key"; done
    run() { rm -rf "$work/run"; "$quarry" run "$work/job.yaml" --quiet $set_keys "$@" >"$work/log" 2>&1; }
    # The plan's bytes as a limit: without one E2E-QP fills what is free with activations.
    rm -rf "$work/run"
    # shellcheck disable=SC2086
    "$quarry" plan "$work/job.yaml" --save $set_keys >"$work/log" 2>&1
    plan=$(planned "$work/run")
    if ! run --set resources.gpu_memory="$plan"; then
        echo "$shape: planned $plan, FAILED"; tail -3 "$work/log"; failed=1; continue
    fi
    taken=$(largest "$work/run")
    run --set resources.gpu_memory="$taken"; held=$?
    again=$(largest "$work/run")
    run --set resources.gpu_memory=$((taken * 85 / 100)); refused=$?
    echo "$shape: planned $plan, taken $taken ($((taken * 1000 / plan)) per mille), held to that: exit $held, \
$again taken; held to 85 %: exit $refused: $(tail -1 "$work/log")"
    [ $((taken * 10)) -ge $((plan * 9)) ] && [ $held = 0 ] && [ "$again" -le "$taken" ] && [ $refused = 2 ] || failed=1
    rm -rf "${work:?}/$shape"
done
exit $failed
