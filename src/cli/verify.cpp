// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// kmoe verify: the recorded inputs of MoE blocks through the layer, compared with their outputs.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string_view>
#include <vector>

#include <kmoe/io/npy.hpp>

#include "cli/commands.hpp"
#include "cli/layer_setup.hpp"

namespace kmoe::cli {
namespace {

constexpr std::string_view input_suffix = ".input";

struct GoldenPair {
  std::string module;
  io::MoeBlock const* block = nullptr;
  io::MatrixFile input;
  io::MatrixFile output;
};

std::string module_names(io::Checkpoint const& checkpoint) {
  std::string names;
  for (auto const& block : checkpoint.blocks()) names += (names.empty() ? "" : ", ") + block.module;
  return names.empty() ? "none" : names;
}

GoldenPair open_pair(io::Checkpoint const& checkpoint, io::TensorStore const& golden,
                     std::string const& module) {
  GoldenPair pair{module, checkpoint.find_module(module), {}, {}};
  if (pair.block == nullptr) {
    throw IoError(golden.path() + ": the model has no MoE block \"" + module +
                  "\"; it has: " + module_names(checkpoint));
  }
  pair.input = io::open_matrix(golden, module + ".input");
  pair.output = io::open_matrix(golden, module + ".output");
  index_t const hidden = pair.block->config.hidden_size;
  for (auto const* file : {&pair.input, &pair.output}) {
    if (file->cols != hidden) {
      throw IoError(file->name + ": the last dimension must be hidden_size " +
                    std::to_string(hidden) + ", found " + std::to_string(file->cols));
    }
  }
  if (pair.input.rows != pair.output.rows || pair.input.rows == 0 ||
      pair.input.rows > std::numeric_limits<index_t>::max()) {
    throw IoError(golden.path() + ": " + module + " must have as many inputs as outputs, at " +
                  "least one and less than 2^31, found " + std::to_string(pair.input.rows) +
                  " and " + std::to_string(pair.output.rows));
  }
  return pair;
}

std::vector<GoldenPair> open_pairs(io::Checkpoint const& checkpoint, Options const& options) {
  // A layer that the model has not is a usage error.
  if (options.layer) static_cast<void>(checkpoint.block(*options.layer));
  io::TensorStore const golden(options.golden);
  std::vector<GoldenPair> pairs;
  for (auto const& [name, tensor] : golden.tensors()) {
    if (!name.ends_with(input_suffix)) continue;
    std::string const module = name.substr(0, name.size() - input_suffix.size());
    if (golden.find(module + ".output") == nullptr) continue;
    auto pair = open_pair(checkpoint, golden, module);
    if (!options.layer || pair.block->layer == *options.layer) pairs.push_back(std::move(pair));
  }
  if (pairs.empty()) {
    throw IoError(golden.path() + ": no pair <module>.input and <module>.output" +
                  (options.layer ? " of layer " + std::to_string(*options.layer) : ""));
  }
  std::stable_sort(pairs.begin(), pairs.end(),
                   [](auto const& a, auto const& b) { return a.block->layer < b.block->layer; });
  return pairs;
}

/// Squared norms of one token's difference from the reference and of the reference.
struct RowNorms {
  double difference = 0;
  double reference = 0;
};

/// ||y - ref|| / ||ref|| of rows that are added in their order: the same number for any split.
double relative_error(std::vector<RowNorms> const& rows, offset_t begin, offset_t end) {
  RowNorms sum;
  for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
    sum.difference += rows[i].difference;
    sum.reference += rows[i].reference;
  }
  if (sum.difference == 0) return 0;
  return std::sqrt(sum.difference) / std::sqrt(sum.reference);
}

template <Element T>
std::vector<RowNorms> compare(io::HostMatrix<T> const& y, io::HostMatrix<double> const& expected) {
  std::vector<RowNorms> rows(y.extent(0));
  for (std::size_t t = 0; t < y.extent(0); ++t) {
    for (std::size_t h = 0; h < y.extent(1); ++h) {
      double const difference = static_cast<double>(y(t, h)) - expected(t, h);
      rows[t].difference += difference * difference;
      rows[t].reference += expected(t, h) * expected(t, h);
    }
  }
  return rows;
}

/// Routes this rank's tokens as the file has them. A 16-bit x could flip the choice between two
/// experts of nearly equal score, which is not the error of the arithmetic that is verified; the
/// float32 router on float32 tokens is also what these models run. Collective.
Routing<Space> route_unrounded(Space const& exec, Communicator const& comm,
                               io::Checkpoint const& checkpoint, GoldenPair const& pair,
                               io::HostMatrix<float> const& rows) {
  MoeConfig const& config = pair.block->config;
  LayerWeights<Space, float> weights;
  agree(comm, [&] {
    on_input([&] { weights = io::load_weights<Space, float>(exec, checkpoint, *pair.block, {}); });
  });
  std::size_t const tokens = rows.extent(0);
  auto const columns = static_cast<std::size_t>(config.num_router_columns());
  auto const slots = static_cast<std::size_t>(config.slots_per_token());
  RouterScratch<Space, float> scratch;
  auto const workspace = make_workspace<Space>([&](Workspace<Space>& ws) {
    scratch.bind(ws, config.num_router_columns(), config.hidden_size);
  });
  Matrix<float, Space> const logits("kmoe::cli::logits", tokens, columns);
  Routing<Space> const routing{Matrix<index_t, Space>("kmoe::cli::topk_ids", tokens, slots),
                               Matrix<float, Space>("kmoe::cli::topk_weights", tokens, slots)};
  auto const x = Kokkos::create_mirror_view_and_copy(Space(), rows);
  router_logits<Space, float>(exec, x, weights.router, scratch, logits);
  route(exec, logits, config.router, weights.router.correction_bias, routing);
  exec.fence("kmoe::cli::route_unrounded");  // before the scratch goes
  return routing;
}

/// Relative error of one block, the same on all ranks. Collective.
template <Element T>
double verify_pair(Communicator const& comm, io::Checkpoint const& checkpoint,
                   GoldenPair const& pair, TokenSplit const& split, LayerOptions const& options) {
  Space const exec;
  auto layer = build_layer<T>(exec, comm, checkpoint, *pair.block, options, split.layout,
                              static_cast<index_t>(split.largest()));
  auto const tokens = static_cast<std::size_t>(split.count(comm.rank()));
  auto const hidden = static_cast<std::size_t>(pair.input.cols);
  Matrix<T, Space> x;
  Matrix<T, Space> y;
  io::HostMatrix<double> expected;
  io::HostMatrix<float> unrounded;
  agree(comm, [&] {
    io::HostMatrix<T> const rows("kmoe::cli::input", tokens, hidden);
    io::read_rows<T>(pair.input, split.first(comm.rank()), rows);
    x = Kokkos::create_mirror_view_and_copy(Space(), rows);
    y = Matrix<T, Space>("kmoe::cli::output", tokens, hidden);
    expected = io::HostMatrix<double>("kmoe::cli::expected", tokens, hidden);
    if constexpr (sizeof(T) == 2) {
      unrounded = io::HostMatrix<float>("kmoe::cli::unrounded", tokens, hidden);
      io::read_rows<float>(pair.input, split.first(comm.rank()), unrounded);
    }
    io::read_rows<double>(pair.output, split.first(comm.rank()), expected);
  });
  if constexpr (sizeof(T) == 2) {
    auto const routing = route_unrounded(exec, comm, checkpoint, pair, unrounded);
    layer.forward_routed(exec, x, routing, y);
  } else {
    layer.forward(exec, x, y);
  }
  exec.fence("kmoe::cli::verify");
  io::HostMatrix<T> const result =
      Kokkos::create_mirror_view_and_copy(Kokkos::DefaultHostExecutionSpace(), y);
  auto const mine = compare<T>(result, expected);

  auto const ranks = static_cast<std::size_t>(comm.size());
  std::vector<offset_t> counts(ranks);
  std::vector<offset_t> begin(ranks + 1);
  for (std::size_t r = 0; r < ranks; ++r) {
    counts[r] = split.count(static_cast<index_t>(r));
    begin[r + 1] = begin[r] + counts[r];
  }
  std::vector<RowNorms> all(static_cast<std::size_t>(begin[ranks]));
  comm.all_gather_rows(mine.data(), counts[static_cast<std::size_t>(comm.rank())], all.data(),
                       counts, {begin.data(), ranks}, sizeof(RowNorms));
  if (split.layout == TokenLayout::data_parallel) return relative_error(all, 0, begin[ranks]);
  double worst = 0;
  for (std::size_t r = 0; r < ranks; ++r) {
    double const error = relative_error(all, begin[r], begin[r + 1]);
    if (!(error <= worst)) worst = error;  // also NaN
    if (std::isnan(worst)) break;
  }
  return worst;
}

}  // namespace

int verify(Communicator const& comm, Options const& options) {
  auto const& how = options.layer_options;
  auto const checkpoint = open_checkpoint(comm, how.model);
  std::vector<GoldenPair> pairs;
  agree(comm, [&] { pairs = open_pairs(checkpoint, options); });
  double const tolerance = options.tolerance.value_or(
      how.dtype == DataType::f32 || how.dtype == DataType::f64 ? 1e-5 : 2e-2);
  bool all_passed = true;
  for (auto const& pair : pairs) {
    auto const split =
        make_split(how, how.dispatcher == DispatcherKind::standard ? "replicated" : "even",
                   comm.size(), pair.input.rows);
    double const error = with_element(
        how.dtype, [&]<class T>() { return verify_pair<T>(comm, checkpoint, pair, split, how); });
    bool const passed = error <= tolerance;
    all_passed = all_passed && passed;
    if (comm.rank() != 0) continue;
    std::printf("%s error %.3e tolerance %.0e %s\n", pair.module.c_str(), error, tolerance,
                passed ? "PASS" : "FAIL");
    std::fflush(stdout);
  }
  return all_passed ? 0 : 1;
}

}  // namespace kmoe::cli
