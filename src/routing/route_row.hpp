// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Routing of one token by one thread. Scores are recomputed where they are needed instead of kept:
/// a row needs no scratch of E numbers, and the list of the K best grows in the output row. Sums
/// are carried in double: hundreds of positive terms in float would lose two digits.

#include <kmoe/routing/router.hpp>

namespace kmoe::routing {

inline constexpr float infinity = Kokkos::Experimental::infinity_v<float>;

struct RowFaults {
  bool nan = false;
  bool inf = false;
};

/// The order of selection: strictly greater, NaN below everything.
KOKKOS_INLINE_FUNCTION bool better(float a, float b) {
  return a > b || (b != b && a == a);
}

KOKKOS_INLINE_FUNCTION float nan_to_lowest(float v) {
  return v == v ? v : -infinity;
}

/// exp(l - max), 1 at the maximum also where that is infinite. Neither is NaN.
KOKKOS_INLINE_FUNCTION float exp_below(float l, float max) {
  return l == max ? 1.0F : Kokkos::exp(l - max);
}

KOKKOS_INLINE_FUNCTION float sigmoid(float l) {
  return 1.0F / (1.0F + Kokkos::exp(-l));
}

KOKKOS_INLINE_FUNCTION RowFaults find_faults(float const* logits, index_t n) {
  RowFaults faults;
  for (index_t e = 0; e < n; ++e) {
    faults.nan |= logits[e] != logits[e];
    faults.inf |= Kokkos::abs(logits[e]) == infinity;
  }
  return faults;
}

KOKKOS_INLINE_FUNCTION float max_of(float const* logits, index_t n) {
  float max = -infinity;
  for (index_t e = 0; e < n; ++e) max = logits[e] > max ? logits[e] : max;
  return max;
}

/// Scores of one row: what the logits become before the selection.
template <Scoring scoring>
struct Scores {
  float const* logits;
  float max = 0.0F;
  float sum = 0.0F;

  KOKKOS_INLINE_FUNCTION Scores(float const* row, index_t n) : logits(row) {
    if constexpr (scoring == Scoring::softmax) {
      max = max_of(row, n);
      double total = 0;
      for (index_t e = 0; e < n; ++e) total += exp_below(nan_to_lowest(row[e]), max);
      sum = static_cast<float>(total);
    }
  }

  KOKKOS_INLINE_FUNCTION float operator()(index_t e) const {
    float const l = nan_to_lowest(logits[e]);
    if constexpr (scoring == Scoring::softmax) return exp_below(l, max) / sum;
    if constexpr (scoring == Scoring::sigmoid) return sigmoid(l);
    return l;
  }
};

/// Selection scores: scores plus bias, NaN where the logit is.
template <Scoring scoring>
struct SelectionScores {
  Scores<scoring> scores;
  float const* bias;  // may be null

  KOKKOS_INLINE_FUNCTION float operator()(index_t e) const {
    float const l = scores.logits[e];
    if (l != l) return l;
    return bias == nullptr ? scores(e) : scores(e) + bias[e];
  }
};

/// Which groups of experts survive.
struct Groups {
  index_t size;
  bool all = true;
  bool alive[max_router_groups];

  KOKKOS_INLINE_FUNCTION bool survives(index_t e) const { return all || alive[e / size]; }

  template <class Selection>
  KOKKOS_INLINE_FUNCTION Groups(RouterOptions const& options, index_t num_columns,
                                Selection const& selection)
      : size(num_columns / options.num_groups), all(options.topk_groups == options.num_groups) {
    if (all) return;
    float score[max_router_groups];
    for (index_t g = 0; g < options.num_groups; ++g) {
      alive[g] = false;
      float first = -infinity;
      float second = -infinity;
      for (index_t e = g * size; e < (g + 1) * size; ++e) {
        float const c = selection(e);
        if (c > first) {
          second = first;
          first = c;
        } else if (c > second) {
          second = c;
        }
      }
      bool const one = options.group_score == GroupScore::max || size == 1;
      score[g] = one ? first : first + second;
    }
    for (index_t n = 0; n < options.topk_groups; ++n) {
      index_t best = -1;
      for (index_t g = 0; g < options.num_groups; ++g) {
        if (!alive[g] && (best < 0 || better(score[g], score[best]))) best = g;
      }
      alive[best] = true;
    }
  }
};

/// Puts the top_k best experts into ids, best first, with their selection scores in `scores`.
template <class Selection>
KOKKOS_INLINE_FUNCTION void select_top_k(index_t num_columns, Selection const& selection,
                                         index_t* ids, float* scores, index_t top_k) {
  index_t count = 0;
  for (index_t e = 0; e < num_columns; ++e) {
    float const c = selection(e);
    if (count == top_k && !better(c, scores[top_k - 1])) continue;
    index_t k = count < top_k ? count++ : top_k - 1;
    for (; k > 0 && better(c, scores[k - 1]); --k) {
      scores[k] = scores[k - 1];
      ids[k] = ids[k - 1];
    }
    scores[k] = c;
    ids[k] = e;
  }
}

template <Scoring scoring>
KOKKOS_INLINE_FUNCTION void select_and_weigh(RouterOptions const& options, float const* logits,
                                             index_t num_columns, float const* bias, index_t* ids,
                                             float* weights, index_t top_k) {
  Scores<scoring> const scores(logits, num_columns);
  SelectionScores<scoring> const selection{scores, bias};
  Groups const groups(options, num_columns, selection);
  auto const masked = [&](index_t e) {
    float const c = selection(e);
    return c != c || groups.survives(e) ? c : options.masked_score;
  };
  if (groups.all) {
    select_top_k(num_columns, selection, ids, weights, top_k);
  } else {
    select_top_k(num_columns, masked, ids, weights, top_k);
  }

  for (index_t k = 0; k < top_k; ++k) weights[k] = scores(ids[k]);
  if constexpr (scoring == Scoring::topk_softmax) {
    float const max = max_of(weights, top_k);
    double total = 0;
    for (index_t k = 0; k < top_k; ++k) total += exp_below(weights[k], max);
    auto const sum = static_cast<float>(total);
    for (index_t k = 0; k < top_k; ++k) weights[k] = exp_below(weights[k], max) / sum;
  }
  if constexpr (scoring == Scoring::topk_sigmoid) {
    for (index_t k = 0; k < top_k; ++k) weights[k] = sigmoid(weights[k]);
  }
  if (options.zero_masked_weights) {
    for (index_t k = 0; k < top_k; ++k) {
      if (!groups.survives(ids[k])) weights[k] = 0.0F;
    }
  }
}

/// One round of the sparse mixer among all experts but `taken`: the best one and its weight. The
/// threshold is that of transformers in inference: (m - l) / max(|l|, m), where m may be negative;
/// 0 / 0 and inf / inf compare false, which keeps the expert.
KOKKOS_INLINE_FUNCTION void mix_sparsely(float const* logits, index_t num_columns, index_t taken,
                                         float jitter_epsilon, index_t& id, float& weight) {
  id = -1;
  for (index_t e = 0; e < num_columns; ++e) {
    if (e != taken && (id < 0 || better(logits[e], logits[id]))) id = e;
  }
  float const max = nan_to_lowest(logits[id]);
  double sum = 0;
  for (index_t e = 0; e < num_columns; ++e) {
    float const l = nan_to_lowest(logits[e]);
    float const size = Kokkos::abs(l) > max ? Kokkos::abs(l) : max;
    if (e != taken && !((max - l) / size > 2.0F * jitter_epsilon)) sum += exp_below(l, max);
  }
  weight = 1.0F / static_cast<float>(sum);
}

/// Routes one token: K ids and weights.
template <Scoring scoring>
KOKKOS_INLINE_FUNCTION RowFaults route_row(RouterOptions const& options, float const* logits,
                                           index_t num_columns, float const* bias, index_t* ids,
                                           float* weights, index_t top_k) {
  if constexpr (scoring == Scoring::sparse_mixer) {
    for (index_t k = 0; k < top_k; ++k) {
      mix_sparsely(logits, num_columns, k == 0 ? -1 : ids[0], options.jitter_epsilon, ids[k],
                   weights[k]);
    }
  } else {
    select_and_weigh<scoring>(options, logits, num_columns, bias, ids, weights, top_k);
  }
  if (options.renormalize) {
    double total = 0;
    for (index_t k = 0; k < top_k; ++k) total += weights[k];
    float const sum = static_cast<float>(total) + options.renormalize_epsilon;
    float const divisor = sum > options.renormalize_min_sum ? sum : options.renormalize_min_sum;
    for (index_t k = 0; k < top_k; ++k) {
      weights[k] = divisor > 0.0F ? weights[k] / divisor : 1.0F / static_cast<float>(top_k);
    }
  }
  for (index_t k = 0; k < top_k; ++k) weights[k] *= options.routed_scaling_factor;
  return find_faults(logits, num_columns);
}

}  // namespace kmoe::routing
