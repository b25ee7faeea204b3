// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Activations to e4m3 codes with a scale per 128: what RowQuantizer does for fp8_group, by eight
/// threads.

#include <cuda_fp16.h>

#include <cstdint>

#include "device/sm90/experts.hpp"
#include "device/sm90/ptx.hpp"

namespace kmoe::device::sm90 {

inline constexpr int scale_k = 128;  // elements of a scale

/// x / y as rounded by a division, of inverse = 1 / y.
__device__ __forceinline__ float divide(float x, float y, float inverse) {
  float const q = x * inverse;
  return fmaf(fmaf(-q, y, x), inverse, q);
}
/// 1 / x, of no subnormal.
__device__ __forceinline__ float invert(float x) {
  float const r = reciprocal_fast(x);
  return fmaf(fmaf(-x, r, 1.0F), r, r);
}

/// Of elements whose largest magnitude has these bits.
template <Operand Type>
__device__ __forceinline__ float group_scale(std::uint32_t most) {
  constexpr std::uint32_t infinity = Type == Operand::bf16 ? 0x7f80U : 0x7c00U;
  if (most >= infinity) return __uint_as_float(0x7fc00000U);
  float const largest = Type == Operand::bf16
                            ? __uint_as_float(most << 16)
                            : __half2float(__ushort_as_half(static_cast<unsigned short>(most)));
  return fmaxf(divide(largest, 448.0F, 1.0F / 448.0F), 0x1p-126F);
}

/// Codes of two elements divided by the scale, rounded as by a division.
template <Operand Type>
__device__ __forceinline__ std::uint32_t encode_pair(std::uint32_t pair, float scale,
                                                     float inverse) {
  float low, high;
  if constexpr (Type == Operand::bf16) {
    low = __uint_as_float(pair << 16);
    high = __uint_as_float(pair & 0xffff0000U);
  } else {
    float2 const v = __half22float2(reinterpret_cast<__half2 const&>(pair));
    low = v.x;
    high = v.y;
  }
  unsigned short codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;"
      : "=h"(codes)
      : "f"(divide(high, scale, inverse)), "f"(divide(low, scale, inverse)));
  return codes;
}

/// The codes of this thread's 16 elements in order; seven neighbours have the others of the group.
/// All threads of a warp.
template <Operand Type>
__device__ __forceinline__ uint4 encode_group(uint4 const& first, uint4 const& second,
                                              float& scale) {
  std::uint32_t const words[8] = {first.x,  first.y,  first.z,  first.w,
                                  second.x, second.y, second.z, second.w};
  std::uint32_t pairs = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) pairs = __vmaxu2(pairs, words[i] & 0x7fff7fffU);
  std::uint32_t most = max(pairs & 0xffffU, pairs >> 16);
#pragma unroll
  for (int d = 1; d < 8; d *= 2) most = max(most, __shfl_xor_sync(~0U, most, d));
  scale = group_scale<Type>(most);
  float const inverse = invert(scale);
  std::uint32_t codes[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    codes[i] = encode_pair<Type>(words[2 * i], scale, inverse) |
               encode_pair<Type>(words[2 * i + 1], scale, inverse) << 16;
  }
  return {codes[0], codes[1], codes[2], codes[3]};
}

}  // namespace kmoe::device::sm90
