// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The small numbers of quantized formats, bit for bit the same on every backend.
///
///     code      bits       bias  values                      special
///     e4m3fn    s eeee mmm  7    0, 2^-9 .. 448              0x7f, 0xff NaN; no infinity
///     e4m3fnuz  s eeee mmm  8    0, 2^-10 .. 240             0x80 NaN; no infinity, no -0
///     e2m1      s ee m      1    0, 0.5, 1, 1.5, 2, 3, 4, 6  none
///     e8m0      eeeeeeee    127  2^-127 .. 2^127             0xff NaN; no zero, no sign
///
/// Encoders round to nearest even and saturate at the largest number, infinities too; NaN becomes
/// NaN where the code has one. Sources: OCP 8-bit Floating Point Specification 1.0 (e4m3fn, the
/// saturating conversion of 5.2), OCP Microscaling Formats 1.0 (e2m1, e8m0), the ONNX float8 page
/// (e4m3fnuz). Tested: every byte, and every rounding boundary, against plain loops in float64.

#include <cstdint>

#include <Kokkos_BitManipulation.hpp>
#include <Kokkos_Macros.hpp>

#include <kmoe/core/config.hpp>

namespace kmoe KMOE_API {

namespace detail {

/// A small float of `Fraction` fraction bits and this exponent bias: its bits without the sign.
/// `magnitude` is finite and at most the largest number.
template <int Fraction, int Bias>
KOKKOS_INLINE_FUNCTION std::uint32_t round_magnitude(float magnitude) {
  constexpr int shift = 23 - Fraction;
  constexpr auto smallest = static_cast<std::uint32_t>(128 - Bias) << 23;  // normal number
  auto const u = Kokkos::bit_cast<std::uint32_t>(magnitude);
  if (u >= smallest) {
    std::uint32_t const odd = (u >> shift) & 1U;
    return ((u + (1U << (shift - 1)) - 1 + odd) >> shift) -
           (static_cast<std::uint32_t>(127 - Bias) << Fraction);
  }
  // Adding the number whose last bit weighs as much as the smallest subnormal rounds to it.
  auto const aligner =
      Kokkos::bit_cast<float>(static_cast<std::uint32_t>(128 - Bias - Fraction + 23) << 23);
  return Kokkos::bit_cast<std::uint32_t>(magnitude + aligner) & 0x7fffffU;
}

KOKKOS_INLINE_FUNCTION bool is_nan(float x) {
  return (Kokkos::bit_cast<std::uint32_t>(x) & 0x7fffffffU) > 0x7f800000U;
}
KOKKOS_INLINE_FUNCTION float magnitude_of(float x) {
  return Kokkos::bit_cast<float>(Kokkos::bit_cast<std::uint32_t>(x) & 0x7fffffffU);
}
KOKKOS_INLINE_FUNCTION std::uint32_t sign_of(float x) {
  return Kokkos::bit_cast<std::uint32_t>(x) >> 31;
}
KOKKOS_INLINE_FUNCTION float quiet_nan() {
  return Kokkos::bit_cast<float>(0x7fc00000U);
}

}  // namespace detail

inline constexpr float e4m3fn_max = 448.0F;
inline constexpr float e4m3fnuz_max = 240.0F;
inline constexpr float e2m1_max = 6.0F;

KOKKOS_INLINE_FUNCTION std::uint8_t encode_e4m3fn(float x) {
  std::uint32_t const sign = detail::sign_of(x) << 7;
  if (detail::is_nan(x)) return static_cast<std::uint8_t>(sign | 0x7fU);
  float const m = detail::magnitude_of(x);
  float const kept = m > e4m3fn_max ? e4m3fn_max : m;
  return static_cast<std::uint8_t>(sign | detail::round_magnitude<3, 7>(kept));
}
KOKKOS_INLINE_FUNCTION float decode_e4m3fn(std::uint8_t code) {
  std::uint32_t const m = code & 0x7fU;
  if (m == 0x7fU) return detail::quiet_nan();
  // Integer arithmetic: a subnormal float in between could be flushed to zero.
  float const value =
      m < 8 ? static_cast<float>(m) * 0x1p-9F : Kokkos::bit_cast<float>((m << 20) + (120U << 23));
  return (code & 0x80U) != 0 ? -value : value;
}

KOKKOS_INLINE_FUNCTION std::uint8_t encode_e4m3fnuz(float x) {
  if (detail::is_nan(x)) return 0x80U;
  float const m = detail::magnitude_of(x);
  float const kept = m > e4m3fnuz_max ? e4m3fnuz_max : m;
  std::uint32_t const magnitude = detail::round_magnitude<3, 8>(kept);
  return static_cast<std::uint8_t>(magnitude == 0 ? 0 : detail::sign_of(x) << 7 | magnitude);
}
KOKKOS_INLINE_FUNCTION float decode_e4m3fnuz(std::uint8_t code) {
  std::uint32_t const m = code & 0x7fU;
  if (code == 0x80U) return detail::quiet_nan();
  float const value =
      m < 8 ? static_cast<float>(m) * 0x1p-10F : Kokkos::bit_cast<float>((m << 20) + (119U << 23));
  return (code & 0x80U) != 0 ? -value : value;
}

/// The e4m3fnuz code of half the value of an e4m3fn code: the same bits, except that -0, which
/// would be NaN, becomes 0, and NaN stays NaN. With the scale doubled the product is unchanged
/// (as SGLang's normalize_e4m3fn_to_e4m3fnuz, which leaves NaN as +-240 or so).
KOKKOS_INLINE_FUNCTION std::uint8_t e4m3fn_to_fnuz(std::uint8_t code) {
  if ((code & 0x7fU) == 0x7fU) return 0x80U;
  return code == 0x80U ? std::uint8_t{0} : code;
}

/// 4 bits; NaN becomes +-6 (blocks carry NaN in their scale).
KOKKOS_INLINE_FUNCTION std::uint8_t encode_e2m1(float x) {
  float const m = detail::magnitude_of(x);
  float const kept = m < e2m1_max ? m : e2m1_max;
  return static_cast<std::uint8_t>(detail::sign_of(x) << 3 | detail::round_magnitude<1, 1>(kept));
}
KOKKOS_INLINE_FUNCTION float decode_e2m1(std::uint8_t code) {
  std::uint32_t const m = code & 7U;
  float const value =
      m < 2 ? static_cast<float>(m) * 0.5F : Kokkos::bit_cast<float>((m << 22) + (126U << 23));
  return (code & 8U) != 0 ? -value : value;
}

KOKKOS_INLINE_FUNCTION float decode_e8m0(std::uint8_t code) {
  if (code == 0xffU) return detail::quiet_nan();
  return Kokkos::bit_cast<float>(code == 0 ? 0x00400000U : static_cast<std::uint32_t>(code) << 23);
}
/// The scale of a block whose largest magnitude is `largest`, for elements whose largest power of
/// two is 2^element_exponent (e4m3fn: 8, e2m1: 2): 2^(floor(log2 largest) - element_exponent), as
/// section 6.3 of the OCP specification has it. NaN and infinity give 0xff.
KOKKOS_INLINE_FUNCTION std::uint8_t encode_e8m0(float largest, int element_exponent) {
  auto const exponent = static_cast<int>(Kokkos::bit_cast<std::uint32_t>(largest) >> 23) & 0xff;
  if (exponent == 0xff) return 0xffU;
  return static_cast<std::uint8_t>(exponent > element_exponent ? exponent - element_exponent : 0);
}
/// 1 / decode_e8m0(code), exactly, for codes below 0xff.
KOKKOS_INLINE_FUNCTION float reciprocal_e8m0(std::uint8_t code) {
  return decode_e8m0(static_cast<std::uint8_t>(254U - code));
}

/// The integer next to x (ties to even), within -limit .. limit; NaN gives 0.
KOKKOS_INLINE_FUNCTION int round_to_int(float x, int least, int most) {
  if (!(x > static_cast<float>(least))) return detail::is_nan(x) ? 0 : least;
  if (x >= static_cast<float>(most)) return most;
  constexpr float magic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  return static_cast<int>(Kokkos::bit_cast<std::uint32_t>(x + magic) -
                          Kokkos::bit_cast<std::uint32_t>(magic));
}

}  // namespace KMOE_API
