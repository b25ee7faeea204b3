// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Copies of 16 bytes from global to scratch memory that pass through no register and are waited
/// for later. The portable twin copies at once; where has_async_copy is false, loads into registers
/// that are stored later hide the latency better.

#include "device/slab.hpp"

namespace kmoe::device {

template <class E>
inline constexpr bool has_async_copy = false;
#if defined(KOKKOS_ENABLE_CUDA) && (defined(KOKKOS_ARCH_AMPERE) || defined(KOKKOS_ARCH_ADA89) || \
                                    defined(KOKKOS_ARCH_HOPPER) || defined(KOKKOS_ARCH_BLACKWELL))
template <>
inline constexpr bool has_async_copy<Kokkos::Cuda> = true;
#endif

/// Copies a chunk, or writes zeros (`from` is not read then, but must be an address).
KOKKOS_FORCEINLINE_FUNCTION void copy_async(std::byte* to, void const* from, bool valid) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  auto const address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
#else
  store_chunk(to, valid ? read_chunk(from) : Chunk{});
#endif
}

/// Ends a batch of copies of this thread.
KOKKOS_FORCEINLINE_FUNCTION void commit_async() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits for all batches of this thread but the `Pending` latest.
template <int Pending>
KOKKOS_FORCEINLINE_FUNCTION void wait_async() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}

}  // namespace kmoe::device
