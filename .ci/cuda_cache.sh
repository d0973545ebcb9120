#!/bin/sh
# What the CUDA device is compiled against, from NVIDIA's wheels, for machines
# whose distribution does not have them (CI has nvcc and no GPU). Fills $QUARRY_CUDA_CACHE, by
# default .cache/cuda, with include/ and lib/; does nothing where they are already there.
# Usage: .ci/cuda_cache.sh, then cmake -DQUARRY_CUDA_ROOT=.cache/cuda
set -eu

wheels="nvidia-cublas==13.1.* nvidia-cusolver==12.0.* nvidia-cusparse==12.6.* nvidia-nvjitlink==13.0.* \
nvidia-nccl-cu13==2.28.*"
cache=${QUARRY_CUDA_CACHE:-$(dirname "$0")/../.cache/cuda}
mark=$cache/wheels.txt

if [ -f "$mark" ] && [ "$(cat "$mark")" = "$wheels" ]; then
    exit 0
fi
mkdir -p "$cache/include" "$cache/lib"
work=$(mktemp -d "$cache/unpack.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# shellcheck disable=SC2086  # one word per wheel
python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$work" $wheels
for wheel in "$work"/*.whl; do
    python3 -m zipfile -e "$wheel" "$work/files"
    rm "$wheel"
    cp -R "$work"/files/nvidia/*/include/. "$cache/include/"
    for name in cublasLt cublas cusolver cusparse nvJitLink nccl; do
        for file in "$work"/files/nvidia/*/lib/lib$name.so.*; do
            [ -f "$file" ] || continue
            mv "$file" "$cache/lib/"
            ln -sf "$(basename "$file")" "$cache/lib/lib$name.so"
        done
    done
    rm -rf "$work/files"
done
printf '%s\n' "$wheels" >"$mark"
