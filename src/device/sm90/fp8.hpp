// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Expert MLPs with fp8 weights on Hopper's tensor cores, as experts.hpp.

#include "device/sm90/experts.hpp"

namespace kmoe::device::sm90 {

/// What has a scale: 128 x 128 of each part of the weights and 128 of a row of activations; or a
/// row of each; or a part of the weights and a row of activations.
enum class Fp8Scales { other, blocks, rows, parts };

/// The scales of a product's weights.
struct Fp8Weights {
  /// blocks: [groups, parts * ceil(rows of a part / 128), ceil(k / 128)], rows: [groups, features],
  /// parts: [groups, parts]
  float const* scales;
  int parts;  ///< of the product's features: 2 = gates and ups each from block 0 on
  /// [groups], scale of all rows that come in; null or 0: of the row. Not of blocks
  float const* in;
};

/// A gated MLP: both products of `work`, whose b are e4m3fn codes, in and out elements. x and the
/// intermediate are rounded as RowQuantizer does for fp8_group, or for fp8_token and fp8_static.
struct Fp8Work {
  Work work;
  Fp8Scales kind;
  Fp8Weights weights[2];
  float const* input_weights;  ///< of x by slot, or null. Not of blocks
  void* scratch;               ///< a multiple of 16
  std::size_t scratch_bytes;
};

/// Whether the kernels can do that work: as takes(), k whole 16-byte pieces of codes, no block of
/// scales across gates and ups; without blocks, neither groups made here nor sums where rows are
/// many. Scratch must have room for codes and scales: of x for blocks, else of what goes into both
/// products for each row.
bool takes_fp8(Fp8Work const& what);

/// One kernel, or two where there are more than a few rows, or without blocks four where there are
/// many. As launch(). The intermediate is scratch, in elements or in codes and scales.
void launch_fp8(void* stream, Operand operand, Fp8Work const& what);

}  // namespace kmoe::device::sm90
