#!/bin/sh
# Rooms include only the rooms below them, and each outside library has its one place.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
complain() { if [ -n "$2" ]; then echo "$1"; echo "$2"; bad=1; fi; }

# allow ROOM ALLOWED…: project includes of ROOM name only itself and these.
allow() {
    room=$1; shift
    pattern=$(printf '%s|' "$room" "$@"); pattern=${pattern%|}
    found=$(grep -rnE '^#include "' "$room" --include='*.c' --include='*.h' --include='*.cu' --include='*.cuh' |
        grep -vE "#include \"($pattern)/")
    complain "$room may include only: $room $*" "$found"
}
allow base
allow kernels base
allow model base
allow jobs model base
allow coordinator jobs model base
allow worker jobs model kernels base
allow cli coordinator worker jobs model kernels base

# only PATTERN PLACES…: a header that may appear only there.
only() {
    header=$1; shift
    places=$(printf '%s|' "$@"); places=${places%|}
    found=$(grep -rnE "#include <$header" base kernels model jobs coordinator worker cli |
        grep -vE "^($places)")
    complain "<$header> belongs in: $*" "$found"
}
only 'mpi\.h' coordinator/ worker/ cli/
only 'cuda|cublas|cudnn|cusolver|nccl' kernels/cuda/
only 'hdf5|H5' model/h5
only 'yaml' jobs/yaml
only 'cblas|lapacke|omp\.h' kernels/cpu/
exit $bad
