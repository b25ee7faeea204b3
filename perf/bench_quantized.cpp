// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Quantized weights.
//
// kmoe_bench_quantized [shape [format ...]]: the experts. Prints for each format and number of
// tokens the time of both products, the bytes of the active experts' quantized weights per second,
// and what fraction that is of reading as many bytes as fast as this machine can, measured between
// the repetitions: both cold, the fastest of each.
//
// kmoe_bench_quantized table [format ...]: the whole layer at the sizes of the peers' table, cold
// (reading flush), medians; the peer's time and the goal for MXFP4, of which the other formats of
// four bits are to stay within 10 %. Exit code 1 if an output is not finite.

#include <algorithm>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <Kokkos_Core.hpp>
#include <kmoe/experts/expert_mlp.hpp>

#include "cli/presets.hpp"
#include "cli/synthetic.hpp"
#include "layer_under_test.hpp"
#include "rulers.hpp"

namespace perf {
namespace {

using T = kmoe::bfloat16;

/// Random codes and scales of about one over the square root of the row.
kmoe::QuantizedTensor<Space> random_tensor(Space const& exec, kmoe::QuantScheme const& scheme,
                                           std::size_t experts, std::size_t rows,
                                           std::size_t columns, index_t parts) {
  kmoe::QuantizedTensor<Space> t;
  t.scheme = scheme;
  t.columns = static_cast<index_t>(columns);
  t.parts = parts;
  auto const bytes = static_cast<std::size_t>(scheme.code_bytes(t.columns));
  kmoe::Tensor3<std::uint8_t, Space> const codes("codes", experts, rows, bytes);
  auto* const code = codes.data();
  Kokkos::parallel_for(
      "kmoe::perf::codes",
      Kokkos::RangePolicy<Space, Kokkos::IndexType<std::size_t>>(exec, 0, codes.size()),
      KOKKOS_LAMBDA(std::size_t i) {
        // No NaN, no large e4m3.
        code[i] = static_cast<std::uint8_t>((i * 2654435761U >> 11) & 0xb7U);
      });
  t.codes = codes;
  auto const scale_rows = static_cast<std::size_t>(t.scale_rows());
  auto const blocks = static_cast<std::size_t>(t.blocks());
  if (scheme.scale == kmoe::ScaleCode::f32) {
    kmoe::Tensor3<float, Space> const scales("scales", experts, scale_rows, blocks);
    Kokkos::deep_copy(scales, 0.01F);
    t.scales = scales;
  } else {
    kmoe::Tensor3<std::uint8_t, Space> const scales("scales", experts, scale_rows, blocks);
    Kokkos::deep_copy(scales, std::uint8_t(scheme.scale == kmoe::ScaleCode::e8m0 ? 121 : 0x28));
    t.scale_codes = scales;
  }
  if (scheme.zero_points) {
    kmoe::Tensor3<std::uint8_t, Space> const zeros("zeros", experts, scale_rows, blocks);
    Kokkos::deep_copy(zeros, std::uint8_t(7));
    t.zero_points = zeros;
  }
  if (scheme.scale == kmoe::ScaleCode::e4m3) {
    kmoe::Matrix<float, Space> const scales("part_scales", experts, parts);
    Kokkos::deep_copy(scales, 0.05F);
    t.part_scales = scales;
  }
  exec.fence("perf::random_tensor");
  return t;
}

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
  kmoe::ExpertWeights<Space, T> weights;
  weights.quantized_gate_up = random_tensor(exec, format.scheme, experts, 2 * inter, hidden, 2);
  weights.quantized_down = random_tensor(exec, format.scheme, experts, hidden, inter, 1);
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
      mlp.bind(exec, ws, max_rows);
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

/// The peer is triton_kernels 3.6 with MXFP4 weights and bf16 activations on an NVIDIA H100 80GB
/// HBM3 (its read rate 3.16 TB/s); microseconds. The goal lies between it and the floor.
struct Cell {
  char const* shape;
  Tokens tokens;
  double peer, goal;
};
constexpr Cell cells[] = {
    {"qwen3-30b-a3b", {1, 8}, 42.8, 29.9}, {"qwen3-30b-a3b", {64, 126}, 156, 137},
    {"qwen3-30b-a3b", {1024}, 320, 224},   {"qwen3-30b-a3b", {16384}, 2702, 2015},
    {"mixtral-8x7b", {1, 2}, 102, 81.1},   {"mixtral-8x7b", {64, 8}, 422, 325},
    {"mixtral-8x7b", {1024}, 2262, 1583},  {"mixtral-8x7b", {16384}, 20137, 18807},
    {"gpt-oss-120b", {1, 4}, 52.0, 36.4},  {"gpt-oss-120b", {64, 110}, 554, 543},
    {"gpt-oss-120b", {1024}, 981, 738},    {"gpt-oss-120b", {16384}, 6734, 5313}};

/// \return whether all outputs are finite
bool bench_table(Space const& exec, kmoe::QuantFormat const& format, Sampler const& sampler) {
  bool good = true;
  std::string built;
  std::unique_ptr<kmoe::MoeLayer<Space, T>> layer;
  constexpr index_t most = 16384;
  for (auto const& cell : cells) {
    auto const& size = *kmoe::cli::find_preset(cell.shape);
    auto const hidden = static_cast<std::size_t>(size.hidden_size);
    auto const inter = static_cast<std::size_t>(size.intermediate_size);
    auto const experts = static_cast<std::size_t>(size.num_experts);
    auto const top_k = static_cast<std::size_t>(size.top_k);
    auto const tokens = static_cast<std::size_t>(cell.tokens.count);
    if (built != cell.shape) {
      layer.reset();
      kmoe::MoeConfig config;
      config.hidden_size = size.hidden_size;
      config.intermediate_size = size.intermediate_size;
      config.num_experts = size.num_experts;
      config.top_k = size.top_k;
      config.workspace_limit_bytes = std::numeric_limits<std::size_t>::max() / 2;  // one chunk
      kmoe::LayerWeights<Space, T> given;
      given.experts.quantized_gate_up =
          random_tensor(exec, format.scheme, experts, 2 * inter, hidden, 2);
      given.experts.quantized_down = random_tensor(exec, format.scheme, experts, hidden, inter, 1);
      layer = std::make_unique<kmoe::MoeLayer<Space, T>>(
          exec, kmoe::Communicator(), config,
          kmoe::ExpertPlacement::contiguous(size.num_experts, 1), given, most);
      built = cell.shape;
    }
    auto const drawn = make_routing(size, cell.tokens, "uniform");
    kmoe::Routing<Space> const routing = {kmoe::Matrix<index_t, Space>("ids", tokens, top_k),
                                          kmoe::Matrix<float, Space>("weights", tokens, top_k)};
    auto const copy_in = [&](auto const& from, auto const& to) {
      auto const host = Kokkos::create_mirror_view(to);
      std::copy(from.begin(), from.end(), host.data());
      Kokkos::deep_copy(to, host);
    };
    copy_in(drawn.ids, routing.topk_ids);
    copy_in(drawn.weights, routing.topk_weights);
    kmoe::Matrix<T, Space> const x("x", tokens, hidden), y("y", tokens, hidden);
    kmoe::cli::fill(exec, x, {.seed = 3});
    exec.fence("perf::bench_table");
    Replay const work(exec, [&] { layer->forward_routed(exec, x, routing, y); });
    auto const samples = sampler.run(work, Before::flush_read);
    Kokkos::deep_copy(exec, y, T(std::numeric_limits<float>::quiet_NaN()));
    work.launch();
    exec.fence("perf::check");
    bool const finite = count_bad<T>(exec, y) == 0;
    good = good && finite;
    double const us = samples.median() * 1e6;
    std::printf("%-10s %-14s T %5d  %8.1f us  peer %8.1f (%.2f)  goal %8.1f (%.2f)%s\n",
                std::string(format.name).c_str(), cell.shape, int(cell.tokens.count), us, cell.peer,
                us / cell.peer, cell.goal, us / cell.goal, finite ? "" : "  NOT FINITE");
  }
  return good;
}

}  // namespace
}  // namespace perf

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  auto const exec = perf::make_instance();
  bool const table = argc > 1 && std::string(argv[1]) == "table";
  auto const* size = kmoe::cli::find_preset(argc > 1 && !table ? argv[1] : "qwen3-30b-a3b");
  if (size == nullptr) return 2;
  if (table) {
    perf::Sampler const sampler(exec, 0.05, std::size_t{256} << 20);
    bool good = true;
    for (auto const& format : kmoe::quant_formats()) {
      bool wanted = argc <= 2 && format.scheme.bits() == 4 &&
                    format.scheme.activations == kmoe::ActivationCode::none;
      for (int i = 2; i < argc; ++i) wanted = wanted || format.name == argv[i];
      if (wanted) good = perf::bench_table(exec, format, sampler) && good;
    }
    return good ? 0 : 1;
  }
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
