// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <cmath>

#include <kmoe/routing/router.hpp>

#include "instantiate.hpp"
#include "routing/route_row.hpp"
#include "routing/route_warp.hpp"

namespace kmoe {
namespace {

constexpr std::string_view function = "kmoe::route";

template <ExecutionSpace E, Scoring scoring>
struct Route {
  Matrix<float const, E> logits;
  Vector<float const, E> correction_bias;
  Routing<E> out;
  RouterCounters<E> counters;
  RouterOptions options;
  index_t num_valid_tokens;

  KOKKOS_FUNCTION void operator()(index_t t) const {
    auto const num_slots = static_cast<index_t>(out.topk_ids.extent(1));
    index_t* const ids = detail::row_of(out.topk_ids, t);
    float* const weights = detail::row_of(out.topk_weights, t);
    if (t >= num_valid_tokens) {
      for (index_t k = 0; k < num_slots; ++k) {
        ids[k] = no_expert;
        weights[k] = 0.0F;
      }
      return;
    }
    auto const num_columns = static_cast<index_t>(logits.extent(1));
    index_t const top_k = num_slots - options.num_fused_shared_experts;
    float const* const bias = correction_bias.extent(0) > 0 ? correction_bias.data() : nullptr;
    routing::RowFaults const faults = routing::route_row<scoring>(
        options, detail::row_of(logits, t), num_columns, bias, ids, weights, top_k);
    for (index_t k = top_k; k < num_slots; ++k) {
      ids[k] = num_columns + (k - top_k);
      weights[k] = 1.0F;
    }
    if (counters.extent(0) > 0) {
      if (faults.nan) Kokkos::atomic_inc(&counters(rows_with_nan));
      if (faults.inf) Kokkos::atomic_inc(&counters(rows_with_inf));
    }
  }
};

template <Scoring scoring, ExecutionSpace E>
void launch(E const& exec, Matrix<float const, E> const& logits,
            Vector<float const, E> const& correction_bias, Routing<E> const& out,
            RouterCounters<E> const& counters, RouterOptions const& options, index_t valid) {
  Kokkos::parallel_for("kmoe::route",
                       Kokkos::RangePolicy<E, Kokkos::IndexType<index_t>>(
                           exec, 0, static_cast<index_t>(logits.extent(0))),
                       Route<E, scoring>{logits, correction_bias, out, counters, options, valid});
}

/// Several lanes per token, where there are warps and the sizes suit: true if launched.
template <int Lanes, int Items, ExecutionSpace E>
bool launch_warps(E const& exec, Matrix<float const, E> const& logits,
                  Vector<float const, E> const& correction_bias, Routing<E> const& out,
                  RouterCounters<E> const& counters, RouterOptions const& options, index_t valid) {
  using Kernel = routing::RouteByWarps<E, Lanes, Items>;
  auto const stride = [](auto const& view) { return static_cast<offset_t>(view.stride(0)); };
  auto const num_tokens = static_cast<index_t>(logits.extent(0));
  auto const num_columns = static_cast<index_t>(logits.extent(1));
  auto const num_slots = static_cast<index_t>(out.topk_ids.extent(1));
  if (!Kernel::suits(options, num_columns, num_slots - options.num_fused_shared_experts)) {
    return false;
  }
  constexpr offset_t warp = device::warp_size<E>;
  offset_t const items = (offset_t{num_tokens} * Lanes + warp - 1) / warp * warp;
  Kokkos::parallel_for(
      "kmoe::route",
      Kokkos::RangePolicy<E, Kokkos::IndexType<offset_t>, Kokkos::LaunchBounds<256>>(exec, 0,
                                                                                     items),
      Kernel{logits.data(), correction_bias.extent(0) > 0 ? correction_bias.data() : nullptr,
             out.topk_ids.data(), out.topk_weights.data(),
             counters.extent(0) > 0 ? counters.data() : nullptr, stride(logits),
             stride(out.topk_ids), stride(out.topk_weights), options, num_tokens, valid,
             num_columns, num_slots});
  return true;
}

template <ExecutionSpace E>
bool route_by_warps([[maybe_unused]] E const& exec, [[maybe_unused]] auto const&... arguments) {
  if constexpr (device::warp_size < E >> 1) {
    return launch_warps<4, 4>(exec, arguments...) || launch_warps<8, 4>(exec, arguments...) ||
           launch_warps<16, 4>(exec, arguments...) || launch_warps<32, 4>(exec, arguments...) ||
           launch_warps<32, 8>(exec, arguments...) || launch_warps<32, 16>(exec, arguments...) ||
           launch_warps<32, 32>(exec, arguments...);
  }
  return false;
}

void check_options(RouterOptions const& options, index_t num_columns, index_t top_k,
                   std::size_t bias_extent, std::string const& bias_label) {
  using detail::expect;
  expect(options.num_fused_shared_experts >= 0, function,
         "num_fused_shared_experts must not be negative", options.num_fused_shared_experts);
  expect(top_k >= 1 && top_k <= num_columns, function,
         "out.topk_ids.extent(1) - num_fused_shared_experts must be in 1..logits.extent(1) = " +
             std::to_string(num_columns),
         top_k);
  if (bias_extent != 0) {
    detail::expect_extent(function,
                          "correction_bias.extent(0) must equal logits.extent(1) =", num_columns,
                          static_cast<long long>(bias_extent), bias_label);
  }
  expect(options.num_groups >= 1 && options.num_groups <= max_router_groups, function,
         "num_groups must be in 1.." + std::to_string(max_router_groups), options.num_groups);
  expect(num_columns % options.num_groups == 0, function,
         "num_groups must divide logits.extent(1) = " + std::to_string(num_columns),
         options.num_groups);
  expect(options.topk_groups >= 1 && options.topk_groups <= options.num_groups, function,
         "topk_groups must be in 1..num_groups = " + std::to_string(options.num_groups),
         options.topk_groups);
  if (options.scoring == Scoring::sparse_mixer) {
    expect(top_k <= 2, function, "sparse_mixer selects at most 2 experts", top_k);
    expect(options.num_groups == 1, function, "sparse_mixer has num_groups 1", options.num_groups);
    expect(bias_extent == 0, function, "sparse_mixer takes no correction_bias",
           static_cast<long long>(bias_extent));
  }
  auto const expect_number = [](std::string_view rule, float value, bool holds) {
    if (!holds) detail::throw_invalid(function, rule, std::to_string(value));
  };
  expect_number("routed_scaling_factor must be finite", options.routed_scaling_factor,
                std::isfinite(options.routed_scaling_factor));
  expect_number("renormalize_epsilon must be finite and not negative", options.renormalize_epsilon,
                std::isfinite(options.renormalize_epsilon) && options.renormalize_epsilon >= 0);
  expect_number("renormalize_min_sum must be finite and not negative", options.renormalize_min_sum,
                std::isfinite(options.renormalize_min_sum) && options.renormalize_min_sum >= 0);
}

}  // namespace

template <ExecutionSpace E>
index_t detail::check_routing(InMatrix<float, E> const& logits, Routing<E> const& out,
                              RouterCounters<E> const& counters, index_t num_valid_tokens) {
  auto const tokens = static_cast<long long>(logits.extent(0));
  auto const& ids = out.topk_ids;
  auto const& weights = out.topk_weights;
  expect_extent(function, "out.topk_ids.extent(0) must equal logits.extent(0) =", tokens,
                static_cast<long long>(ids.extent(0)), ids.label());
  expect_extent(function, "out.topk_weights.extent(0) must equal logits.extent(0) =", tokens,
                static_cast<long long>(weights.extent(0)), weights.label());
  expect_extent(function, "out.topk_weights.extent(1) must equal out.topk_ids.extent(1) =",
                static_cast<long long>(ids.extent(1)), static_cast<long long>(weights.extent(1)),
                weights.label());
  auto const slots = tokens * static_cast<long long>(ids.extent(1));
  expect(slots <= INT32_MAX, function, "slots (tokens * top_k) must be below 2^31", slots);
  expect(counters.extent(0) == 0 || counters.extent(0) == num_router_counters, function,
         "counters.extent(0) must be 0 or num_router_counters",
         static_cast<long long>(counters.extent(0)));
  if (num_valid_tokens == all_tokens) return static_cast<index_t>(tokens);
  expect(num_valid_tokens >= 0 && num_valid_tokens <= tokens, function,
         "num_valid_tokens must be in 0..logits.extent(0) = " + std::to_string(tokens),
         num_valid_tokens);
  return num_valid_tokens;
}

template <ExecutionSpace E>
void route(E const& exec, InMatrix<float, E> logits, RouterOptions const& options,
           InVector<float, E> correction_bias, Routing<E> const& out,
           RouterCounters<E> const& counters, index_t num_valid_tokens) {
  index_t const valid = detail::check_routing<E>(logits, out, counters, num_valid_tokens);
  auto const top_k =
      static_cast<index_t>(out.topk_ids.extent(1)) - options.num_fused_shared_experts;
  check_options(options, static_cast<index_t>(logits.extent(1)), top_k, correction_bias.extent(0),
                correction_bias.label());
  if (route_by_warps<E>(exec, logits, correction_bias, out, counters, options, valid)) return;
  auto const run = [&]<Scoring scoring>() {
    launch<scoring, E>(exec, logits, correction_bias, out, counters, options, valid);
  };
  switch (options.scoring) {
    case Scoring::softmax:
      return run.template operator()<Scoring::softmax>();
    case Scoring::sigmoid:
      return run.template operator()<Scoring::sigmoid>();
    case Scoring::topk_softmax:
      return run.template operator()<Scoring::topk_softmax>();
    case Scoring::topk_sigmoid:
      return run.template operator()<Scoring::topk_sigmoid>();
    case Scoring::sparse_mixer:
      return run.template operator()<Scoring::sparse_mixer>();
  }
  detail::throw_invalid(function, "scoring must be an enumerator",
                        std::to_string(static_cast<int>(options.scoring)));
}

#define KMOE_INSTANTIATE(E)                                                                        \
  template KMOE_API index_t detail::check_routing<E>(InMatrix<float, E> const&, Routing<E> const&, \
                                                     RouterCounters<E> const&, index_t);           \
  template KMOE_API void route<E>(E const&, InMatrix<float, E>, RouterOptions const&,              \
                                  InVector<float, E>, Routing<E> const&, RouterCounters<E> const&, \
                                  index_t);
KMOE_FOR_EACH_SPACE(KMOE_INSTANTIATE)

}  // namespace kmoe
