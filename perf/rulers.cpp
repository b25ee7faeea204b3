// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "rulers.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "cli/synthetic.hpp"
#include "dense_gemm.hpp"

namespace perf {
namespace {

constexpr bool on_host =
    Kokkos::SpaceAccessibility<Kokkos::HostSpace, Space::memory_space>::accessible;

/// 16 bytes: the widest load of a thread.
struct alignas(16) Quad {
  std::uint32_t word[4];
};
using Quads = Kokkos::View<Quad*, Space::memory_space>;

/// Element of a step of a work item: 32 neighbours take neighbouring elements in each step and a
/// contiguous stretch together; on hosts each takes a stretch of its own.
template <std::size_t steps>
KOKKOS_INLINE_FUNCTION std::size_t element(std::size_t item, std::size_t step) {
  constexpr std::size_t lanes = on_host ? 1 : 32;
  return item / lanes * (lanes * steps) + step * lanes + item % lanes;
}

template <std::size_t steps>
KOKKOS_INLINE_FUNCTION void copy_item(Quad const* in, Quad* out, std::size_t item) {
  if constexpr (on_host) {
    for (std::size_t j = 0; j < steps; ++j) {
      out[element<steps>(item, j)] = in[element<steps>(item, j)];
    }
  } else {
    Quad values[steps];
    for (std::size_t j = 0; j < steps; ++j) values[j] = in[element<steps>(item, j)];
    for (std::size_t j = 0; j < steps; ++j) out[element<steps>(item, j)] = values[j];
  }
}

template <std::size_t steps>
void copy_sweep(Space const& exec, Quads const& from, Quads const& to) {
  Kokkos::parallel_for(
      "kmoe::perf::copy", Kokkos::RangePolicy<Space>(exec, 0, from.size() / steps),
      KOKKOS_LAMBDA(std::size_t i) { copy_item<steps>(from.data(), to.data(), i); });
}

/// Reads everything; writes only where the bits of a stretch happen to cancel, which is next to
/// never.
template <std::size_t steps>
void read_sweep(Space const& exec, Quads const& from, Quads const& to) {
  Kokkos::parallel_for(
      "kmoe::perf::read", Kokkos::RangePolicy<Space>(exec, 0, from.size() / steps),
      KOKKOS_LAMBDA(std::size_t i) {
        Quad const* const in = from.data();
        Quad sum{};
        for (std::size_t j = 0; j < steps; ++j) {
          Quad const value = in[element<steps>(i, j)];
          for (int w = 0; w < 4; ++w) sum.word[w] ^= value.word[w];
        }
        if ((sum.word[0] | sum.word[1] | sum.word[2] | sum.word[3]) == 0) to(i) = sum;
      });
}

/// Keeps the device at work while the host queues what is to be timed.
void busy(Space const& exec, Kokkos::View<double*, Space::memory_space> const& sink) {
  if constexpr (on_host) return;
  Kokkos::parallel_for(
      "kmoe::perf::busy", Kokkos::RangePolicy<Space>(exec, 0, 1), KOKKOS_LAMBDA(int) {
        float value = 1.0F;
        for (int i = 0; i < 30000; ++i) value = value * 0.999F + 0.001F;
        if (value == 0.0F) sink(0) = value;
      });
}

void flush(Space const& exec, Kokkos::View<double*, Space::memory_space> const& buffer,
           bool writes) {
  double* const data = buffer.data();
  Kokkos::parallel_for(
      "kmoe::perf::flush", Kokkos::RangePolicy<Space>(exec, 0, buffer.size()),
      KOKKOS_LAMBDA(std::size_t i) {
        double const value = data[i];
        if (writes || value == 12345.0) data[i] = value + 1.0;
      });
}

}  // namespace

double Samples::quantile(double q) const {
  double const position = q * static_cast<double>(seconds.size() - 1);
  auto const below = static_cast<std::size_t>(position);
  auto const above = std::min(below + 1, seconds.size() - 1);
  double const part = position - static_cast<double>(below);
  return seconds[below] * (1 - part) + seconds[above] * part;
}

Sampler::Sampler(Space const& exec, double budget_seconds, std::size_t flush_bytes)
    : exec_(exec), budget_seconds_(budget_seconds), flush_("kmoe::perf::flush", flush_bytes / 8) {
  kmoe::cli::fill(exec, flush_, {.seed = 99});
  exec.fence("perf::Sampler");
}

void Sampler::prepare(Replay const& work, Before before) const {
  if (before == Before::nothing) {
    busy(exec_, flush_);
    work.launch();
    return;
  }
  flush(exec_, flush_, before == Before::flush_write);
}

Samples Sampler::run(Replay const& work, Before before) const {
  using Clock = std::chrono::steady_clock;
  constexpr std::size_t fewest = 5;
  constexpr std::size_t most = 200;
  Stopwatch watch(exec_);
  Samples samples;
  auto start = Clock::now();
  auto const elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  // A GPU that has waited for the host to make data is slower for some 20 ms.
  while (!on_host && elapsed() < 0.06) {
    prepare(work, before);
    work.launch();
    exec_.fence("perf::Sampler: warm-up");
  }
  start = Clock::now();
  while (samples.seconds.size() < fewest ||
         (samples.seconds.size() < most && elapsed() < budget_seconds_)) {
    prepare(work, before);
    watch.start();
    work.launch();
    watch.stop();
    samples.seconds.push_back(watch.seconds());
  }
  std::sort(samples.seconds.begin(), samples.seconds.end());
  return samples;
}

Ceilings measure_memory(Space const& exec, Sampler const& sampler, std::size_t bytes) {
  std::size_t const count = bytes / sizeof(Quad);  // a multiple of the steps
  Quads const from("kmoe::perf::from", count);
  Quads const to("kmoe::perf::to", count);
  Kokkos::View<float*, Space::memory_space, Kokkos::MemoryUnmanaged> const words(
      reinterpret_cast<float*>(from.data()), count * 4);
  kmoe::cli::fill(exec, words, {.seed = 98});
  auto const swept = static_cast<double>(count * sizeof(Quad));
  auto const seconds = [&](auto const& work) {
    return sampler.run(Replay(exec, work), Before::nothing).min();
  };
  constexpr std::size_t few = on_host ? 256 : 2;
  constexpr std::size_t many = on_host ? 1024 : 8;
  double const copy = std::min({seconds([=] { copy_sweep<few>(exec, from, to); }),
                                seconds([=] { copy_sweep<many>(exec, from, to); }),
                                seconds([=] { Kokkos::deep_copy(exec, to, from); })});
  double const read = std::min(seconds([=] { read_sweep<few>(exec, from, to); }),
                               seconds([=] { read_sweep<many>(exec, from, to); }));
  Ceilings ceilings;
  ceilings.copy = 2 * swept / copy;
  ceilings.read = swept / read;
  return ceilings;
}

template <kmoe::Element T>
GemmCeiling measure_gemm(Space const& exec, Sampler const& sampler) {
  GemmCeiling ceiling;
  for (int const n : on_host ? std::vector{1024, 2048} : std::vector{4096, 8192}) {
    auto const size = static_cast<std::size_t>(n) * static_cast<std::size_t>(n);
    kmoe::Vector<T, Space> const a("kmoe::perf::a", size);
    kmoe::Vector<T, Space> const b("kmoe::perf::b", size);
    kmoe::Vector<T, Space> const c("kmoe::perf::c", size);
    kmoe::cli::fill(exec, a, {.seed = 96});
    kmoe::cli::fill(exec, b, {.seed = 97});
    exec.fence("perf::measure_gemm");
    for (auto const& [name, run] : dense_gemms<T>(exec, a.data(), b.data(), c.data(), n)) {
      double const seconds = sampler.run(Replay(exec, run), Before::nothing).min();
      double const rate = 2.0 * n * static_cast<double>(size) / seconds;
      if (rate <= ceiling.flops) continue;
      ceiling = {rate, name + ", " + std::to_string(n) + "^3"};
    }
  }
  return ceiling;
}

template GemmCeiling measure_gemm<double>(Space const&, Sampler const&);
template GemmCeiling measure_gemm<float>(Space const&, Sampler const&);
template GemmCeiling measure_gemm<kmoe::bfloat16>(Space const&, Sampler const&);
template GemmCeiling measure_gemm<kmoe::half>(Space const&, Sampler const&);

}  // namespace perf
