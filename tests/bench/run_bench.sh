#!/bin/sh
# Times one decoder block: Quarry's training step, the advance of a stream, E2E-QP, the step of a QLLM round and the
# search of a block's sites, with PyTorch doing the same (but for the search) on the same GPU with the same numbers
# (every PyTorch run checks its losses and gradients against the program's); then each kernel alone. Prints the table of docs/performance.md last.
# Usage: tests/bench/run_bench.sh BUILD_DIR [PRESET…]   presets: 70b 7b 135m (default: all)
# Needs python3 with torch. KEYS, more key=value words for bench_block and bench_torch.py; BLOCK=0, QLLM=0 and OPS=0
# leave out Block-AP and E2E-QP, QLLM, and the kernels.
set -u

here=$(dirname "$0")
build=${1:?usage: run_bench.sh BUILD_DIR [PRESET...]}
shift
[ $# -gt 0 ] || set -- 70b 7b 135m
keys="samples=10 per=8 ${KEYS:-}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# median FILE: of the program's last line
median() { sed -n 's/.*median \([0-9.]*\) ms.*/\1/p' "$1" | tail -1; }

# row NAME MODES KEY=VALUE… : by bench_block; qllm_row: by bench_qllm
row() { timed bench_block "$keys" "$@"; }
qllm_row() { timed bench_qllm "" "$@"; }

# timed PROGRAM MORE_KEYS NAME MODES KEY=VALUE…
timed() {
    program=$1 more=$2 name=$3 modes=$4
    shift 4
    # shellcheck disable=SC2086  # one word per key
    "$build/tests/$program" "$@" $more >"$work/ours" || failed=1
    cat "$work/ours"
    line="| $name | $(median "$work/ours") ms"
    for mode in plain compiled; do
        case $modes in
        *$mode*)
            # shellcheck disable=SC2086
            python3 "$here/bench_torch.py" "$@" samples=5 $more mode=$mode expect="$work/ours" >"$work/theirs" || failed=1
            grep -v '^losses\|^gradients' "$work/theirs"
            line="$line | $(median "$work/theirs") ms"
            ;;
        *) line="$line | " ;;
        esac
    done
    echo "$line |" >>"$work/table"
}

# What torch.compile takes for a round where corrections are applied beside the weights, not added to them.
factored() {
    python3 "$here/bench_torch.py" what=round "$@" samples=5 mode=compiled form=factored expect="$work/ours" \
        >"$work/theirs" || failed=1
    echo "| the same, corrections beside the weights | | | $(median "$work/theirs") ms |" >>"$work/table"
}

for preset in "$@"; do
    echo "== $preset"
    if [ "${QLLM:-1}" = 1 ] && [ "$preset" != 135m ]; then
        qllm_row "QLLM, step of a round, $preset" "plain compiled" what=round preset="$preset"
        factored preset="$preset"
        qllm_row "QLLM, search of a block, $preset" "" what=search preset="$preset" rounds=1
    fi
    [ "${BLOCK:-1}" = 1 ] || continue
    row "Block-AP step, $preset" "plain compiled" what=block-ap preset="$preset"
    row "Block-AP step, $preset, f16" "" what=block-ap preset="$preset" compute=f16
    row "advance of a stream, $preset" "plain" what=advance preset="$preset"
    [ "$preset" = 70b ] || continue
    row "E2E-QP, $preset, 4 x 4096" "plain" what=e2e preset="$preset" batch=4 length=4096
    row "E2E-QP, $preset, 4 x 4096, recomputed" "" what=e2e preset="$preset" batch=4 length=4096 recompute=1
done
if [ "${OPS:-1}" = 1 ]; then
    echo "== kernels, 70b"
    "$build/tests/bench_ops" || failed=1
    "$build/tests/bench_activation" || failed=1
fi
echo "| | Quarry | PyTorch, plain | torch.compile, fused AdamW |"
echo "|---|---|---|---|"
cat "$work/table"
exit $failed
