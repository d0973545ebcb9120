#!/bin/sh
# The program of a release build: position independent, nothing of it both writable and executable, relocations read-only
# before main, stacks guarded, calls of the C library checked. usage: check_hardening.sh PROGRAM
set -u
command -v readelf >/dev/null || { echo "SKIP: readelf is not here"; exit 77; }
failed=0
expect() { # expect WHAT PATTERN: a line of readelf's output
    readelf -Whlds "$program" 2>/dev/null | grep -qE "$2" || { echo "$program: $1"; failed=1; }
}
program=$1
expect "is not position independent" '^ *Type: *DYN'
expect "its relocations stay writable" 'GNU_RELRO'
expect "symbols are bound late" 'BIND_NOW|Flags:.*NOW'
expect "no stack is guarded" '__stack_chk_fail'
expect "no call is checked" '__[a-z]*printf_chk'
! readelf -Wl "$program" | grep -E ' RWE ' || { echo "$program: writable and executable"; failed=1; }
exit $failed
