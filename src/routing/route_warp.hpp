// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Routing of one token by the lanes of a warp, or of a part of it: for devices. A row is read once
/// and its selection scores stay in registers, as integers of the same order. Follows route_row()
/// but for the order of sums, which here follows from the number of columns and of slots.

#include "device/warp.hpp"
#include "routing/route_row.hpp"

namespace kmoe::routing {

/// Order-preserving image of a selection score: NaN lowest, signed zeros equal, 0 below all.
KOKKOS_INLINE_FUNCTION std::uint32_t to_key(float c) {
  if (c != c) return 1;
  auto const bits = Kokkos::bit_cast<std::uint32_t>(c == 0.0F ? 0.0F : c);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}
KOKKOS_INLINE_FUNCTION float from_key(std::uint32_t key) {
  return Kokkos::bit_cast<float>((key >> 31) != 0 ? key ^ 0x80000000U : ~key);
}

/// `Lanes` lanes share a token; each holds `Items` columns, and up to four slots.
template <class E, int Lanes, int Items>
struct RouteByWarps {
  static constexpr index_t max_columns = Lanes * Items;
  static constexpr int slots_per_lane = 4;
  static constexpr std::uint32_t nan_key = 1;

  float const* logits;
  float const* bias;  // or null
  index_t* ids;
  float* weights;
  offset_t* counters;  // or null
  offset_t logits_stride, ids_stride, weights_stride;
  RouterOptions options;
  index_t num_tokens, num_valid, num_columns, num_slots;

  static bool suits(RouterOptions const& options, index_t num_columns, index_t top_k) {
    bool const ranks_groups = options.topk_groups < options.num_groups;
    return options.scoring != Scoring::sparse_mixer && num_columns <= max_columns &&
           top_k <= slots_per_lane * Lanes && (!ranks_groups || options.num_groups <= Lanes);
  }

  KOKKOS_FUNCTION void operator()(offset_t item) const {
    auto const lane = static_cast<index_t>(item % Lanes);
    offset_t const token = item / Lanes;
    bool const valid = token < num_valid;  // others take part in what concerns the whole warp
    index_t const top_k = num_slots - options.num_fused_shared_experts;
    float const* const row = logits + token * logits_stride;

    float values[Items];
    std::uint32_t faults = 0;
    KMOE_UNROLL
    for (int i = 0; i < Items; ++i) {
      index_t const e = lane + i * Lanes;
      values[i] = valid && e < num_columns ? row[e] : -infinity;
      if (!valid || e >= num_columns) continue;
      faults |= (values[i] != values[i] ? 1U : 0U) | (Kokkos::abs(values[i]) == infinity ? 2U : 0U);
    }
    Scorer score{options.scoring};
    if (options.scoring == Scoring::softmax) score.normalize(values, lane, num_columns);

    std::uint32_t keys[Items];
    KMOE_UNROLL
    for (int i = 0; i < Items; ++i) {
      index_t const e = lane + i * Lanes;
      float const l = values[i];
      float c = l == l ? score(l) : l;
      if (bias != nullptr && e < num_columns) c += bias[e];
      keys[i] = e < num_columns ? to_key(c) : 0;
    }
    std::uint32_t alive = ~0U;
    index_t group_size = num_columns;
    if (options.topk_groups < options.num_groups) {
      group_size = num_columns / options.num_groups;
      alive = best_groups(keys, lane, group_size);
      mask(keys, lane, group_size, alive);
    }

    index_t chosen[slots_per_lane];
    select(keys, lane, top_k, chosen);

    float w[slots_per_lane];
    KMOE_UNROLL
    for (int s = 0; s < slots_per_lane; ++s) {
      w[s] = 0.0F;
      if (s * Lanes >= top_k) continue;  // for all lanes
      if (valid && lane + s * Lanes < top_k) w[s] = score(nan_to_lowest(row[chosen[s]]));
    }
    weigh(w, chosen, lane, top_k, group_size, alive);

    faults = device::reduce<Lanes>(faults, [](auto a, auto b) { return a | b; });
    if (lane == 0 && valid && counters != nullptr) {
      if ((faults & 1U) != 0) Kokkos::atomic_inc(&counters[rows_with_nan]);
      if ((faults & 2U) != 0) Kokkos::atomic_inc(&counters[rows_with_inf]);
    }
    if (token >= num_tokens) return;
    index_t* const id_row = ids + token * ids_stride;
    float* const weight_row = weights + token * weights_stride;
    KMOE_UNROLL
    for (int s = 0; s < slots_per_lane; ++s) {
      index_t const k = lane + s * Lanes;
      if (k >= top_k) break;
      id_row[k] = valid ? chosen[s] : no_expert;
      weight_row[k] = valid ? w[s] : 0.0F;
    }
    for (index_t k = top_k + lane; k < num_slots; k += Lanes) {
      id_row[k] = valid ? num_columns + (k - top_k) : no_expert;
      weight_row[k] = valid ? 1.0F : 0.0F;
    }
  }

 private:
  /// Scores of a row, see Scores.
  struct Scorer {
    Scoring scoring;
    float max = 0.0F;
    float sum = 1.0F;

    KOKKOS_INLINE_FUNCTION void normalize(float const (&values)[Items], index_t lane,
                                          index_t columns) {
      max = -infinity;
      KMOE_UNROLL
      for (int i = 0; i < Items; ++i) max = values[i] > max ? values[i] : max;
      max = device::reduce<Lanes>(max, [](auto a, auto b) { return a > b ? a : b; });
      double total = 0;
      KMOE_UNROLL
      for (int i = 0; i < Items; ++i) {
        if (lane + i * Lanes < columns) total += exp_below(nan_to_lowest(values[i]), max);
      }
      sum = static_cast<float>(device::reduce<Lanes>(total, [](auto a, auto b) { return a + b; }));
    }
    KOKKOS_INLINE_FUNCTION float operator()(float l) const {
      if (scoring == Scoring::softmax) return exp_below(l, max) / sum;
      return scoring == Scoring::sigmoid ? sigmoid(l) : l;
    }
  };

  /// One bit for each group that survives.
  KOKKOS_INLINE_FUNCTION std::uint32_t best_groups(std::uint32_t const (&keys)[Items], index_t lane,
                                                   index_t size) const {
    std::uint32_t const lowest = to_key(-infinity);
    std::uint32_t own_key = 0;  // of the group with this lane's number
    for (index_t g = 0; g < options.num_groups; ++g) {
      std::uint32_t first = lowest, second = lowest;
      KMOE_UNROLL
      for (int i = 0; i < Items; ++i) {
        index_t const e = lane + i * Lanes;
        if (e < g * size || e >= (g + 1) * size) continue;
        if (keys[i] > first) {
          second = first;
          first = keys[i];
        } else if (keys[i] > second) {
          second = keys[i];
        }
      }
      std::uint32_t const best = device::max_over<Lanes>(first);
      std::uint32_t const owner =
          device::min_over<Lanes>(first == best ? static_cast<std::uint32_t>(lane) : Lanes);
      std::uint32_t const next =
          device::max_over<Lanes>(static_cast<std::uint32_t>(lane) == owner ? second : first);
      bool const one = options.group_score == GroupScore::max || size == 1;
      if (lane == g) own_key = to_key(one ? from_key(best) : from_key(best) + from_key(next));
    }
    std::uint32_t alive = 0;
    for (index_t n = 0; n < options.topk_groups; ++n) {
      std::uint32_t const best = device::max_over<Lanes>(own_key);
      std::uint32_t const group =
          device::min_over<Lanes>(own_key == best ? static_cast<std::uint32_t>(lane) : Lanes);
      alive |= 1U << group;
      if (static_cast<std::uint32_t>(lane) == group) own_key = 0;
    }
    return alive;
  }

  KOKKOS_INLINE_FUNCTION void mask(std::uint32_t (&keys)[Items], index_t lane, index_t size,
                                   std::uint32_t alive) const {
    std::uint32_t const masked = to_key(options.masked_score);
    KMOE_UNROLL
    for (int i = 0; i < Items; ++i) {
      index_t const e = lane + i * Lanes;
      if (e >= num_columns || keys[i] == nan_key) continue;
      if ((alive >> (e / size) & 1U) == 0) keys[i] = masked;
    }
  }

  /// The top_k best columns, best first: slot k is held by lane k % Lanes as its k / Lanes-th.
  KOKKOS_INLINE_FUNCTION void select(std::uint32_t (&keys)[Items], index_t lane, index_t top_k,
                                     index_t (&chosen)[slots_per_lane]) const {
    for (index_t k = 0; k < top_k; ++k) {
      std::uint32_t best = 0;
      index_t column = 0;
      KMOE_UNROLL
      for (int i = 0; i < Items; ++i) {
        if (keys[i] > best) {
          best = keys[i];
          column = lane + i * Lanes;
        }
      }
      std::uint32_t const winner = device::max_over<Lanes>(best);
      auto const id = static_cast<index_t>(device::min_over<Lanes>(
          best == winner && best != 0 ? static_cast<std::uint32_t>(column) : 0x7fffffffU));
      KMOE_UNROLL
      for (int i = 0; i < Items; ++i) {
        if (lane + i * Lanes == id) keys[i] = 0;
      }
      KMOE_UNROLL
      for (int s = 0; s < slots_per_lane; ++s) {
        if (lane + s * Lanes == k) chosen[s] = id;
      }
    }
  }

  /// Sum over the slots, in double.
  KOKKOS_INLINE_FUNCTION static float sum_of(float const (&w)[slots_per_lane]) {
    double total = 0;
    KMOE_UNROLL
    for (int s = 0; s < slots_per_lane; ++s) total += w[s];
    return static_cast<float>(device::reduce<Lanes>(total, [](auto a, auto b) { return a + b; }));
  }

  /// Scores of the slots as weights; those of slots that are not there stay 0.
  KOKKOS_INLINE_FUNCTION void weigh(float (&w)[slots_per_lane],
                                    index_t const (&chosen)[slots_per_lane], index_t lane,
                                    index_t top_k, index_t group_size, std::uint32_t alive) const {
    if (options.scoring == Scoring::topk_softmax) {
      float max = -infinity;
      KMOE_UNROLL
      for (int s = 0; s < slots_per_lane; ++s) {
        if (lane + s * Lanes < top_k && w[s] > max) max = w[s];
      }
      max = device::reduce<Lanes>(max, [](auto a, auto b) { return a > b ? a : b; });
      KMOE_UNROLL
      for (int s = 0; s < slots_per_lane; ++s) {
        w[s] = lane + s * Lanes < top_k ? exp_below(w[s], max) : 0.0F;
      }
      float const sum = sum_of(w);
      KMOE_UNROLL
      for (int s = 0; s < slots_per_lane; ++s) {
        if (s * Lanes < top_k) w[s] /= sum;
      }
    }
    KMOE_UNROLL
    for (int s = 0; s < slots_per_lane; ++s) {
      if (lane + s * Lanes >= top_k) continue;
      if (options.scoring == Scoring::topk_sigmoid) w[s] = sigmoid(w[s]);
      if (options.zero_masked_weights && (alive >> (chosen[s] / group_size) & 1U) == 0) w[s] = 0.0F;
    }
    if (options.renormalize) {
      float const sum = sum_of(w) + options.renormalize_epsilon;
      float const divisor = sum > options.renormalize_min_sum ? sum : options.renormalize_min_sum;
      KMOE_UNROLL
      for (int s = 0; s < slots_per_lane; ++s) {
        if (s * Lanes >= top_k) continue;
        w[s] = divisor > 0.0F ? w[s] / divisor : 1.0F / static_cast<float>(top_k);
      }
    }
    KMOE_UNROLL
    for (int s = 0; s < slots_per_lane; ++s) w[s] *= options.routed_scaling_factor;
  }
};

}  // namespace kmoe::routing
