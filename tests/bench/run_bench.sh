#!/bin/sh
# Times one decoder block: Quarry's kernels, its training step, and PyTorch doing the same on the same
# GPU with the same numbers. Every PyTorch run checks its losses and gradients against bench_block's.
# Usage: tests/bench/run_bench.sh BUILD_DIR [PRESET…]   presets: 70b 7b 135m (default: all)
# Takes minutes on one H200; needs python3 with torch.
set -u

here=$(dirname "$0")
build=${1:?usage: run_bench.sh BUILD_DIR [PRESET...]}
shift
[ $# -gt 0 ] || set -- 70b 7b 135m
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

for preset in "$@"; do
    echo "== $preset"
    for what in block-ap advance e2e; do
        sizes="what=$what preset=$preset"
        [ "$what" = e2e ] && [ "$preset" = 70b ] && sizes="$sizes batch=4 length=4096"
        # shellcheck disable=SC2086  # one word per key
        "$build/tests/bench_block" $sizes >"$work/expect" || failed=1
        cat "$work/expect"
        for mode in plain compiled; do
            # shellcheck disable=SC2086
            python3 "$here/bench_torch.py" $sizes mode=$mode expect="$work/expect" || failed=1
        done
    done
done
echo "== kernels, 70b"
"$build/tests/bench_ops" || failed=1
exit $failed
