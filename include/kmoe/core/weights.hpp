// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The weights of one MoE block as one rank holds them. Views share ownership: the caller may drop
/// its own after a layer is built. Rows are output features ("N, K" order), as in checkpoints.

#include <kmoe/core/options.hpp>
#include <kmoe/core/quantization.hpp>
#include <kmoe/core/types.hpp>

namespace kmoe KMOE_API {

/// Router: row e of `weight` scores expert e. Every rank holds the whole router. With user experts
/// and no zero experts it may leave out the user experts' rows: [E - U, H], as a trained model
/// would; then only the caller's own routing reaches them.
template <ExecutionSpace E, Element T>
struct RouterWeights {
  Matrix<T const, E> weight;               ///< [E + Z, H]
  Vector<float const, E> bias;             ///< [E + Z], added to the logits; extent 0 = none
  Vector<float const, E> correction_bias;  ///< [E + Z], for selection only; extent 0 = none
};

/// Experts of one rank in local slot order (ascending global id, fused shared experts last). Gated
/// experts have 2I gate_up rows ordered by `layout`, plain ones I rows. User experts have no
/// weights and are not counted in El here.
template <ExecutionSpace E, Element T>
struct ExpertWeights {
  Tensor3<T const, E> gate_up;                     ///< [El, 2I or I, H] (w13)
  Tensor3<T const, E> down;                        ///< [El, H, I] (w2)
  Matrix<accumulate_t<T> const, E> gate_up_bias;   ///< [El, 2I or I]; extent 0 = none
  Matrix<accumulate_t<T> const, E> down_bias;      ///< [El, H]; extent 0 = none
  GateUpLayout layout = GateUpLayout::gate_first;  ///< order of the rows of gate_up
  /// Quantized experts: in place of gate_up and down, which are then empty; both of one scheme.
  QuantizedTensor<E> quantized_gate_up = {};
  QuantizedTensor<E> quantized_down = {};

  [[nodiscard]] bool gated() const { return layout != GateUpLayout::plain; }
  [[nodiscard]] bool quantized() const { return quantized_gate_up.quantized(); }
  [[nodiscard]] QuantScheme const& scheme() const { return quantized_gate_up.scheme; }
  [[nodiscard]] index_t num_experts() const {
    return quantized() ? quantized_gate_up.num_experts() : static_cast<index_t>(gate_up.extent(0));
  }
  [[nodiscard]] index_t hidden_size() const {
    return quantized() ? quantized_gate_up.columns : static_cast<index_t>(gate_up.extent(2));
  }
  [[nodiscard]] index_t intermediate_size() const {
    return quantized() ? quantized_down.columns : static_cast<index_t>(down.extent(2));
  }
};

/// Everything a rank holds of one block.
template <ExecutionSpace E, Element T>
struct LayerWeights {
  RouterWeights<E, T> router;
  ExpertWeights<E, T> experts;
  /// The shared expert as a group of one: gate_up [1, 2Is, H], down [1, H, Is]; extent 0 = none.
  ExpertWeights<E, T> shared;
  /// [1, H] gate of the shared expert; extent 0 = none.
  Matrix<T const, E> shared_gate;
};

}  // namespace KMOE_API
