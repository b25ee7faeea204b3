// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The command line: what each command of `kmoe` can be told.

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include <kmoe/core/expert_placement.hpp>
#include <kmoe/core/options.hpp>

#include "cli/presets.hpp"

namespace kmoe::cli {

enum class Command { verify, run, replay, bench, quantize, info, print };

/// How a layer is run; the same for `verify`, `run` and `bench`.
struct LayerOptions {
  std::string model;  ///< directory of a checkpoint; not for `bench`
  DataType dtype = DataType::f32;
  DispatcherKind dispatcher = DispatcherKind::standard;
  IdSpace experts = IdSpace::local;
  std::string split;  ///< "even", "replicated", "10,0,43"; empty = the command's default
  std::string placement = "contiguous";  ///< or "round_robin" or "0,1,0,..."
  PayloadCode payload = PayloadCode::element;
  CombineCode combine = CombineCode::element;
  std::size_t workspace_limit = MoeConfig().workspace_limit_bytes;
};

/// The layer that `bench` measures.
struct BenchOptions {
  std::string preset = "custom";
  Preset size{};           ///< the preset's sizes, each replaced where an option names it
  offset_t tokens = 4096;  ///< of all ranks together
  index_t warmup = 3;
  index_t repetitions = 20;
};

struct Options {
  Command command = Command::print;
  std::string text;  ///< print: what --help or --version says

  LayerOptions layer_options;
  std::optional<int> layer;

  std::string golden;  ///< verify
  std::optional<double> tolerance;

  std::string format;  ///< quantize; its directory is `output`

  std::string input;  ///< run; report, plot, quiet and color also of replay
  std::string output;
  std::string tensor;
  std::string report;  ///< bench too
  std::string plot;
  bool quiet = false;  ///< bench too
  std::string color = "auto";
  std::string record_routing;  ///< run
  std::string routing;         ///< replay

  BenchOptions bench;

  bool json = false;  ///< info
};

/// Parses the command line. \throws InvalidArgument with what is wrong
Options parse_options(int argc, char const* const* argv);

/// One "name=value" line per option: what all ranks must have been given alike.
std::string to_string(Options const& options);

/// Which rows of the input each rank passes to the layer.
struct TokenSplit {
  TokenLayout layout = TokenLayout::data_parallel;
  std::vector<offset_t> begin;  ///< [P + 1] first row of each rank; all rows on each if replicated

  [[nodiscard]] offset_t first(index_t rank) const;
  [[nodiscard]] offset_t count(index_t rank) const;
  [[nodiscard]] offset_t largest() const;
};

/// The split that --split (or `fallback` where it is empty) names.
/// \throws InvalidArgument if the list does not fit the ranks and tokens
TokenSplit make_split(LayerOptions const& options, std::string const& fallback, index_t ranks,
                      offset_t tokens);

/// The placement that --placement names. \throws InvalidArgument
ExpertPlacement make_placement(LayerOptions const& options, MoeConfig const& config, index_t ranks);

}  // namespace kmoe::cli
