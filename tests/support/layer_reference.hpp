// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What a layer must compute, in plain loops, and the error that every rank must see.

#include <array>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <mpi.h>

#include "reference/expert_mlp.hpp"
#include "support/layer_model.hpp"
#include "support/tolerance.hpp"

namespace kmoe::test {

/// What() of the error that `call` throws on this rank, after checking that every rank has the
/// same.
template <class Exception, class F>
std::string error_of(F const& call) {
  std::string what = "no error";
  try {
    call();
  } catch (Exception const& error) {
    what = error.what();
  }
  std::array<char, 1024> mine{}, first{};
  what.copy(mine.data(), mine.size() - 1);
  first = mine;
  MPI_Bcast(first.data(), int(first.size()), MPI_CHAR, 0, MPI_COMM_WORLD);
  EXPECT_STREQ(mine.data(), first.data());
  return what;
}

inline bool contains(std::string const& text, std::string const& part) {
  return text.find(part) != std::string::npos;
}

inline std::vector<double> doubles(auto const& view, std::size_t begin, std::size_t count) {
  std::vector<double> out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = double(view.data()[begin + i]);
  return out;
}

/// Element h of what a user expert makes of a token x.
using UserReference = std::function<double(int expert, double const* x, std::size_t h)>;

/// y of the caller's routing in plain loops: each slot's expert in float64, added per token.
/// `bound` receives what the error of each element is measured by. User experts are `user`, which
/// the layer is assumed to compute with errors of a few roundings.
template <class T>
std::vector<double> reference_layer(LayerModel const& model, std::vector<int> const& ids,
                                    std::vector<float> const& weights, std::vector<double> const& x,
                                    std::vector<double>& bound, UserReference const& user = {}) {
  auto const& config = model.config;
  std::size_t const hidden = config.hidden_size, slots = config.slots_per_token();
  std::vector<index_t> all(config.num_mlp_experts());
  std::iota(all.begin(), all.end(), 0);
  auto const w = model.weights<Kokkos::DefaultHostExecutionSpace, T>(all).experts;
  std::vector<double> y(x.size(), 0.0);
  bound.assign(x.size(), 0.0);
  for (std::size_t slot = 0; slot < ids.size(); ++slot) {
    if (ids[slot] < 0 || ids[slot] >= config.num_experts) continue;
    std::size_t const e = ids[slot], t = slot / slots;
    if (ids[slot] >= config.num_mlp_experts()) {
      for (std::size_t h = 0; h < hidden; ++h) {
        double const value = weights[slot] * user(ids[slot], &x[t * hidden], h);
        y[t * hidden + h] += value;
        bound[t * hidden + h] += tolerance<T>(4, std::abs(value));
      }
      continue;
    }
    std::size_t const rows = w.gate_up.extent(1), inner = config.intermediate_size;
    reference::Expert expert{hidden,
                             inner,
                             std::string(to_string(model.layout)),
                             doubles(w.gate_up, e * rows * hidden, rows * hidden),
                             doubles(w.down, e * hidden * inner, hidden * inner),
                             {},
                             {}};
    if (model.biases) {
      expert.gate_up_bias = doubles(w.gate_up_bias, e * rows, rows);
      expert.down_bias = doubles(w.down_bias, e * hidden, hidden);
    }
    std::vector<double> const token(x.begin() + t * hidden, x.begin() + (t + 1) * hidden);
    auto const out = reference::expert_mlp(
        expert, token, weights[slot], std::string(to_string(config.experts.activation)),
        config.experts.swiglu_alpha, config.experts.swiglu_limit);
    for (std::size_t h = 0; h < hidden; ++h) {
      y[t * hidden + h] += out[h].value;
      bound[t * hidden + h] +=
          tolerance<kmoe::accumulate_t<T>>(double(hidden + inner), out[h].sum) +
          tolerance<T>(1, out[h].rounding + std::abs(out[h].value));
    }
  }
  return y;
}

}  // namespace kmoe::test
