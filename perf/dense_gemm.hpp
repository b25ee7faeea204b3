// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The ruler for arithmetic: a dense GEMM of the vendor. One of dense_gemm_cublas.cpp,
/// dense_gemm_rocblas.cpp, dense_gemm_host.cpp and dense_gemm_none.cpp is built.

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <Kokkos_Core.hpp>
#include <kmoe/core/element.hpp>

namespace perf {

/// Libraries that compute c = a . b^T of n x n row-major matrices here, sums in accumulate_t<T>,
/// asynchronous on `exec`. Hosts' libraries write to a matrix of their own instead of c.
using DenseGemms = std::vector<std::pair<std::string, std::function<void()>>>;
template <kmoe::Element T>
DenseGemms dense_gemms(Kokkos::DefaultExecutionSpace const& exec, T const* a, T const* b, T* c,
                       int n);

}  // namespace perf
