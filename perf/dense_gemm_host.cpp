// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "bench_gemm_peers.hpp"
#include "dense_gemm.hpp"

namespace perf {

template <kmoe::Element T>
DenseGemms dense_gemms(Kokkos::DefaultExecutionSpace const&, T const* a, T const* b, T*, int n) {
  return peers::gemm<T>(a, b, n, n, n);
}

#define PERF_INSTANTIATE(T)                                                                        \
  template DenseGemms dense_gemms<T>(Kokkos::DefaultExecutionSpace const&, T const*, T const*, T*, \
                                     int);
PERF_INSTANTIATE(double)
PERF_INSTANTIATE(float)
PERF_INSTANTIATE(kmoe::bfloat16)
PERF_INSTANTIATE(kmoe::half)

}  // namespace perf
