#!/bin/sh
# Builds the probe guest: build.sh OUTPUT [-DLINUX_ONLY]. Needs gcc and binutils, as Rust does.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh OUTPUT [-DLINUX_ONLY]}
shift
exec gcc "$@" -o "$out" "$here"/start.S "$here"/*.c -T "$here/probe.ld" \
    -std=gnu11 -O2 -Wall -Wextra -Werror -m64 -march=x86-64 -mgeneral-regs-only \
    -ffreestanding -fno-builtin -fno-pic -fno-pie -fno-stack-protector -fcf-protection=none \
    -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -mcmodel=small \
    -static -nostdlib -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096 -Wl,--no-warn-rwx-segments
