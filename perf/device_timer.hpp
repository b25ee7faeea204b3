// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What measuring needs of the vendor: a stream, a recorded graph, events. On hosts: none of these,
/// direct calls and a clock. One of device_timer_gpu.cpp and device_timer_host.cpp is built.

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include <Kokkos_Core.hpp>

namespace perf {

using Space = Kokkos::DefaultExecutionSpace;

/// An instance on a stream of its own, which can be captured.
Space make_instance();

struct DeviceFacts {
  std::string name;
  std::string driver;            ///< GPU: driver and runtime; host: the kernel
  std::size_t last_level_cache;  ///< bytes; 0 = unknown
};
DeviceFacts device_facts();

/// Work recorded once and launched many times. Where it can not be captured (a fence inside, or no
/// graphs here) a launch calls it.
class Replay {
 public:
  Replay(Space const& exec, std::function<void()> work);
  void launch() const;
  [[nodiscard]] bool captured() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

/// Time on the stream between start() and stop().
class Stopwatch {
 public:
  explicit Stopwatch(Space const& exec);
  void start();
  void stop();
  /// Waits for the work up to stop().
  [[nodiscard]] double seconds() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace perf
