// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// kmoe replay: a recorded routing through a layer of the same sizes and random weights, under any
// number of ranks, placement and dispatcher: where load and traffic go, without model or tokens.

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "cli/commands.hpp"
#include "cli/pending_file.hpp"
#include "cli/report.hpp"
#include "cli/routing_file.hpp"
#include "cli/synthetic.hpp"

namespace kmoe::cli {
namespace {

/// Rows first .. first + count - 1 of a [T, width] table on the device.
template <class V>
Matrix<V, Space> rows_of(std::vector<V> const& table, std::size_t width, offset_t first,
                         offset_t count) {
  auto const out = allocate<Matrix<V, Space>>("replay", count, width);
  Kokkos::View<V const**, Kokkos::LayoutRight, Kokkos::HostSpace,
               Kokkos::MemoryTraits<Kokkos::Unmanaged>> const
      host(table.data() + static_cast<std::size_t>(first) * width, static_cast<std::size_t>(count),
           width);
  Kokkos::deep_copy(out, host);
  return out;
}

}  // namespace

int replay(Communicator const& comm, Options const& options) {
  using Clock = std::chrono::steady_clock;
  auto const start = Clock::now();
  auto const& how = options.layer_options;
  bool const is_root = comm.rank() == 0;
  RecordedRouting recorded;
  std::optional<PendingFile> json;
  std::optional<PendingFile> plot;
  agree(comm, [&] {
    recorded = read_routing(options.routing);
    if (is_root && !options.report.empty()) json.emplace(options.report);
    if (is_root && !options.plot.empty()) plot.emplace(options.plot);
  });
  auto config = recorded.config;
  auto const split = make_split(how, "even", comm.size(), recorded.tokens);
  config.dispatcher = how.dispatcher;
  config.id_space = how.experts;
  config.token_layout = split.layout;
  config.workspace_limit_bytes = how.workspace_limit;
  auto const placement = make_placement(how, config, comm.size());

  RunReport report;
  report.model_type = "replay";
  report.module = options.routing;
  report.input = options.routing;
  report.dtype = to_string(how.dtype);
  report.tokens = recorded.tokens;
  report.config = config;
  auto const hosts = placement.rank_of_expert();
  report.rank_of_expert.assign(hosts.begin(), hosts.end());

  with_element(how.dtype, [&]<class T>() {
    Space const exec;
    LayerWeights<Space, T> weights;
    agree(comm, [&] {
      on_input([&] { validate(config); });
      weights = make_weights<Space, T>(exec, config, placement.experts_of(comm.rank()));
    });
    MoeLayer<Space, T> layer(exec, comm, config, placement, weights,
                             static_cast<index_t>(split.largest()));
    auto const first = split.first(comm.rank()), count = split.count(comm.rank());
    auto const slots = static_cast<std::size_t>(config.slots_per_token());
    Matrix<T, Space> x, y;
    Routing<Space> routing;
    agree(comm, [&] {
      x = allocate<Matrix<T, Space>>("x", count, config.hidden_size);
      y = allocate<Matrix<T, Space>>("y", count, config.hidden_size);
      routing = {rows_of(recorded.ids, slots, first, count),
                 rows_of(recorded.weights, slots, first, count)};
    });
    fill(exec, x, {.seed = 2}, static_cast<std::uint64_t>(first * config.hidden_size));
    layer.forward_routed(exec, x, routing, y);  // the first one meets cold memory
    layer.reset_report();
    layer.set_profiling(true);
    exec.fence("kmoe::cli::replay");
    comm.barrier();
    auto const begin = Clock::now();
    layer.forward_routed(exec, x, routing, y);
    exec.fence("kmoe::cli::replay");
    auto mine = make_rank_report(layer.report(), placement, comm.rank(), layer.workspace_bytes(),
                                 layer.weight_bytes());
    mine.forward_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    report.ranks = gather_reports(comm, mine);
  });
  report.total_seconds = std::chrono::duration<double>(Clock::now() - start).count();
  agree(comm, [&] {
    if (json) json->commit(to_json(report));
    if (plot) plot->commit(to_svg(make_load_map(report)));
  });
  if (is_root && !options.quiet) print_report(report, options.color);
  return 0;
}

}  // namespace kmoe::cli
