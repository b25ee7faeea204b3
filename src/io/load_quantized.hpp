// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// From the tensors of a quantized checkpoint to QuantizedTensor: bytes are copied as they lie.

#include <string>
#include <vector>

#include <kmoe/core/quantization.hpp>

#include "io/finder.hpp"
#include "io/quant_config.hpp"

namespace kmoe::io::detail {

/// One matrix of the file: a part of one expert's weights.
struct PackedSource {
  TensorView const* codes = nullptr;
  TensorView const* scales = nullptr;
  TensorView const* part_scale = nullptr;
  TensorView const* input_scale = nullptr;
  TensorView const* zero_points = nullptr;
  offset_t slice = 0;  ///< of tensors that hold all experts
};

/// A result and the matrices that fill it, by expert and part.
struct PackedPlan {
  QuantConfig config;
  index_t experts = 0, rows = 0, columns = 0, parts = 1;
  std::vector<PackedSource> sources;

  [[nodiscard]] bool any() const { return config.scheme.quantized(); }
};

/// The parameters of the linear layer `base`, rows x columns. Faults go to the finder.
PackedSource find_packed(Finder& finder, QuantConfig const& config, std::string const& base,
                         offset_t rows, offset_t columns);

/// Allocates and fills. \throws IoError naming tensor and place of a scale that is not finite, is
///                              negative, or of a shape that the weights do not have
QuantizedHostTensor fill_packed(PackedPlan const& plan, std::string const& label);

}  // namespace kmoe::io::detail
