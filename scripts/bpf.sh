#!/bin/sh
# Build the kernel's programs from their sources beside them: scripts/bpf.sh [DIRECTORY]
#
# The objects are in the tree, so nobody needs a compiler to run the service. The same clang makes the
# same bytes of the same source on any machine: no debug information, names of directories, times
# or the compiler's version are in them. The second set of instructions, for with the third clang
# keeps half words on the stack where Linux 6.1 allows none without CAP_PERFMON. For the same reason
# nothing on the stack shares its place with a pointer that was there before.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here/src/openqwave/enforcement/bpf"
output=${1:-.}
clang=${CLANG:-clang}
command -v "$clang" >/dev/null || {
    echo "scripts/bpf.sh: $clang is missing; Debian's package is clang" >&2
    exit 127
}
# Where Debian keeps the headers of the machine's own kind, which those of Linux include.
machine=$(uname -m)
for name in egress created; do
    "$clang" -target bpfel -mcpu=v2 -O2 -g0 -fno-ident \
        -mllvm -no-stack-coloring -mllvm -no-stack-slot-sharing -Wall -Wextra -Werror \
        -isystem "/usr/include/$machine-linux-gnu" -c $name.bpf.c -o "$output/$name.bpf.o"
done
