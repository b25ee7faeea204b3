# shellcheck shell=bash
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# The environments that kmoe is built in; sourced by enter, build, exec and run.
#   native   the machine's own compiler, CMake, Kokkos and MPI
#   openmp   Debian 13 root file system, Kokkos 5 with OpenMP
#   serial   Debian 13 root file system, Kokkos 4.5 Serial and Kokkos Kernels
#   hip      Debian 13 root file system, hipcc 5.7 and the headers of Kokkos 4.5: objects only
# The roots live outside the clone, one folder per package list, and are made when first needed.

kmoe_source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
kmoe_cache=${KMOE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/kmoe}

kmoe_suite=trixie
kmoe_packages_common=(
  ca-certificates ccache cmake g++ gfortran git libbenchmark-dev libcli11-dev libdnnl-dev
  libgmock-dev libgtest-dev libopenblas-pthread-dev libopenmpi-dev lmod make mandoc ninja-build
  nlohmann-json3-dev openmpi-bin pkgconf python3 python3-matplotlib python3-numpy
  python3-safetensors python3-torch
)
kmoe_packages_openmp=(libkokkos-dev)
kmoe_packages_serial=(libtrilinos-kokkos-dev libtrilinos-kokkos-kernels-dev)
kmoe_packages_hip=(
  ccache cmake g++ hipcc libcli11-dev libgmock-dev libgtest-dev libopenmpi-dev
  libtrilinos-kokkos-dev ninja-build nlohmann-json3-dev openmpi-bin python3
)
# Raise it when the recipe below changes in a way that the package list does not show.
kmoe_recipe=1

kmoe_say() { printf 'kmoe: %s\n' "$*" >&2; }
kmoe_die() {
  kmoe_say "$@"
  exit 70
}

kmoe_packages() {
  local -n own=kmoe_packages_$1
  [ "$1" = hip ] || printf '%s\n' "${kmoe_packages_common[@]}"
  printf '%s\n' "${own[@]}"
}

# The folder of a root; it need not exist yet.
kmoe_root() {
  local hash
  hash=$({
    echo "$kmoe_suite $kmoe_recipe"
    kmoe_packages "$1"
  } | sha256sum | cut -c1-12)
  echo "$kmoe_cache/root-$1-$hash"
}

# Installs on the machine itself the commands of "command:package" pairs that are missing.
kmoe_need() {
  local pair missing=() log
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair#*:}")
  done
  ((${#missing[@]})) || return 0
  [ "$(id -u)" = 0 ] || kmoe_die "not root: please install ${missing[*]}, then try again"
  command -v apt-get >/dev/null || kmoe_die "no apt-get here: please install ${missing[*]}"
  kmoe_say "installing ${missing[*]}"
  mkdir -p "$kmoe_cache" || kmoe_die "cannot write to $kmoe_cache: set KMOE_CACHE"
  log=$kmoe_cache/apt.log
  if ! {
    apt-get "${kmoe_apt[@]}" update &&
      DEBIAN_FRONTEND=noninteractive apt-get "${kmoe_apt[@]}" -y install \
        --no-install-recommends "${missing[@]}"
  } >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    kmoe_die "could not install ${missing[*]}"
  fi
}
kmoe_apt=(-q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)

# The Debian mirror that this machine uses.
kmoe_mirror() {
  local found
  [ -z "${KMOE_DEBIAN_MIRROR:-}" ] || { echo "$KMOE_DEBIAN_MIRROR" && return; }
  found=$(kmoe_main_archive)
  if [ -z "$found" ]; then
    apt-get "${kmoe_apt[@]}" update >&2 </dev/null || true
    found=$(kmoe_main_archive)
  fi
  [ -n "$found" ] || kmoe_die "no Debian mirror in apt's sources: set KMOE_DEBIAN_MIRROR"
  echo "$found"
}
kmoe_main_archive() {
  apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 2>/dev/null |
    sed -n 's/^Debian|Debian|//p' | sort -u | head -n 1
}

# Makes the root $1 in the folder $2, from nothing.
kmoe_bootstrap() {
  local name=$1 root=$2 mirror apt=() setting
  mirror=$(kmoe_mirror) || exit
  while IFS= read -r setting; do
    [ -z "$setting" ] || apt+=("--aptopt=$setting")
  done < <(apt-config dump --format '%F "%v";%n' Acquire::http Acquire::https 2>/dev/null |
    grep -v '""')
  local include mode=(--mode=root)
  include=$(kmoe_packages "$name" | paste -sd,)
  [ "$(id -u)" = 0 ] || mode=(--mode=unshare)
  # sid serves the Kokkos packages alone; its Release file may be past its date on a mirror.
  # A hook sees the root as $1. Files that enter binds over must exist.
  local make=(
    mmdebstrap "${mode[@]}" --variant=apt --include="$include" --format=tar
    --aptopt='Acquire::Check-Valid-Until "false";' --aptopt='Acquire::Retries "5";'
    --aptopt='Apt::Install-Recommends "false";' "${apt[@]}"
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*'
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*'
    --setup-hook='mkdir -p "$1/etc/apt/preferences.d"'
    --setup-hook="printf '%s\n' 'Package: *' 'Pin: release n=sid' 'Pin-Priority: 100' '' \
      'Package: libkokkos* libtrilinos* trilinos-dev' 'Pin: release n=sid' 'Pin-Priority: 990' \
      > \"\$1/etc/apt/preferences.d/kmoe\""
    --customize-hook='for f in passwd group hosts hostname resolv.conf; do
      [ -f "$1/etc/$f" ] || { rm -f "$1/etc/$f"; : > "$1/etc/$f"; }; done'
    --customize-hook='mkdir -p "$1/usr/local/cuda"'
    # Archives that the Kokkos package names in its CMake files and does not ship: empty ones do.
    --customize-hook='cat "$1"/usr/lib/*/cmake/Kokkos/KokkosTargets-*.cmake |
      sed -n "s|.*IMPORTED_LOCATION_[A-Z]* \"[^/]*\(/lib/.*[.]a\)\".*|/usr\1|p" |
      while read -r f; do [ -e "$1$f" ] || printf "!<arch>\n" > "$1$f"; done'
    "$kmoe_suite" -
    "deb $mirror $kmoe_suite main" "deb $mirror sid main"
  )
  local private=()
  [ "$(id -u)" != 0 ] || private=(unshare --mount)
  mkdir -p "$root"
  "${private[@]}" "${make[@]}" | tar -x -C "$root" --numeric-owner --exclude='./dev/*'
  local status=("${PIPESTATUS[@]}")
  [ "${status[0]}" = 0 ] && [ "${status[1]}" = 0 ]
}

# Says so and fails where no file system may be mounted, as in most containers.
kmoe_can_mount() {
  local why
  why=$(bwrap --ro-bind / / true 2>&1) && return
  kmoe_say "cannot mount file systems here: $why"
  kmoe_die "allow it (in a container: docker run --privileged), or install Kokkos (4.5 or newer)" \
    "and MPI on the machine, which kmoe then uses"
}

# Makes the root $1 if it is missing. Safe against interruption and against a second caller.
kmoe_make_root() {
  local root lock fresh log
  root=$(kmoe_root "$1")
  [ ! -e "$root/.kmoe-ready" ] || return 0
  mkdir -p "$kmoe_cache" || kmoe_die "cannot write to $kmoe_cache: set KMOE_CACHE"
  (
    exec {lock}>"$root.lock"
    flock -n "$lock" || {
      kmoe_say "waiting for another process that makes the $1 environment"
      flock "$lock"
    }
    [ ! -e "$root/.kmoe-ready" ] || exit 0
    kmoe_need mmdebstrap:mmdebstrap bwrap:bubblewrap gpgv:gpgv
    [ "$(id -u)" = 0 ] || kmoe_need newuidmap:uidmap
    fresh=$root.part log=$root.log
    rm -rf --one-file-system "$fresh" "$root"
    kmoe_can_mount || exit
    kmoe_say "making the $1 environment in $root (about two minutes; log: $log)"
    SECONDS=0
    if ! kmoe_bootstrap "$1" "$fresh" >"$log" 2>&1 </dev/null; then
      tail -n 20 "$log" >&2
      rm -rf --one-file-system "$fresh"
      kmoe_die "could not make the $1 environment; the whole log is $log"
    fi
    : >"$fresh/.kmoe-ready"
    mv "$fresh" "$root"
    kmoe_say "the $1 environment is ready after $SECONDS s, $(du -sm "$root" | cut -f1) MiB"
  ) || exit
}

# What makes mpirun usable on one machine, by root or not, with more ranks than cores.
kmoe_mpi_defaults() {
  export OMPI_ALLOW_RUN_AS_ROOT=${OMPI_ALLOW_RUN_AS_ROOT:-1}
  export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-1}
  export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
  local spread=PRTE_MCA_rmaps_default_mapping_policy
  export $spread="${!spread:-:oversubscribe}"
  export PRTE_MCA_hwloc_default_binding_policy=${PRTE_MCA_hwloc_default_binding_policy:-none}
  export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
  export KOKKOS_DISABLE_WARNINGS=${KOKKOS_DISABLE_WARNINGS:-1} # of more ranks than cores
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_PROC_BIND=${OMP_PROC_BIND:-false}
}

# How many compilers run at once: all processors, whatever OpenMP is told above (nproc listens).
kmoe_jobs() { echo "${KMOE_JOBS:-$(env -u OMP_NUM_THREADS nproc)}"; }

# A compiler cache that sees through precompiled headers and is shared by clones.
kmoe_ccache() {
  export CCACHE_DIR=${CCACHE_DIR:-$kmoe_cache/ccache} CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-4G}
  export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$kmoe_source} CCACHE_NOHASHDIR=1
  export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros}
}

# Runs a command inside a root and exits with its status: kmoe_enter NAME COMMAND...
kmoe_enter() {
  local root name=$1 entry args=()
  shift
  [ "${KMOE_INSIDE:-}" != "$name" ] || exec "$@"
  [ -z "${KMOE_INSIDE:-}" ] || kmoe_die "already inside the $KMOE_INSIDE environment"
  kmoe_make_root "$name"
  kmoe_need bwrap:bubblewrap
  root=$(kmoe_root "$name")
  # System folders come from the root, read-only; all else is the machine's own, at its own path.
  for entry in bin lib lib32 lib64 libx32 sbin; do
    [ ! -L "$root/$entry" ] || args+=(--symlink "$(readlink "$root/$entry")" "/$entry")
  done
  args+=(--ro-bind "$root/usr" /usr --ro-bind "$root/etc" /etc)
  for entry in passwd group hosts hostname resolv.conf; do
    [ ! -e "/etc/$entry" ] || args+=(--ro-bind "/etc/$entry" "/etc/$entry")
  done
  [ ! -d /usr/local/cuda/. ] || args+=(--ro-bind "$(realpath /usr/local/cuda)" /usr/local/cuda)
  args+=(--dev-bind /dev /dev)
  for entry in /* /.[!.]*; do
    case $entry in
      /bin | /lib | /lib32 | /lib64 | /libx32 | /sbin | /usr | /etc | /dev) continue ;;
      /boot | /lost+found) continue ;;
    esac
    if [ -L "$entry" ]; then
      args+=(--symlink "$(readlink "$entry")" "$entry")
    elif [ -d "$entry" ]; then
      args+=(--bind "$entry" "$entry")
    fi
  done
  [ ! -d /var/lib/dpkg ] || args+=(--ro-bind "$root/var/lib/dpkg" /var/lib/dpkg)
  case $PWD/ in
    /bin/* | /lib/* | /sbin/* | /usr/* | /etc/* | /boot/*)
      kmoe_die "the folder $PWD is not visible inside the $name environment: use another" ;;
  esac
  if ! entry=$(bwrap "${args[@]}" true 2>&1); then
    kmoe_can_mount
    kmoe_die "cannot enter the $name environment: $entry"
  fi
  kmoe_mpi_defaults
  export OMPI_MCA_btl=${OMPI_MCA_btl:-self,sm} OMPI_MCA_pml=${OMPI_MCA_pml:-ob1}
  # mpirun names its folder by its process number and refuses one that an earlier process left.
  if [ -z "${PRTE_MCA_prte_tmpdir_base:-}" ]; then
    kmoe_mpi_folder=$(mktemp -d) || kmoe_die "cannot make a temporary folder"
    export PRTE_MCA_prte_tmpdir_base=$kmoe_mpi_folder
  fi
  kmoe_ccache
  export PATH=${KMOE_PATH_INSIDE:+$KMOE_PATH_INSIDE:}/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
  export KMOE_INSIDE=$name LC_ALL=C.UTF-8
  export HIP_PLATFORM=amd # or hipcc takes an nvcc that it finds
  # Names of the machine's own compilers and libraries mean nothing inside.
  unset CC CXX FC CFLAGS CXXFLAGS LDFLAGS CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH LIBRARY_PATH
  unset LD_LIBRARY_PATH LD_PRELOAD CMAKE_PREFIX_PATH PKG_CONFIG_PATH PYTHONPATH PYTHONHOME
  unset Kokkos_ROOT Kokkos_DIR KokkosKernels_ROOT MPI_ROOT MPI_HOME
  kmoe_supervise bwrap "${args[@]}" --chdir "$PWD" -- "$@"
}

# Runs bwrap and exits with its status. A signal to this process reaches the command inside, which
# bwrap alone would leave behind.
kmoe_supervise() {
  local child signal status
  (
    trap - INT QUIT
    exec "$@"
  ) <&0 &
  child=$!
  for signal in TERM HUP USR1 USR2; do
    trap "kill -$signal \$(cat /proc/$child/task/$child/children 2>/dev/null) 2>/dev/null" "$signal"
  done
  trap : INT QUIT # a terminal sends them to the command as well
  wait "$child"
  status=$?
  while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    status=$?
  done
  [ -z "${kmoe_mpi_folder:-}" ] || rm -rf --one-file-system "$kmoe_mpi_folder"
  exit "$status"
}
