#!/bin/sh
# Builds the fuzzers in a folder and runs each for some seconds over its seeds: run.sh BUILD_FOLDER SECONDS [TARGET]...
# What is found lies in BUILD_FOLDER/found/TARGET; when it is mended it becomes a seed: tests/fuzz/seeds/TARGET.
set -eu
build=$1 seconds=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
targets=${*:-spec safetensors tokenizer config block segment ledger}
if ! command -v clang >/dev/null || [ ! -e "$(clang -print-file-name=libclang_rt.fuzzer-$(uname -m).a)" ] \
    && [ ! -e "$(clang -print-resource-dir)/lib/linux/libclang_rt.fuzzer-$(uname -m).a" ]; then
    echo "clang with libFuzzer is needed: apt-get install clang libclang-rt-14-dev libomp-14-dev (or their newer versions)"
    exit 1
fi
CC=clang cmake -S "$here/../.." -B "$build" -G Ninja -DQUARRY_FUZZ=ON -DQUARRY_CUDA=OFF -DQUARRY_WERROR=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null
ninja -C "$build" $(for t in $targets; do echo "fuzz_$t"; done) >"$build/ninja.log" || { tail -20 "$build/ninja.log"; exit 1; }
failed=0
for t in $targets; do
    leaks=1
    case $t in block | segment) leaks=0 ;; esac # the HDF5 library keeps memory of files that it refuses
    work=$build/corpus/$t found=$build/found/$t
    mkdir -p "$work" "$found"
    cp "$here/seeds/$t"/* "$work" 2>/dev/null || true
    case $t in
    spec) cp "$here"/../../configs/*.yaml "$work" ;;
    safetensors) for m in "$here"/../golden/models/*/; do cp "$m/model.safetensors" "$work/$(basename "$m").safetensors"; done ;;
    config) for m in "$here"/../golden/models/*/; do cp "$m/config.json" "$work/$(basename "$m").json"; done ;;
    tokenizer) for m in "$here"/../golden/tokenizers/*/; do [ -e "$m/tokenizer.json" ] && cp "$m/tokenizer.json" "$work/$(basename "$m").json"; done ;;
    esac
    if ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=$leaks "$build/tests/fuzz_$t" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -max_len=65536 \
        -artifact_prefix="$found/" -print_final_stats=1 "$work" >"$build/$t.log" 2>&1; then
        echo "$t: $(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$t.log") inputs, nothing found"
    else
        echo "$t: FOUND, see $build/$t.log: $(grep -m1 -E 'ERROR|runtime error|SUMMARY' "$build/$t.log")"
        failed=1
    fi
done
exit $failed
