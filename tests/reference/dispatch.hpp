// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What the slots of a token add up to, whoever computes them: the specification in plain loops.

#include <cstddef>
#include <vector>

#include "reference/permutation.hpp"

namespace reference {

/// Ids 0..experts-1 have weights (shared ones included), the next zero_experts give the token back,
/// all others give nothing.
struct SlotSpec {
  int experts = 0;
  int zero_experts = 0;

  [[nodiscard]] bool has_weights(int id) const { return id >= 0 && id < experts; }
  [[nodiscard]] bool is_zero_expert(int id) const {
    return id >= experts && id - experts < zero_experts;
  }
};

/// values[slot, h] = expert(id, token, h), x for a zero expert, 0 for a slot without expert.
template <class Expert>
std::vector<double> slot_values(SlotSpec const& spec, std::vector<int> const& ids,
                                int slots_per_token, std::vector<double> const& x,
                                std::size_t hidden, Expert&& expert) {
  std::vector<double> values(ids.size() * hidden, 0.0);
  for (std::size_t slot = 0; slot < ids.size(); ++slot) {
    std::size_t const token = slot / static_cast<std::size_t>(slots_per_token);
    for (std::size_t h = 0; h < hidden; ++h) {
      if (spec.has_weights(ids[slot])) values[slot * hidden + h] = expert(ids[slot], token, h);
      if (spec.is_zero_expert(ids[slot])) values[slot * hidden + h] = x[token * hidden + h];
    }
  }
  return values;
}

/// y[t, h] = sum over k of weights[t, k] * values[t * K + k, h] + addend[t, h] (may be empty)
inline std::vector<Sum> weighted_sum(std::vector<double> const& values,
                                     std::vector<double> const& weights, int slots_per_token,
                                     std::vector<double> const& addend, std::size_t hidden) {
  auto const num_slots = static_cast<std::size_t>(slots_per_token);
  std::vector<Sum> y(weights.size() / num_slots * hidden);
  for (std::size_t i = 0; i < y.size(); ++i) {
    std::size_t const token = i / hidden;
    for (std::size_t slot = token * num_slots; slot < (token + 1) * num_slots; ++slot) {
      y[i].add(weights[slot], values[slot * hidden + i % hidden]);
    }
    if (!addend.empty()) y[i].add(addend[i]);
  }
  return y;
}

}  // namespace reference
