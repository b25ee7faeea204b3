# shellcheck shell=bash
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# Whether the machine's own Kokkos and MPI can build kmoe; sourced after env.sh.

# The version file of a Kokkos where CMake would look for one, if there is any.
kmoe_native_kokkos() {
  local prefix file prefixes=()
  [ -z "${Kokkos_DIR:-}" ] || prefixes+=("$Kokkos_DIR")
  IFS=: read -ra prefix <<<"${Kokkos_ROOT:-}:${CMAKE_PREFIX_PATH:-}:${PATH//\/bin/}"
  prefixes+=("${prefix[@]}" /usr/local /usr)
  for prefix in "${prefixes[@]}"; do
    [ -n "$prefix" ] || continue
    for file in "$prefix"/{,lib/,lib64/,lib/*-linux-gnu/}{,cmake/Kokkos/}KokkosConfigVersion.cmake
    do
      [ ! -e "$file" ] || { echo "$file" && return; }
    done
  done
  return 1
}

# Succeeds if the native environment can be used; the reason why not goes to stderr. What this
# machine lacks besides Kokkos is installed where that is possible.
kmoe_native_usable() {
  local version_file version key folder=$kmoe_cache/probe answer missing packages=()
  version_file=$(kmoe_native_kokkos) || {
    [ "${KMOE_ENV:-}" != native ] ||
      kmoe_say "no Kokkos found: set Kokkos_ROOT or CMAKE_PREFIX_PATH"
    return 1
  }
  version=$(sed -n 's/^ *set *(PACKAGE_VERSION "\([0-9.]*\)".*/\1/p' "$version_file" | head -n 1)
  if [ "$(printf '%s\n' 4.5 "$version" | sort -V | head -n 1)" != 4.5 ]; then
    kmoe_say "Kokkos $version in $(dirname "$version_file") is too old: kmoe needs 4.5"
    return 1
  fi
  key=$(printf '%s\n' "$version_file" "$version" "${Kokkos_ROOT:-}" "${CMAKE_PREFIX_PATH:-}" \
    "${CXX:-}" "$PATH" "$(id -u)" | sha256sum | cut -c1-12)
  answer=$folder-$key/answer.txt
  [ ! -e "$answer.ok" ] || { kmoe_native_report "$answer" && return 0; }
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    kmoe_need cmake:cmake "${CXX:-c++}:g++" mpicxx:libopenmpi-dev mpirun:openmpi-bin
  fi
  kmoe_native_probe "$folder-$key" || return 1
  missing=$(sed -n 's/^missing *//p' "$answer")
  if [ -n "$missing" ]; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
      missing=$(sed 's/GTest/libgtest-dev libgmock-dev/; s/nlohmann_json/nlohmann-json3-dev/
        s/CLI11/libcli11-dev/; s/Python3/python3/' <<<"$missing")
      read -ra packages <<<"$missing"
      kmoe_need "${packages[@]/#/kmoe-no-such-command:}"
      kmoe_native_probe "$folder-$key" || return 1
    else
      kmoe_say "the machine's own Kokkos $version works, but these CMake packages are missing:" \
        "$missing"
      return 1
    fi
  fi
  : >"$answer.ok"
  kmoe_native_report "$answer"
}

# Where kmoe_native_usable left its answer, for kmoe_native_kernels.
kmoe_native_report() { ln -sfn "$1" "$kmoe_cache/native-answer"; }

# Whether the machine has Kokkos Kernels: ON or OFF.
kmoe_native_kernels() { sed -n 's/^kernels //p' "$kmoe_cache/native-answer"; }

kmoe_native_probe() {
  rm -rf "$1" && mkdir -p "$1" || return 1
  cmake -S "$kmoe_source/.ci/probe" -B "$1" >"$1/log" 2>&1 </dev/null && return 0
  kmoe_say "the machine's own Kokkos and MPI cannot be used:"
  grep -A 12 'CMake Error' "$1/log" | head -n 40 >&2
  return 1
}

# The environment to use: the one that this process is in, else KMOE_ENV, else the machine's own if
# it will do, else openmp.
kmoe_choose_env() {
  case ${KMOE_INSIDE:-${KMOE_ENV:-}} in
    openmp | serial) echo "${KMOE_INSIDE:-$KMOE_ENV}" ;;
    native)
      kmoe_native_usable || kmoe_die "KMOE_ENV=native cannot be used"
      echo native
      ;;
    '') if kmoe_native_usable; then echo native; else echo openmp; fi ;;
    *) kmoe_die "KMOE_ENV must be native, openmp or serial, found ${KMOE_INSIDE:-$KMOE_ENV}" ;;
  esac
}
