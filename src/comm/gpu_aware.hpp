// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <string>

namespace kmoe::detail {

struct GpuAware {
  bool yes;
  std::string reason;
};

/// Whether MPI takes pointers to the memory of the default execution space, and what says so.
GpuAware query_gpu_aware_mpi();

}  // namespace kmoe::detail
