// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Expert MLPs with fp8 weights on Hopper's tensor cores, as experts.hpp.

#include "device/sm90/experts.hpp"

namespace kmoe::device::sm90 {

/// The scales of a product's weights, one per 128 x 128 of each part.
struct Fp8Weights {
  float const* scales;  ///< [groups, parts * ceil(rows of a part / 128), ceil(k / 128)]
  int parts;            ///< of the product's features: 2 = gates and ups each from block 0 on
};

/// A gated MLP: both products of `work`, whose b are e4m3fn codes, in and out elements. x and the
/// intermediate are rounded as RowQuantizer does for fp8_group.
struct Fp8Work {
  Work work;
  Fp8Weights weights[2];
  void* scratch;  ///< of fp8_scratch_bytes(), a multiple of 16
  std::size_t scratch_bytes;
};

/// For `tokens` rows of x.
std::size_t fp8_scratch_bytes(std::int64_t tokens, std::int64_t hidden_size);

/// Whether the kernels can do that work: as takes(), k whole 16-byte pieces of codes, no block of
/// scales across gates and ups.
bool takes_fp8(Fp8Work const& what);

/// One kernel, or two where there are many rows; as launch(). The intermediate is scratch, in
/// elements or in codes and scales.
void launch_fp8(void* stream, Operand operand, Fp8Work const& what);

}  // namespace kmoe::device::sm90
