// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Launches beside Kokkos' own: kernels that are brought to the multiprocessors while the kernel
/// before them in their queue still runs (NVIDIA's programmatic dependent launch, from sm_90 on),
/// and the marks of a launch for Kokkos Tools.
///
/// Such a kernel waits by itself for the results of the ones before it. The next one may begin
/// early only where every block of the one before it has said so or has ended.

#include <cstdint>

#include <Kokkos_Core.hpp>

#include <kmoe/core/types.hpp>

namespace kmoe::device {

/// In a kernel: the next one in the queue may take the multiprocessors that are free. Only kernels
/// that wait for this one by themselves do: those of dependent_for and of sm90.
KOKKOS_FORCEINLINE_FUNCTION void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/// In a kernel that may have been brought early: until all kernels before it have ended and their
/// writes are visible.
KOKKOS_FORCEINLINE_FUNCTION void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Tells Kokkos Tools of a launch while it lives.
template <class E>
class LaunchMark {
 public:
  LaunchMark(E const& exec, char const* label) : on_(Kokkos::Profiling::profileLibraryLoaded()) {
    if (!on_) return;
    Kokkos::Profiling::beginParallelFor(label, Kokkos::Tools::Experimental::device_id(exec), &id_);
  }
  ~LaunchMark() {
    if (on_) Kokkos::Profiling::endParallelFor(id_);
  }
  LaunchMark(LaunchMark const&) = delete;
  LaunchMark& operator=(LaunchMark const&) = delete;

 private:
  bool on_;
  std::uint64_t id_ = 0;
};

#if defined(KOKKOS_ENABLE_CUDA)

inline constexpr int dependent_threads = 256;  // of a block

template <class Functor>
__global__ void __launch_bounds__(dependent_threads)
    dependent_kernel(Functor const functor, offset_t items) {
  wait_for_previous();
  offset_t const item = offset_t{blockIdx.x} * dependent_threads + threadIdx.x;
  if (item < items) functor(item);
}

/// Whether a launch may say that it waits by itself.
inline bool launches_early() {
  static bool const known = [] {
    int device = 0, major = 0;
    KOKKOS_IMPL_CUDA_SAFE_CALL(cudaGetDevice(&device));
    KOKKOS_IMPL_CUDA_SAFE_CALL(
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    return major >= 9;
  }();
  return known;
}

template <class Functor>
void launch_dependent(cudaStream_t stream, offset_t items, Functor const& functor) {
  static_assert(sizeof(Functor) < 4000);  // of the 4096 bytes of a kernel's arguments
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>((items + dependent_threads - 1) / dependent_threads);
  config.blockDim = dependent_threads;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = launches_early() ? 1 : 0;
  KOKKOS_IMPL_CUDA_SAFE_CALL(
      cudaLaunchKernelEx(&config, dependent_kernel<Functor>, functor, items));
}

#endif

/// Kokkos::parallel_for over [0, items), brought to the device early where that can be.
template <class E, class Functor>
void dependent_for(E const& exec, char const* label, offset_t items, Functor const& functor) {
#if defined(KOKKOS_ENABLE_CUDA)
  if constexpr (std::is_same_v<E, Kokkos::Cuda>) {
    if (items == 0) return;
    LaunchMark<E> const mark(exec, label);
    launch_dependent(exec.cuda_stream(), items, functor);
    return;
  }
#endif
  Kokkos::parallel_for(label, Kokkos::RangePolicy<E, Kokkos::IndexType<offset_t>>(exec, 0, items),
                       functor);
}

}  // namespace kmoe::device
