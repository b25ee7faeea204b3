// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The four element types of a layer: double, float, bfloat16 and half.
///
/// bfloat16 and half are 16-bit storage types on every backend (Kokkos' own half_t is a float in
/// host-only builds, so a checkpoint could not be mapped with it). Arithmetic is done in
/// accumulate_t<T>. A double is rounded to float first, so it is rounded twice.

#include <concepts>
#include <cstdint>
#include <string_view>

#include <Kokkos_BitManipulation.hpp>

#include <kmoe/core/config.hpp>

namespace kmoe KMOE_API {

/// Brain floating point: 1 sign, 8 exponent, 7 fraction bits. Conversion from float rounds to
/// nearest even; NaN stays NaN (quiet), overflow goes to infinity.
struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  KOKKOS_INLINE_FUNCTION explicit bfloat16(float value) : bits(round(value)) {}
  KOKKOS_INLINE_FUNCTION explicit bfloat16(double value) : bits(round(static_cast<float>(value))) {}
  KOKKOS_INLINE_FUNCTION explicit operator float() const {
    return Kokkos::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  KOKKOS_INLINE_FUNCTION explicit operator double() const { return static_cast<float>(*this); }

 private:
  KOKKOS_INLINE_FUNCTION static std::uint16_t round(float value) {
    auto const u = Kokkos::bit_cast<std::uint32_t>(value);
    if ((u & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((u >> 16) | 0x40U);
    return static_cast<std::uint16_t>((u + 0x7fffU + ((u >> 16) & 1U)) >> 16);
  }
};

/// IEEE 754 binary16: 1 sign, 5 exponent, 10 fraction bits, with subnormals. Conversion from float
/// rounds to nearest even; NaN stays NaN (quiet), overflow goes to infinity.
struct half {
  std::uint16_t bits = 0;

  half() = default;
  KOKKOS_INLINE_FUNCTION explicit half(float value) : bits(round(value)) {}
  KOKKOS_INLINE_FUNCTION explicit half(double value) : bits(round(static_cast<float>(value))) {}
  KOKKOS_INLINE_FUNCTION explicit operator float() const { return widen(bits); }
  KOKKOS_INLINE_FUNCTION explicit operator double() const { return widen(bits); }

 private:
  // Masks instead of branches or selections: loops over these functions are vectorized for any
  // instruction set, and no intermediate is a subnormal float.

  /// All ones if a < b, else 0, for numbers below 2^31.
  KOKKOS_INLINE_FUNCTION static std::uint32_t if_less(std::uint32_t a, std::uint32_t b) {
    return static_cast<std::uint32_t>(static_cast<std::int32_t>(a - b) >> 31);
  }
  KOKKOS_INLINE_FUNCTION static std::uint16_t round(float value) {
    auto const u = Kokkos::bit_cast<std::uint32_t>(value);
    std::uint32_t const magnitude = u & 0x7fffffffU;
    // Adding 0.5 aligns a subnormal result at the bottom of the float's fraction, and the addition
    // itself rounds to nearest even.
    float const aligned = Kokkos::bit_cast<float>(magnitude) + 0.5F;
    std::uint32_t const subnormal = Kokkos::bit_cast<std::uint32_t>(aligned) & 0x7ffU;
    std::uint32_t const odd = (magnitude >> 13) & 1U;
    std::uint32_t const normal = (magnitude - 0x38000000U + 0xfffU + odd) >> 13;
    std::uint32_t const special = 0x7c00U | (if_less(0x7f800000U, magnitude) & 0x200U);
    std::uint32_t const is_subnormal = if_less(magnitude, 0x38800000U);
    std::uint32_t const is_finite = if_less(magnitude, 0x477ff000U);
    return static_cast<std::uint16_t>(((u >> 16) & 0x8000U) | (is_subnormal & subnormal) |
                                      (is_finite & ~is_subnormal & normal) |
                                      (~is_finite & special));
  }
  KOKKOS_INLINE_FUNCTION static float widen(std::uint16_t h) {
    std::uint32_t const sign = static_cast<std::uint32_t>(h & 0x8000U) << 16;
    std::uint32_t const magnitude = h & 0x7fffU;
    std::uint32_t const is_special = if_less(0x7bffU, magnitude);
    std::uint32_t const is_subnormal = if_less(magnitude, 0x400U);
    // A subnormal f * 2^-24 is (2^-14 + f * 2^-24) - 2^-14.
    std::uint32_t const bits =
        (magnitude << 13) + 0x38000000U + (is_special & 0x38000000U) + (is_subnormal & 0x00800000U);
    float const value =
        Kokkos::bit_cast<float>(bits) - Kokkos::bit_cast<float>(is_subnormal & 0x38800000U);
    return Kokkos::bit_cast<float>(sign | Kokkos::bit_cast<std::uint32_t>(value));
  }
};

template <class T>
concept Element = std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, bfloat16> ||
    std::same_as<T, half>;

/// The type in which sums over H, I and K are accumulated: double for double, else float.
template <Element T>
using accumulate_t = std::conditional_t<std::same_as<T, double>, double, float>;

/// Element types by name, for options and files.
enum class DataType : std::uint8_t { f64, f32, bf16, f16 };

template <Element T>
inline constexpr DataType data_type_of = std::same_as<T, double>     ? DataType::f64
                                         : std::same_as<T, float>    ? DataType::f32
                                         : std::same_as<T, bfloat16> ? DataType::bf16
                                                                     : DataType::f16;

}  // namespace KMOE_API
