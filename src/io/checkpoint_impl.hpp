// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The state of a Checkpoint and the names of its blocks' tensors.

#include <string>
#include <string_view>

#include <kmoe/io/checkpoint.hpp>

#include "io/config.hpp"

namespace kmoe::io {

struct Checkpoint::Impl : detail::ModelConfig {
  TensorStore store;
  std::string layers;  ///< prefix of "N." on disk: "model.layers."
};

namespace detail {

/// Full names of a block's tensors in this checkpoint; empty = the model type has none.
struct BlockNames {
  std::string prefix;
  std::string router;
  std::string router_bias;
  std::string correction_bias;
  ExpertForm const* form = nullptr;  ///< its names lack the prefix
  std::string shared;  ///< "<prefix>shared_experts.", to be followed by "gate_proj.weight"
  std::string shared_gate;
  bool shared_bias = false;
  QuantConfig quantization;
  bool packed = false;  ///< the routed experts' weights are quantized
  bool shared_packed = false;

  /// `pattern` of the form for an expert.
  [[nodiscard]] std::string expert(std::string_view pattern, index_t id) const;
  /// The same without ".weight": the linear layer.
  [[nodiscard]] std::string module(std::string_view pattern, index_t id) const;
};

/// Finds out which of the forms that the model table allows this checkpoint has.
BlockNames find_names(TensorStore const& store, ModelConfig const& model, std::string const& layers,
                      MoeBlock const& block);

}  // namespace detail
}  // namespace kmoe::io
