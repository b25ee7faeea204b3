// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Tokens as quantized messages. Every token is encoded once, at home, and decoded where it
/// arrives, at home too: what the experts see does not depend on where they are.
///
/// A message is a row of 4-byte words: the float scales (fp8: one per 128 elements, nvfp4: one),
/// the scales of a byte (mxfp4: e8m0 per 32, nvfp4: e4m3 per 16), the codes, padding.

#include <kmoe/core/options.hpp>
#include <kmoe/core/quantize_row.hpp>

#include "dispatch/slot_kernels.hpp"

namespace kmoe::detail {

/// A word of a message; moved, never looked at.
using Word = float;

struct Payload {
  PayloadCode code = PayloadCode::element;
  index_t hidden = 0;

  [[nodiscard]] KOKKOS_INLINE_FUNCTION RowQuantizer rounding() const {
    switch (code) {
      case PayloadCode::mxfp4:
        return {ActivationCode::mxfp4, false};
      case PayloadCode::nvfp4:
        return {ActivationCode::nvfp4, false};
      default:
        return {ActivationCode::fp8_group, false};
    }
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION index_t groups() const {
    index_t const group = rounding().group();
    return (hidden + group - 1) / group;
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION index_t num_floats() const {
    return code == PayloadCode::fp8 ? groups() : code == PayloadCode::nvfp4 ? 1 : 0;
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION index_t scale_bytes() const {
    return code == PayloadCode::fp8 ? 0 : groups();
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION index_t words() const {
    index_t const codes = code == PayloadCode::fp8 ? hidden : (hidden + 1) / 2;
    return num_floats() + (scale_bytes() + codes + 3) / 4;
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION std::uint8_t* scale_codes(Word* row) const {
    return static_cast<std::uint8_t*>(static_cast<void*>(row + num_floats()));
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION std::uint8_t const* scale_codes(Word const* row) const {
    return static_cast<std::uint8_t const*>(static_cast<void const*>(row + num_floats()));
  }
};

/// messages[t, :] = x[t, :]; a team per token.
template <ExecutionSpace E, Element T>
struct EncodeTokens {
  using Policy = Kokkos::TeamPolicy<E>;
  Payload payload;
  Matrix<T const, E> x;
  Matrix<Word, E> messages;

  KOKKOS_FUNCTION void operator()(typename Policy::member_type const& team) const {
    auto const t = static_cast<std::size_t>(team.league_rank());
    RowQuantizer const rounding = payload.rounding();
    index_t const hidden = payload.hidden, group = rounding.group();
    auto const value = [&](index_t i) { return static_cast<float>(x(t, i)); };
    std::uint32_t largest = 0;
    if (rounding.scans_row()) {
      Kokkos::parallel_reduce(
          Kokkos::TeamThreadRange(team, hidden),
          [&](index_t i, std::uint32_t& most) {
            most = Kokkos::max(most, magnitude_bits(value(i)));
          },
          Kokkos::Max<std::uint32_t>(largest));
    }
    float const row_scale = rounding.row_scale(largest, 0);
    Word* const message = messages.data() + t * messages.extent(1);
    std::uint8_t* const scales = payload.scale_codes(message);
    std::uint8_t* const codes = scales + payload.scale_bytes();
    if (payload.code == PayloadCode::nvfp4) {
      Kokkos::single(Kokkos::PerTeam(team), [&] { message[0] = row_scale; });
    }
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, payload.groups()), [&](index_t g) {
      index_t const begin = g * group, end = Kokkos::min(hidden, begin + group);
      std::uint32_t most = 0;
      for (index_t i = begin; i < end; ++i) most = Kokkos::max(most, magnitude_bits(value(i)));
      auto const scale = rounding.group_scale(most, row_scale);
      if (payload.code == PayloadCode::fp8) {
        message[g] = scale.scale;
        for (index_t i = begin; i < end; ++i) codes[i] = rounding.encode(value(i), scale);
        return;
      }
      scales[g] = scale.code;
      for (index_t i = begin; i < end; i += 2) {
        std::uint32_t const low = rounding.encode(value(i), scale);
        std::uint32_t const high = i + 1 < end ? rounding.encode(value(i + 1), scale) : 0U;
        codes[i / 2] = static_cast<std::uint8_t>(low | high << 4);
      }
    });
  }
};

/// x[t, :] = messages[t, :]; an item per 16 elements.
template <ExecutionSpace E, Element T>
struct DecodeTokens {
  static constexpr index_t step = 16;
  Payload payload;
  Matrix<Word const, E> messages;
  Matrix<T, E> x;

  KOKKOS_INLINE_FUNCTION static index_t steps(index_t hidden) { return (hidden + step - 1) / step; }
  KOKKOS_INLINE_FUNCTION void operator()(offset_t item) const {
    RowQuantizer const rounding = payload.rounding();
    index_t const per_row = steps(payload.hidden);
    offset_t const t = item / per_row;
    index_t const begin = static_cast<index_t>(item - t * per_row) * step;
    index_t const end = Kokkos::min(payload.hidden, begin + step);
    Word const* const message = messages.data() + t * static_cast<offset_t>(messages.extent(1));
    std::uint8_t const* const scales = payload.scale_codes(message);
    std::uint8_t const* const codes = scales + payload.scale_bytes();
    index_t const g = begin / rounding.group();
    float fold = 1, scale = 1;
    if (payload.code == PayloadCode::fp8) {
      scale = message[g];
    } else if (payload.code == PayloadCode::mxfp4) {
      fold = decode_e8m0(scales[g]);
    } else {
      fold = decode_e4m3fn(scales[g]);
      scale = message[0];
    }
    for (index_t i = begin; i < end; ++i) {
      std::uint8_t const code =
          payload.code == PayloadCode::fp8
              ? codes[i]
              : static_cast<std::uint8_t>(i % 2 == 0 ? codes[i / 2] & 15U : codes[i / 2] >> 4U);
      x(t, i) = T(rounding.decode(code, fold) * scale);
    }
  }
};

/// to[i] = from[i] in another element type.
template <ExecutionSpace E, Element From, Element To>
struct ConvertElements {
  From const* from;
  To* to;
  KOKKOS_INLINE_FUNCTION void operator()(offset_t i) const {
    to[i] = To(static_cast<float>(from[i]));
  }
};

}  // namespace kmoe::detail
