# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# CMake functions of the tests.
include_guard(GLOBAL)

# What lets a test run by root, on one machine, with more ranks than cores.
set(KMOE_TEST_ENVIRONMENT
    "OMP_PROC_BIND=false;OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    "OMPI_MCA_rmaps_base_oversubscribe=1;PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe"
    "PRTE_MCA_hwloc_default_binding_policy=none;OMPI_MCA_mpi_yield_when_idle=1"
    "UBSAN_OPTIONS=print_stacktrace=1")
set(KMOE_TEST_TIMEOUT 300 CACHE STRING "Seconds that one test may take")

# The programs of one rank, for sanitizers.
add_custom_target(kmoe_unit_tests)

# kmoe_add_test(<name> SOURCES <file>... [RANKS <n>...] [LIBS <target>...] [LABELS <label>...]
#               [ARGS <argument>...] [THREADS <n>] [TIMEOUT <seconds>])
# A GoogleTest program. Without RANKS it runs alone, with 2 OpenMP threads. With RANKS it includes
# mpi.h, runs once for each count as <name>/np<n>, and is left out where MPI is off.
function(kmoe_add_test name)
  cmake_parse_arguments(arg "" "THREADS;TIMEOUT" "SOURCES;RANKS;LIBS;LABELS;ARGS" ${ARGN})
  if(arg_RANKS AND NOT KMOE_ENABLE_MPI)
    return()
  endif()
  set(target kmoe_test_${name})
  add_executable(${target} ${arg_SOURCES})
  kmoe_own_target(${target})
  # src: tests of a module's private headers
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests"
                                               "${PROJECT_SOURCE_DIR}/src")
  target_link_libraries(${target} PRIVATE ${KMOE_TESTED} kmoe_test_reference GTest::gtest
                                          ${arg_LIBS})
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
  kmoe_use_pch(${target} kmoe_test_pch)

  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT ${KMOE_TEST_TIMEOUT})
  endif()
  if(NOT arg_RANKS)
    if(NOT arg_THREADS)
      set(arg_THREADS 2)
    endif()
    target_link_libraries(${target} PRIVATE kmoe_test_main)
    add_dependencies(kmoe_unit_tests ${target})
    add_test(NAME ${name} COMMAND ${target} ${arg_ARGS})
    set_tests_properties(${name} PROPERTIES
      PROCESSORS ${arg_THREADS} TIMEOUT ${arg_TIMEOUT} LABELS "unit;${arg_LABELS}"
      ENVIRONMENT "OMP_NUM_THREADS=${arg_THREADS};${KMOE_TEST_ENVIRONMENT}")
    return()
  endif()
  if(NOT arg_THREADS)
    set(arg_THREADS 1)
  endif()
  target_link_libraries(${target} PRIVATE kmoe_test_mpi_main)
  foreach(ranks IN LISTS arg_RANKS)
    add_test(NAME ${name}/np${ranks}
             COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} ${MPIEXEC_PREFLAGS}
                     $<TARGET_FILE:${target}> ${MPIEXEC_POSTFLAGS} ${arg_ARGS})
    math(EXPR processors "${ranks} * ${arg_THREADS}")
    set_tests_properties(${name}/np${ranks} PROPERTIES
      PROCESSORS ${processors} TIMEOUT ${arg_TIMEOUT} LABELS "mpi;${arg_LABELS}"
      ENVIRONMENT "OMP_NUM_THREADS=${arg_THREADS};${KMOE_TEST_ENVIRONMENT}")
  endforeach()
endfunction()

# kmoe_add_c_test(<name> SOURCES <file>... [RANKS <n>...])
# A program in C99 with its own main function.
function(kmoe_add_c_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;RANKS" ${ARGN})
  if(arg_RANKS AND NOT KMOE_ENABLE_MPI)
    return()
  endif()
  set(target kmoe_test_${name})
  add_executable(${target} ${arg_SOURCES})
  set_target_properties(${target} PROPERTIES
    C_STANDARD 99 C_EXTENSIONS OFF RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Werror)
  target_link_libraries(${target} PRIVATE kmoe::c m)
  set(environment ENVIRONMENT "OMP_NUM_THREADS=1;${KMOE_TEST_ENVIRONMENT}")
  if(NOT arg_RANKS)
    add_dependencies(kmoe_unit_tests ${target})
    add_test(NAME ${name} COMMAND ${target})
    set_tests_properties(${name} PROPERTIES TIMEOUT 60 LABELS unit ${environment})
  endif()
  foreach(ranks IN LISTS arg_RANKS)
    add_test(NAME ${name}/np${ranks} COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks}
                                             $<TARGET_FILE:${target}>)
    set_tests_properties(${name}/np${ranks} PROPERTIES PROCESSORS ${ranks} TIMEOUT 60 LABELS mpi
                                                       ${environment})
  endforeach()
endfunction()

# kmoe_add_compile_fail_test(<name> SOURCE <file> MATCH <regex>)
# A source that compiles as it is, and with -DKMOE_MUST_NOT_COMPILE fails with a message that
# MATCHes.
function(kmoe_add_compile_fail_test name)
  cmake_parse_arguments(arg "" "SOURCE;MATCH" "" ${ARGN})
  foreach(kind control fails)
    set(target kmoe_compile_fail_${name}_${kind})
    add_library(${target} OBJECT ${arg_SOURCE})
    kmoe_own_target(${target})
    target_link_libraries(${target} PRIVATE kmoe::kmoe)
  endforeach()
  kmoe_use_pch(kmoe_compile_fail_${name}_control kmoe_pch)
  target_compile_definitions(${target} PRIVATE KMOE_MUST_NOT_COMPILE)
  set_target_properties(${target} PROPERTIES EXCLUDE_FROM_ALL ON)
  add_test(NAME compile_fail/${name} COMMAND ${CMAKE_COMMAND} --build "${PROJECT_BINARY_DIR}"
                                             --target ${target})
  set_tests_properties(compile_fail/${name} PROPERTIES
    PASS_REGULAR_EXPRESSION "${arg_MATCH}" RESOURCE_LOCK kmoe_build LABELS compile_fail
    TIMEOUT 300)
endfunction()
