#!/bin/sh
# Build the kernel's program from its source beside it: scripts/bpf.sh [OUTPUT]
#
# The object is in the tree, so nobody needs a compiler to run the service. The same clang makes the
# same bytes of the same source on any machine: no debug information, names of directories, times
# or the compiler's version are in them. The second set of instructions, for with the third clang
# keeps half words on the stack where Linux 6.1 allows none without CAP_PERFMON.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here/src/openqwave/enforcement/bpf"
output=${1:-egress.bpf.o}
clang=${CLANG:-clang}
command -v "$clang" >/dev/null || {
    echo "scripts/bpf.sh: $clang is missing; Debian's package is clang" >&2
    exit 127
}
# Where Debian keeps the headers of the machine's own kind, which those of Linux include.
machine=$(uname -m)
"$clang" -target bpfel -mcpu=v2 -O2 -g0 -fno-ident -Wall -Wextra -Werror \
    -isystem "/usr/include/$machine-linux-gnu" -c egress.bpf.c -o "$output"
