#!/bin/sh
# Installs the programs that check our exports into a Python environment of their own:
# $QUARRY_CLIENTS, or build/clients of the source tree. Does nothing when they are there already.
# Prints the environment's python. About 1.5 GB with a CPU build of torch.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
env=${QUARRY_CLIENTS:-$here/../../build/clients}
python=$env/bin/python
list=$env/installed.txt
gptqmodel=gptqmodel==7.7.0

if [ -x "$python" ] && cmp -s "$here/requirements.txt" "$list"; then
    echo "$python"
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
    "$python" -m pip install -q --no-deps --no-build-isolation "$gptqmodel"
    "$python" -c 'import gptqmodel, h5py, optimum, transformers'
} >&2
cp "$here/requirements.txt" "$list"
echo "$python"
