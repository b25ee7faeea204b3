// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <memory>
#include <stdexcept>
#include <type_traits>

#include <cublas_v2.h>

#include "dense_gemm.hpp"

namespace perf {

template <kmoe::Element T>
DenseGemms dense_gemms(Kokkos::DefaultExecutionSpace const& exec, T const* a, T const* b, T* c,
                       int n) {
  constexpr bool is_double = std::is_same_v<T, double>;
  constexpr auto type = is_double                       ? CUDA_R_64F
                        : std::is_same_v<T, float>      ? CUDA_R_32F
                        : std::is_same_v<T, kmoe::half> ? CUDA_R_16F
                                                        : CUDA_R_16BF;
  cublasHandle_t raw = nullptr;
  if (cublasCreate(&raw) != CUBLAS_STATUS_SUCCESS) return {};
  std::shared_ptr<cublasContext> const handle(raw, [](cublasHandle_t h) { cublasDestroy(h); });
  cublasSetStream(raw, exec.cuda_stream());
  auto const run = [=] {
    kmoe::accumulate_t<T> const one = 1;
    kmoe::accumulate_t<T> const zero = 0;
    // Column-major c^T = b . a^T; both inputs lie with their long rows contiguous.
    auto const status = cublasGemmEx(
        handle.get(), CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, b, type, n, a, type, n, &zero, c,
        type, n, is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status != CUBLAS_STATUS_SUCCESS) {
      throw std::runtime_error(std::string("cuBLAS: ") + cublasGetStatusString(status));
    }
  };
  int version = 0;
  cublasGetVersion(raw, &version);
  return {{"cuBLAS " + std::to_string(version), run}};
}

#define PERF_INSTANTIATE(T)                                                                        \
  template DenseGemms dense_gemms<T>(Kokkos::DefaultExecutionSpace const&, T const*, T const*, T*, \
                                     int);
PERF_INSTANTIATE(double)
PERF_INSTANTIATE(float)
PERF_INSTANTIATE(kmoe::bfloat16)
PERF_INSTANTIATE(kmoe::half)

}  // namespace perf
