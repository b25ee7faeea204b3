// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// One GEMM per expert over rows that lie grouped by expert, one group empty.
//
//   grouped_gemm
//
// 1. a holds the rows of all experts, one after the other; offsets say where each expert begins.
// 2. b holds one matrix per expert, a row per output.
// 3. c[m, :] = a[m, :] . b[expert of m]^T.

#include <cstdio>

#include <kmoe/gemm/grouped_gemm.hpp>

using Space = Kokkos::DefaultExecutionSpace;

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  Space const exec;

  std::size_t const experts = 3, rows = 5, outputs = 2, inputs = 4;
  kmoe::Matrix<float, Space> a("a", rows, inputs), c("c", rows, outputs);
  kmoe::Tensor3<float, Space> b("b", experts, outputs, inputs);
  kmoe::Vector<kmoe::offset_t, Space> offsets("offsets", experts + 1);
  auto const offsets_host = Kokkos::create_mirror_view(offsets);
  kmoe::offset_t const begin[] = {0, 2, 2, 5};  // expert 1 has no rows
  for (std::size_t e = 0; e <= experts; ++e) offsets_host(e) = begin[e];
  Kokkos::deep_copy(exec, offsets, offsets_host);

  auto const a_host = Kokkos::create_mirror_view(a);
  auto const b_host = Kokkos::create_mirror_view(b);
  for (std::size_t i = 0; i < a_host.size(); ++i) a_host.data()[i] = static_cast<float>(i % 7) - 3;
  for (std::size_t i = 0; i < b_host.size(); ++i) b_host.data()[i] = static_cast<float>(i % 5) - 2;
  Kokkos::deep_copy(exec, a, a_host);
  Kokkos::deep_copy(exec, b, b_host);

  kmoe::grouped_gemm<Space, float>(exec, a, b, offsets, c);

  auto const result = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), c);
  int wrong = 0;
  for (std::size_t m = 0; m < rows; ++m) {
    std::size_t const expert = m < 2 ? 0 : 2;
    std::printf("row %zu, expert %zu:", m, expert);
    for (std::size_t n = 0; n < outputs; ++n) {
      float sum = 0;
      for (std::size_t k = 0; k < inputs; ++k) sum += a_host(m, k) * b_host(expert, n, k);
      wrong += sum == result(m, n) ? 0 : 1;  // small integers: no rounding
      std::printf(" %g", static_cast<double>(result(m, n)));
    }
    std::printf("\n");
  }
  return wrong == 0 ? 0 : 1;
}
