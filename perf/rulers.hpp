// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What the device can do, measured beside what is to be judged, and how anything is timed.

#include <functional>
#include <string>
#include <vector>

#include <kmoe/core/element.hpp>

#include "device_timer.hpp"

namespace perf {

/// Times of one piece of work.
struct Samples {
  std::vector<double> seconds;  ///< ascending
  [[nodiscard]] double min() const { return seconds.front(); }
  [[nodiscard]] double median() const { return quantile(0.5); }
  [[nodiscard]] double quantile(double q) const;
  /// (90 % quantile - 10 % quantile) / median
  [[nodiscard]] double spread() const { return (quantile(0.9) - quantile(0.1)) / median(); }
};

/// What happens before each repetition, outside of its time.
enum class Before {
  nothing,  ///< warm: an untimed repetition goes first, so that the timed one is queued behind it
  flush_write,  ///< writes a buffer larger than the last cache: leaves the cache full of dirty
                ///< lines
  flush_read,   ///< reads one: leaves it full of clean ones
};

class Sampler {
 public:
  /// \param budget_seconds of wall-clock time for each measurement, after 60 ms of untimed
  ///        repetitions on a GPU; at least 5 are made
  Sampler(Space const& exec, double budget_seconds, std::size_t flush_bytes);
  Samples run(Replay const& work, Before before) const;
  [[nodiscard]] std::size_t flush_bytes() const { return flush_.size() * sizeof(double); }

 private:
  void prepare(Replay const& work, Before before) const;

  Space exec_;
  double budget_seconds_;
  Kokkos::View<double*, Space::memory_space> flush_;
};

/// Ceilings of one run. Rates are those of the fastest repetition: nothing may look better than it
/// is.
struct Ceilings {
  double copy = 0;  ///< bytes per second, read and written ones both counted
  double read = 0;  ///< bytes per second
  [[nodiscard]] double memory() const { return copy > read ? copy : read; }
};
/// \param bytes of each of two buffers: a power of two, many times the last cache
Ceilings measure_memory(Space const& exec, Sampler const& sampler, std::size_t bytes);

struct GemmCeiling {
  double flops = 0;     ///< per second; 0: no library here
  std::string library;  ///< its name and the size of the matrices
};
template <kmoe::Element T>
GemmCeiling measure_gemm(Space const& exec, Sampler const& sampler);

}  // namespace perf
