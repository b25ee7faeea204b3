// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What differs between model types, as data. One row of model_table() per type; the code that
/// reads config.json and tensors knows no model type.

#include <array>
#include <limits>
#include <optional>
#include <span>
#include <string_view>

#include <kmoe/core/options.hpp>

namespace kmoe::io::detail {

inline constexpr double required = std::numeric_limits<double>::quiet_NaN();

/// A number (or flag) of config.json. `name` is the canonical key, which wins over `alias`; without
/// a name the type fixes the value to `fallback`. A list holds one value per layer.
struct Key {
  std::string_view name;
  double fallback = required;  ///< if neither key is there
  std::string_view alias = {};
  std::optional<double> if_null = std::nullopt;  ///< or `fallback`
};

constexpr Key constant(double value) {
  return {.name = {}, .fallback = value};
}

/// Layer i has experts if first <= i <= last (-1: the last layer), i % period == offset (-1:
/// period - 1) and i is not in the list `exclude`. A list under `include` replaces all of that.
struct LayerRule {
  Key first = constant(0);
  Key last = constant(-1);
  Key period = constant(1);
  Key offset = constant(-1);
  std::string_view exclude = {};
  std::string_view include = {};
};

/// RouterOptions; see there for the meaning of each.
struct RoutingRule {
  Scoring scoring = Scoring::softmax;
  Key renormalize = constant(0);
  float epsilon = 0.0F;
  Key min_sum = constant(0);
  Key scale = constant(1);
  GroupScore group_score = GroupScore::max;
  Key groups = constant(1);
  Key topk_groups = constant(1);
  float masked_score = 0.0F;
  bool zero_masked_weights = false;
  /// Key whose value "greedy" (also the default) switches groups off and "group_limited_greedy" on.
  std::string_view group_method = {};
  Key jitter = constant(0.01);
};

/// One form in which a file may hold the experts. `{}` stands for the expert; a name without it is
/// a tensor of all experts, [E, out, in]. Names lack the block's prefix.
struct ExpertForm {
  std::string_view gate;  ///< or gate and up in one, if there is no `up`
  std::string_view up = {};
  std::string_view down = {};
  std::string_view gate_scales = {};  ///< MXFP4: `gate` and `down` are blocks of 32 elements
  std::string_view down_scales = {};
  std::string_view gate_bias = {};
  std::string_view down_bias = {};
  GateUpLayout layout = GateUpLayout::gate_first;
  bool transposed = false;  ///< [in, out]

  [[nodiscard]] constexpr bool per_expert() const { return !up.empty(); }
  [[nodiscard]] constexpr bool mxfp4() const { return !gate_scales.empty(); }
};

/// The shared expert: one MLP of size * count, with biases if `bias` says so.
struct SharedRule {
  std::string_view prefix = {};            ///< "shared_experts"; empty: none
  std::optional<Key> size = std::nullopt;  ///< that of one routed expert if not given
  Key count = constant(1);
  Key bias = constant(0);
  std::string_view gate = {};  ///< tensor of its sigmoid gate
};

/// Alternative names of one tensor; the first that is in the file counts.
using Names = std::array<std::string_view, 2>;

struct ModelRow {
  std::array<std::string_view, 2> model_types;
  Key hidden;
  Key experts;
  Key top_k;
  Key intermediate;
  Key num_layers;
  LayerRule layers = {};
  double min_experts = 1;  ///< fewer are a dense MLP
  Key zero_experts = constant(0);

  std::string_view module = "mlp";  ///< of the block under layers.N, in memory
  std::string_view on_disk = "mlp";
  Names router = {"gate.weight"};
  std::string_view router_bias = {};
  Names correction_bias = {};
  Key has_correction_bias = constant(1);
  std::span<ExpertForm const> forms;
  SharedRule shared = {};
  RoutingRule routing = {};
  /// Fixed activation; otherwise config.json's hidden_act, silu by default.
  std::optional<Activation> activation = std::nullopt;
  bool router_weight_on_input = false;
};

/// All rows, by model type.
std::span<ModelRow const> model_table();

/// The row of a model type, or nullptr.
ModelRow const* find_model(std::string_view model_type);

}  // namespace kmoe::io::detail
