// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The tile kernel (src/gemm/tile_gemm.hpp) against cuBLAS' batched GEMM of equally many rows for
// each expert, in one run: TFLOP/s of both, their ratio, and the largest difference.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include <cublas_v2.h>

#include <Kokkos_Core.hpp>

#include "gemm/tile_gemm.hpp"

namespace {

using Space = Kokkos::DefaultExecutionSpace;
using kmoe::offset_t;

template <class T>
kmoe::Vector<T, Space> random_vector(std::size_t size, unsigned seed) {
  kmoe::Vector<T, Space> v(Kokkos::view_alloc("values", Kokkos::WithoutInitializing), size);
  Kokkos::parallel_for(
      "fill", Kokkos::RangePolicy<Space>(0, size), KOKKOS_LAMBDA(std::size_t i) {
        std::uint64_t z = i * 0x9e3779b97f4a7c15U + seed;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
        v(i) = T(static_cast<double>(z >> 11) * 0x1p-52 - 1);
      });
  return v;
}

template <class Work>
double seconds(Space const& exec, Work&& work) {
  work();
  exec.fence();
  double best = 1e9;
  for (int i = 0; i < 4; ++i) {
    Kokkos::Timer timer;
    int const count = 5;
    for (int j = 0; j < count; ++j) work();
    exec.fence();
    best = std::min(best, timer.seconds() / count);
  }
  return best;
}

template <class T>
void compare(cublasHandle_t handle, char const* name, int groups, int rows, int n, int k) {
  using A = kmoe::accumulate_t<T>;
  Space const exec;
  std::size_t const m = std::size_t(groups) * rows;
  auto const a = random_vector<T>(m * k, 1), b = random_vector<T>(std::size_t(groups) * n * k, 2);
  auto const c = random_vector<T>(m * n, 3), d = random_vector<T>(m * n, 4);
  kmoe::Vector<offset_t, Space> offsets("offsets", groups + 1);
  Kokkos::parallel_for(
      "offsets", Kokkos::RangePolicy<Space>(0, groups + 1),
      KOKKOS_LAMBDA(int i) { offsets(i) = offset_t{rows} * i; });
  kmoe::detail::DeviceGemm<T> g;
  g.groups = groups;
  g.offsets = offsets.data();
  g.row_end = static_cast<offset_t>(m);
  g.x = a.data();
  g.x_rows = static_cast<offset_t>(m);
  g.k = k;
  g.columns = n;
  g.b = b.data();
  g.out = c.data();
  double const ours =
      seconds(exec, [&] { kmoe::detail::tile_gemm<Space, T>(exec, "tile_gemm", g); });
  auto pairs = g;  // gates and ups, activated; every row of x at another place
  kmoe::Vector<kmoe::index_t, Space> slots("slots", m);
  Kokkos::parallel_for(
      "slots", Kokkos::RangePolicy<Space>(0, m),
      KOKKOS_LAMBDA(std::size_t i) { slots(i) = static_cast<kmoe::index_t>((i * 7919) % m); });
  pairs.columns = n / 2;
  pairs.layout = kmoe::GateUpLayout::gate_first;
  pairs.activated = true;
  pairs.slots = slots.data();
  pairs.slots_per_row = 1;
  pairs.out = d.data();
  double const gated =
      seconds(exec, [&] { kmoe::detail::tile_gemm<Space, T>(exec, "tile_gemm", pairs); });
  constexpr bool is_double = std::is_same_v<T, double>;
  constexpr auto type = is_double                       ? CUDA_R_64F
                        : std::is_same_v<T, float>      ? CUDA_R_32F
                        : std::is_same_v<T, kmoe::half> ? CUDA_R_16F
                                                        : CUDA_R_16BF;
  A const one = 1, zero = 0;
  double const peer = seconds(exec, [&] {
    auto const status = cublasGemmStridedBatchedEx(
        handle, CUBLAS_OP_T, CUBLAS_OP_N, n, rows, k, &one, b.data(), type, k,
        static_cast<long long>(n) * k, a.data(), type, k, static_cast<long long>(rows) * k, &zero,
        d.data(), type, n, static_cast<long long>(rows) * n, groups,
        is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status != CUBLAS_STATUS_SUCCESS) throw std::runtime_error(cublasGetStatusString(status));
  });
  double difference = 0;
  Kokkos::parallel_reduce(
      "difference", Kokkos::RangePolicy<Space>(0, m * n),
      KOKKOS_LAMBDA(std::size_t i, double& most) {
        double const x = Kokkos::fabs(static_cast<double>(c(i)) - static_cast<double>(d(i)));
        most = x > most || x != x ? x : most;
      },
      Kokkos::Max<double>(difference));
  double const work = 2e-12 * static_cast<double>(m) * n * k;
  std::printf(
      "%-5s E %3d rows %6d N %5d K %5d: kmoe %7.1f  gated %7.1f  cuBLAS %7.1f TFLOP/s"
      "  ratio %.2f  difference %.1e\n",
      name, groups, rows, n, k, work / ours, work / gated, work / peer, peer / ours,
      difference / std::sqrt(double(k)));
  std::fflush(stdout);
}

template <class T>
void compare_all(cublasHandle_t handle, char const* name) {
  compare<T>(handle, name, 16, 512, 1536, 2048);
  compare<T>(handle, name, 16, 512, 2048, 768);
  compare<T>(handle, name, 16, 8192, 2048, 256);
  compare<T>(handle, name, 16, 8192, 256, 1024);
  compare<T>(handle, name, 1, 4096, 4096, 4096);
  compare<T>(handle, name, 128, 16, 1536, 2048);
}

}  // namespace

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const guard(argc, argv);
  Space const exec;
  cublasHandle_t handle = nullptr;
  if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) return 1;
  cublasSetStream(handle, exec.cuda_stream());
  compare_all<double>(handle, "f64");
  compare_all<float>(handle, "f32");
  compare_all<kmoe::bfloat16>(handle, "bf16");
  compare_all<kmoe::half>(handle, "f16");
  cublasDestroy(handle);
}
