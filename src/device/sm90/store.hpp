// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// From the sums of a tile, as the tensor cores leave them, to rows in memory.

#include "device/sm90/ptx.hpp"

namespace kmoe::device::sm90 {

inline constexpr int warp_staging = 512;  // bytes of shared memory that store_columns() takes

/// Columns [first, end) of rows of `width` elements, of `count` tokens.
struct Columns {
  void* out;
  int width, first, end, count;
};

/// A warp's columns, Pieces times eight from `first` on, of up to Sums tokens: word(j, piece) has a
/// column's elements of the tokens 8 j + 2 (lane % 4) and the next, row(r) is the row of token r.
/// By way of the warp's own shared memory, `staging` and the same as a pointer: it waits for no
/// other warp.
template <int Pieces, int Sums, class Word, class Row>
__device__ __forceinline__ void store_columns(Columns const& to, std::uint32_t staging,
                                              char const* staged, Word const& word,
                                              Row const& row) {
  constexpr int tokens = 32 / Pieces;  // at a time
  static_assert(Sums % tokens == 0);
  int const lane = threadIdx.x % 32;
  auto const spot = [&](int token, int piece) {
    return (token * Pieces + (piece ^ (token * Pieces / 8 & (Pieces - 1)))) * 16;
  };
  std::uint32_t const turned = staging + spot(lane / 8 / Pieces * 8 + lane % 8, lane / 8 % Pieces);
  int const token = lane / Pieces, column = to.first + lane % Pieces * 8;
  auto const* const from = reinterpret_cast<uint4 const*>(staged + spot(token, lane % Pieces));
  char* const out = static_cast<char*>(to.out) + 2 * column;
  std::uint32_t m[4];
  auto const pack_words = [&](int begin) {
#pragma unroll
    for (int n = 0; n < 4; ++n) m[n] = word(begin / 8 + n / Pieces, n % Pieces);
  };
  pack_words(0);
#pragma unroll
  for (int begin = 0; begin < Sums; begin += tokens) {
    if (begin >= to.count) break;
    __syncwarp();
    store_transposed(turned, m[0], m[1], m[2], m[3]);
    __syncwarp();
    uint4 const value = *from;
    if (begin + tokens < Sums) pack_words(begin + tokens);  // while that is on its way
    if (begin + token < to.count && column < to.end) {
      auto const offset =
          std::uint64_t{row(begin + token)} * static_cast<std::uint32_t>(2 * to.width);
      *reinterpret_cast<uint4*>(out + offset) = value;
    }
  }
}

}  // namespace kmoe::device::sm90
