// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// One expert on one token in plain loops, float64.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace reference {

/// The activation of a plain expert, and of the gate of a gated one, by its name in kmoe.
inline double activation(std::string const& name, double x) {
  if (name == "silu") return x / (1 + std::exp(-x));
  if (name == "gelu_erf") return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
  if (name == "gelu_tanh") {  // 1 + tanh u = 2 / (1 + e^-2u), which does not cancel
    return x / (1 + std::exp(-2 * std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
  }
  if (name == "relu") return std::max(x, 0.0);
  if (name == "relu2") return x > 0 ? x * x : 0;
  return std::nan("");
}

inline double gated_activation(std::string const& name, double gate, double up, double alpha,
                               double limit) {
  if (name != "swiglu_oai") return activation(name, gate) * up;
  double const g = std::min(gate, limit), u = std::clamp(up, -limit, limit);
  return g / (1 + std::exp(-alpha * g)) * (u + 1);
}

/// Row-major weights of one expert; empty biases are zero.
struct Expert {
  std::size_t hidden, intermediate;
  std::string layout;  // gate_first, up_first, interleaved, plain
  std::vector<double> gate_up, down, gate_up_bias, down_bias;
};

/// An output, and what its error is measured by: `sum` scales the errors of both multiplications
/// in accumulation precision, `rounding` the error of rounding the intermediate.
struct Output {
  double value, sum, rounding;
};

/// act(x . W_gate_up^T + b) . W_down^T + b, times `weight`.
inline std::vector<Output> expert_mlp(Expert const& e, std::vector<double> const& x, double weight,
                                      std::string const& act, double alpha, double limit) {
  std::vector<double> h(e.intermediate), h_error(e.intermediate);
  for (std::size_t i = 0; i < e.intermediate; ++i) {
    auto const row = [&](std::size_t n, double& value, double& magnitude) {
      value = e.gate_up_bias.empty() ? 0 : e.gate_up_bias[n];
      magnitude = std::abs(value);
      for (std::size_t k = 0; k < e.hidden; ++k) {
        value += x[k] * e.gate_up[n * e.hidden + k];
        magnitude += std::abs(x[k] * e.gate_up[n * e.hidden + k]);
      }
    };
    double gate = 0, gate_size = 0, up = 0, up_size = 0;
    if (e.layout == "plain") {
      row(i, up, up_size);
      h[i] = activation(act, up);
      h_error[i] = up_size * (act == "relu2" ? 2 * std::abs(up) : 1.2) + std::abs(h[i]);
      continue;
    }
    bool const pairs = e.layout == "interleaved", gate_first = e.layout == "gate_first";
    row(pairs ? 2 * i : gate_first ? i : e.intermediate + i, gate, gate_size);
    row(pairs ? 2 * i + 1 : gate_first ? e.intermediate + i : i, up, up_size);
    h[i] = gated_activation(act, gate, up, alpha, limit);
    double const slope = act == "relu2" ? 2 * std::abs(gate) : 1.2;
    h_error[i] = gate_size * slope * (std::abs(up) + 1) +
                 std::max(std::abs(gate), gate * gate) * up_size + std::abs(h[i]);
  }
  std::vector<Output> y(e.hidden);
  for (std::size_t n = 0; n < e.hidden; ++n) {
    double const bias = e.down_bias.empty() ? 0 : e.down_bias[n];
    Output out{bias, std::abs(bias), 0};
    for (std::size_t i = 0; i < e.intermediate; ++i) {
      double const w = e.down[n * e.intermediate + i];
      out.value += h[i] * w;
      out.sum += (std::abs(h[i]) + h_error[i]) * std::abs(w);
      out.rounding += std::abs(h[i] * w);
    }
    y[n] = {weight * out.value, std::abs(weight) * out.sum, std::abs(weight) * out.rounding};
  }
  return y;
}

}  // namespace reference
