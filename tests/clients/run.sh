#!/bin/sh
# run.sh QUARRY RUN_DIR: checks a finished run's exports with the programs that people load them with,
# among other things that their perplexity is what `quarry eval` says. install.sh comes first.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
quarry=$1
run=$2
text=${QUARRY_CLIENTS_TEXT:-$here/../data/text/kjv/test.txt}
length=${QUARRY_CLIENTS_LENGTH:-256}
python=$("$here/install.sh")/bin/python

perplexity=$("$quarry" eval "$run" --text "$text" --sequence-length "$length" |
    awk '$1 == "perplexity" { print $2 }')
exec "$python" "$here/check_export.py" "$run" --logits --text "$text" --sequence-length "$length" \
    --perplexity "$perplexity"
