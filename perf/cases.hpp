// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What is measured: shapes, numbers of tokens, routings, phases, and the least that each must
/// cost.

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "cli/presets.hpp"

namespace perf {

using kmoe::index_t;
using kmoe::offset_t;

/// `active` is the number of experts that have rows in the peers' uniform routing of these tokens
/// (follows from their floors, see peers.json); 0: all experts, or not known.
struct Tokens {
  index_t count = 0;
  index_t active = 0;
};

struct Shape {
  kmoe::cli::Preset size;
  std::vector<Tokens> tokens;
};

inline std::vector<Shape> peers_table() {
  using kmoe::cli::find_preset;
  std::vector<Tokens> const common{{1}, {8}, {64}, {256}, {1024}, {4096}, {16384}};
  auto const with_active = [&](std::vector<index_t> const& active) {
    auto tokens = common;
    for (std::size_t i = 0; i < active.size(); ++i) tokens[i].active = active[i];
    return tokens;
  };
  return {
      {*find_preset("mixtral-8x7b"), with_active({2, 7, 8})},
      {*find_preset("qwen3-30b-a3b"), with_active({8, 50, 126})},
      {*find_preset("deepseek-v3-ep8"), with_active({1, 8, 28})},
      {*find_preset("gpt-oss-120b"), with_active({4, 27, 110})},
      {*find_preset("surrogate"), {{64}, {1024}, {4096}, {16384}, {65536}, {262144}, {1000000}}}};
}

/// uniform: K distinct experts, all equally likely. zipf: expert e with probability ~ 1 / (e + 1).
/// one: every token has the same K experts (all on one expert where K = 1).
struct HostRouting {
  std::vector<index_t> ids;    ///< [T * K]
  std::vector<float> weights;  ///< [T * K], each token's add up to 1
  std::uint64_t seed = 0;
  index_t active = 0;  ///< experts that have rows
  offset_t most = 0;   ///< rows of the fullest one
};

inline HostRouting draw_routing(kmoe::cli::Preset const& size, index_t tokens,
                                std::string_view distribution, std::uint64_t seed) {
  auto const experts = static_cast<std::size_t>(size.num_experts);
  auto const top_k = static_cast<std::size_t>(size.top_k);
  std::vector<double> cumulative(experts);
  double total = 0;
  for (std::size_t e = 0; e < experts; ++e) {
    total += distribution == "zipf" ? 1.0 / static_cast<double>(e + 1) : 1.0;
    cumulative[e] = total;
  }
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  HostRouting out;
  out.seed = seed;
  std::vector<offset_t> rows(experts);
  auto const slots = static_cast<std::size_t>(tokens) * top_k;
  out.ids.reserve(slots);
  out.weights.reserve(slots);
  for (index_t t = 0; t < tokens; ++t) {
    auto const first = static_cast<std::ptrdiff_t>(out.ids.size());
    float sum = 0;
    for (std::size_t k = 0; k < top_k; ++k) {
      std::size_t e = k;
      while (distribution != "one") {
        auto const at =
            std::upper_bound(cumulative.begin(), cumulative.end() - 1, uniform(random) * total);
        e = static_cast<std::size_t>(at - cumulative.begin());
        auto const id = static_cast<index_t>(e);
        if (std::find(out.ids.begin() + first, out.ids.end(), id) == out.ids.end()) break;
      }
      ++rows[e];
      out.ids.push_back(static_cast<index_t>(e));
      out.weights.push_back(static_cast<float>(0.5 + uniform(random)));
      sum += out.weights.back();
    }
    for (auto w = out.weights.begin() + first; w != out.weights.end(); ++w) *w /= sum;
  }
  out.active =
      static_cast<index_t>(experts) - static_cast<index_t>(std::count(rows.begin(), rows.end(), 0));
  out.most = *std::max_element(rows.begin(), rows.end());
  return out;
}

/// The routing of the first seed that has as many active experts as the peers' had: with few tokens
/// the time is that of reading those experts' weights.
inline HostRouting make_routing(kmoe::cli::Preset const& size, Tokens const& tokens,
                                std::string_view distribution) {
  bool const any = tokens.active == 0 || distribution != "uniform";
  for (std::uint64_t seed = 1; seed <= 100000; ++seed) {
    auto routing = draw_routing(size, tokens.count, distribution, seed);
    if (any || routing.active == tokens.active) return routing;
  }
  throw std::runtime_error("no seed gives " + std::to_string(tokens.active) + " active experts");
}

/// whole: given routing -> y. permutation, experts (the two GEMMs and what lies between) and
/// combine are its parts; gate_up and down are plain grouped GEMMs of the experts' sizes.
inline constexpr std::array phases{"whole", "permutation", "experts", "gate_up", "down", "combine"};

/// The least work: weights of active experts, inputs and outputs once, from and to memory.
struct Work {
  double bytes = 0;
  double flops = 0;
  [[nodiscard]] double floor_seconds(double bytes_per_second, double flops_per_second) const {
    double const compute = flops_per_second > 0 ? flops / flops_per_second : 0;
    return std::max(bytes / bytes_per_second, compute);
  }
};

inline Work least_work(kmoe::cli::Preset const& size, index_t tokens, index_t active,
                       std::string_view phase, double element_bytes) {
  double const h = size.hidden_size;
  double const i = size.intermediate_size;
  double const t = tokens;
  double const m = t * size.top_k;
  auto const moved = [&](double elements) { return elements * element_bytes; };
  if (phase == "permutation") return {12 * m, 0};  // ids in, two permutations out
  if (phase == "experts") return {moved(3 * active * h * i + t * h + m * h), 6 * m * h * i};
  if (phase == "gate_up") return {moved(2 * active * h * i + m * h + 2 * m * i), 4 * m * h * i};
  if (phase == "down") return {moved(active * h * i + m * i + m * h), 2 * m * h * i};
  if (phase == "combine") return {moved(m * h + t * h) + 4 * m, m * h};
  return {moved(3 * active * h * i + 2 * t * h), 6 * m * h * i};
}

}  // namespace perf
