// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What a layer and its forward() demand of their arguments.

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include <kmoe/comm/communicator.hpp>
#include <kmoe/core/error.hpp>
#include <kmoe/core/expert_placement.hpp>
#include <kmoe/core/options.hpp>
#include <kmoe/core/weights.hpp>
#include <kmoe/core/workspace.hpp>
#include <kmoe/layer/moe_layer.hpp>
#include <kmoe/routing/router.hpp>

#include "core/log.hpp"

namespace kmoe::detail {

/// Shape of one view: every extent must equal what the config says.
template <class V, std::size_t N>
void expect_shape(std::string const& function, std::string const& name, V const& view,
                  std::array<std::pair<char const*, index_t>, N> const& wanted) {
  static_assert(V::rank() == N);
  for (std::size_t d = 0; d < N; ++d) {
    expect_extent(function,
                  name + ".extent(" + std::to_string(d) + ") must equal " + wanted[d].first,
                  wanted[d].second, static_cast<long long>(view.extent(d)), view.label());
  }
}

template <ExecutionSpace E, Element T>
void check_biases(std::string const& name, ExpertWeights<E, T> const& weights, index_t experts,
                  char const* rows, index_t gate_up, index_t hidden) {
  static std::string const function = "kmoe::MoeLayer";
  using Pair = std::pair<char const*, index_t>;
  if (weights.gate_up_bias.extent(0) != 0) {
    expect_shape<decltype(weights.gate_up_bias), 2>(
        function, name + ".gate_up_bias", weights.gate_up_bias,
        {Pair{"the number of local experts", experts}, Pair{rows, gate_up}});
  }
  if (weights.down_bias.extent(0) != 0) {
    expect_shape<decltype(weights.down_bias), 2>(
        function, name + ".down_bias", weights.down_bias,
        {Pair{"the number of local experts", experts}, Pair{"hidden_size", hidden}});
  }
}

/// User experts that `rank` hosts.
inline index_t num_user_experts(MoeConfig const& config, ExpertPlacement const& placement,
                                index_t rank) {
  auto const rank_of = placement.rank_of_expert();
  return static_cast<index_t>(
      std::count(rank_of.end() - config.num_user_experts, rank_of.end(), rank));
}

template <ExecutionSpace E, Element T>
void check_experts(std::string const& name, ExpertWeights<E, T> const& weights, index_t experts,
                   index_t hidden, index_t intermediate) {
  static std::string const function = "kmoe::MoeLayer";
  index_t const gate_up = weights.gated() ? 2 * intermediate : intermediate;
  auto const* const rows = weights.gated() ? "2 * intermediate_size" : "intermediate_size";
  if (experts == 0) return;  // a rank without experts may pass empty views of any shape
  using Pair = std::pair<char const*, index_t>;
  if (weights.quantized()) {
    auto const check = [&](std::string const& part, QuantizedTensor<E> const& tensor,
                           index_t rows_wanted, index_t columns) {
      validate(function, name + "." + part, tensor);
      expect_extent(function, name + "." + part + "'s experts must equal the local ones,", experts,
                    tensor.num_experts(), tensor.codes.label());
      expect_extent(function, name + "." + part + "'s rows must equal", rows_wanted, tensor.rows(),
                    tensor.codes.label());
      expect_extent(function, name + "." + part + "'s columns must equal", columns, tensor.columns,
                    tensor.codes.label());
    };
    check("gate_up", weights.quantized_gate_up, gate_up, hidden);
    check("down", weights.quantized_down, hidden, intermediate);
    return check_biases(name, weights, experts, rows, gate_up, hidden);
  }
  expect_shape<decltype(weights.gate_up), 3>(function, name + ".gate_up", weights.gate_up,
                                             {Pair{"the number of local experts", experts},
                                              Pair{rows, gate_up}, Pair{"hidden_size", hidden}});
  expect_shape<decltype(weights.down), 3>(
      function, name + ".down", weights.down,
      {Pair{"the number of local experts", experts}, Pair{"hidden_size", hidden},
       Pair{"intermediate_size", intermediate}});
  check_biases(name, weights, experts, rows, gate_up, hidden);
}

template <ExecutionSpace E, Element T>
void check_weights(MoeConfig const& config, ExpertPlacement const& placement, index_t rank,
                   LayerWeights<E, T> const& weights) {
  static std::string const function = "kmoe::MoeLayer";
  using Pair = std::pair<char const*, index_t>;
  index_t columns = config.num_router_columns();
  auto const rows = static_cast<index_t>(weights.router.weight.extent(0));
  if (rows != 0) {
    // A trained router need not know the user experts.
    if (config.num_user_experts > 0 && config.num_zero_experts == 0 &&
        rows == config.num_mlp_experts()) {
      columns = rows;
      expect(config.top_k <= columns, function,
             "top_k must be at most the rows of router.weight = " + std::to_string(columns),
             config.top_k);
      expect(columns % config.router.num_groups == 0, function,
             "router.num_groups must divide the rows of router.weight = " + std::to_string(columns),
             config.router.num_groups);
    }
    expect_shape<decltype(weights.router.weight), 2>(
        function, "router.weight", weights.router.weight,
        {Pair{"num_experts + num_zero_experts (or the MLP experts)", columns},
         Pair{"hidden_size", config.hidden_size}});
  }
  auto const check_bias = [&](char const* name, Vector<float const, E> const& view) {
    if (view.extent(0) == 0) return;
    expect_shape<Vector<float const, E>, 1>(function, name, view,
                                            {Pair{"num_experts + num_zero_experts", columns}});
  };
  check_bias("router.bias", weights.router.bias);
  check_bias("router.correction_bias", weights.router.correction_bias);
  check_experts("experts", weights.experts,
                placement.num_local(rank) - num_user_experts(config, placement, rank),
                config.hidden_size, config.intermediate_size);
  bool const has_shared = config.shared_intermediate_size > 0;
  check_experts("shared", weights.shared, has_shared ? 1 : 0, config.hidden_size,
                config.shared_intermediate_size);
  if (config.shared_expert_gate) {
    expect_shape<decltype(weights.shared_gate), 2>(
        function, "shared_gate", weights.shared_gate,
        {Pair{"the number of gates", 1}, Pair{"hidden_size", config.hidden_size}});
  }
}

/// Collective: every check of the constructor; throws the same error on every rank.
template <ExecutionSpace E, Element T>
void check_layer(Communicator const& comm, MoeConfig const& config,
                 ExpertPlacement const& placement, LayerWeights<E, T> const& weights,
                 index_t max_tokens) {
  static std::string const function = "kmoe::MoeLayer";
  agree(comm, [&] {
    validate(config);
    log_level();  // the same refusal of a wrong KMOE_LOG on every rank
    expect(max_tokens >= 0, function, "max_tokens_per_rank must not be negative", max_tokens);
    expect_extent(function, "placement.num_ranks() must equal the size of the communicator",
                  comm.size(), placement.num_ranks(), {});
    expect_extent(function, "placement.num_experts() must equal num_experts", config.num_experts,
                  placement.num_experts(), {});
    expect_extent(function, "placement.num_shared() must equal num_fused_shared_experts",
                  config.router.num_fused_shared_experts, placement.num_shared(), {});
    check_weights(config, placement, comm.rank(), weights);
  });
  agree_equal(comm, function,
              to_string(config) + to_string(placement) +
                  "\nmax_tokens_per_rank=" + std::to_string(max_tokens) +
                  "\nelement=" + std::string(to_string(data_type_of<T>)) +
                  "\ngated=" + (weights.experts.gated() ? "true" : "false") +
                  "\nquantization=" + to_string(weights.experts.scheme()) +
                  "\nshared_quantization=" + to_string(weights.shared.scheme()) + "\n");
}

/// The caller's workspace against what a layer takes.
template <ExecutionSpace E>
void check_memory(WorkspaceMemory const& memory, WorkspaceSize const& needed) {
  auto const check = [](char const* name, void* block, std::size_t found, std::size_t wanted) {
    static std::string const function = "kmoe::MoeLayer: workspace ";
    if (wanted == 0) return;
    if (block == nullptr || found < wanted) {
      throw InvalidArgument(function + name + " must have " + std::to_string(wanted) +
                            " bytes, found " + std::to_string(block == nullptr ? 0 : found));
    }
    if (reinterpret_cast<std::uintptr_t>(block) % Workspace<E>::alignment != 0) {
      throw InvalidArgument(function + name + " must be aligned to " +
                            std::to_string(Workspace<E>::alignment) + " bytes");
    }
  };
  check("device", memory.device, memory.size.device_bytes, needed.device_bytes);
  check("host", memory.host, memory.size.host_bytes, needed.host_bytes);
}

template <ExecutionSpace E, Element T>
void check_route(MoeConfig const& config, InMatrix<T, E> const& x, Routing<E> const& out,
                 bool has_router) {
  static std::string const function = "kmoe::MoeLayer::route";
  auto const tokens = static_cast<index_t>(x.extent(0));
  if (!has_router) throw InvalidArgument(function + ": the layer was built without router weights");
  expect_extent(function, "x.extent(1) must equal hidden_size", config.hidden_size,
                static_cast<long long>(x.extent(1)), x.label());
  for (auto const& extents : {std::pair(out.topk_ids.extent(0), out.topk_ids.extent(1)),
                              std::pair(out.topk_weights.extent(0), out.topk_weights.extent(1))}) {
    expect_extent(function, "the rows of topk_ids and topk_weights must be T =", tokens,
                  static_cast<long long>(extents.first), {});
    expect_extent(function,
                  "their columns must be top_k (+ fused shared) =", config.slots_per_token(),
                  static_cast<long long>(extents.second), {});
  }
  if (tokens > 0 && (x.data() == nullptr || out.topk_ids.data() == nullptr ||
                     out.topk_weights.data() == nullptr)) {
    throw InvalidArgument(function + ": x, topk_ids and topk_weights must not be null");
  }
}

/// Local checks of forward().
template <ExecutionSpace E, Element T>
void check_forward(MoeConfig const& config, index_t max_tokens, InMatrix<T, E> const& x,
                   Routing<E> const* routing, bool has_router, Matrix<T, E> const& y) {
  static std::string const function = "kmoe::MoeLayer::forward";
  auto const tokens = static_cast<long long>(x.extent(0));
  index_t const slots = config.slots_per_token();
  expect(tokens <= max_tokens, function,
         "x.extent(0) must be at most max_tokens_per_rank " + std::to_string(max_tokens), tokens);
  if (tokens > 0) {
    expect_extent(function, "x.extent(1) must equal hidden_size", config.hidden_size,
                  static_cast<long long>(x.extent(1)), x.label());
    expect_extent(function, "y.extent(1) must equal hidden_size", config.hidden_size,
                  static_cast<long long>(y.extent(1)), y.label());
  }
  expect_extent(
      function, config.no_combine ? "y.extent(0) must equal T * K" : "y.extent(0) must equal T",
      config.no_combine ? tokens * slots : tokens, static_cast<long long>(y.extent(0)), y.label());
  if (tokens > 0 && (x.data() == nullptr || y.data() == nullptr)) {
    throw InvalidArgument(function + ": x and y must not be null where there are tokens");
  }
  if (!x.span_is_contiguous() || !y.span_is_contiguous()) {
    throw InvalidArgument(function + ": the rows of x and y must lie back to back (View \"" +
                          (x.span_is_contiguous() ? y.label() : x.label()) + "\")");
  }
  if (tokens > 0 && x.data() < y.data() + y.size() && y.data() < x.data() + x.size()) {
    throw InvalidArgument(function + ": y must not overlap x (View \"" + y.label() + "\")");
  }
  if (routing == nullptr) {
    if (!has_router) {
      throw InvalidArgument(function +
                            ": the layer was built without router weights; use forward_routed");
    }
    return;
  }
  using Pair = std::pair<char const*, index_t>;
  auto const t = static_cast<index_t>(tokens);
  expect_shape<decltype(routing->topk_ids), 2>(
      function, "topk_ids", routing->topk_ids,
      {Pair{"T", t}, Pair{"top_k (+ fused shared)", slots}});
  expect_shape<decltype(routing->topk_weights), 2>(
      function, "topk_weights", routing->topk_weights,
      {Pair{"T", t}, Pair{"top_k (+ fused shared)", slots}});
  if (tokens > 0 &&
      (routing->topk_ids.data() == nullptr || routing->topk_weights.data() == nullptr)) {
    throw InvalidArgument(function +
                          ": topk_ids and topk_weights must not be null where there are tokens");
  }
}

}  // namespace kmoe::detail
