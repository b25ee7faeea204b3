// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "comm/gpu_aware.hpp"

#include <mpi.h>

#include <cstdlib>
#include <optional>
#include <string_view>

#include <Kokkos_Core.hpp>

#if defined(OPEN_MPI) && __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif

namespace kmoe::detail {
namespace {

/// What the MPI library says, nothing where it has no query for that device.
struct LibraryQuery {
  std::optional<bool> cuda;
  std::optional<bool> rocm;
};

LibraryQuery query_library() {
  LibraryQuery found;
#if defined(MPIX_CUDA_AWARE_SUPPORT)
  found.cuda = MPIX_Query_cuda_support() != 0;
#endif
#if defined(MPIX_ROCM_AWARE_SUPPORT)
  found.rocm = MPIX_Query_rocm_support() != 0;
#endif
#if defined(MPIX_GPU_SUPPORT_CUDA) && defined(MPIX_GPU_SUPPORT_HIP)  // MPICH, Cray MPICH
  int flag = 0;
  if (MPIX_GPU_query_support(MPIX_GPU_SUPPORT_CUDA, &flag) == MPI_SUCCESS) found.cuda = flag != 0;
  if (MPIX_GPU_query_support(MPIX_GPU_SUPPORT_HIP, &flag) == MPI_SUCCESS) found.rocm = flag != 0;
#endif
  return found;
}

std::string answer(std::optional<bool> const& found) {
  return !found ? "unknown" : *found ? "yes" : "no";
}

}  // namespace

GpuAware query_gpu_aware_mpi() {
  std::string prefix;
  if (char const* const value = std::getenv("KMOE_GPU_AWARE_MPI"); value != nullptr) {
    std::string const setting(value);
    if (setting == "0" || setting == "1") return {setting == "1", "KMOE_GPU_AWARE_MPI=" + setting};
    prefix = "KMOE_GPU_AWARE_MPI=" + setting + " is ignored (neither 0 nor 1); ";
  }
  LibraryQuery const found = query_library();
  std::string_view const space = Kokkos::DefaultExecutionSpace::name();
  bool yes = found.cuda.value_or(false) || found.rocm.value_or(false);
  if (space == "Cuda") yes = found.cuda.value_or(false);
  if (space == "HIP") yes = found.rocm.value_or(false);
  return {yes, prefix + "the MPI library says: CUDA " + answer(found.cuda) + ", ROCm " +
                   answer(found.rocm)};
}

}  // namespace kmoe::detail
