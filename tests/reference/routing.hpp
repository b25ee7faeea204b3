// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Routing from its definition, in double, one token at a time. Depends on nothing of kmoe.
///
/// Non-finite logits: NaN is selected last and counts as -inf in scores; see `softmax`.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace reference {

/// [rows of x, rows of w]: x . w^T (+ bias), all row-major.
inline std::vector<double> router_logits(std::vector<double> const& x, std::vector<double> const& w,
                                         std::vector<double> const& bias, std::size_t hidden) {
  std::vector<double> logits;
  std::size_t const columns = w.size() / hidden;
  for (std::size_t t = 0; t < x.size() / hidden; ++t) {
    for (std::size_t e = 0; e < columns; ++e) {
      double sum = bias.empty() ? 0 : bias[e];
      for (std::size_t h = 0; h < hidden; ++h) sum += x[t * hidden + h] * w[e * hidden + h];
      logits.push_back(sum);
    }
  }
  return logits;
}

enum class Router { softmax, sigmoid, topk_softmax, topk_sigmoid, sparse_mixer };

struct RouterRules {
  Router kind = Router::softmax;
  int top_k = 1;
  int num_groups = 1;
  int topk_groups = 1;
  bool group_by_two_best = false;
  double masked_score = 0;
  bool zero_masked_weights = false;
  bool renormalize = false;
  double epsilon = 0;
  double min_sum = 0;
  double scale = 1;
  double jitter = 0.01;
};

struct Routed {
  std::vector<int> ids;
  std::vector<double> weights;
  std::vector<double> selection;  ///< [experts], what the ids were selected by
};

namespace router_detail {

inline constexpr double infinity = std::numeric_limits<double>::infinity();

inline double sigmoid(double l) {
  return 1 / (1 + std::exp(-l));
}

/// Softmax of the entries with use[i] (the others get 0). Infinite maxima share equally.
inline std::vector<double> softmax(std::vector<double> const& l, std::vector<bool> const& use) {
  double max = -infinity;
  for (std::size_t i = 0; i < l.size(); ++i) {
    if (use[i]) max = std::max(max, l[i]);
  }
  std::vector<double> p(l.size(), 0.0);
  for (std::size_t i = 0; i < l.size(); ++i) {
    if (use[i]) p[i] = l[i] == max ? 1 : std::exp(l[i] - max);
  }
  double const sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& v : p) v /= sum;
  return p;
}
inline std::vector<double> softmax(std::vector<double> const& l) {
  return softmax(l, std::vector<bool>(l.size(), true));
}

/// Indices by descending score, NaN last, ties ascending.
inline std::vector<int> ranking(std::vector<double> const& score) {
  std::vector<int> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    if (std::isnan(score[a]) || std::isnan(score[b])) {
      return !std::isnan(score[a]) && std::isnan(score[b]);
    }
    return score[a] > score[b];
  });
  return order;
}

/// Which experts are in one of the best groups by `selection`.
inline std::vector<bool> surviving(std::vector<double> const& selection, RouterRules const& rules) {
  std::size_t const size = selection.size() / rules.num_groups;
  std::vector<double> group_score;
  for (int g = 0; g < rules.num_groups; ++g) {
    std::vector<double> members(selection.begin() + g * size, selection.begin() + (g + 1) * size);
    for (double& m : members) m = std::isnan(m) ? -infinity : m;
    std::sort(members.rbegin(), members.rend());
    group_score.push_back(rules.group_by_two_best && size > 1 ? members[0] + members[1]
                                                              : members[0]);
  }
  std::vector<int> const order = ranking(group_score);
  std::vector<bool> alive(selection.size(), false);
  for (int n = 0; n < rules.topk_groups; ++n) {
    for (std::size_t i = 0; i < size; ++i) alive[order[n] * size + i] = true;
  }
  return alive;
}

/// The sparse mixer in inference: up to two rounds of a softmax over the experts near the best.
inline Routed mix_sparsely(std::vector<double> const& raw, std::vector<double> const& l,
                           RouterRules const& rules) {
  Routed out;
  out.selection = raw;
  std::vector<int> const order = ranking(raw);
  std::vector<bool> left(l.size(), true);
  for (int k = 0; k < rules.top_k; ++k) {
    int const best = order[k];
    std::vector<bool> near = left;
    for (std::size_t e = 0; e < l.size(); ++e) {
      double const factor = std::max(std::abs(l[e]), l[best]);
      if ((l[best] - l[e]) / factor > 2 * rules.jitter) near[e] = false;
    }
    out.ids.push_back(best);
    out.weights.push_back(softmax(l, near)[best]);
    left[best] = false;
  }
  return out;
}

}  // namespace router_detail

/// Routes one token. `bias` may be empty.
template <class Logit>
Routed route(std::vector<Logit> const& logits, std::vector<double> const& bias,
             RouterRules const& rules) {
  using namespace router_detail;
  std::vector<double> const raw(logits.begin(), logits.end());
  std::vector<double> l = raw;
  for (double& v : l) v = std::isnan(v) ? -infinity : v;
  std::size_t const n = raw.size();
  Routed out;
  if (rules.kind == Router::sparse_mixer) {
    out = mix_sparsely(raw, l, rules);
  } else {
    std::vector<double> scores = l;
    if (rules.kind == Router::softmax) scores = softmax(l);
    if (rules.kind == Router::sigmoid) {
      for (double& s : scores) s = sigmoid(s);
    }
    out.selection = scores;
    for (std::size_t e = 0; e < n; ++e) {
      if (!bias.empty()) out.selection[e] += bias[e];
      if (std::isnan(raw[e])) out.selection[e] = raw[e];
    }
    std::vector<bool> const alive = surviving(out.selection, rules);
    for (std::size_t e = 0; e < n; ++e) {
      if (!alive[e] && !std::isnan(raw[e])) out.selection[e] = rules.masked_score;
    }
    out.ids = ranking(out.selection);
    out.ids.resize(rules.top_k);
    for (int const id : out.ids) out.weights.push_back(scores[id]);
    if (rules.kind == Router::topk_softmax) out.weights = softmax(out.weights);
    if (rules.kind == Router::topk_sigmoid) {
      for (double& w : out.weights) w = sigmoid(w);
    }
    for (int k = 0; k < rules.top_k; ++k) {
      if (rules.zero_masked_weights && !alive[out.ids[k]]) out.weights[k] = 0;
    }
  }
  if (rules.renormalize) {
    double const sum = std::accumulate(out.weights.begin(), out.weights.end(), 0.0);
    double const divisor = std::max(sum + rules.epsilon, rules.min_sum);
    for (double& w : out.weights) w = divisor > 0 ? w / divisor : 1.0 / rules.top_k;
  }
  for (double& w : out.weights) w *= rules.scale;
  return out;
}

}  // namespace reference
