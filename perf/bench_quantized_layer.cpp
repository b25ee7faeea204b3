// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The whole layer with quantized weights, from ids to y, cold, as the quantized table of the peers
// has it: kmoe_bench_quantized_layer format [shape ...]. Prints the median of the repetitions and
// the fastest, in microseconds, and the floor of the active experts' bytes at 3.0 TB/s or the flops
// at 1600 (fp8) or 798 TFLOP/s. With `four_bits` for the format: mxfp4, nvfp4 and int4, and then
// mxfp4 beside the peer and the goal, the other two beside mxfp4.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>
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

constexpr std::array<index_t, 4> table_tokens{1, 64, 1024, 16384};

/// Medians in microseconds, by table_tokens.
std::array<double, 4> bench(Space const& exec, Shape const& shape, kmoe::QuantFormat const& format,
                            Sampler const& sampler) {
  std::array<double, 4> medians{};
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
    auto const* const cell = std::find(table_tokens.begin(), table_tokens.end(), tokens.count);
    if (cell == table_tokens.end()) continue;
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
      mlp.bind(exec, ws, max_rows, tokens.count);
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
    medians[static_cast<std::size_t>(cell - table_tokens.begin())] = samples.median() * 1e6;
  }
  return medians;
}

/// triton_kernels with mxfp4 weights, and the goal, on one H100, by table_tokens.
struct Peer {
  std::string_view shape;
  std::array<double, 4> peer, goal;
};
constexpr std::array<Peer, 3> peers{{
    {"mixtral-8x7b", {102, 422, 2262, 20137}, {81.1, 325, 1583, 18807}},
    {"qwen3-30b-a3b", {42.8, 156, 320, 2702}, {29.9, 137, 224, 2015}},
    {"gpt-oss-120b", {52, 554, 981, 6734}, {36.4, 543, 738, 5313}},
}};

/// For each shape that the peer has, or for those that are `named`.
void bench_four_bits(Space const& exec, Sampler const& sampler,
                     std::vector<std::string_view> const& named) {
  std::string table;
  int cells = 0, faster = 0, reached = 0, near[2] = {};
  for (auto const& shape : peers_table()) {
    auto const* const peer = std::find_if(
        peers.begin(), peers.end(), [&](Peer const& p) { return p.shape == shape.size.name; });
    bool const wanted =
        named.empty() || std::find(named.begin(), named.end(), shape.size.name) != named.end();
    if (peer == peers.end() || !wanted) continue;
    auto const medians = [&](std::string_view name) {
      auto const formats = kmoe::quant_formats();
      auto const format = std::ranges::find(formats, name, &kmoe::QuantFormat::name);
      return bench(exec, shape, *format, sampler);
    };
    auto const mxfp4 = medians("mxfp4");
    std::array<double, 4> const others[2] = {medians("nvfp4"), medians("int4")};
    for (std::size_t i = 0; i < table_tokens.size(); ++i) {
      char line[160];
      std::snprintf(line, sizeof line,
                    "%-16s T %5d %8.1f  %5.2f (%7.1f) %5.2f (%7.1f) %6.2f %6.2f\n",
                    std::string(shape.size.name).c_str(), table_tokens[i], mxfp4[i],
                    mxfp4[i] / peer->peer[i], peer->peer[i], mxfp4[i] / peer->goal[i],
                    peer->goal[i], others[0][i] / mxfp4[i], others[1][i] / mxfp4[i]);
      table += line;
      ++cells;
      faster += mxfp4[i] < peer->peer[i] ? 1 : 0;
      reached += mxfp4[i] <= peer->goal[i] ? 1 : 0;
      for (int f = 0; f < 2; ++f) near[f] += others[f][i] <= 1.1 * mxfp4[i] ? 1 : 0;
    }
  }
  std::printf("\nmxfp4 in us, / the H100's peer, / goal; nvfp4 and int4 / mxfp4\n%s",
              table.c_str());
  std::printf("of %d: faster %d, at the goal %d; within 10 %% of mxfp4: nvfp4 %d, int4 %d\n", cells,
              faster, reached, near[0], near[1]);
}

}  // namespace
}  // namespace perf

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  auto const exec = perf::make_instance();
  perf::Sampler const sampler(exec, 0.03, std::size_t{1} << 28);
  std::string const wanted = argc > 1 ? argv[1] : "fp8_block";
  if (wanted == "four_bits") {
    perf::bench_four_bits(exec, sampler, {argv + 2, argv + argc});
    return 0;
  }
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
