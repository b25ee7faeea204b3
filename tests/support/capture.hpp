// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Work recorded once into a graph of the device and replayed without its host code.

#include <stdexcept>
#include <utility>

#include <Kokkos_Core.hpp>

namespace kmoe::test {

/// Where E has no graphs, a replay calls the work again.
template <class E, class Work>
class Captured {
 public:
  static constexpr bool replays_without_host_code = false;

  Captured(E const&, Work work) : work_(std::move(work)) {}
  void replay() const { work_(); }

 private:
  Work work_;
};

#if defined(KOKKOS_ENABLE_CUDA)

/// Recorded from the stream of `exec`, which must not be the default one. A call that a capture
/// forbids (a synchronization, an allocation, a copy from pageable memory) is an error.
template <class Work>
class Captured<Kokkos::Cuda, Work> {
 public:
  static constexpr bool replays_without_host_code = true;

  Captured(Kokkos::Cuda const& exec, Work work) : stream_(exec.cuda_stream()) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    work();
    check(cudaStreamEndCapture(stream_, &graph));
    check(cudaGraphGetNodes(graph, nullptr, &num_nodes_));
    check(cudaGraphInstantiate(&executable_, graph, 0));
    check(cudaGraphDestroy(graph));
  }
  ~Captured() { cudaGraphExecDestroy(executable_); }
  Captured(Captured const&) = delete;
  Captured& operator=(Captured const&) = delete;

  void replay() const { check(cudaGraphLaunch(executable_, stream_)); }
  [[nodiscard]] std::size_t num_nodes() const { return num_nodes_; }

 private:
  static void check(cudaError_t status) {
    if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
  }

  cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
  std::size_t num_nodes_ = 0;
};

#endif

template <class E, class Work>
Captured(E const&, Work) -> Captured<E, Work>;

}  // namespace kmoe::test
