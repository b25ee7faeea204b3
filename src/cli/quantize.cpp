// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// kmoe quantize: a checkpoint whose experts are quantized, and what that did to each weight matrix.

#include <cmath>
#include <cstdio>
#include <optional>

#include <kmoe/io/quantize.hpp>

#include "cli/commands.hpp"
#include "cli/layer_setup.hpp"

namespace kmoe::cli {
namespace {

/// TensorError as it travels; names follow from the order.
struct Row {
  offset_t shard;
  io::TensorError error;
};

/// Numbers of one matrix.
struct Numbers {
  double relative, largest_error, largest;
};

}  // namespace

int quantize(Communicator const& comm, Options const& options) {
  auto const checkpoint = open_checkpoint(comm, options.layer_options.model);
  std::optional<io::CheckpointQuantizer> quantizer;
  agree(comm, [&] {
    quantizer.emplace(checkpoint, options.layer_options.model, quant_scheme(options.format),
                      options.output);
  });
  std::vector<Row> mine;
  agree(comm, [&] {
    on_input([&] {
      for (index_t shard = comm.rank(); shard < quantizer->num_shards(); shard += comm.size()) {
        for (auto& error : quantizer->write_shard(shard)) mine.push_back({shard, std::move(error)});
      }
    });
  });
  agree(comm, [&] {
    if (comm.rank() == 0) quantizer->write_rest();
  });

  // Rank 0 tells of all: names as text of one length, numbers beside them.
  constexpr std::size_t name_bytes = 200;
  struct Wire {
    offset_t shard;
    Numbers numbers;
    char name[name_bytes];
  };
  std::vector<Wire> rows(mine.size());
  for (std::size_t i = 0; i < mine.size(); ++i) {
    auto const& e = mine[i].error;
    rows[i] = {mine[i].shard, {e.relative_error, e.largest_error, e.largest}, {}};
    e.name.copy(rows[i].name, name_bytes - 1);
  }
  auto const ranks = static_cast<std::size_t>(comm.size());
  std::vector<offset_t> counts(ranks), offsets(ranks + 1);
  auto const count = static_cast<offset_t>(rows.size());
  comm.all_gather({&count, 1}, counts);
  for (std::size_t r = 0; r < ranks; ++r) offsets[r + 1] = offsets[r] + counts[r];
  std::vector<Wire> all(static_cast<std::size_t>(offsets[ranks]));
  comm.all_gather_rows(rows.data(), count, all.data(), counts, {offsets.data(), ranks},
                       sizeof(Wire));
  if (comm.rank() != 0) return 0;
  std::stable_sort(all.begin(), all.end(),
                   [](Wire const& a, Wire const& b) { return a.shard < b.shard; });
  double squares = 0, worst = 0;
  for (auto const& row : all) {
    if (!options.quiet) {
      std::printf("%s error %.3e largest %.3e of %.3e\n", row.name, row.numbers.relative,
                  row.numbers.largest_error, row.numbers.largest);
    }
    squares += row.numbers.relative * row.numbers.relative;
    worst = std::max(worst, row.numbers.relative);
  }
  std::printf("%zu matrices as %s in %d files, error %.3e (root mean square), %.3e (largest)\n",
              all.size(), options.format.c_str(), static_cast<int>(quantizer->num_shards()),
              all.empty() ? 0 : std::sqrt(squares / static_cast<double>(all.size())), worst);
  return 0;
}

}  // namespace kmoe::cli
