// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// quantization_config of config.json: which format a checkpoint has and what its tensors are
/// called.

#include <string>
#include <string_view>

#include <kmoe/core/quantization.hpp>

#include "io/json.hpp"

namespace kmoe::io::detail {

/// Parameters of a linear layer, after its name and a dot; empty = there is none.
struct QuantNames {
  std::string_view codes = "weight";
  std::string_view scales = "weight_scale";
  std::string_view part_scale = {};
  std::string_view input_scale = {};  ///< may be missing in the file
  std::string_view zero_points = {};
  std::string_view shape = {};
  bool reciprocal = false;  ///< part_scale and input_scale divide
};

struct QuantConfig {
  QuantScheme scheme;
  QuantNames names;
  bool blocks = false;  ///< gpt-oss' tensors of all experts
};

/// Of the object that holds quantization_config; not quantized if there is none.
/// \throws IoError for a value that has no meaning, Unsupported for a method, format or combination
///         that is not implemented; both name path, key and what would do
QuantConfig read_quantization(nlohmann::json const& object, std::string const& path);

/// The quantization_config of a scheme, as read_quantization reads it, in the layout that other
/// readers of checkpoints know: fp8 and mxfp8 as DeepSeek, nvfp4_a4 as modelopt, mxfp4 as Quark,
/// all else as compressed-tensors. \throws Unsupported for fnuz codes
nlohmann::json make_quantization(QuantScheme const& scheme);
/// That of gpt-oss' checkpoints, whose scheme is mxfp4.
nlohmann::json gpt_oss_quantization();

}  // namespace kmoe::io::detail
