// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The GEMMs of one expert on one thread: kmoe against OpenBLAS and oneDNN, in turns within one run.
//
// Counters per case: GFLOP/s of each library from its best time, and kmoe's speed over theirs
// ("x_..."; above 1: kmoe is faster). oneDNN gets its weights in the layout that it asks for, kmoe
// packed ones; `fly` is kmoe with weights as they lie in memory, OpenBLAS always has those. mlp is
// the whole expert MLP (SwiGLU), the peers' time is that of its two GEMMs without any activation.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <kmoe/experts/expert_mlp.hpp>
#include <kmoe/gemm/grouped_gemm.hpp>

#include "bench_gemm_peers.hpp"

namespace {

using E = Kokkos::DefaultHostExecutionSpace;
using kmoe::offset_t;

template <class V>
void fill(V const& view, unsigned seed) {
  for (std::size_t i = 0; i < view.size(); ++i) {
    seed = seed * 1664525U + 1013904223U;
    view.data()[i] = typename V::value_type(float(seed >> 8) * 0x1p-23F - 1.0F);
  }
}

/// One contender and the seconds of its runs.
struct Contender {
  std::string name;
  std::function<void()> run;
  std::vector<double> seconds;

  /// The least disturbed run: medians of two contenders that take turns differ by what else the
  /// machine does, by a factor of two and more.
  [[nodiscard]] double best() const { return *std::min_element(seconds.begin(), seconds.end()); }
};

void compete(benchmark::State& state, double flops, std::vector<Contender> contenders) {
  for (auto& c : contenders) c.run();
  for (auto _ : state) {
    for (auto& c : contenders) {
      auto const start = std::chrono::steady_clock::now();
      c.run();
      std::chrono::duration<double> const elapsed = std::chrono::steady_clock::now() - start;
      c.seconds.push_back(elapsed.count());
      if (&c == &contenders.front()) state.SetIterationTime(elapsed.count());
    }
  }
  double const own = contenders.front().best();
  for (auto& c : contenders) {
    state.counters[c.name] = flops / c.best() * 1e-9;
    if (&c != &contenders.front()) state.counters["x_" + c.name] = c.best() / own;
  }
}

template <class T>
void gemm(benchmark::State& state, offset_t m, offset_t n, offset_t k) {
  E const exec;
  kmoe::Matrix<T, E> const a("a", m, k), c("c", m, n);
  kmoe::Tensor3<T, E> const b("b", 1, n, k);
  fill(a, 1);
  fill(b, 2);
  kmoe::Vector<offset_t, E> const offsets("offsets", 2);
  offsets(1) = m;
  kmoe::PackedWeights<E, T> const packed(exec, b);
  std::vector<Contender> contenders{
      {"kmoe", [&] { kmoe::grouped_gemm(exec, a, packed, offsets, c); }, {}},
      {"fly", [&] { kmoe::grouped_gemm(exec, a, b, offsets, c); }, {}}};
  for (auto& [name, run] : peers::gemm<T>(a.data(), b.data(), m, n, k)) {
    contenders.push_back({name, run, {}});
  }
  compete(state, 2.0 * m * n * k, std::move(contenders));
}

template <class T>
void mlp(benchmark::State& state, offset_t m, offset_t hidden, offset_t intermediate) {
  E const exec;
  kmoe::Matrix<T, E> const x("x", m, hidden), y("y", m, hidden);
  kmoe::Matrix<T, E> const h("h", m, intermediate);
  kmoe::Tensor3<T, E> const w13("w13", 1, 2 * intermediate, hidden),
      w2("w2", 1, hidden, intermediate);
  fill(x, 1);
  fill(w13, 2);
  fill(w2, 3);
  fill(h, 4);
  kmoe::ExpertWeights<E, T> weights;
  weights.gate_up = w13;
  weights.down = w2;
  kmoe::ExpertMlp<E, T> expert(exec, weights, {});
  auto const ws = kmoe::make_workspace<E>([&](kmoe::Workspace<E>& w) { expert.bind(exec, w, m); });
  std::vector<Contender> contenders{{"kmoe", [&] { expert.forward_dense(exec, x, {}, y); }, {}}};
  auto first = peers::gemm<T>(x.data(), w13.data(), m, 2 * intermediate, hidden);
  auto second = peers::gemm<T>(h.data(), w2.data(), m, hidden, intermediate);
  for (std::size_t i = 0; i < first.size(); ++i) {
    contenders.push_back({first[i].first,
                          [one = first[i].second, two = second[i].second] {
                            one();
                            two();
                          },
                          {}});
  }
  compete(state, 6.0 * m * hidden * intermediate, std::move(contenders));
}

template <class T>
void add(std::string const& type) {
  struct Shape {
    offset_t hidden, intermediate;
  };
  for (auto const [h, i] : {Shape{256, 1024}, Shape{2048, 768}}) {
    for (offset_t const m : {1, 16, 64, 256, 1024}) {
      auto const name = [&, h = h, i = i](char const* what) {
        return type + "/H" + std::to_string(h) + "_I" + std::to_string(i) + "/" + what + "/" +
               std::to_string(m);
      };
      auto const add_one = [&](char const* what, auto run) {
        benchmark::RegisterBenchmark(name(what).c_str(), run)->UseManualTime()->MinTime(0.05);
      };
      add_one("gate_up", [m, h = h, i = i](auto& s) { gemm<T>(s, m, 2 * i, h); });
      add_one("down", [m, h = h, i = i](auto& s) { gemm<T>(s, m, h, i); });
      add_one("mlp", [m, h = h, i = i](auto& s) { mlp<T>(s, m, h, i); });
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  setenv("OMP_NUM_THREADS", "1", 1);
  Kokkos::ScopeGuard const kokkos(argc, argv);
  peers::use_one_thread();
  add<float>("f32");
  add<double>("f64");
  add<kmoe::bfloat16>("bf16");
  add<kmoe::half>("f16");
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
