// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// How a thread of packed_kernel.hpp makes bfloat16 of codes of four bits, and the accesses to
/// shared memory that it wants for it.

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "device/sm90/activation.hpp"

namespace kmoe::device::sm90 {

__device__ __forceinline__ std::uint32_t multiply_bf16(std::uint32_t a, std::uint32_t b) {
  std::uint32_t d;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ std::uint32_t subtract_bf16(std::uint32_t a, std::uint32_t b) {
  std::uint32_t d;
  asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
/// Bits of a where mask has them, else of b: in one instruction, which the compiler does not find.
__device__ __forceinline__ std::uint32_t choose_bits(std::uint32_t mask, std::uint32_t a,
                                                     std::uint32_t b) {
  std::uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xe4;" : "=r"(d) : "r"(a), "r"(b), "r"(mask));
  return d;
}
__device__ __forceinline__ uint4 load_shared_16(std::uint32_t at) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(at));
  return v;
}
__device__ __forceinline__ std::uint32_t load_shared_4(std::uint32_t at) {
  std::uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
  return v;
}
__device__ __forceinline__ std::uint32_t load_shared_u16(std::uint32_t at) {
  std::uint16_t v;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at));
  return v;
}
__device__ __forceinline__ std::uint32_t load_shared_u8(std::uint32_t at) {
  std::uint32_t v;
  asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(at));
  return v;
}
__device__ __forceinline__ void store_shared_16(std::uint32_t at, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}
/// Two numbers of 16 bits in a register, where the loop that reads them has none to spare:
/// volatile, so that they stay there together.
__device__ __forceinline__ int pack_steps(int high, int low) {
  return high * 65536 + (low & 0xffff);
}
__device__ __forceinline__ int steps_high(int steps) {
  int d;
  asm volatile("shr.s32 %0, %1, 16;" : "=r"(d) : "r"(steps));
  return d;
}
__device__ __forceinline__ int steps_low(int steps) {
  int d;
  asm volatile("bfe.s32 %0, %1, 0, 16;" : "=r"(d) : "r"(steps));
  return d;
}

/// An array that is indexed by what is not constant would not stay in registers.
__device__ __forceinline__ void set_if(float& to, bool condition, float value) {
  asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %1, 0;\n\t@p mov.b32 %0, %2;\n\t}"
               : "+f"(to)
               : "r"(static_cast<int>(condition)), "f"(value));
}

// The order of the operand: of 128 of k, columns 8 (4 n + p) to 8 (4 n + p) + 7 are what four lanes
// of a warpgroup decode from their p-th words, and column 8 (4 n + p) + 2 l + u is
// k = 32 l + 8 p + 3 - n + 4 u.

__host__ __device__ constexpr int arranged_width(int k) {
  return (k + 127) / 128 * 128;
}
__device__ constexpr int arranged_element(int column) {
  return column / 128 * 128 + column / 2 % 4 * 32 + column / 8 % 4 * 8 + 3 - column / 32 % 4 +
         column % 2 * 4;
}
__device__ constexpr int arranged_column(int k) {
  return k / 128 * 128 + (3 - k % 4) * 32 + k / 8 % 4 * 8 + k / 32 % 4 * 2 + k / 4 % 2;
}
/// Columns 8 (4 n + p) and on, of the pieces p, p + 4, p + 8 and p + 12 of eight of k.
__device__ __forceinline__ uint4 arranged_piece(uint4 const (&pieces)[4], int n) {
  auto const pair = [&](uint4 const& x) {
    return n < 2 ? __byte_perm(x.y, x.w, n == 0 ? 0x7632 : 0x5410)
                 : __byte_perm(x.x, x.z, n == 2 ? 0x7632 : 0x5410);
  };
  return {pair(pieces[0]), pair(pieces[1]), pair(pieces[2]), pair(pieces[3])};
}

// What a thread has of a row's 128 of k, and how it decodes them: a word of eight codes, four
// pairs. Pair n is codes 3 - n and 7 - n: the first two come from near(w, 0), the others from
// near(w, 1).

/// Shifts to the left are multiplications: those have a pipe of their own, the other operations
/// share one. The compiler is not told of the factors, it would make shifts of them.
struct Factors {
  std::uint32_t f4, f16, f256;
};

/// e2m1, times 2^-126: the fields lie where a subnormal number has them.
struct E2m1 {
  /// Of two pairs signs and magnitudes at their distance: one where they belong, one 4 bits lower.
  __device__ static std::uint32_t near(std::uint32_t w, int half, Factors const& by) {
    std::uint32_t const magnitudes = half == 0 ? w >> 6 : w * by.f4;
    std::uint32_t const signs = half == 0 ? w : w * by.f256;
    return choose_bits(0x01dc01dcU, magnitudes, signs);
  }
  __device__ static std::uint32_t pair(std::uint32_t near, int n, Factors const& by) {
    return (n % 2 == 0 ? near : near * by.f16) & 0x81c081c0U;
  }
};

/// The operand is 2^-32 of the value, so that the factor, 2^126 times the scale, is a number for
/// scales up to 2^32.
struct Mxfp4 : E2m1 {
  static constexpr bool in_sums = false, part_scaled = false, has_zeros = false, has_large = true;
  static constexpr bool has_offset = true;  // of a row's scales among four bytes
  static constexpr float times = 0x1p32F;
  static constexpr int slot_bytes = 4;  // of scales of 128 of k
  std::uint32_t factor;

  /// That a row of codes has in shared memory for so many 128 of k.
  static constexpr int side_words(int slots) { return slots + 1; }

  /// What a thread needs of the scales of 128 of k, at `slot`, which may have the offset, and of
  /// the zero points `zero` bytes further; `own` = lane % 4.
  __device__ static std::uint32_t load(std::uint32_t slot, int, int own) {
    return load_shared_u8(slot + own);
  }
  __device__ void set(std::uint32_t scale) {
    factor = scale * 0x00800080U + (126 - 32) * 0x00800080U;
  }
  __device__ std::uint32_t decode(std::uint32_t near, int n, int, Factors const& by) const {
    return multiply_bf16(pair(near, n, by), factor);
  }
  /// From this scale on, 2^33, or NaN, the factor is not a number.
  static constexpr std::uint32_t large = 160;
  /// Weight k of a row, in the way that has no such limits.
  __device__ static float value(std::uint8_t const* codes, std::uint8_t const* scales, int k) {
    int const code = codes[k / 2] >> 4 * (k % 2) & 15, e = scales[k / 32], m = code & 7;
    float const magnitude = m < 2 ? 0.5F * m : __int_as_float((126 << 23) + (m << 22));
    float const scale = __int_as_float(e == 255 ? 0x7fc00000 : e == 0 ? 0x00400000 : e << 23);
    return (code & 8) != 0 ? -magnitude * scale : magnitude * scale;
  }
};

/// The operand is 2^-8 of the value, so that the largest scale times 2^126 is a number; part scales
/// make up for it.
struct Nvfp4 : E2m1 {
  static constexpr bool in_sums = false, part_scaled = true, has_zeros = false, has_large = false;
  static constexpr bool has_offset = false;
  static constexpr float times = 256;
  static constexpr int slot_bytes = 8;
  std::uint32_t factors[2];

  static constexpr int side_words(int slots) { return slots == 1 ? 2 : 2 * slots + 1; }
  __device__ static std::uint32_t load(std::uint32_t slot, int, int own) {
    return load_shared_u16(slot + 2 * own);
  }
  __device__ void set(std::uint32_t scales) {
    auto const two = static_cast<__nv_fp8x2_storage_t>(scales);
    float2 const s = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(two, __NV_E4M3)));
    factors[0] = pack<Operand::bf16>(s.x * 0x1p118F, s.x * 0x1p118F);
    factors[1] = pack<Operand::bf16>(s.y * 0x1p118F, s.y * 0x1p118F);
  }
  __device__ std::uint32_t decode(std::uint32_t near, int n, int word, Factors const& by) const {
    return multiply_bf16(pair(near, n, by), factors[word / 2]);
  }
};

/// Integers less their zero point, in blocks of 128.
template <bool Zeros>
struct Int4 {
  static constexpr bool in_sums = true, part_scaled = false, has_zeros = Zeros, has_large = false;
  static constexpr bool has_offset = false;
  static constexpr float times = 1;
  static constexpr int slot_bytes = 4;
  float scale;
  std::uint32_t zero;  // 128 more, twice

  static constexpr int side_words(int slots) { return slots == 1 ? 2 : slots + (Zeros ? 3 : 1); }
  __device__ static uint2 load(std::uint32_t slot, int zero, int) {
    return {load_shared_4(slot), Zeros ? load_shared_u8(slot + zero) : 0U};
  }
  __device__ void set(uint2 slot) {
    scale = __uint_as_float(slot.x);
    zero = Zeros ? 0x43004300U + (slot.y & 15U) * 0x00010001U : 0x43084308U;
  }
  __device__ static std::uint32_t near(std::uint32_t w, int half, Factors const&) {
    return half == 0 ? w >> 8 : w;
  }
  __device__ std::uint32_t decode(std::uint32_t near, int n, int, Factors const&) const {
    std::uint32_t const code = (n % 2 == 0 ? near >> 4 : near) & 0x000f000fU;
    return subtract_bf16(code | 0x43004300U, zero);
  }
};

}  // namespace kmoe::device::sm90
