#!/bin/sh
# Installs the programs that check our exports into a folder of their own, $QUARRY_CLIENTS or
# build/clients of the source tree: a Python environment, and llama.cpp as node-llama-cpp brings it.
# Does nothing when they are there already. Prints the folder. About 1.6 GB with a CPU build of torch.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
env=${QUARRY_CLIENTS:-$here/../../build/clients}
python=$env/bin/python
list=$env/installed.txt

if [ -x "$python" ] && cat "$here/requirements.txt" "$0" | cmp -s - "$list"; then
    echo "$env"
    exit 0
fi

{
    [ -x "$python" ] || python3 -m venv "$env"
    # gptqmodel is a source package without compiled parts; its kernels are compiled when they run.
    # It builds with the setuptools it names, and --no-deps keeps the versions of requirements.txt.
    "$python" -m pip install -q 'setuptools>=84.2.1,<85' wheel
    # Torch first and alone: where a CPU build of this version lies in pip's reach, it is taken.
    "$python" -m pip install -q "$(grep '^torch==' "$here/requirements.txt")"
    "$python" -m pip install -q -r "$here/requirements.txt"
    "$python" -m pip install -q --no-deps --no-build-isolation gptqmodel==7.7.0
    "$python" -m pip install -q --no-deps auto-round==0.16.1
    "$python" -c 'import auto_round, compressed_tensors, gguf, gptqmodel, h5py, optimum, transformers'
    # The prebuilt llama.cpp of this platform, without the downloads and builds of the package's scripts.
    npm install --prefix "$env/node" --silent --no-fund --no-audit --ignore-scripts --omit=optional \
        node-llama-cpp@3.22.1 @node-llama-cpp/linux-x64@3.22.1
} >&2
cat "$here/requirements.txt" "$0" >"$list"
echo "$env"
