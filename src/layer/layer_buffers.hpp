// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The buffers between the steps of one chunk, and the bytes that a layer needs in all.

#include <kmoe/dispatch/all_to_all_dispatcher.hpp>
#include <kmoe/dispatch/standard_dispatcher.hpp>
#include <kmoe/experts/expert_mlp.hpp>

namespace kmoe::detail {

/// What the sizes of a layer on one rank follow from.
struct LayerShape {
  MoeConfig config;
  index_t num_ranks = 1;
  index_t num_mlp = 0;   ///< experts with weights on this rank
  index_t num_user = 0;  ///< user experts on this rank: the last of its El experts
  index_t chunk = 0;     ///< tokens per rank in flight
  bool gated = true;
  QuantScheme experts = {}, shared = {};

  [[nodiscard]] index_t num_local() const { return num_mlp + num_user; }
  [[nodiscard]] DispatchShape dispatch() const { return {config, num_ranks, chunk}; }
  /// Rows that this rank can be asked to compute: none where no expert lives.
  [[nodiscard]] index_t max_rows() const { return rows_if(num_local() > 0); }
  [[nodiscard]] index_t max_mlp_rows() const { return rows_if(num_mlp > 0); }
  [[nodiscard]] index_t max_user_rows() const { return rows_if(num_user > 0); }

 private:
  [[nodiscard]] index_t rows_if(bool any) const {
    return any ? dispatch().max_dispatched_rows() : 0;
  }
};

template <ExecutionSpace E, Element T>
struct LayerBuffers {
  RouterScratch<E, T> router_scratch;
  Matrix<float, E> logits;                // [chunk, E + Z]
  Routing<E> routing;                     // [chunk, K + S]
  Permutation<E> permutation;             // of the received slots
  Vector<index_t, E> mask_map;            // [E + S]
  Matrix<T, E> rows;                      // [max_rows, H]
  Matrix<T, E> user_x;                    // [max_user_rows, H]
  Vector<index_t, E> user_ids;            // [user experts of this rank]
  Matrix<T, E> shared;                    // [chunk, H]
  Matrix<float, E> shared_gate;           // [chunk, 1]
  RouterCounters<E> router_counters;      // [num_router_counters]
  Vector<offset_t, E> rows_per_expert;    // [El]
  Vector<offset_t, E> routed_per_expert;  // [E + S + Z]

  void bind(Workspace<E>& ws, LayerShape const& shape) {
    MoeConfig const& config = shape.config;
    auto const slots = config.slots_per_token();
    router_scratch.bind(ws, config.num_router_columns(), config.hidden_size);
    logits = ws.template matrix<float>(shape.chunk, config.num_router_columns());
    routing.topk_ids = ws.template matrix<index_t>(shape.chunk, slots);
    routing.topk_weights = ws.template matrix<float>(shape.chunk, slots);
    permutation.bind(ws, shape.dispatch().max_dispatched_tokens(), slots, shape.num_local());
    mask_map = ws.template vector<index_t>(config.num_placed_experts());
    rows = ws.template matrix<T>(shape.max_rows(), config.hidden_size);
    user_x = ws.template matrix<T>(shape.max_user_rows(), config.hidden_size);
    user_ids = ws.template vector<index_t>(shape.num_user);
    if (config.shared_intermediate_size > 0) {
      shared = ws.template matrix<T>(shape.chunk, config.hidden_size);
      shared_gate = ws.template matrix<float>(shape.chunk, 1);
    }
    router_counters = ws.template vector<offset_t>(num_router_counters);
    rows_per_expert = ws.template vector<offset_t>(shape.num_local());
    routed_per_expert =
        ws.template vector<offset_t>(config.num_placed_experts() + config.num_zero_experts);
  }
};

/// Everything that a layer of this shape binds: the same calls as in its constructor, on a
/// workspace that only counts.
template <ExecutionSpace E, Element T>
Workspace<E> count_workspace(E const& exec, LayerShape const& shape) {
  MoeConfig const& config = shape.config;
  Workspace<E> ws;
  LayerBuffers<E, T>{}.bind(ws, shape);
  if (config.dispatcher == DispatcherKind::standard) {
    StandardDispatcher<E, T>::bind_shape(ws, shape.dispatch());
  } else {
    AllToAllDispatcher<E, T>::bind_shape(ws, shape.dispatch());
  }
  ExpertMlp<E, T>::bind_shape(exec, ws, config.hidden_size, config.intermediate_size, shape.gated,
                              shape.max_mlp_rows(), shape.experts,
                              shape.dispatch().max_dispatched_tokens());
  if (config.shared_intermediate_size > 0) {
    ExpertMlp<E, T>::bind_shape(exec, ws, config.hidden_size, config.shared_intermediate_size,
                                shape.gated, shape.chunk, shape.shared);
  }
  return ws;
}

}  // namespace kmoe::detail
