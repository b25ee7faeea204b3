// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// A multiplication in the words of Hopper's kernels.

#include <cstdint>
#include <type_traits>

#include "device/sm90/experts.hpp"
#include "gemm/device_gemm.hpp"

namespace kmoe::detail {

namespace sm90 = device::sm90;

inline sm90::Act act_of(Activation activation) {
  switch (activation) {
    case Activation::silu:
      return sm90::Act::silu;
    case Activation::gelu_erf:
      return sm90::Act::gelu_erf;
    case Activation::gelu_tanh:
      return sm90::Act::gelu_tanh;
    case Activation::relu:
      return sm90::Act::relu;
    case Activation::relu2:
      return sm90::Act::relu2;
    case Activation::swiglu_oai:
      break;
  }
  return sm90::Act::swiglu_oai;
}

inline sm90::Halves halves_of(GateUpLayout layout) {
  switch (layout) {
    case GateUpLayout::plain:
      return sm90::Halves::none;
    case GateUpLayout::gate_first:
      return sm90::Halves::gate_first;
    case GateUpLayout::up_first:
      return sm90::Halves::up_first;
    case GateUpLayout::interleaved:
      break;
  }
  return sm90::Halves::interleaved;
}

template <Element T>
sm90::Product product_of(DeviceGemm<T> const& g) {
  sm90::Product p{};
  p.b = g.b;
  p.features = static_cast<int>(g.rows_of_b());
  p.k = static_cast<int>(g.k);
  p.halves = halves_of(g.layout);
  p.in = g.x;
  p.gather = g.slots_per_row != 0;
  if constexpr (std::is_same_v<accumulate_t<T>, float>) p.bias = g.bias;
  p.act = g.activated || g.gated() ? act_of(g.options.activation) : sm90::Act::identity;
  p.alpha = g.options.swiglu_alpha;
  p.limit = g.options.swiglu_limit;
  p.weights = g.output_weights;
  p.out = g.out;
  return p;
}

/// All rows of one product, or of two of an MLP; `second` may be null.
template <Element T>
sm90::Work work_of(DeviceGemm<T> const& first, DeviceGemm<T> const* second, std::uint32_t* counters,
                   MlpStages const& stages) {
  sm90::Work work{};
  work.products[0] = product_of(first);
  if (second != nullptr) work.products[1] = product_of(*second);
  work.count = second == nullptr ? 1 : 2;
  work.groups = first.groups;
  work.offsets = first.offsets;
  work.slots = first.slots;
  work.slots_per_row = first.slots_per_row == 0 ? 1 : first.slots_per_row;
  work.rows = first.row_end;
  work.tokens = first.x_rows;
  work.counters = counters;
  work.ids = stages.ids;
  work.num_slots = stages.num_slots;
  work.offsets_out = stages.offsets;
  work.slots_out = stages.slots;
  work.row_of_slot = stages.row_of_slot;
  work.rows_per_group = stages.rows_per_group;
  work.y = stages.y;
  return work;
}

/// What the kernels ask of a product beside sizes.
template <Element T>
bool is_whole(DeviceGemm<T> const& first) {
  return first.row_begin == 0 && first.x_first == 0 && first.out_first == 0 &&
         first.input_weights == nullptr;
}

}  // namespace kmoe::detail
