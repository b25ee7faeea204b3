// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// KMOE_SUMMARY=FILE: what the layers of this process did, as JSON. Each is described when it ends,
/// or where Kokkos or the process end before it.

#include <array>
#include <cstddef>
#include <functional>
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

/// A layer's part of the summary; the last member of the layer, so that it ends first.
class PendingSummary {
 public:
  PendingSummary() = default;
  PendingSummary(PendingSummary const&) = delete;
  PendingSummary& operator=(PendingSummary const&) = delete;
  /// Writes, unless that was done: what can not be written is a line on stderr.
  ~PendingSummary();

  /// Asks for what `describe` says when it is time, if KMOE_SUMMARY names a file.
  /// \returns whether it does
  bool open(std::function<LayerSummary()> describe);

 private:
  friend struct Summaries;
  std::string path_;
  std::function<LayerSummary()> describe_;
};

}  // namespace kmoe::detail
