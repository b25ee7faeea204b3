// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// AMD CDNA 2 and 3 (gfx90a, gfx940, gfx942): v_mfma of 16 x 16 tiles, wavefronts of 64.
///
/// Lane l holds chunk l / 16 of row l % 16 of a and of b, whatever the element type: one
/// instruction takes the first element (or four of 16 bits, eight of 8) of each chunk, the next one
/// the second.
/// It holds four elements of column l % 16 of c, of rows 4 (l / 16) + i; of doubles, l / 16 + 4 i.
/// CDNA 2 has no instruction for codes of 8 bits: they become bfloat16, which holds them exactly.
/// Source: AMD matrix instruction calculator.

#include "device/slab.hpp"
#include "device/warp.hpp"

#if defined(KOKKOS_ENABLE_HIP) &&                                          \
    (defined(KOKKOS_ARCH_AMD_GFX90A) || defined(KOKKOS_ARCH_AMD_GFX940) || \
     defined(KOKKOS_ARCH_AMD_GFX942) || defined(KOKKOS_ARCH_AMD_GFX942_APU))
#define KMOE_DEVICE_CDNA

namespace kmoe::device::cdna {

template <Operand T>
class Mma {
 public:
  using Accumulate = sum_t<T>;
  static constexpr int lanes = 64, m = 16, n = 16, steps = 1;
  using A = Chunk;
  using B = Chunk;
  typedef Accumulate C __attribute__((ext_vector_type(4)));
  static constexpr int own = 4;  // sums of a lane

  KOKKOS_FORCEINLINE_FUNCTION explicit Mma(int lane)
      : lane_(lane), offset_(slab_offset(lane % 16, lane / 16)) {}

  KOKKOS_FORCEINLINE_FUNCTION A load_a(std::byte const* slab, int row, int) const {
    return load_chunk(slab + row * slab_bytes + offset_);
  }
  KOKKOS_FORCEINLINE_FUNCTION B load_b(std::byte const* slab, int row, int step) const {
    return load_a(slab, row, step);
  }

  KOKKOS_FORCEINLINE_FUNCTION static void clear(C& c) { c = C{0, 0, 0, 0}; }
  KOKKOS_FORCEINLINE_FUNCTION static void multiply([[maybe_unused]] C& c,
                                                   [[maybe_unused]] A const& a,
                                                   [[maybe_unused]] B const& b) {
#if defined(__gfx90a__) || defined(__gfx940__) || defined(__gfx942__)
    if constexpr (std::is_same_v<T, E4m3>) return multiply_codes(c, a, b);
    constexpr int size = std::is_same_v<T, double> ? 8 : std::is_same_v<T, float> ? 4 : 8;
    using Operand = std::conditional_t<
        std::is_same_v<T, double>, double,
        std::conditional_t<std::is_same_v<T, float>, float,
                           std::conditional_t<std::is_same_v<T, bfloat16>, Bf16x4, F16x4>>>;
    struct Operands {
      Operand k[chunk_bytes / size];
    };
    auto const x = __builtin_bit_cast(Operands, a), y = __builtin_bit_cast(Operands, b);
    KMOE_UNROLL
    for (int k = 0; k < chunk_bytes / size; ++k) {
      if constexpr (std::is_same_v<T, double>) {
        c = __builtin_amdgcn_mfma_f64_16x16x4f64(x.k[k], y.k[k], c, 0, 0, 0);
      } else if constexpr (std::is_same_v<T, float>) {
        c = __builtin_amdgcn_mfma_f32_16x16x4f32(x.k[k], y.k[k], c, 0, 0, 0);
      } else if constexpr (std::is_same_v<T, bfloat16>) {
        c = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(x.k[k], y.k[k], c, 0, 0, 0);
      } else {
        c = __builtin_amdgcn_mfma_f32_16x16x16f16(x.k[k], y.k[k], c, 0, 0, 0);
      }
    }
#endif
  }
  /// Where sum i of a lane is.
  KOKKOS_FORCEINLINE_FUNCTION int row_of(int i) const {
    return std::is_same_v<T, double> ? lane_ / 16 + 4 * i : lane_ / 16 * 4 + i;
  }
  KOKKOS_FORCEINLINE_FUNCTION int column_of(int) const {
    return lane_ % 16;
  }
  KOKKOS_FORCEINLINE_FUNCTION void store(C const& c, Accumulate* to, int pitch) const {
    KMOE_UNROLL
    for (int i = 0; i < own; ++i) to[row_of(i) * pitch + column_of(i)] = c[i];
  }

 private:
  typedef short Bf16x4 __attribute__((ext_vector_type(4)));
  typedef _Float16 F16x4 __attribute__((ext_vector_type(4)));

#if defined(__gfx90a__) || defined(__gfx940__) || defined(__gfx942__)
  KOKKOS_FORCEINLINE_FUNCTION static void multiply_codes(C& c, A const& a, B const& b) {
#if defined(__gfx90a__)
    struct Fours {
      E4m3 k[chunk_bytes / 4][4];
    };
    auto const x = __builtin_bit_cast(Fours, a), y = __builtin_bit_cast(Fours, b);
    auto const widened = [](E4m3 const(&four)[4]) {
      Bf16x4 v;
      KMOE_UNROLL
      for (int i = 0; i < 4; ++i) {
        v[i] = static_cast<short>(__builtin_bit_cast(std::uint32_t, float(four[i])) >> 16);
      }
      return v;
    };
    KMOE_UNROLL
    for (int k = 0; k < chunk_bytes / 4; ++k) {
      c = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(widened(x.k[k]), widened(y.k[k]), c, 0, 0, 0);
    }
#else
    struct Eights {
      long k[chunk_bytes / 8];
    };
    auto const x = __builtin_bit_cast(Eights, a), y = __builtin_bit_cast(Eights, b);
    KMOE_UNROLL
    for (int k = 0; k < chunk_bytes / 8; ++k) {
      c = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(x.k[k], y.k[k], c, 0, 0, 0);
    }
#endif
  }
#endif

  int lane_, offset_;
};

}  // namespace kmoe::device::cdna
#endif
