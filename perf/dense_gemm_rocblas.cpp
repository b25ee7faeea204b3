// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <memory>
#include <stdexcept>
#include <type_traits>

#include <rocblas/rocblas.h>

#include "dense_gemm.hpp"

namespace perf {

template <kmoe::Element T>
DenseGemms dense_gemms(Kokkos::DefaultExecutionSpace const& exec, T const* a, T const* b, T* c,
                       int n) {
  constexpr bool is_double = std::is_same_v<T, double>;
  constexpr auto type = is_double                       ? rocblas_datatype_f64_r
                        : std::is_same_v<T, float>      ? rocblas_datatype_f32_r
                        : std::is_same_v<T, kmoe::half> ? rocblas_datatype_f16_r
                                                        : rocblas_datatype_bf16_r;
  rocblas_handle raw = nullptr;
  if (rocblas_create_handle(&raw) != rocblas_status_success) return {};
  std::shared_ptr<_rocblas_handle> const handle(
      raw, [](rocblas_handle h) { static_cast<void>(rocblas_destroy_handle(h)); });
  static_cast<void>(rocblas_set_stream(raw, exec.hip_stream()));
  auto const run = [=] {
    kmoe::accumulate_t<T> const one = 1;
    kmoe::accumulate_t<T> const zero = 0;
    // Column-major c^T = b . a^T; both inputs lie with their long rows contiguous.
    auto const status =
        rocblas_gemm_ex(handle.get(), rocblas_operation_transpose, rocblas_operation_none, n, n, n,
                        &one, b, type, n, a, type, n, &zero, c, type, n, c, type, n,
                        is_double ? rocblas_datatype_f64_r : rocblas_datatype_f32_r,
                        rocblas_gemm_algo_standard, 0, 0);
    if (status != rocblas_status_success) {
      throw std::runtime_error(std::string("rocBLAS: ") + rocblas_status_to_string(status));
    }
  };
  return {{"rocBLAS", run}};
}

#define PERF_INSTANTIATE(T)                                                                        \
  template DenseGemms dense_gemms<T>(Kokkos::DefaultExecutionSpace const&, T const*, T const*, T*, \
                                     int);
PERF_INSTANTIATE(double)
PERF_INSTANTIATE(float)
PERF_INSTANTIATE(kmoe::bfloat16)
PERF_INSTANTIATE(kmoe::half)

}  // namespace perf
