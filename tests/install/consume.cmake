# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# Configures, builds and runs consumer/ against kmoe. WAY is
#   find_package      CMake, from an installed tree that was moved
#   pkg_config        compilers and pkg-config, from the same
#   examples          the examples as a project of their own, from the same
#   module            what Lmod's `module load` sets, from the same
#   add_subdirectory  as part of the consumer, as a shared library; then that one, installed and
#                     moved, by find_package and pkg-config
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "failed with ${status}: ${ARGV}")
  endif()
endfunction()

# Programs, on one and two ranks where there is MPI.
function(run_programs)
  foreach(program IN LISTS ARGN)
    if(NOT ENABLE_MPI)
      run("${program}")
      continue()
    endif()
    foreach(ranks 1 2)
      run(${MPIEXEC} ${NUMPROC_FLAG} ${ranks} "${program}")
    endforeach()
  endforeach()
endfunction()

# install_to(<build folder> <prefix>): installs, and moves away what was installed.
function(install_to build prefix)
  file(REMOVE_RECURSE "${prefix}-first" "${prefix}")
  run(${CMAKE_COMMAND} --install "${build}" --prefix "${prefix}-first")
  file(RENAME "${prefix}-first" "${prefix}")
endfunction()

# A shared library shows its interface and hides the rest.
function(check_symbols prefix)
  file(GLOB_RECURSE library "${prefix}/*/libkmoe.so.*.*.*")
  execute_process(COMMAND ${NM} -DC --defined-only ${library} OUTPUT_VARIABLE symbols
                  COMMAND_ERROR_IS_FATAL ANY)
  foreach(shown kmoe_layer_create "kmoe::MoeLayer<.*::forward" "kmoe::ExpertPlacement::contiguous")
    if(NOT symbols MATCHES "${shown}")
      message(FATAL_ERROR "${library} does not show ${shown}")
    endif()
  endforeach()
  foreach(hidden "kmoe::c::" "kmoe::device::choose_isa" "kmoe::detail::Exchange")
    if(symbols MATCHES " T ${hidden}") # weak symbols: lambdas of builds without optimization
      message(FATAL_ERROR "${library} shows ${hidden}: ${CMAKE_MATCH_0}")
    endif()
  endforeach()
endfunction()

set(languages cxx c)
if(ENABLE_FORTRAN)
  list(APPEND languages fortran)
endif()

# by_cmake(<source> <build folder> <option>...)
function(by_cmake source build)
  file(REMOVE_RECURSE "${build}")
  run(${CMAKE_COMMAND} -S "${source}" -B "${build}" -G "${GENERATOR}"
      -D CMAKE_CXX_COMPILER=${CXX_COMPILER} -D CMAKE_C_COMPILER=${C_COMPILER}
      -D CMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}
      -D "CMAKE_CXX_FLAGS=${CXX_FLAGS}" -D "CMAKE_C_FLAGS=${C_FLAGS}"
      -D Kokkos_DIR=${Kokkos_DIR} -D KokkosKernels_DIR=${KokkosKernels_DIR}
      -D WITH_MPI=${ENABLE_MPI} -D WITH_FORTRAN=${ENABLE_FORTRAN} ${ARGN})
  run(${CMAKE_COMMAND} --build "${build}")
endfunction()

function(run_consumers build)
  set(programs "")
  foreach(language IN LISTS languages)
    list(APPEND programs "${build}/consumer_${language}")
  endforeach()
  run_programs(${programs})
endfunction()

function(by_pkg_config prefix build)
  file(REMOVE_RECURSE "${build}")
  file(MAKE_DIRECTORY "${build}")
  file(GLOB_RECURSE pc "${prefix}/*/kmoe.pc")
  get_filename_component(folder "${pc}" DIRECTORY)
  get_filename_component(libdir "${folder}" DIRECTORY)
  set(ENV{PKG_CONFIG_PATH} "${folder}")
  if(ENABLE_MPI)
    set(with_mpi -DWITH_MPI)
  endif()
  foreach(language IN LISTS languages)
    set(package kmoe-${language})
    set(file main.cpp)
    set(compiler ${CXX_WRAPPER} ${CXX_FLAGS})
    if(language STREQUAL "c")
      set(package kmoe)
      set(file main.c)
      set(compiler ${C_WRAPPER} ${C_FLAGS})
    elseif(language STREQUAL "fortran")
      set(file main.F90)
      set(compiler ${FORTRAN_WRAPPER} ${with_mpi})
    endif()
    execute_process(COMMAND ${PKG_CONFIG} --cflags --libs ${package} OUTPUT_VARIABLE flags
                    OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    separate_arguments(flags UNIX_COMMAND "${flags}")
    run(${compiler} "${CMAKE_CURRENT_LIST_DIR}/consumer/${file}" -o "${build}/consumer_${language}"
        ${flags} -lm)
  endforeach()
  set(ENV{LD_LIBRARY_PATH} "${libdir}:$ENV{LD_LIBRARY_PATH}")
  run_consumers("${build}")
endfunction()

set(consumer "${CMAKE_CURRENT_LIST_DIR}/consumer")
set(build "${WORK_DIR}/${WAY}")
set(prefix "${WORK_DIR}/prefix-${WAY}")
if(WAY STREQUAL "add_subdirectory")
  # Compiles the whole library once more: quickly, and the other way.
  by_cmake("${consumer}" "${build}" -D CMAKE_BUILD_TYPE=Debug -D BUILD_SHARED_LIBS=ON
           -D KMOE_SOURCE_DIR=${SOURCE_DIR} -D KMOE_ENABLE_INSTALL=ON
           -D KMOE_ENABLE_KOKKOSKERNELS=${ENABLE_KOKKOSKERNELS})
  run_consumers("${build}")
  install_to("${build}" "${prefix}")
  check_symbols("${prefix}")
  by_cmake("${consumer}" "${build}-installed" -D kmoe_ROOT=${prefix})
  run_consumers("${build}-installed")
  if(PKG_CONFIG)
    by_pkg_config("${prefix}" "${build}-pkg_config")
  endif()
  return()
endif()

install_to("${BUILD_DIR}" "${prefix}")
if(WAY STREQUAL "find_package")
  by_cmake("${consumer}" "${build}" -D kmoe_ROOT=${prefix} -D CMAKE_BUILD_TYPE=Release)
  run_consumers("${build}")
elseif(WAY STREQUAL "examples")
  by_cmake("${SOURCE_DIR}/examples" "${build}" -D kmoe_ROOT=${prefix})
  file(GLOB programs "${build}/06_c/c" "${build}/07_fortran/fortran" "${build}/04_layer/layer")
  run_programs(${programs})
elseif(WAY STREQUAL "module")
  file(MAKE_DIRECTORY "${build}")
  run("${CMAKE_CURRENT_LIST_DIR}/module.sh" ${LMOD_INIT} "${prefix}" ${MANDOC} ${PKG_CONFIG}
      ${C_WRAPPER} "${consumer}/main.c" "${build}/c")
  run_programs("${build}/c")
else()
  by_pkg_config("${prefix}" "${build}")
endif()
