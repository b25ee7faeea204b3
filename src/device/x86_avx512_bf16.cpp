// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// bfloat16 by the dot product of AVX-512 BF16; the other types use AVX-512.

#include <immintrin.h>

#include "device/panel_kernel.hpp"
#include "device/quant_kernel.hpp"
#include "device/x86_mxfp4.hpp"

namespace kmoe::device {
namespace {

/// bfloat16 of an integer or a power of two.
constexpr std::int16_t word_of(float value) {
  return static_cast<std::int16_t>(__builtin_bit_cast(std::uint32_t, value) >> 16);
}
struct Words {
  std::int16_t words[32];
};
constexpr Words make_words(float first, float step) {
  Words out{};
  for (int i = 0; i < 32; ++i) out.words[i] = word_of(first + static_cast<float>(i) * step);
  return out;
}
constexpr Words integer_words = make_words(-15, 1);      // zero is number 15
constexpr Words fn_subnormals = make_words(0, 0x1p-9F);  // the first 8 are asked for
constexpr Words fnuz_subnormals = make_words(0, 0x1p-10F);
constexpr Words e2m1_words = [] {
  Words out{};
  for (int i = 0; i < 32; ++i) out.words[i] = word_of(e2m1_table[i % 16]);
  return out;
}();

struct Simd : Mxfp4Avx512 {
  using Mxfp4Avx512::decode;
  using Mxfp4Avx512::dot_mxfp4;
  using Mxfp4Avx512::mxfp4_rows;
  static constexpr int bytes = 64, tile_rows = 14;
  using Floats = Vec<float, 16>;
  using Doubles = Vec<double, 8>;
  static Floats fma(Floats a, Floats b, Floats c) {
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  }
  static Doubles fma(Doubles a, Doubles b, Doubles c) {
    return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
  }
  static Floats widen(f16_bits const* p) { return (Floats)_mm512_cvtph_ps(load<__m256i>(p)); }
  static void narrow(Floats v, f16_bits* p) {
    store(p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static Floats dot(Vec<std::int32_t, 16> a, Vec<std::int32_t, 16> b, Floats c) {
#if defined(__clang__) && __clang_major__ < 18  // crash in optimizing the casts to __m512bh
    asm("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
#else
    return (Floats)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#endif
  }
  /// s[0] in the lower lanes, s[1] in the upper.
  static Floats halves(float const* s) {
    return (Floats)_mm512_mask_broadcastss_ps(_mm512_set1_ps(s[0]), 0xff00, _mm_load_ss(s + 1));
  }

  /// `count` scales.
  static void decode_e8m0(std::uint8_t const* codes, std::int64_t count, float* out) {
    for (std::int64_t i = 0; i < count; i += 16) {
      auto const valid = static_cast<__mmask16>(count - i < 16 ? (1U << (count - i)) - 1 : 0xffffU);
      __m512i const code = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(valid, codes + i));
      __m512i bits = _mm512_slli_epi32(code, 23);
      bits = _mm512_mask_mov_epi32(bits, _mm512_testn_epi32_mask(code, code),
                                   _mm512_set1_epi32(0x00400000));
      bits = _mm512_mask_mov_epi32(bits, _mm512_cmpeq_epi32_mask(code, _mm512_set1_epi32(255)),
                                   _mm512_set1_epi32(0x7fc00000));
      _mm512_mask_storeu_epi32(out + i, valid, bits);
    }
  }

  /// decode_row for bfloat16: all units of 64 k that are whole; returns where it stopped.
  static std::int64_t decode(QuantMultiply const& m, int c, bf16_bits* out) {
    std::int64_t const whole = m.k / unit * unit;
    std::uint8_t const* const codes = m.codes[c];
    switch (m.code) {
      case QuantCode::e2m1:
        for (std::int64_t k = 0; k < whole; k += unit) {
          Nibbles v = e2m1(codes + k / 2);
          if (m.scale == QuantScale::e4m3) {
            auto const* const scales = static_cast<std::uint8_t const*>(m.scales[c]) + k / 16;
            Floats const low = sixteenths(scales), high = sixteenths(scales + 2);
            v = {scaled(v.even, low, high), scaled(v.odd, low, high)};
          }
          store(out + k, v.even);
          store(out + k + 32, v.odd);
        }
        return whole;
      case QuantCode::int4: {
        __m512i const upper = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
        for (std::int64_t k = 0; k < whole; k += unit) {
          int zeros[2] = {8, 8};
          for (int i = 0; i < 2 && m.zeros != nullptr; ++i) {
            zeros[i] = m.zeros[c][m.block == 0 ? 0 : (k + 32 * i) / m.block] & 15;
          }
          __m512i const table = _mm512_inserti64x4(_mm512_castsi256_si512(integers_from(zeros[0])),
                                                   integers_from(zeros[1]), 1);
          Nibbles const v = nibbles(codes + k / 2, table, upper);
          store(out + k, v.even);
          store(out + k + 32, v.odd);
        }
        return whole;
      }
      case QuantCode::e4m3fn:
        decode_e4m3<false>(codes, whole, out);
        return whole;
      case QuantCode::e4m3fnuz:
        decode_e4m3<true>(codes, whole, out);
        return whole;
      default:
        return 0;
    }
  }

  /// As that of floats, one row of A, K in whole units.
  static bool dot_mxfp4(QuantMultiply const& m, int c, std::int64_t, std::int64_t, bf16_bits*,
                        float* scales, float* acc, std::int64_t) {
    if (m.k % unit != 0) return false;
    decode_e8m0(static_cast<std::uint8_t const*>(m.scales[c]), m.k / quant_scaled, scales);
    // In bytes, across the ends of rows and pages: to the first-level cache, which takes few lines
    // at a time, and far ahead to the second.
    constexpr int near = 1024, far = 8192;
    auto const* const a = static_cast<bf16_bits const*>(m.a);
    std::uint8_t const* const codes = m.codes[c];
    Floats sum{};
#pragma GCC unroll 2
    for (std::int64_t k = 0; k < m.k; k += unit) {
      if (k % (2 * unit) == 0) {  // once for a line
        __builtin_prefetch(codes + k / 2 + near);
        __builtin_prefetch(codes + k / 2 + far, 0, 1);
      }
      Nibbles const b = e2m1(codes + k / 2);
      using Pairs = Vec<std::int32_t, 16>;
      Floats part = dot(load<Pairs>(a + k), (Pairs)b.even, Floats{});
      part = dot(load<Pairs>(a + k + 32), (Pairs)b.odd, part);
      sum = fma(part, halves(scales + k / quant_scaled), sum);
    }
    *acc = add_lanes(sum);
    return true;
  }
  static constexpr int mxfp4_rows(bf16_bits*) {
    return 1;
  }

 private:
  static constexpr int unit = 64;
  struct Nibbles {
    __m512i even, odd;
  };
  /// 64 codes. The table holds its 16 words twice: what lies above 4 bits of an index is ignored.
  static Nibbles e2m1(std::uint8_t const* codes) {
    __m512i const words = _mm512_cvtepu8_epi16(load<__m256i>(codes));
    __m512i const table = load<__m512i>(e2m1_words.words);
    return {_mm512_permutexvar_epi16(words, table),
            _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), table)};
  }
  /// 64 codes through a table of two times 16 words; `half` is 16 for the words of the second.
  static Nibbles nibbles(std::uint8_t const* codes, __m512i table, __m512i half) {
    __m512i const words = _mm512_cvtepu8_epi16(load<__m256i>(codes));
    __m512i const mask = _mm512_set1_epi16(15);
    // (words & mask) | half in one instruction
    __m512i const even = _mm512_ternarylogic_epi64(words, mask, half, 0xea);
    __m512i const odd = _mm512_or_si512(_mm512_srli_epi16(words, 4), half);
    return {_mm512_permutexvar_epi16(even, table), _mm512_permutexvar_epi16(odd, table)};
  }
  /// 0 - zero .. 15 - zero
  static __m256i integers_from(int zero) {
    return load<__m256i>(integer_words.words + 15 - zero);
  }
  /// Two e4m3 scales, 8 lanes each.
  static Floats sixteenths(std::uint8_t const* scales) {
    float const values[2] = {e4m3fn_table.values[scales[0]], e4m3fn_table.values[scales[1]]};
    return halves(values);
  }
  /// 32 bfloat16 times scales; exact.
  static __m512i scaled(__m512i words, Floats low, Floats high) {
    auto const half = [](__m256i w, Floats s) {
      Floats const x = (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(w), 16);
      return _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)(x * s), 16));
    };
    return _mm512_inserti64x4(_mm512_castsi256_si512(half(_mm512_castsi512_si256(words), low)),
                              half(_mm512_extracti64x4_epi64(words, 1), high), 1);
  }
  template <bool Fnuz>
  static void decode_e4m3(std::uint8_t const* codes, std::int64_t whole, bf16_bits* out) {
    for (std::int64_t k = 0; k < whole; k += 32) {
      std::uint8_t const* const from = codes + k - k % unit / 2;
      __m256i const octets = _mm256_inserti128_si256(_mm256_castsi128_si256(load<__m128i>(from)),
                                                     load<__m128i>(from + 32), 1);
      store(out + k, e4m3<Fnuz>(octets));
    }
  }
  /// 32 codes; Fnuz has the bias 8.
  template <bool Fnuz>
  static __m512i e4m3(__m256i octets) {
    __m512i const words = _mm512_cvtepu8_epi16(octets);
    __m512i const magnitude = _mm512_and_si512(words, _mm512_set1_epi16(0x7f));
    __m512i const sign = _mm512_slli_epi16(_mm512_and_si512(words, _mm512_set1_epi16(0x80)), 8);
    __m512i value = _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4),
                                     _mm512_set1_epi16(Fnuz ? 119 << 7 : 120 << 7));
    value = _mm512_mask_permutexvar_epi16(
        value, _mm512_cmplt_epi16_mask(magnitude, _mm512_set1_epi16(8)), magnitude,
        load<__m512i>((Fnuz ? fnuz_subnormals : fn_subnormals).words));
    __mmask32 const nan = Fnuz ? _mm512_cmpeq_epi16_mask(words, _mm512_set1_epi16(0x80))
                               : _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f));
    return _mm512_mask_mov_epi16(_mm512_or_si512(value, sign), nan, _mm512_set1_epi16(0x7fc0));
  }
};

}  // namespace

constinit HostKernel const avx512_bf16_kernel =
    make_kernel<Simd, DotBfloat<Simd>>(Isa::avx512_bf16);

constinit QuantKernel const avx512_bf16_quant_kernel = make_quant_kernel<Simd>(Isa::avx512_bf16);

// On processors with AMX a dot product of bfloat16 takes as much of the two vector ports as four
// multiply-adds of floats, so that what is looked up is looked up as floats.
constinit QuantKernel const amx_quant_kernel = [] {
  QuantKernel kernel = make_quant_kernel<Simd>(Isa::amx);
  kernel.mxfp4 = QuantOperand::f32;
  return kernel;
}();

}  // namespace kmoe::device
