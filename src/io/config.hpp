// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What config.json says, as the rows of the model table read it.

#include <filesystem>
#include <string>
#include <vector>

#include <kmoe/io/checkpoint.hpp>

#include "io/model_table.hpp"
#include "io/quant_config.hpp"

namespace kmoe::io::detail {

struct ModelConfig {
  ModelRow const* row = nullptr;
  std::string model_type;
  std::vector<MoeBlock> blocks;  ///< module not yet filled in
  QuantConfig quantization;
  bool correction_bias = false;  ///< the router has one
  bool shared_bias = false;      ///< the shared expert's linear layers have biases
};

/// \throws IoError, Unsupported as Checkpoint
ModelConfig read_config(std::filesystem::path const& file);

}  // namespace kmoe::io::detail
