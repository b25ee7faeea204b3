// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What stands around the experts: routing, permutation, combine. Each is recorded many times in one
// graph, so that its share is what it costs inside a graph; the ruler is a copy by the device.
//
//   kmoe_bench_functors [repetitions]
//
// Prints one line per case: microseconds, bytes that must move, and their rate over the copy's.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <kmoe/permute/permutation.hpp>
#include <kmoe/routing/router.hpp>

#include "device_timer.hpp"

namespace {

using kmoe::bfloat16;
using kmoe::index_t;
using kmoe::Matrix;
using perf::Space;

constexpr int calls_per_graph = 20;

/// Median seconds of one call of `work` among those of a graph.
double time_of(Space const& exec, int repetitions, std::function<void()> const& work) {
  work();  // outside of a capture first
  exec.fence();
  perf::Replay const graph(exec, [&] {
    for (int i = 0; i < calls_per_graph; ++i) work();
  });
  perf::Stopwatch watch(exec);
  std::vector<double> seconds;
  graph.launch();
  for (int i = 0; i < repetitions; ++i) {
    watch.start();
    graph.launch();
    watch.stop();
    seconds.push_back(watch.seconds() / calls_per_graph);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

struct Report {
  Space exec;
  int repetitions;
  double copy_rate = 0;  // bytes per second, read and written

  void line(std::string const& name, double bytes, std::function<void()> const& work) const {
    double const seconds = time_of(exec, repetitions, work);
    std::printf("%-44s %9.2f us %9.3f MB %8.1f GB/s  %5.2f of copy\n", name.c_str(), seconds * 1e6,
                bytes * 1e-6, bytes / seconds * 1e-9, bytes / seconds / copy_rate);
    std::fflush(stdout);
  }
};

std::string name_of(char const* what, index_t t, index_t k, index_t e) {
  return std::string(what) + " T " + std::to_string(t) + " K " + std::to_string(k) + " E " +
         std::to_string(e);
}

KOKKOS_INLINE_FUNCTION std::uint32_t hash(std::uint64_t i) {
  std::uint64_t z = (i + 1) * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return static_cast<std::uint32_t>((z ^ (z >> 31)) >> 16);
}

/// K distinct experts of each token.
Matrix<index_t, Space> random_ids(Space const& exec, index_t tokens, index_t k, index_t experts) {
  Matrix<index_t, Space> const ids("ids", tokens, k);
  Kokkos::parallel_for(
      "perf::ids", Kokkos::RangePolicy<Space>(exec, 0, tokens), KOKKOS_LAMBDA(std::size_t t) {
        auto const first = hash(t) % experts, step = 1 + hash(~t) % (experts / k);
        for (index_t j = 0; j < k; ++j) ids(t, j) = index_t((first + j * step) % experts);
      });
  return ids;
}

void fill(Space const& exec, Kokkos::View<float*, Space> const& view) {
  Kokkos::parallel_for(
      "perf::fill", Kokkos::RangePolicy<Space>(exec, 0, view.size()),
      KOKKOS_LAMBDA(std::size_t i) { view(i) = float(hash(i)) * 0x1p-31F - 1.0F; });
}

void permutation(Report const& report, index_t t, index_t k, index_t e, bool masked) {
  kmoe::Permutation<Space> p;
  auto const ws =
      kmoe::make_workspace<Space>([&](kmoe::Workspace<Space>& w) { p.bind(w, t, k, e); });
  auto const ids = random_ids(report.exec, t, k, e);
  kmoe::Vector<index_t, Space> const flags("flags", e), map("map", e);
  kmoe::Vector<kmoe::offset_t, Space> const rows("rows", e);
  Kokkos::deep_copy(flags, 1);
  kmoe::ExpertMask<Space> const mask(flags, e);
  report.line(name_of(masked ? "permutation, masked" : "permutation", t, k, e), 12.0 * t * k, [&] {
    if (masked) {
      kmoe::make_permutation<Space>(report.exec, ids, mask, map, p, rows);
    } else {
      kmoe::make_permutation<Space>(report.exec, ids, p, rows);
    }
  });
}

void routing(Report const& report, index_t t, index_t k, index_t e,
             kmoe::RouterOptions const& options) {
  Matrix<float, Space> const logits("logits", t, e);
  fill(report.exec, Kokkos::View<float*, Space>(logits.data(), logits.size()));
  kmoe::Routing<Space> const out{Matrix<index_t, Space>("ids", t, k),
                                 Matrix<float, Space>("weights", t, k)};
  report.line(name_of(options.num_groups > 1 ? "route, groups" : "route", t, k, e),
              4.0 * t * e + 8.0 * t * k,
              [&] { kmoe::route<Space>(report.exec, logits, options, {}, out); });
}

void rows(Report const& report, index_t t, index_t k, index_t e, index_t h) {
  kmoe::Permutation<Space> p;
  auto const ws =
      kmoe::make_workspace<Space>([&](kmoe::Workspace<Space>& w) { p.bind(w, t, k, e); });
  kmoe::make_permutation<Space>(report.exec, random_ids(report.exec, t, k, e), p);
  Matrix<bfloat16, Space> const x("x", t, h), permuted("rows", std::size_t(t) * k, h);
  Matrix<float, Space> const weights("weights", t, k);
  std::string const shape = " H " + std::to_string(h);
  double const moved = 2.0 * t * h * (k + 1);
  report.line(name_of("combine", t, k, e) + shape, moved,
              [&] { kmoe::unpermute<Space, bfloat16>(report.exec, permuted, p, {}, x); });
  report.line(name_of("unpermute, weighted", t, k, e) + shape, moved,
              [&] { kmoe::unpermute<Space, bfloat16>(report.exec, permuted, p, weights, x); });
  report.line(name_of("permute", t, k, e) + shape, 4.0 * t * h * k,
              [&] { kmoe::permute<Space, bfloat16>(report.exec, x, p, permuted); });
}

void run(int repetitions) {
  Report report{perf::make_instance(), repetitions};
  std::size_t const n = std::size_t{1} << 28;  // doubles
  Kokkos::View<double*, Space> const from("from", n / 8), to("to", n / 8);
  auto const copy = [&](std::size_t bytes) {
    std::size_t const count = bytes / 16;
    double const seconds = time_of(report.exec, repetitions, [&] {
      Kokkos::deep_copy(report.exec, Kokkos::View<double*, Space>(to.data(), count),
                        Kokkos::View<double const*, Space>(from.data(), count));
    });
    std::printf("copy of %7.1f MB (read and written): %9.2f us, %8.1f GB/s\n", bytes * 1e-6,
                seconds * 1e6, double(bytes) / seconds * 1e-9);
    return double(bytes) / seconds;
  };
  report.copy_rate = copy(std::size_t{1} << 29);
  copy(24000000);
  report.line("empty kernel", 0, [&] {
    Kokkos::parallel_for("perf::empty", Kokkos::RangePolicy<Space>(report.exec, 0, 32),
                         KOKKOS_LAMBDA(int){});
  });
  for (bool const masked : {false, true}) {
    permutation(report, 1, 8, 256, masked);
    permutation(report, 64, 8, 256, masked);
    permutation(report, 512, 8, 256, masked);
    permutation(report, 4096, 8, 128, masked);
    permutation(report, 16384, 8, 256, masked);
    permutation(report, 16384, 8, 1024, masked);
    permutation(report, 1000000, 2, 16, masked);
    permutation(report, 1000000, 8, 256, masked);
  }
  kmoe::RouterOptions const softmax{.renormalize = true};
  kmoe::RouterOptions const grouped{.scoring = kmoe::Scoring::sigmoid,
                                    .group_score = kmoe::GroupScore::top2_sum,
                                    .num_groups = 8,
                                    .topk_groups = 4,
                                    .renormalize = true};
  routing(report, 64, 8, 128, softmax);
  routing(report, 64, 8, 256, grouped);
  routing(report, 16384, 8, 128, softmax);
  routing(report, 16384, 8, 256, grouped);
  routing(report, 16384, 8, 1024, softmax);
  routing(report, 1000000, 2, 16, softmax);
  rows(report, 64, 8, 128, 2048);
  rows(report, 16384, 8, 128, 2048);
  rows(report, 16384, 2, 8, 4096);
  rows(report, 1000000, 2, 16, 256);
}

}  // namespace

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  run(argc > 1 ? std::atoi(argv[1]) : 20);
}
