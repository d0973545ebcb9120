#!/bin/sh
# N kills of a job at random: chaos.sh N [--seed S] [--ranks MOST] [--job JOB.yaml] [--pause S] [--seconds S] [--set KEY=VALUE]...
# Of a job of your own the run directory is replaced by one in $TMPDIR. QUARRY names the program.
set -eu
kills=${1:?usage: chaos.sh KILLS [options of test_chaos.py]}
shift
here=$(dirname "$0")
exec python3 "$here/test_chaos.py" "${QUARRY:-$here/../../build/quarry}" --kills "$kills" "$@"
