// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Instructions across the lanes of a warp (a wavefront on AMD), with a portable twin: where an
/// execution space has none, a warp is one lane. All lanes of a warp must take part in a call.

#include <cstdint>

#include <Kokkos_Core.hpp>

namespace kmoe::device {

/// Lanes of a warp of execution space E.
template <class E>
inline constexpr int warp_size = 1;
#if defined(KOKKOS_ENABLE_CUDA)
template <>
inline constexpr int warp_size<Kokkos::Cuda> = 32;
#elif defined(KOKKOS_ENABLE_HIP)
template <>
inline constexpr int warp_size<Kokkos::HIP> = Kokkos::Impl::HIPTraits::WarpSize;
#endif

/// One bit per lane.
#if defined(KOKKOS_ENABLE_HIP)
using LaneMask = std::uint64_t;
#else
using LaneMask = std::uint32_t;
#endif

/// Before a loop over an array that is to stay in registers; ROLL: before one to be left as it is.
#if defined(__CUDA_ARCH__) || defined(__HIP_DEVICE_COMPILE__)
#define KMOE_UNROLL _Pragma("unroll")
#define KMOE_UNROLL_4 _Pragma("unroll 4")
#define KMOE_UNROLL_8 _Pragma("unroll 8")
#define KMOE_ROLL _Pragma("unroll 1")
#else
#define KMOE_UNROLL
#define KMOE_UNROLL_4
#define KMOE_UNROLL_8
#define KMOE_ROLL
#endif

#if defined(__CUDA_ARCH__)

KOKKOS_FORCEINLINE_FUNCTION void sync_warp() {
  __syncwarp();
}
KOKKOS_FORCEINLINE_FUNCTION LaneMask ballot(bool yes) {
  return __ballot_sync(~0U, yes);
}
KOKKOS_FORCEINLINE_FUNCTION int count(LaneMask mask) {
  return __popc(mask);
}
template <class T>
KOKKOS_FORCEINLINE_FUNCTION T shuffle(T value, int lane) {
  return __shfl_sync(~0U, value, lane);
}
template <class T>
KOKKOS_FORCEINLINE_FUNCTION T shuffle_up(T value, int by) {
  return __shfl_up_sync(~0U, value, by);
}
template <class T>
KOKKOS_FORCEINLINE_FUNCTION T shuffle_xor(T value, int by) {
  return __shfl_xor_sync(~0U, value, by);
}

#elif defined(__HIP_DEVICE_COMPILE__)

KOKKOS_FORCEINLINE_FUNCTION void sync_warp() {
  __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "wavefront");
  __builtin_amdgcn_wave_barrier();
}
KOKKOS_FORCEINLINE_FUNCTION LaneMask ballot(bool yes) {
  return __ballot(yes);
}
KOKKOS_FORCEINLINE_FUNCTION int count(LaneMask mask) {
  return __popcll(mask);
}
template <class T>
KOKKOS_FORCEINLINE_FUNCTION T shuffle(T value, int lane) {
  return __shfl(value, lane);
}
template <class T>
KOKKOS_FORCEINLINE_FUNCTION T shuffle_up(T value, int by) {
  return __shfl_up(value, by);
}
template <class T>
KOKKOS_FORCEINLINE_FUNCTION T shuffle_xor(T value, int by) {
  return __shfl_xor(value, by);
}

#else

KOKKOS_FORCEINLINE_FUNCTION void sync_warp() {}
KOKKOS_FORCEINLINE_FUNCTION LaneMask ballot(bool yes) {
  return yes ? 1 : 0;
}
KOKKOS_FORCEINLINE_FUNCTION int count(LaneMask mask) {
  return mask != 0 ? 1 : 0;
}
template <class T>
KOKKOS_FORCEINLINE_FUNCTION T shuffle(T value, int) {
  return value;
}
template <class T>
KOKKOS_FORCEINLINE_FUNCTION T shuffle_up(T value, int) {
  return value;
}
template <class T>
KOKKOS_FORCEINLINE_FUNCTION T shuffle_xor(T value, int) {
  return value;
}

#endif

/// The lanes before this one.
KOKKOS_FORCEINLINE_FUNCTION LaneMask lanes_before(int lane) {
  return (LaneMask{1} << lane) - 1;
}

/// The lanes whose key, a number below 2^bits, is this lane's. (With __match_any_sync instead,
/// grouping slots on an H100 took as long or up to 14 % longer.)
KOKKOS_FORCEINLINE_FUNCTION LaneMask match(std::uint32_t key, int bits) {
  LaneMask same = ballot(true);
  for (int b = 0; b < bits; ++b) {
    bool const set = (key >> b & 1U) != 0;
    LaneMask const lanes = ballot(set);
    same &= set ? lanes : ~lanes;
  }
  return same;
}

/// op over the values of `Lanes` neighbouring lanes, the same on each of them. The order is fixed.
template <int Lanes, class T, class Op>
KOKKOS_FORCEINLINE_FUNCTION T reduce(T value, Op const& op) {
  for (int by = 1; by < Lanes; by *= 2) value = op(value, shuffle_xor(value, by));
  return value;
}

template <int Lanes>
KOKKOS_FORCEINLINE_FUNCTION std::uint32_t max_over(std::uint32_t value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (Lanes == 32) return __reduce_max_sync(~0U, value);
#endif
  return reduce<Lanes>(value, [](auto a, auto b) { return a > b ? a : b; });
}

template <int Lanes>
KOKKOS_FORCEINLINE_FUNCTION std::uint32_t min_over(std::uint32_t value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (Lanes == 32) return __reduce_min_sync(~0U, value);
#endif
  return reduce<Lanes>(value, [](auto a, auto b) { return a < b ? a : b; });
}

template <int Lanes>
KOKKOS_FORCEINLINE_FUNCTION std::uint32_t sum_over(std::uint32_t value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (Lanes == 32) return __reduce_add_sync(~0U, value);
#endif
  return reduce<Lanes>(value, [](auto a, auto b) { return a + b; });
}

/// Sum of the values of the lanes before this one (exclusive) in a warp of `Warp` lanes.
template <int Warp>
KOKKOS_FORCEINLINE_FUNCTION std::uint32_t sum_before(std::uint32_t value, int lane) {
  std::uint32_t sum = value;
  for (int by = 1; by < Warp; by *= 2) {
    std::uint32_t const other = shuffle_up(sum, by);
    if (lane >= by) sum += other;
  }
  return sum - value;
}

/// Shifts by 0 to 255 bits; 0 from 64 on.
KOKKOS_FORCEINLINE_FUNCTION std::uint64_t shift_left(std::uint64_t value, std::uint32_t by) {
#if defined(__CUDA_ARCH__)
  std::uint64_t shifted;
  asm("shl.b64 %0, %1, %2;" : "=l"(shifted) : "l"(value), "r"(by));
  return shifted;
#else
  return by < 64 ? value << by : 0;
#endif
}
KOKKOS_FORCEINLINE_FUNCTION std::uint64_t shift_right(std::uint64_t value, std::uint32_t by) {
#if defined(__CUDA_ARCH__)
  std::uint64_t shifted;
  asm("shr.u64 %0, %1, %2;" : "=l"(shifted) : "l"(value), "r"(by));
  return shifted;
#else
  return by < 64 ? value >> by : 0;
#endif
}

}  // namespace kmoe::device
