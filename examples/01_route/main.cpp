// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Routing alone: logits in, expert ids and weights out.
//
//   route
//
// 1. Make logits, here two rows by hand.
// 2. Choose the semantics: scores, selection, renormalization.
// 3. route() fills topk_ids (best first, ties to the lower id) and topk_weights.

#include <cstdio>

#include <kmoe/routing/router.hpp>

using Space = Kokkos::DefaultExecutionSpace;

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  Space const exec;

  std::size_t const tokens = 2, experts = 4, top_k = 2;
  kmoe::Matrix<float, Space> logits("logits", tokens, experts);
  auto const host = Kokkos::create_mirror_view(logits);
  float const values[tokens][experts] = {{0.0F, 2.0F, 1.0F, 2.0F}, {-1.0F, -2.0F, 3.0F, 0.0F}};
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t e = 0; e < experts; ++e) host(t, e) = values[t][e];
  }
  Kokkos::deep_copy(exec, logits, host);

  kmoe::RouterOptions options;
  options.scoring = kmoe::Scoring::softmax;
  options.renormalize = true;
  kmoe::Routing<Space> const routing{kmoe::Matrix<kmoe::index_t, Space>("topk_ids", tokens, top_k),
                                     kmoe::Matrix<float, Space>("topk_weights", tokens, top_k)};
  kmoe::RouterCounters<Space> const counters("counters", kmoe::num_router_counters);
  kmoe::route(exec, logits, options, {}, routing, counters);

  auto const ids = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), routing.topk_ids);
  auto const weights =
      Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), routing.topk_weights);
  for (std::size_t t = 0; t < tokens; ++t) {
    std::printf("token %zu:", t);
    for (std::size_t k = 0; k < top_k; ++k)
      std::printf("  expert %d %.3f", ids(t, k), weights(t, k));
    std::printf("\n");
  }
  // Experts 1 and 3 tie in the first row: the lower id comes first.
  return ids(0, 0) == 1 && ids(0, 1) == 3 && ids(1, 0) == 2 && ids(1, 1) == 3 ? 0 : 1;
}
