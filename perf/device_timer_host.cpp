// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_timer.hpp"

#include <chrono>
#include <fstream>
#include <utility>

#include <sys/utsname.h>
#include <unistd.h>

namespace perf {

Space make_instance() {
  return {};
}

DeviceFacts device_facts() {
  DeviceFacts facts{"unknown processor", "", 0};
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.starts_with("model name")) {
      facts.name = line.substr(line.find(':') + 2);
      break;
    }
  }
  facts.name += ", " + std::to_string(Space().concurrency()) + " threads";
  if (utsname system{}; uname(&system) == 0) {
    facts.driver = std::string(system.sysname) + " " + system.release;
  }
#ifdef _SC_LEVEL3_CACHE_SIZE
  auto const bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  facts.last_level_cache = bytes > 0 ? static_cast<std::size_t>(bytes) : 0;
#endif
  return facts;
}

struct Replay::Impl {
  std::function<void()> work;
};

Replay::Replay(Space const&, std::function<void()> work)
    : impl_(std::make_shared<Impl>(Impl{std::move(work)})) {
  impl_->work();
}

void Replay::launch() const {
  impl_->work();
}

bool Replay::captured() const {
  return false;
}

struct Stopwatch::Impl {
  using Clock = std::chrono::steady_clock;
  Space exec;
  Clock::time_point begin, end;
};

Stopwatch::Stopwatch(Space const& exec) : impl_(std::make_shared<Impl>(Impl{exec, {}, {}})) {}

void Stopwatch::start() {
  impl_->exec.fence("perf::Stopwatch::start");
  impl_->begin = Impl::Clock::now();
}

void Stopwatch::stop() {
  impl_->exec.fence("perf::Stopwatch::stop");
  impl_->end = Impl::Clock::now();
}

double Stopwatch::seconds() const {
  return std::chrono::duration<double>(impl_->end - impl_->begin).count();
}

}  // namespace perf
