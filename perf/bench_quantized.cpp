// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Experts with quantized weights: kmoe_bench_quantized [shape [format ...]]. Prints for each format
// and number of tokens the time of both products, the bytes of the active experts' quantized
// weights per second, and what fraction that is of reading as many bytes as fast as this machine
// can, measured between the repetitions: both cold, the fastest of each.

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <Kokkos_Core.hpp>
#include <kmoe/experts/expert_mlp.hpp>

#include "cli/presets.hpp"
#include "cli/synthetic.hpp"
#include "quantized_tensor.hpp"
#include "rulers.hpp"

namespace perf {
namespace {

using kmoe::index_t;
using kmoe::offset_t;
using T = kmoe::bfloat16;

/// Reads `bytes` of a buffer; writes only where the bits of a stretch cancel, which is next to
/// never.
void read_all(Space const& exec, kmoe::Vector<std::uint64_t, Space> const& buffer,
              std::size_t bytes) {
  constexpr std::size_t stretch = 512;
  std::uint64_t* const data = buffer.data();
  Kokkos::parallel_for(
      "kmoe::perf::read",
      Kokkos::RangePolicy<Space>(exec, 0, std::min(bytes / 8, buffer.size()) / stretch),
      KOKKOS_LAMBDA(std::size_t i) {
        std::uint64_t sums[8] = {};
        for (std::size_t j = 0; j < stretch; j += 8) {
          for (std::size_t k = 0; k < 8; ++k) sums[k] ^= data[i * stretch + j + k];
        }
        for (std::size_t k = 1; k < 8; ++k) sums[0] |= sums[k];
        if (sums[0] == 0) data[i] = 1;
      });
}

void bench(Space const& exec, kmoe::cli::Preset const& size, kmoe::QuantFormat const& format,
           Sampler const& sampler, kmoe::Vector<std::uint64_t, Space> const& buffer) {
  auto const hidden = static_cast<std::size_t>(size.hidden_size);
  auto const inter = static_cast<std::size_t>(size.intermediate_size);
  auto const experts = static_cast<std::size_t>(std::min(size.num_experts, 32));
  auto const weights = random_experts(exec, format.scheme, experts, hidden, inter);
  kmoe::ExpertMlp<Space, T> mlp(exec, weights, {});
  double const expert_bytes =
      static_cast<double>(weights.quantized_gate_up.bytes() + weights.quantized_down.bytes()) /
      static_cast<double>(experts);
  for (index_t const tokens : {1, 8, 64}) {
    auto const slots = static_cast<std::size_t>(std::min<index_t>(size.top_k, index_t(experts)));
    kmoe::Matrix<index_t, Space> const ids("ids", tokens, slots);
    auto const host = Kokkos::create_mirror_view(ids);
    std::vector<bool> active(experts, false);
    for (std::size_t i = 0; i < host.size(); ++i) {
      host.data()[i] = static_cast<index_t>((i * 5 + i / experts) % experts);
      active[static_cast<std::size_t>(host.data()[i])] = true;
    }
    Kokkos::deep_copy(ids, host);
    kmoe::Permutation<Space> permutation;
    auto const max_rows = static_cast<offset_t>(tokens) * static_cast<offset_t>(slots);
    auto const workspace = kmoe::make_workspace<Space>([&](kmoe::Workspace<Space>& ws) {
      permutation.bind(ws, tokens, static_cast<index_t>(slots), static_cast<index_t>(experts));
      mlp.bind(exec, ws, max_rows, tokens);
    });
    kmoe::make_permutation<Space>(exec, ids, permutation);
    kmoe::Matrix<T, Space> const x("x", tokens, hidden);
    kmoe::cli::fill(exec, x, {.seed = 3});
    kmoe::Matrix<float, Space> const weight("weight", tokens, slots);
    Kokkos::deep_copy(weight, 0.125F);
    kmoe::Matrix<T, Space> const rows("rows", max_rows, hidden);
    exec.fence("perf::bench");
    Replay const work(exec, [=, &mlp] { mlp.forward(exec, x, permutation, weight, rows); });
    auto const count = static_cast<double>(std::count(active.begin(), active.end(), true));
    double const bytes = std::min(count * expert_bytes, static_cast<double>(buffer.size()) * 8);
    Replay const read(exec, [=] { read_all(exec, buffer, static_cast<std::size_t>(bytes)); });
    double seconds = 1e9, ruler = 1e9;
    for (int round = 0; round < 5; ++round) {
      seconds = std::min(seconds, sampler.run(work, Before::flush_read).min());
      ruler = std::min(ruler, sampler.run(read, Before::flush_read).min());
    }
    double const rate = count * expert_bytes / seconds, read_rate = bytes / ruler;
    std::printf("%-16s T %3d  %8.1f us  %6.2f GB/s  read %6.2f GB/s  fraction %.2f\n",
                std::string(format.name).c_str(), int(tokens), seconds * 1e6, rate * 1e-9,
                read_rate * 1e-9, rate / read_rate);
  }
}

}  // namespace
}  // namespace perf

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  auto const exec = perf::make_instance();
  auto const* size = kmoe::cli::find_preset(argc > 1 ? argv[1] : "qwen3-30b-a3b");
  if (size == nullptr) return 2;
  perf::Sampler const sampler(exec, 0.1, std::size_t{1} << 30);
  kmoe::Vector<std::uint64_t, perf::Space> const buffer("buffer", std::size_t{1} << 26);
  Kokkos::deep_copy(buffer, std::uint64_t{0x9e3779b97f4a7c15U});
  std::printf("%s, bf16\n", std::string(size->name).c_str());
  for (auto const& format : kmoe::quant_formats()) {
    bool wanted = argc <= 2;
    for (int i = 2; i < argc; ++i) wanted = wanted || format.name == argv[i];
    if (wanted) perf::bench(exec, *size, format, sampler, buffer);
  }
  return 0;
}
