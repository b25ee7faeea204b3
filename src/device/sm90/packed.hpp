// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Expert MLPs and grouped GEMMs with weights of four bits and bfloat16 tokens on Hopper's tensor
/// cores: what the rest of kmoe sees of them, as experts.hpp.

#include "device/sm90/experts.hpp"

namespace kmoe::device::sm90 {

/// How weights are written: two codes in a byte, the even k in its low half.
enum class Format {
  other,      ///< none of these
  mxfp4,      ///< e2m1, an e8m0 scale per 32 of k
  nvfp4,      ///< e2m1, an e4m3 scale per 16 of k and a float per part of a matrix
  int4,       ///< code - 8, a float scale per 128 of k
  int4_zero,  ///< code - zero point, and a zero point per 128 of k
};

/// Where codes and scales of a product's weights lie. Pitches in bytes.
struct PackedScales {
  int code_pitch;              ///< of the rows of Product::b
  std::uint8_t const* scales;  ///< [groups, features], rows of scale_pitch
  int scale_pitch;
  std::uint8_t const* zeros;  ///< [groups, features], rows of zero_pitch; or null
  int zero_pitch;
  float const* part_scales;  ///< [groups, parts] or null
  int part_rows, parts;
};

/// One or two products of `work`, whose b are codes.
struct PackedWork {
  Work work;
  Format format;
  PackedScales packed[2];
  void* arranged;  ///< arranged_bytes() of scratch, or null, which costs time where rows are many
};

/// Columns of rows in the order that the kernel multiplies in, whole blocks of 128. Where it is
/// told of memory for x in that order, the intermediate's rows have room for so many, too.
constexpr std::int64_t arranged_columns(std::int64_t k) {
  return (k + 127) / 128 * 128;
}
/// Bytes of `tokens` rows of x in that order; 0 for formats whose kernels have none.
std::size_t arranged_bytes(Format format, std::int64_t tokens, std::int64_t hidden_size);

/// As takes(); k whole blocks of 32, rows of codes whole 16-byte pieces, of scales whole words (of
/// mxfp4: halves of words).
bool takes_packed(PackedWork const& what);

/// As launch(), for elements of bfloat16.
void launch_packed(void* stream, PackedWork const& what);

}  // namespace kmoe::device::sm90
