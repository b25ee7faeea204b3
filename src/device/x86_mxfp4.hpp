// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// MXFP4 in floats by AVX-512, for QuantWords (quant_kernel.hpp): a word of eight codes is an index
/// of the table of values, of which only the low four bits count, so that a shift and a look-up
/// give 16 floats. Internal linkage, as panel_kernel.hpp.

#include <immintrin.h>

#include "device/quant_kernel.hpp"

namespace kmoe::device {
namespace {  // NOLINT(cert-dcl59-cpp)

struct Mxfp4Avx512 {
  using Floats = Vec<float, 16>;

  /// Each of four scales in the lanes of its 32 codes.
  static Floats quarters(float const* s) {
    __m512i const from = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return (Floats)_mm512_permutexvar_ps(from, _mm512_castps128_ps512(_mm_loadu_ps(s)));
  }

  /// decode_row for floats: all units of 128 k that are whole; returns where it stopped.
  static std::int64_t decode(QuantMultiply const& m, int c, float* out) {
    constexpr int unit = 128;
    if (m.code != QuantCode::e2m1 || m.scale != QuantScale::e8m0) return 0;
    std::int64_t const whole = m.k / unit * unit;
    for (std::int64_t k = 0; k < whole; k += unit) {
      __m512i const words = load<__m512i>(m.codes[c] + k / 2);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) store(out + k + 16 * i, values(words, i));
    }
    return whole;
  }

  /// acc[r] = column c times row `row` + r of A for 1 to 4 rows, K in whole blocks of 32. False,
  /// and nothing done, where a scale is none of a float's exponents. (The first unused pointer
  /// tells the operand.)
  static bool dot_mxfp4(QuantMultiply const& m, int c, std::int64_t row, std::int64_t rows, float*,
                        float*, float* acc, std::int64_t acc_stride) {
    auto const* const scales = static_cast<std::uint8_t const*>(m.scales[c]);
    for (std::int64_t i = 0; i < m.k / 32; i += 64) {
      std::int64_t const left = m.k / 32 - i;
      __mmask64 const valid = left < 64 ? (__mmask64{1} << left) - 1 : ~__mmask64{0};
      // 255 and 0 become 0 and 1
      __m512i const next =
          _mm512_add_epi8(_mm512_maskz_loadu_epi8(valid, scales + i), _mm512_set1_epi8(1));
      if (_mm512_mask_cmplt_epu8_mask(valid, next, _mm512_set1_epi8(2)) != 0) return false;
    }
    switch (rows) {
      case 1:
        dot_rows<1>(m, c, row, acc, acc_stride);
        break;
      case 2:
        dot_rows<2>(m, c, row, acc, acc_stride);
        break;
      case 3:
        dot_rows<3>(m, c, row, acc, acc_stride);
        break;
      default:
        dot_rows<4>(m, c, row, acc, acc_stride);
    }
    return true;
  }
  static constexpr int mxfp4_rows(float*) {
    return 4;
  }

 private:
  static Floats fma(Floats a, Floats b, Floats c) {
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  }
  /// Code i of each word.
  static Floats values(__m512i words, int i) {
    __m512 const table = _mm512_loadu_ps(e2m1_table);
    auto const shifted = (Vec<std::uint32_t, 16>)words >> (4 * i);
    return (Floats)_mm512_permutexvar_ps((__m512i)shifted, table);
  }

  template <int M>
  static void dot_rows(QuantMultiply const& m, int c, std::int64_t row, float* acc,
                       std::int64_t acc_stride) {
    // In bytes, across the ends of rows and pages: to the first-level cache, which takes few lines
    // at a time, and far ahead to the second.
    constexpr int near = 1024, far = 8192;
    // Byte i of four into the highest byte of the lanes of block i, then into a float's exponent.
    __m512i const spread = _mm512_inserti64x4(
        _mm512_castsi256_si512(
            _mm256_setr_m128i(_mm_set1_epi32(0x00808080), _mm_set1_epi32(0x01808080))),
        _mm256_setr_m128i(_mm_set1_epi32(0x02808080), _mm_set1_epi32(0x03808080)), 1);
    auto const* const a = static_cast<float const*>(m.a) + row * m.a_stride;
    std::uint8_t const* const codes = m.codes[c];
    auto const* const scales = static_cast<std::uint8_t const*>(m.scales[c]);
    Floats sums[M]{};
    auto const step = [&](std::int64_t k, __m512i words, __m512i four) {
      Floats parts[M]{};
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        Floats const b = values(words, i);
#pragma GCC unroll 4
        for (int r = 0; r < M; ++r) {
          parts[r] = fma(b, load<Floats>(a + r * m.a_stride + k + 16 * i), parts[r]);
        }
      }
      __m512i const scale = _mm512_srli_epi32(_mm512_shuffle_epi8(four, spread), 1);
#pragma GCC unroll 4
      for (int r = 0; r < M; ++r) sums[r] = fma(parts[r], (Floats)scale, sums[r]);
    };
    std::int64_t k = 0;
    for (; k + 128 <= m.k; k += 128) {
      __builtin_prefetch(codes + k / 2 + near);
      __builtin_prefetch(codes + k / 2 + far, 0, 1);
      step(k, load<__m512i>(codes + k / 2), _mm512_set1_epi32(load<std::int32_t>(scales + k / 32)));
    }
    if (k < m.k) {
      std::int64_t const left = (m.k - k) / 32;
      auto const words = static_cast<__mmask16>((1U << 4 * left) - 1);
      auto const bytes = static_cast<__mmask16>((1U << left) - 1);
      step(k, _mm512_maskz_loadu_epi32(words, codes + k / 2),
           _mm512_broadcastd_epi32(_mm_maskz_loadu_epi8(bytes, scales + k / 32)));
    }
    // The first step of add_lanes by name, for which GCC would keep the sums in memory.
    using Half = Vec<float, 8>;
#pragma GCC unroll 4
    for (int r = 0; r < M; ++r) {
      acc[r * acc_stride] = add_lanes((Half)_mm512_castps512_ps256((__m512)sums[r]) +
                                      (Half)_mm512_extractf32x8_ps((__m512)sums[r], 1));
    }
  }
};

}  // namespace
}  // namespace kmoe::device
