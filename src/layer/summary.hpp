// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// KMOE_SUMMARY=FILE: what the layers of this process did, as JSON.

#include <array>
#include <cstddef>
#include <string>

#include <kmoe/layer/moe_layer.hpp>

namespace kmoe::detail {

enum class Phase { shared, route, dispatch, experts, combine };
inline constexpr std::array phase_names{"shared", "route", "dispatch", "experts", "combine"};

/// How often a phase ran and for how long.
struct PhaseTotal {
  offset_t count = 0;
  double seconds = 0;
};
using PhaseTotals = std::array<PhaseTotal, phase_names.size()>;

/// One layer, from its construction (or reset_report) to its end.
struct LayerSummary {
  MoeConfig config;
  std::string dtype;
  index_t rank = 0;
  index_t ranks = 1;
  offset_t forward_calls = 0;
  std::size_t workspace_bytes = 0;
  std::size_t weight_bytes = 0;
  PhaseTotals phases{};
  LayerReport report;
};

/// The value of KMOE_SUMMARY, or empty.
std::string summary_path();

/// Adds a layer and writes the file anew, so that it is complete when the last layer has gone. "%r"
/// in `path` becomes the rank; without it only rank 0 writes.
/// \throws IoError if it can not be written
void add_to_summary(std::string path, LayerSummary const& layer);

}  // namespace kmoe::detail
