// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// kmoe bench: how fast a layer of random weights runs on these ranks, beside what they can do.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include <kmoe/gemm/grouped_gemm.hpp>

#include "cli/bench_report.hpp"
#include "cli/commands.hpp"
#include "cli/layer_setup.hpp"
#include "cli/pending_file.hpp"
#include "cli/synthetic.hpp"

namespace kmoe::cli {
namespace {

using Clock = std::chrono::steady_clock;

/// Integers reduce over ranks, so times travel as nanoseconds.
double largest_of_ranks(Communicator const& comm, double seconds) {
  offset_t nanoseconds[] = {static_cast<offset_t>(seconds * 1e9)};
  comm.all_reduce_max(nanoseconds);
  return static_cast<double>(nanoseconds[0]) * 1e-9;
}

double sum_of_ranks(Communicator const& comm, double value) {
  offset_t sum[] = {static_cast<offset_t>(value)};
  comm.all_reduce_sum(sum);
  return static_cast<double>(sum[0]);
}

/// Seconds of `work` on the slowest rank, all starting together. Collective.
double timed(Space const& exec, Communicator const& comm, std::function<void()> const& work) {
  exec.fence("kmoe::cli::bench");
  comm.barrier();
  auto const start = Clock::now();
  work();
  exec.fence("kmoe::cli::bench");
  return largest_of_ranks(comm, std::chrono::duration<double>(Clock::now() - start).count());
}

/// Rates that all ranks reach together, each the best of a few runs. Collective.
template <Element T>
BenchCeilings measure_ceilings(Space const& exec, Communicator const& comm) {
  constexpr bool on_host =
      Kokkos::SpaceAccessibility<Kokkos::HostSpace, Space::memory_space>::accessible;
  constexpr offset_t n = on_host ? 1024 : 4096;
  constexpr std::size_t bytes = std::size_t{on_host ? 128 : 1024} << 20;
  Vector<float, Space> from, to;
  Matrix<T, Space> a, c;
  Tensor3<T, Space> b;
  Vector<offset_t, Space> offsets;
  agree(comm, [&] {
    from = allocate<Vector<float, Space>>("from", bytes / sizeof(float));
    to = allocate<Vector<float, Space>>("to", bytes / sizeof(float));
    a = allocate<Matrix<T, Space>>("a", n, n);
    b = allocate<Tensor3<T, Space>>("b", 1, n, n);
    c = allocate<Matrix<T, Space>>("c", n, n);
    offsets = Vector<offset_t, Space>("kmoe::cli::offsets", 2);
  });
  fill(exec, from, {.seed = 5});
  fill(exec, a, {.seed = 6});
  fill(exec, b, {.seed = 7});
  Kokkos::deep_copy(exec, Kokkos::subview(offsets, 1), n);
  PackedWeights<Space, T> const packed(exec, b);
  auto const best = [&](std::function<void()> const& work) {
    double least = std::numeric_limits<double>::max();
    for (int i = 0; i < 6; ++i) least = std::min(least, timed(exec, comm, work));
    return least;
  };
  BenchCeilings ceilings;
  auto const ranks = static_cast<double>(comm.size());
  ceilings.copy_bytes =
      ranks * 2 * static_cast<double>(bytes) / best([&] { Kokkos::deep_copy(exec, to, from); });
  ceilings.gemm_flops = ranks * 2 * std::pow(static_cast<double>(n), 3) /
                        best([&] { grouped_gemm(exec, a, packed, offsets, c); });
  ceilings.gemm_size = n;
  return ceilings;
}

MoeConfig make_config(BenchOptions const& bench, LayerOptions const& how) {
  MoeConfig config;
  config.hidden_size = bench.size.hidden_size;
  config.intermediate_size = bench.size.intermediate_size;
  config.num_experts = bench.size.num_experts;
  config.top_k = bench.size.top_k;
  config.router.renormalize = true;
  config.dispatcher = how.dispatcher;
  config.id_space = how.experts;
  config.dispatch_payload = how.payload;
  config.combine_payload = how.combine;
  config.workspace_limit_bytes = how.workspace_limit;
  return config;
}

template <Element T>
void measure(Space const& exec, Communicator const& comm, BenchOptions const& bench,
             MoeLayer<Space, T>& layer, offset_t tokens, offset_t first_token,
             BenchReport& report) {
  Matrix<T, Space> x, y;
  auto const hidden = bench.size.hidden_size;
  agree(comm, [&] {
    x = allocate<Matrix<T, Space>>("x", tokens, hidden);
    y = allocate<Matrix<T, Space>>("y", tokens, hidden);
  });
  fill(exec, x, {.seed = 2}, static_cast<std::uint64_t>(first_token * hidden));
  auto const forward = [&] { layer.forward(exec, x, y); };
  for (index_t i = 0; i < bench.warmup; ++i) forward();
  for (index_t i = 0; i < bench.repetitions; ++i) {
    report.layer_seconds.push_back(timed(exec, comm, forward));
  }
  // Fences between the phases cost time: they have repetitions of their own.
  layer.set_profiling(true);
  for (index_t i = 0; i < bench.repetitions; ++i) {
    layer.reset_report();
    timed(exec, comm, forward);
    auto const once = layer.report();
    std::array const seconds{once.route_seconds, once.dispatch_seconds, once.experts_seconds,
                             once.combine_seconds};
    for (std::size_t p = 0; p < seconds.size(); ++p) {
      report.phase_seconds[p].push_back(largest_of_ranks(comm, seconds[p]));
    }
  }
  auto const once = layer.report();
  offset_t active = 0;
  for (auto const rows : once.tokens_per_expert) active += rows > 0 ? 1 : 0;
  report.active_experts = sum_of_ranks(comm, static_cast<double>(active));
  report.bytes_sent = sum_of_ranks(comm, static_cast<double>(once.bytes_sent));
  report.workspace_bytes = sum_of_ranks(comm, static_cast<double>(layer.workspace_bytes()));
}

}  // namespace

int bench(Communicator const& comm, Options const& options) {
  auto const& how = options.layer_options;
  auto const& what = options.bench;
  bool const is_root = comm.rank() == 0;
  std::optional<PendingFile> json;
  agree(comm, [&] {
    if (is_root && !options.report.empty()) json.emplace(options.report);
  });
  auto const config = make_config(what, how);
  auto const split = make_split(how, "even", comm.size(), what.tokens);
  auto const placement = make_placement(how, config, comm.size());

  BenchReport report;
  report.options = what;
  report.dtype = to_string(how.dtype);
  report.dispatcher = to_string(how.dispatcher);
  report.layout = split.layout;
  report.ranks = comm.size();
  with_element(how.dtype, [&]<class T>() {
    Space const exec;
    report.element_bytes = sizeof(T);
    report.ceilings = measure_ceilings<T>(exec, comm);
    MoeConfig layer_config = config;
    layer_config.token_layout = split.layout;
    LayerWeights<Space, T> weights;
    agree(comm, [&] {
      validate(layer_config);
      weights = make_weights<Space, T>(exec, layer_config, placement.experts_of(comm.rank()));
    });
    MoeLayer<Space, T> layer(exec, comm, layer_config, placement, weights,
                             static_cast<index_t>(split.largest()));
    weights = {};  // on hosts the layer has its own copy
    measure<T>(exec, comm, what, layer, split.count(comm.rank()), split.first(comm.rank()), report);
  });
  agree(comm, [&] {
    if (json) json->commit(to_json(report));
  });
  if (is_root && !options.quiet) std::fputs(to_text(report).c_str(), stdout);
  return 0;
}

}  // namespace kmoe::cli
