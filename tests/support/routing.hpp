// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// kmoe's router options in the words of the reference.

#include <kmoe/core/options.hpp>

#include "reference/routing.hpp"

namespace kmoe::test {

inline reference::RouterRules router_rules(RouterOptions const& options, index_t top_k) {
  reference::RouterRules rules;
  switch (options.scoring) {
    case Scoring::softmax:
      rules.kind = reference::Router::softmax;
      break;
    case Scoring::sigmoid:
      rules.kind = reference::Router::sigmoid;
      break;
    case Scoring::topk_softmax:
      rules.kind = reference::Router::topk_softmax;
      break;
    case Scoring::topk_sigmoid:
      rules.kind = reference::Router::topk_sigmoid;
      break;
    case Scoring::sparse_mixer:
      rules.kind = reference::Router::sparse_mixer;
      break;
  }
  rules.top_k = top_k;
  rules.num_groups = options.num_groups;
  rules.topk_groups = options.topk_groups;
  rules.group_by_two_best = options.group_score == GroupScore::top2_sum;
  rules.masked_score = options.masked_score;
  rules.zero_masked_weights = options.zero_masked_weights;
  rules.renormalize = options.renormalize;
  rules.epsilon = options.renormalize_epsilon;
  rules.min_sum = options.renormalize_min_sum;
  rules.scale = options.routed_scaling_factor;
  rules.jitter = options.jitter_epsilon;
  return rules;
}

}  // namespace kmoe::test
