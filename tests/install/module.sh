#!/usr/bin/env bash
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# module.sh LMOD_INIT PREFIX MANDOC PKG_CONFIG C_COMPILER SOURCE PROGRAM   what `module load kmoe`
# sets finds the command, its manual and, for a compiler, header and library.
set -e
. "$1"
module use "$2/share/modulefiles"
module load kmoe
set -u
test "$(command -v kmoe)" = "$2/bin/kmoe"
kmoe --version
"$3" -W error "${MANPATH%%:*}/man1/kmoe.1" >/dev/null
read -ra flags < <("$4" --cflags --libs kmoe)
"$5" "$6" -o "$7" "${flags[@]}" -lm
set +u
module unload kmoe
if command -v kmoe; then exit 1; fi
