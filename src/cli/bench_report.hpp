// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What `kmoe bench` measured, as text and as JSON.

#include <array>
#include <string>
#include <vector>

#include "cli/options.hpp"

namespace kmoe::cli {

inline constexpr std::array bench_phases{"route", "dispatch", "experts", "combine"};

/// Rates of all ranks together, measured in the same run.
struct BenchCeilings {
  double copy_bytes = 0;   ///< per second, read and written ones both counted
  double gemm_flops = 0;   ///< per second, of kmoe's own dense GEMM
  offset_t gemm_size = 0;  ///< of its square matrices
};

struct BenchReport {
  BenchOptions options;
  std::string dtype;
  std::string dispatcher;
  TokenLayout layout = TokenLayout::data_parallel;
  index_t ranks = 1;
  std::size_t element_bytes = 0;
  BenchCeilings ceilings;

  std::vector<double> layer_seconds;  ///< of each repetition, on the slowest rank
  std::array<std::vector<double>, bench_phases.size()> phase_seconds;
  double active_experts = 0;  ///< that had rows
  double bytes_sent = 0;      ///< between ranks, in one repetition
  double workspace_bytes = 0;

  /// 6 T K H I: the two GEMMs of every slot.
  [[nodiscard]] double flops() const;
  /// Weights of active experts, x and y, once.
  [[nodiscard]] double bytes() const;
};

std::string to_json(BenchReport const& report);
std::string to_text(BenchReport const& report);

}  // namespace kmoe::cli
