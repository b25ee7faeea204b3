// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What a run did on all ranks: gathered once, then told as JSON, as text and as a load map.

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include <kmoe/comm/communicator.hpp>
#include <kmoe/layer/moe_layer.hpp>

#include "cli/load_map.hpp"

namespace kmoe::cli {

inline constexpr std::array phase_names{"route", "dispatch", "experts", "combine", "shared"};

/// One rank's part.
struct RankReport {
  offset_t tokens = 0;  ///< own tokens, that is rows passed to forward()
  offset_t tokens_sent = 0;
  offset_t tokens_received = 0;
  offset_t bytes_sent = 0;
  offset_t rows_with_nan = 0;
  offset_t rows_with_inf = 0;
  offset_t workspace_bytes = 0;
  offset_t weight_bytes = 0;
  std::array<double, phase_names.size()> seconds{};
  double forward_seconds = 0;       ///< all of forward(), what the phases leave out included
  offset_t computed = 0;            ///< slots computed by this rank's experts
  std::vector<offset_t> routed;     ///< [E + S + Z] slots that own tokens gave to each expert
  std::vector<offset_t> by_expert;  ///< [E + S] slots computed by this rank, by global expert id
};

/// The run; `ranks` has an entry per rank, on every rank.
struct RunReport {
  std::string model_type;
  std::string module;
  std::string input;
  std::string output;
  std::string dtype;
  offset_t tokens = 0;
  MoeConfig config;
  std::vector<index_t> rank_of_expert;  ///< [E]
  std::vector<RankReport> ranks;
  double read_seconds = 0;  ///< of rank 0
  double write_seconds = 0;
  double total_seconds = 0;

  [[nodiscard]] bool replicated() const { return config.token_layout == TokenLayout::replicated; }
  [[nodiscard]] std::vector<offset_t> tokens_of_experts() const;  ///< [E + S]
};

/// Largest over mean: 1 is perfect balance, and also what no load at all counts as.
double imbalance(std::vector<offset_t> const& loads);

RankReport make_rank_report(LayerReport const& layer, ExpertPlacement const& placement,
                            index_t rank, std::size_t workspace_bytes, std::size_t weight_bytes);

/// Every rank's report. Collective.
std::vector<RankReport> gather_reports(Communicator const& comm, RankReport const& mine);

LoadMap make_load_map(RunReport const& report);
std::string to_json(RunReport const& report);
std::string to_text(RunReport const& report, std::size_t width, bool color);
/// The text on standard output; `color` is auto, always or never.
void print_report(RunReport const& report, std::string const& color);

}  // namespace kmoe::cli
