// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The four element types of a layer: double, float, bfloat16 and half.
///
/// bfloat16 and half are 16-bit storage types on every backend (Kokkos' own half_t is a float in
/// host-only builds, so a checkpoint could not be mapped with it). Arithmetic is done in
/// accumulate_t<T>. A double is rounded to float first, so it is rounded twice.

#include <bit>
#include <concepts>
#include <cstdint>
#include <string_view>

#include <Kokkos_Macros.hpp>

namespace kmoe {

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
  // Selections by mask: the compiler does not move arithmetic into a branch, which would keep a
  // loop over these functions from being vectorized.
  KOKKOS_INLINE_FUNCTION static std::uint32_t select(bool first, std::uint32_t a, std::uint32_t b) {
    std::uint32_t const mask = 0U - static_cast<std::uint32_t>(first);
    return (a & mask) | (b & ~mask);
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
    std::uint32_t h = select(magnitude < 0x38800000U, subnormal, normal);
    h = magnitude >= 0x477ff000U ? 0x7c00U : h;
    h = magnitude > 0x7f800000U ? 0x7e00U : h;
    return static_cast<std::uint16_t>(((u >> 16) & 0x8000U) | h);
  }
  KOKKOS_INLINE_FUNCTION static float widen(std::uint16_t h) {
    std::uint32_t const sign = static_cast<std::uint32_t>(h & 0x8000U) << 16;
    std::uint32_t const exponent = (h >> 10) & 0x1fU;
    std::uint32_t const fraction = h & 0x3ffU;
    float const subnormal = Kokkos::bit_cast<float>(0x3f000000U | fraction) - 0.5F;
    std::uint32_t const bias = exponent == 0x1fU ? 224U : 112U;
    std::uint32_t const normal = ((exponent + bias) << 23) | (fraction << 13);
    return Kokkos::bit_cast<float>(
        sign | select(exponent == 0U, Kokkos::bit_cast<std::uint32_t>(subnormal), normal));
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

}  // namespace kmoe
