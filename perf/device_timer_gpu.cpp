// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_timer.hpp"

#include <cstdio>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <utility>

// The two vendors' functions differ in their prefix only.
#ifdef KOKKOS_ENABLE_CUDA
#include <cuda_runtime.h>
#define PERF_GPU(name) cuda##name
#else
#include <hip/hip_runtime.h>
#define PERF_GPU(name) hip##name
#endif

namespace perf {
namespace {

using Stream = PERF_GPU(Stream_t);

void check(PERF_GPU(Error_t) error, char const* what) {
  if (error == PERF_GPU(Success)) return;
  throw std::runtime_error(std::string(what) + ": " + PERF_GPU(GetErrorString)(error));
}

#ifdef KOKKOS_ENABLE_CUDA
using Properties = cudaDeviceProp;
Stream stream_of(Space const& exec) {
  return exec.cuda_stream();
}
#else
using Properties = hipDeviceProp_t;
Stream stream_of(Space const& exec) {
  return exec.hip_stream();
}
#endif

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

Space make_instance() {
  // Never destroyed: it must outlive every copy of the instance.
  Stream stream = nullptr;
  check(PERF_GPU(StreamCreateWithFlags)(&stream, PERF_GPU(StreamNonBlocking)), "stream");
  return Space(stream);
}

DeviceFacts device_facts() {
  int device = 0;
  int driver = 0;
  int runtime = 0;
  Properties properties;
  check(PERF_GPU(GetDevice)(&device), "device");
  check(PERF_GPU(GetDeviceProperties)(&properties, device), "device properties");
  check(PERF_GPU(DriverGetVersion)(&driver), "driver version");
  check(PERF_GPU(RuntimeGetVersion)(&runtime), "runtime version");
  DeviceFacts facts{properties.name, "", static_cast<std::size_t>(properties.l2CacheSize)};
  facts.driver = "driver " + version_text(driver) + ", runtime " + version_text(runtime);
  // The kernel module's own version, the word of this file that begins with a digit.
  std::ifstream module("/proc/driver/nvidia/version");
  for (std::string word; module >> word;) {
    if (word.find_first_of("0123456789") != 0) continue;
    facts.driver += ", module " + word;
    break;
  }
  return facts;
}

struct Replay::Impl {
  Impl(Space const& e, std::function<void()> w) : exec(e), work(std::move(w)) {}
  Impl(Impl const&) = delete;
  Impl& operator=(Impl const&) = delete;
  ~Impl() {
    if (graph_exec != nullptr) static_cast<void>(PERF_GPU(GraphExecDestroy)(graph_exec));
  }

  /// False if something in the work can not be recorded; nothing is recorded then.
  bool capture() {
    auto const stream = stream_of(exec);
    PERF_GPU(Graph_t) graph = nullptr;
    bool recorded = false;
    check(PERF_GPU(StreamBeginCapture)(stream, PERF_GPU(StreamCaptureModeThreadLocal)), "capture");
    try {
      work();
      recorded = true;
    } catch (std::exception const& error) {
      std::fprintf(stderr, "perf: no graph, direct launches: %s\n", error.what());
    }
    recorded = PERF_GPU(StreamEndCapture)(stream, &graph) == PERF_GPU(Success) && recorded;
    static_cast<void>(PERF_GPU(GetLastError)());
    if (recorded) {
      recorded = PERF_GPU(GraphInstantiateWithFlags)(&graph_exec, graph, 0) == PERF_GPU(Success);
    }
    if (graph != nullptr) static_cast<void>(PERF_GPU(GraphDestroy)(graph));
    return recorded;
  }

  Space exec;
  std::function<void()> work;
  PERF_GPU(GraphExec_t) graph_exec = nullptr;
};

Replay::Replay(Space const& exec, std::function<void()> work)
    : impl_(std::make_shared<Impl>(exec, std::move(work))) {
  impl_->work();  // what is set up by the first call is not recorded
  exec.fence("perf::Replay");
  if (!impl_->capture()) impl_->graph_exec = nullptr;
}

void Replay::launch() const {
  if (impl_->graph_exec == nullptr) return impl_->work();
  check(PERF_GPU(GraphLaunch)(impl_->graph_exec, stream_of(impl_->exec)), "graph launch");
}

bool Replay::captured() const {
  return impl_->graph_exec != nullptr;
}

struct Stopwatch::Impl {
  explicit Impl(Space const& exec) : stream(stream_of(exec)) {
    check(PERF_GPU(EventCreate)(&begin), "event");
    check(PERF_GPU(EventCreate)(&end), "event");
  }
  Impl(Impl const&) = delete;
  Impl& operator=(Impl const&) = delete;
  ~Impl() {
    static_cast<void>(PERF_GPU(EventDestroy)(begin));
    static_cast<void>(PERF_GPU(EventDestroy)(end));
  }
  Stream stream;
  PERF_GPU(Event_t) begin = nullptr;
  PERF_GPU(Event_t) end = nullptr;
};

Stopwatch::Stopwatch(Space const& exec) : impl_(std::make_shared<Impl>(exec)) {}

void Stopwatch::start() {
  check(PERF_GPU(EventRecord)(impl_->begin, impl_->stream), "event");
}

void Stopwatch::stop() {
  check(PERF_GPU(EventRecord)(impl_->end, impl_->stream), "event");
}

double Stopwatch::seconds() const {
  check(PERF_GPU(EventSynchronize)(impl_->end), "work");
  float milliseconds = 0;
  check(PERF_GPU(EventElapsedTime)(&milliseconds, impl_->begin, impl_->end), "event");
  return milliseconds * 1e-3;
}

}  // namespace perf
