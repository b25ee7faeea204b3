// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// How a row of activations is quantized: the one definition for all backends and messages.
///
/// A row becomes codes with a scale per group of elements (or one for the row). What follows works
/// with *folded* values: the code's value, times the group's scale where that is a small float
/// itself. They are exact in bfloat16 (at most 8 significant bits; below 2^-126 bits are lost), and
///
///     x[i] ~ folded[i] * scale(i)
///
/// where scale is a float per row, or per 128 elements (fp8_group), or 1 (mxfp8, mxfp4).
/// A row or group with NaN or infinity has the scale NaN (e8m0 and e4m3: their NaN).
/// Tested against plain loops in float64, and for equality of all backends.

#include <kmoe/core/codes.hpp>
#include <kmoe/core/quantization.hpp>

namespace kmoe KMOE_API {

/// Bits of |x|. As integers they have the order of the numbers, with NaN above infinity: the
/// largest of a row does not depend on the order in which it is found, and knows of NaN.
KOKKOS_INLINE_FUNCTION std::uint32_t magnitude_bits(float x) {
  return Kokkos::bit_cast<std::uint32_t>(x) & 0x7fffffffU;
}

/// The rounding of activations of one format.
struct RowQuantizer {
  ActivationCode code = ActivationCode::none;
  bool fnuz = false;

  /// Elements that share a group's scale; 0: all of the row.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION index_t group() const {
    switch (code) {
      case ActivationCode::fp8_group:
        return 128;
      case ActivationCode::mxfp8:
      case ActivationCode::mxfp4:
        return 32;
      case ActivationCode::nvfp4:
        return 16;
      default:
        return 0;
    }
  }
  /// Whether row_scale() wants the largest magnitude of the row.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION bool scans_row() const {
    return group() == 0 || code == ActivationCode::nvfp4;
  }
  /// The float scale of a row whose largest magnitude has these bits; `given` = the expert's
  /// input_scale, or 0. 1 where only groups have scales.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION float row_scale(std::uint32_t largest, float given) const {
    if (!scans_row()) return 1.0F;
    bool const takes = code == ActivationCode::fp8_static || code == ActivationCode::nvfp4;
    if (takes && given != 0.0F) return given;
    return float_scale(largest, code == ActivationCode::nvfp4 ? e2m1_max * e4m3fn_max : most());
  }
  /// What elements of a group are divided by, multiplied with after decoding, and the scale that
  /// is left for the sum.
  struct Group {
    float divisor, fold, scale;
    std::uint8_t code;  ///< e8m0 or e4m3 of the group's scale
  };
  /// `largest` bits of the group's largest magnitude; not looked at where the row has the scale.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION Group group_scale(std::uint32_t largest, float row) const {
    switch (code) {
      case ActivationCode::fp8_group: {
        float const scale = float_scale(largest, most());
        return {scale, 1.0F, scale, 0};
      }
      case ActivationCode::mxfp8:
      case ActivationCode::mxfp4: {
        std::uint8_t const e =
            encode_e8m0(Kokkos::bit_cast<float>(largest), code == ActivationCode::mxfp8 ? 8 : 2);
        float const scale = decode_e8m0(e);
        return {scale, scale, 1.0F, e};
      }
      case ActivationCode::nvfp4: {
        std::uint8_t const e = encode_e4m3fn(Kokkos::bit_cast<float>(largest) / e2m1_max / row);
        // An infinite group must not pass for a large one.
        std::uint8_t const kept = largest >= 0x7f800000U ? std::uint8_t{0x7f} : e;
        float const scale = decode_e4m3fn(kept);
        return {scale * row, scale, row, kept};
      }
      default:
        return {row, 1.0F, row, 0};
    }
  }
  /// The code of an element; 4-bit codes in the low half.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION std::uint8_t encode(float x, Group const& g) const {
    switch (code) {
      case ActivationCode::mxfp4:
      case ActivationCode::nvfp4:
        return encode_e2m1(x / g.divisor);
      case ActivationCode::int8_token:
        return static_cast<std::uint8_t>(round_to_int(x / g.divisor, -127, 127));
      default:
        return fnuz && code != ActivationCode::mxfp8 ? encode_e4m3fnuz(x / g.divisor)
                                                     : encode_e4m3fn(x / g.divisor);
    }
  }
  /// The folded value of a code.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION float decode(std::uint8_t c, float fold) const {
    switch (code) {
      case ActivationCode::mxfp4:
      case ActivationCode::nvfp4:
        return decode_e2m1(c) * fold;
      case ActivationCode::int8_token:
        return static_cast<float>(static_cast<std::int8_t>(c));
      default:
        return (fnuz && code != ActivationCode::mxfp8 ? decode_e4m3fnuz(c) : decode_e4m3fn(c)) *
               fold;
    }
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION float folded(float x, Group const& g) const {
    return decode(encode(x, g), g.fold);
  }

  /// largest / most, at least 2^-126; NaN if the largest is not finite.
  KOKKOS_INLINE_FUNCTION static float float_scale(std::uint32_t largest, float most) {
    if (largest >= 0x7f800000U) return detail::quiet_nan();
    float const scale = Kokkos::bit_cast<float>(largest) / most;
    return scale < 0x1p-126F ? 0x1p-126F : scale;
  }

 private:
  [[nodiscard]] KOKKOS_INLINE_FUNCTION float most() const {
    if (code == ActivationCode::int8_token) return 127.0F;
    return fnuz ? e4m3fnuz_max : e4m3fn_max;
  }
};

}  // namespace KMOE_API
