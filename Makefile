# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# One-command use of kmoe; for the CMake package see CMakeLists.txt. `make help` lists the commands.

MAKEFLAGS += --no-print-directory --no-builtin-rules
SHELL := /bin/bash
# This folder, also when called as make -f /path/to/Makefile, which keeps the current folder.
kmoe_dir := $(shell read -r f <<< '$(MAKEFILE_LIST)'; cd "$$(dirname "$$f")" && pwd -P)

.PHONY: help demo test build exec format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo              set everything up, build, run a checkpoint on four ranks"
	@echo "make test              set everything up, build, run all tests"
	@echo "make build             set everything up, build"
	@echo "make exec CMD='...'    run a shell command where kmoe and mpirun are on the PATH, for"
	@echo "                       example CMD='mpirun -n 4 kmoe info', from the current folder"
	@echo "                       (make -f .../Makefile exec from any other); returns its status."
	@echo "                       make -C changes the folder, and prints so unless told -s"
	@echo "make format            format the sources (clang-format)"
	@echo "make clean             remove what was built in this clone"
	@echo
	@echo "KMOE_ENV=native|openmp|serial chooses the environment. By default it is native, the"
	@echo "machine's own Kokkos (4.5 or newer) and MPI, where these are found and work, else"
	@echo "openmp: Kokkos 5 with OpenMP in a Debian 13 root file system, which is made in"
	@echo "KMOE_CACHE (default: ~/.cache/kmoe). serial: the same with Kokkos 4.5 Serial and Kokkos"
	@echo "Kernels. Set Kokkos_ROOT or CMAKE_PREFIX_PATH for a Kokkos in an unusual place."

demo:
	@'$(kmoe_dir)/.ci/demo'

test:
	@'$(kmoe_dir)/.ci/test'

build:
	@'$(kmoe_dir)/.ci/build'

format:
	@'$(kmoe_dir)/.ci/format' --fix

clean:
	rm -rf '$(kmoe_dir)/build'

# CMD is a shell command. A dollar sign may be doubled, as make wants it, or not.
ifeq ($(MAKECMDGOALS),exec)
kmoe_exec_command := $(subst $$$$,$$,$(value CMD))
export kmoe_exec_command
# make has one exit status for all failures, 2. To return the command's own, it is replaced by the
# command here, before any rule runs (.ci/make_exec.c); not with -n. Where that does not
# work the rule below runs the command, and make prints its status and returns 2.
ifneq ($(and $(filter load,$(.FEATURES)),$(strip $(value CMD))),)
ifeq ($(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS)))),)
kmoe_exec_program := $(kmoe_dir)/.ci/exec
kmoe_exec_stack := $(shell ulimit -s)
kmoe_exec_object := $(shell '$(kmoe_dir)/.ci/make_exec')
ifneq ($(filter-out 0,$(.SHELLSTATUS)),)
$(error kmoe: no environment to run in)
endif
ifneq ($(kmoe_exec_object),)
-load $(kmoe_exec_object)(kmoe_make_exec)
endif
endif
endif
endif

exec:
	@[ -n "$$kmoe_exec_command" ] || { echo "usage: make exec CMD='...'" >&2; exit 2; }
	@'$(kmoe_dir)/.ci/exec' bash -c "$$kmoe_exec_command"
