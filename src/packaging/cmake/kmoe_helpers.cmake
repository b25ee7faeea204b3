# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# CMake functions of kmoe's own build.
include_guard(GLOBAL)

# kmoe_first_target(<variable> <target>...): the first target that exists; none is an error.
function(kmoe_first_target variable)
  foreach(candidate IN LISTS ARGN)
    if(TARGET ${candidate})
      set(${variable} ${candidate} PARENT_SCOPE)
      return()
    endif()
  endforeach()
  message(FATAL_ERROR "kmoe: none of these targets exists: ${ARGN}")
endfunction()

# kmoe_own_target(<target>): the rules of kmoe's own sources: C++20, warnings, and
# nothing visible in a shared library that KMOE_API does not show.
function(kmoe_own_target target)
  target_compile_features(${target} PRIVATE cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden)
  if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang|IntelLLVM")
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wpedantic)
    if(KMOE_WERROR)
      target_compile_options(${target} PRIVATE -Werror
                             $<$<CXX_COMPILER_ID:Clang>:-Wno-error=pass-failed>)
    endif()
    if(KMOE_ENABLE_PCH AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      target_compile_options(${target} PRIVATE -fpch-preprocess) # lets ccache see through it
    endif()
  endif()
endfunction()

# kmoe_add_pch(<name> LIBS <target>... HEADERS <header>...): a precompiled header for kmoe_use_pch.
# Nothing where KMOE_ENABLE_PCH is OFF: sources include what they use.
function(kmoe_add_pch name)
  cmake_parse_arguments(arg "" "" "LIBS;HEADERS" ${ARGN})
  if(NOT KMOE_ENABLE_PCH)
    return()
  endif()
  set(anchor "${CMAKE_CURRENT_BINARY_DIR}/${name}.cpp")
  file(GENERATE OUTPUT "${anchor}" CONTENT "// Holds a precompiled header.\n")
  add_library(${name} OBJECT "${anchor}")
  kmoe_own_target(${name})
  target_link_libraries(${name} PRIVATE ${arg_LIBS})
  if(BUILD_SHARED_LIBS)
    set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  endif()
  target_precompile_headers(${name} PRIVATE ${arg_HEADERS})
endfunction()

# Programs do not share it with position-independent code.
function(kmoe_use_pch target pch)
  get_target_property(pic ${target} POSITION_INDEPENDENT_CODE)
  if(KMOE_ENABLE_PCH AND (pic OR NOT BUILD_SHARED_LIBS))
    target_precompile_headers(${target} REUSE_FROM ${pch})
  endif()
endfunction()

# kmoe_source_flags(<source> <flag>...): compiler flags of one source of src/device (instruction
# sets), which then cannot share the precompiled header.
function(kmoe_source_flags source)
  set_property(SOURCE "${source}" APPEND PROPERTY COMPILE_OPTIONS ${ARGN})
  if(CMAKE_CXX_COMPILER MATCHES "nvcc_wrapper") # these sources hold no device code
    set_property(SOURCE "${source}" APPEND PROPERTY COMPILE_OPTIONS --host-only)
  elseif(Kokkos_ENABLE_HIP)
    set_property(SOURCE "${source}" APPEND PROPERTY COMPILE_OPTIONS -xc++)
  endif()
  set_property(SOURCE "${source}" PROPERTY SKIP_PRECOMPILE_HEADERS ON)
endfunction()

# kmoe_add_module(<name> [MPI] SOURCES <file>... [DEPENDS <module>...] [PRIVATE_LIBS <target>...]
#                 [HEADER_LIBS <target>...])
# The object library kmoe_<name>, part of kmoe. DEPENDS names modules that stand below. MPI: this
# module includes mpi.h. PRIVATE_LIBS are linked by kmoe too, HEADER_LIBS (header-only) are not.
function(kmoe_add_module name)
  cmake_parse_arguments(arg "MPI" "" "SOURCES;DEPENDS;PRIVATE_LIBS;HEADER_LIBS" ${ARGN})
  set(target kmoe_${name})
  if(NOT arg_SOURCES)
    set(arg_SOURCES "${CMAKE_CURRENT_BINARY_DIR}/${target}_empty.cpp")
    file(GENERATE OUTPUT "${arg_SOURCES}" CONTENT "// The module ${name} has no sources yet.\n")
  endif()
  add_library(${target} OBJECT ${arg_SOURCES})
  kmoe_own_target(${target})
  target_include_directories(${target} PUBLIC "${PROJECT_SOURCE_DIR}/include"
                                              "${KMOE_GENERATED_INCLUDE_DIR}"
                                       PRIVATE "${PROJECT_SOURCE_DIR}/src")
  target_link_libraries(${target} PUBLIC Kokkos::kokkos)
  foreach(dependency IN LISTS arg_DEPENDS)
    if(NOT TARGET kmoe_${dependency})
      message(FATAL_ERROR "kmoe: module ${name} must not depend on ${dependency}")
    endif()
    target_link_libraries(${target} PUBLIC kmoe_${dependency})
  endforeach()
  if(arg_MPI AND KMOE_ENABLE_MPI)
    target_link_libraries(${target} PUBLIC MPI::MPI_CXX)
  endif()
  target_link_libraries(${target} PRIVATE ${arg_PRIVATE_LIBS} ${arg_HEADER_LIBS})
  if(BUILD_SHARED_LIBS)
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  endif()
  kmoe_use_pch(${target} kmoe_pch)
  set_property(GLOBAL APPEND PROPERTY KMOE_MODULES ${name})
  set_property(GLOBAL APPEND PROPERTY KMOE_MODULES_LINK_LIBS ${arg_PRIVATE_LIBS})
endfunction()
