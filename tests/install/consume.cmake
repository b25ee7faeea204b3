# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# Configures, builds and runs consumer/ against kmoe: WAY is find_package or add_subdirectory.
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "failed with ${status}: ${ARGV}")
  endif()
endfunction()

set(prefix "${WORK_DIR}/prefix")
set(build "${WORK_DIR}/${WAY}")
file(REMOVE_RECURSE "${build}")
set(build_type Release)
if(WAY STREQUAL "add_subdirectory")
  set(build_type Debug) # compiles the whole library once more: quickly, and the other way
endif()
set(options -G "${GENERATOR}" -D CMAKE_BUILD_TYPE=${build_type}
            -D CMAKE_CXX_COMPILER=${CXX_COMPILER}
            -D CMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER} -D "CMAKE_CXX_FLAGS=${CXX_FLAGS}"
            -D Kokkos_DIR=${Kokkos_DIR} -D KokkosKernels_DIR=${KokkosKernels_DIR})
if(WAY STREQUAL "find_package")
  file(REMOVE_RECURSE "${prefix}")
  run(${CMAKE_COMMAND} --install "${BUILD_DIR}" --prefix "${prefix}")
  # The package must be found where it is moved to.
  file(REMOVE_RECURSE "${prefix}-moved")
  file(RENAME "${prefix}" "${prefix}-moved")
  list(APPEND options -D kmoe_ROOT=${prefix}-moved)
else()
  list(APPEND options -D KMOE_SOURCE_DIR=${SOURCE_DIR} -D KMOE_ENABLE_MPI=${ENABLE_MPI}
                      -D KMOE_ENABLE_KOKKOSKERNELS=${ENABLE_KOKKOSKERNELS})
endif()
run(${CMAKE_COMMAND} -S "${CMAKE_CURRENT_LIST_DIR}/consumer" -B "${build}" ${options})
run(${CMAKE_COMMAND} --build "${build}")
run("${build}/consumer")
