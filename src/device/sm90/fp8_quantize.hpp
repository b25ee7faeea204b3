// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Activations to e4m3 codes as RowQuantizer makes them: with a scale per 128 (fp8_group) by eight
/// threads, with one per row (fp8_token, fp8_static) by a warp.

#include <cuda_fp16.h>

#include <cstdint>

#include "device/sm90/activation.hpp"
#include "device/sm90/experts.hpp"
#include "device/sm90/ptx.hpp"

namespace kmoe::device::sm90 {

inline constexpr int scale_k = 128;  // elements of a scale
/// Scales of a row in memory: batches of four, of which the wide kernel has so many at once.
inline constexpr int scale_batches = 4;
__host__ __device__ constexpr int scale_pitch(int blocks) {
  return (blocks + 3) / 4 * 4;
}

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

template <Operand Type>
__device__ __forceinline__ float2 unpack(std::uint32_t pair) {
  if constexpr (Type == Operand::bf16) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000U)};
  } else {
    return __half22float2(reinterpret_cast<__half2 const&>(pair));
  }
}

/// Codes of two numbers; larger ones become the largest.
__device__ __forceinline__ std::uint32_t encode(float low, float high) {
  unsigned short codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
  return codes;
}

/// Codes of two elements divided by the scale, rounded as by a division.
template <Operand Type>
__device__ __forceinline__ std::uint32_t encode_pair(std::uint32_t pair, float scale,
                                                     float inverse) {
  float2 const v = unpack<Type>(pair);
  return encode(divide(v.x, scale, inverse), divide(v.y, scale, inverse));
}

/// The largest of those magnitudes and of eight elements, two in a word.
__device__ __forceinline__ std::uint32_t largest_pairs(std::uint32_t most, uint4 const& elements) {
  for (std::uint32_t const word : {elements.x, elements.y, elements.z, elements.w}) {
    most = __vmaxu2(most, word & 0x7fff7fffU);
  }
  return most;
}

/// The largest magnitude in this warp's share, of that of so many threads, of a row of so many 16
/// bytes.
__device__ inline std::uint32_t largest_of_row(uint4 const* row, int pieces, int thread,
                                               int threads) {
  constexpr int batch = 4;
  std::uint32_t pairs = 0;
  for (int first = thread; first < pieces; first += batch * threads) {
    uint4 values[batch];
#pragma unroll
    for (int n = 0; n < batch; ++n) {
      int const i = first + n * threads;
      values[n] = i < pieces ? __ldcg(row + i) : uint4{};
    }
#pragma unroll
    for (int n = 0; n < batch; ++n) pairs = largest_pairs(pairs, values[n]);
  }
  return __reduce_max_sync(~0U, max(pairs & 0xffffU, pairs >> 16));
}

/// The codes of eight elements divided by a scale: the row's, or one that is `given`, for which
/// they may be too large.
template <Operand Type>
__device__ __forceinline__ uint2 encode_eight(uint4 const& elements, float scale, bool given) {
  float const inverse = invert(scale);
  auto const pair = [&](std::uint32_t word) {
    if (!given) return encode_pair<Type>(word, scale, inverse);
    float2 const v = unpack<Type>(word);
    return encode(__fdiv_rn(v.x, scale), __fdiv_rn(v.y, scale));
  };
  return {pair(elements.x) | pair(elements.y) << 16, pair(elements.z) | pair(elements.w) << 16};
}
/// Of 16.
template <Operand Type>
__device__ __forceinline__ uint4 encode_sixteen(uint4 const& first, uint4 const& second,
                                                float scale, bool given) {
  uint2 const a = encode_eight<Type>(first, scale, given);
  uint2 const b = encode_eight<Type>(second, scale, given);
  return {a.x, a.y, b.x, b.y};
}

/// The codes of this thread's 16 elements in order; seven neighbours have the others of the group.
/// All threads of a warp.
template <Operand Type>
__device__ __forceinline__ uint4 encode_group(uint4 const& first, uint4 const& second,
                                              float& scale) {
  std::uint32_t const pairs = largest_pairs(largest_pairs(0, first), second);
  std::uint32_t most = max(pairs & 0xffffU, pairs >> 16);
#pragma unroll
  for (int d = 1; d < 8; d *= 2) most = max(most, __shfl_xor_sync(~0U, most, d));
  scale = group_scale<Type>(most);
  return encode_sixteen<Type>(first, second, scale, false);
}

/// x [rows, k] to codes and scales [rows, scale_pitch(ceil(k / 128))].
template <Operand Type>
__global__ void __launch_bounds__(256)
    quantize_kernel(void const* x, std::int64_t rows, int k, void* codes, float* scales) {
  wait_for_kernels_before();
  let_next_begin();
  int const blocks = (k + scale_k - 1) / scale_k, lane = threadIdx.x % 32, piece = lane % 8;
  std::int64_t const groups = rows * blocks;
  std::int64_t const warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  std::int64_t const warps = gridDim.x * blockDim.x / 32;
  for (std::int64_t first = 4 * warp; first < groups; first += 4 * warps) {
    std::int64_t const group = first + lane / 8;
    std::int64_t const row = group / blocks;
    int const at = static_cast<int>(group - row * blocks) * scale_k + 16 * piece;
    bool const inside = group < groups && at < k;
    uint4 low = {0, 0, 0, 0}, high = low;
    if (inside) {
      auto const* const from = static_cast<uint4 const*>(x) + (row * k + at) / 8;
      low = from[0];
      high = from[1];
    }
    float scale;
    uint4 const code = encode_group<Type>(low, high, scale);
    if (inside) static_cast<uint4*>(codes)[(row * k + at) / 16] = code;
    if (group < groups && piece == 0) {
      scales[row * scale_pitch(blocks) + (group - row * blocks)] = scale;
    }
  }
}

/// A row of pieces of eight elements by a warp: codes, and their scale, `given` or, if that is 0,
/// of the row. `weight`: of the elements, which are rounded again, or null.
template <Operand Type>
__device__ __forceinline__ void quantize_row(uint4 const* in, int pieces, float const* weight,
                                             float given, uint2* codes, float* scale) {
  constexpr int batch = 8;  // pieces of a lane that are read at once
  int const lane = threadIdx.x % 32;
  float const factor = weight != nullptr ? *weight : 1.0F;
  uint4 values[batch];
  auto const read = [&](int first) {
#pragma unroll
    for (int n = 0; n < batch; ++n) {
      int const piece = first + n * 32 + lane;
      values[n] = piece < pieces ? __ldcg(in + piece) : uint4{};
      if (weight == nullptr) continue;
      for (std::uint32_t* const word : {&values[n].x, &values[n].y, &values[n].z, &values[n].w}) {
        float2 const two = unpack<Type>(*word);
        *word = pack<Type>(two.x * factor, two.y * factor);
      }
    }
  };
  std::uint32_t pairs = 0;
  for (int first = 0; first < pieces; first += 32 * batch) {
    read(first);
#pragma unroll
    for (int n = 0; n < batch; ++n) pairs = largest_pairs(pairs, values[n]);
  }
  bool const is_given = given != 0;
  std::uint32_t const most = __reduce_max_sync(~0U, max(pairs & 0xffffU, pairs >> 16));
  float const own = is_given ? given : group_scale<Type>(most);
  for (int first = 0; first < pieces; first += 32 * batch) {
    if (pieces > 32 * batch) read(first);
#pragma unroll
    for (int n = 0; n < batch; ++n) {
      int const piece = first + n * 32 + lane;
      if (piece < pieces) codes[piece] = encode_eight<Type>(values[n], own, is_given);
    }
  }
  if (lane == 0) *scale = own;
}

/// Rows that get a scale each, and where codes [rows, k] and scales go.
struct RowsToCodes {
  void const* in;  // k elements of a row, a multiple of 16
  int k;
  std::int64_t rows;            // no more than these
  std::int64_t const* offsets;  // [groups + 1]: the rows of all groups; null: those of `in`
  int groups;
  std::int32_t const* slots;  // row r is in[slots[r] / slots_per_row]; null: in[r]
  int slots_per_row;
  float const* weights;  // by slot, or null
  float const* given;    // [groups] scales; null or 0: of the row
  void* codes;
  float* scales;
};
template <Operand Type>
__global__ void __launch_bounds__(256) quantize_rows_kernel(RowsToCodes const what) {
  wait_for_kernels_before();
  let_next_begin();
  int const pieces = what.k / 8;
  std::int64_t const warps = gridDim.x * blockDim.x / 32;
  std::int64_t row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, end = what.rows;
  if (what.offsets != nullptr) {
    row += what.offsets[0];
    end = min(end, what.offsets[what.groups]);
  }
  for (; row < end; row += warps) {
    int const slot = what.slots != nullptr ? what.slots[row] : static_cast<int>(row);
    std::int64_t const from = what.slots != nullptr ? slot / what.slots_per_row : row;
    float given = 0;
    if (what.given != nullptr) {
      int low = 0, high = what.groups;  // offsets[low] <= row < offsets[high]
      while (high - low > 1) {
        int const middle = (low + high) / 2;
        (what.offsets[middle] <= row ? low : high) = middle;
      }
      given = what.given[low];
    }
    quantize_row<Type>(static_cast<uint4 const*>(what.in) + from * pieces, pieces,
                       what.weights != nullptr ? what.weights + slot : nullptr, given,
                       static_cast<uint2*>(what.codes) + row * pieces, what.scales + row);
  }
}

}  // namespace kmoe::device::sm90
