# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# cmake -D SOURCE=<folder> -D HEADER=<file> -P kmoe_git_hash.cmake
execute_process(
  COMMAND git -C "${SOURCE}" describe --always --dirty --abbrev=12 --exclude=*
  OUTPUT_VARIABLE hash OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  set(hash "")
endif()
set(text "#pragma once\n#define KMOE_GIT_HASH \"${hash}\"\n")
if(EXISTS "${HEADER}")
  file(READ "${HEADER}" old)
endif()
if(NOT text STREQUAL "${old}")
  file(WRITE "${HEADER}" "${text}")
endif()
