#!/bin/sh
# Every header compiles alone, so that none depends on what happens to be included before it.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
for h in base/*.h kernels/*.h kernels/cpu/*.h model/*.h jobs/*.h coordinator/*.h worker/*.h cli/*.h tests/support/*.h; do
    [ -e "$h" ] || continue
    printf '#include "%s"\n' "$h" |
        ${CC:-cc} -std=c11 -D_DEFAULT_SOURCE -I. $(pkg-config --cflags hdf5-serial cmocka 2>/dev/null) \
            -fopenmp-simd -Wall -Wextra -Werror -fsyntax-only -x c - || { echo "not stand-alone: $h"; bad=1; }
done
exit $bad
