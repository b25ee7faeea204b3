// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The whole layer with quantized weights, from ids to y, cold, as the quantized table of the peers
// has it: kmoe_bench_quantized_layer format [shape ...]. Prints the median of the repetitions and
// the fastest, in microseconds, and the floor of the active experts' bytes at 3.0 TB/s or the flops
// at 1600 (fp8) or 798 TFLOP/s.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include <Kokkos_Core.hpp>
#include <kmoe/experts/expert_mlp.hpp>

#include "cases.hpp"
#include "cli/synthetic.hpp"
#include "quantized_tensor.hpp"
#include "rulers.hpp"

namespace perf {
namespace {

using T = kmoe::bfloat16;

/// Elements that are not finite.
std::size_t count_bad(Space const& exec, kmoe::Matrix<T, Space> const& y) {
  std::size_t bad = 0;
  auto const* const data = y.data();
  Kokkos::parallel_reduce(
      "kmoe::perf::bad",
      Kokkos::RangePolicy<Space, Kokkos::IndexType<std::size_t>>(exec, 0, y.size()),
      KOKKOS_LAMBDA(std::size_t i, std::size_t & sum) {
        float const v = static_cast<float>(data[i]);
        if (!(Kokkos::abs(v) < 1e30F)) ++sum;
      },
      bad);
  return bad;
}

void bench(Space const& exec, Shape const& shape, kmoe::QuantFormat const& format,
           Sampler const& sampler) {
  auto const& size = shape.size;
  auto const hidden = static_cast<std::size_t>(size.hidden_size);
  auto const inter = static_cast<std::size_t>(size.intermediate_size);
  auto const experts = static_cast<std::size_t>(size.num_experts);
  auto const slots = static_cast<std::size_t>(size.top_k);
  auto const weights = random_experts(exec, format.scheme, experts, hidden, inter);
  kmoe::ExpertMlp<Space, T> mlp(exec, weights, {});
  double const expert_bytes =
      static_cast<double>(weights.quantized_gate_up.bytes() + weights.quantized_down.bytes()) /
      static_cast<double>(experts);
  for (auto const& tokens : shape.tokens) {
    if (tokens.count != 1 && tokens.count != 64 && tokens.count != 1024 && tokens.count != 16384) {
      continue;
    }
    auto const count = static_cast<std::size_t>(tokens.count);
    auto const routing = make_routing(size, tokens, "uniform");
    kmoe::Matrix<index_t, Space> const ids("ids", count, slots);
    kmoe::Matrix<float, Space> const weight("weight", count, slots);
    auto const ids_host = Kokkos::create_mirror_view(ids);
    auto const weight_host = Kokkos::create_mirror_view(weight);
    std::copy(routing.ids.begin(), routing.ids.end(), ids_host.data());
    std::copy(routing.weights.begin(), routing.weights.end(), weight_host.data());
    Kokkos::deep_copy(ids, ids_host);
    Kokkos::deep_copy(weight, weight_host);
    auto const max_rows = static_cast<offset_t>(count * slots);
    kmoe::Permutation<Space> permutation;
    auto const workspace = kmoe::make_workspace<Space>([&](kmoe::Workspace<Space>& ws) {
      permutation.bind(ws, tokens.count, size.top_k, size.num_experts);
      mlp.bind(exec, ws, max_rows);
    });
    kmoe::Matrix<T, Space> const x("x", count, hidden), y("y", count, hidden);
    kmoe::Matrix<T, Space> const rows("rows", count * slots, hidden);
    kmoe::cli::fill(exec, x, {.seed = 3});
    Kokkos::deep_copy(y, T(std::nanf("")));
    exec.fence("perf::bench");
    Replay const work(
        exec, [=, &mlp] { mlp.forward_combined(exec, x, ids, permutation, {}, weight, rows, y); });
    auto const samples = sampler.run(work, Before::flush_read);
    auto const bad = count_bad(exec, y);
    double const bytes = routing.active * expert_bytes + 4.0 * count * hidden;
    double const flops = 6.0 * max_rows * hidden * inter;
    bool const fp8 = format.scheme.code == kmoe::WeightCode::e4m3fn;
    double const floor = std::max(bytes / 3.0e12, flops / (fp8 ? 1600e12 : 798e12));
    std::printf("%-16s %-10s T %5d  median %8.1f  min %8.1f  floor %8.1f  fraction %.2f%s\n",
                std::string(size.name).c_str(), std::string(format.name).c_str(), tokens.count,
                samples.median() * 1e6, samples.min() * 1e6, floor * 1e6, floor / samples.median(),
                bad == 0 ? "" : "  NOT FINITE");
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace perf

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  auto const exec = perf::make_instance();
  perf::Sampler const sampler(exec, 0.03, std::size_t{1} << 28);
  std::string const wanted = argc > 1 ? argv[1] : "fp8_block";
  for (auto const& format : kmoe::quant_formats()) {
    if (format.name != wanted) continue;
    for (auto const& shape : perf::peers_table()) {
      bool named = argc <= 2 && shape.size.name != "surrogate";
      for (int i = 2; i < argc; ++i) named = named || shape.size.name == argv[i];
      if (named) perf::bench(exec, shape, format, sampler);
    }
  }
  return 0;
}
