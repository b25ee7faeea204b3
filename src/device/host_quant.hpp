// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The interface between the grouped GEMM of quantized weights and the host kernels, as
/// host_kernel.hpp is for others: plain pointers and integers.
///
/// Weights are read as they lie in a checkpoint, row by row. A row is decoded into a buffer of the
/// first-level cache and multiplied with all rows of A; lanes run along K and are added at the end.
/// One row of A, and MXFP4 in floats always, does without the buffer.
///
/// Bits: c[m, n] is a chain over ascending units of K per lane. Where blocks of a row have scales,
/// the unit's partial sum begins at zero and is multiplied by its scale (times the activation's)
/// before it is added. The lanes are added in halves. Integers are exact. Nothing depends on the
/// number of rows or columns.

#include <cstdint>

#include "device/host_kernel.hpp"

namespace kmoe::device {

/// As kmoe::WeightCode and kmoe::ScaleCode.
enum class QuantCode : std::uint8_t { none, e4m3fn, e4m3fnuz, e2m1, int8, int4 };
enum class QuantScale : std::uint8_t { f32, e8m0, e4m3 };

/// In what the activations are multiplied.
enum class QuantOperand : std::uint8_t {
  f32,   ///< fused multiply-adds
  bf16,  ///< dot products of pairs (AVX-512 BF16)
  s8,    ///< integers
};

inline constexpr int quant_unit = 128;   ///< rows of A and decoded rows are padded to so many k
inline constexpr int quant_scaled = 32;  ///< elements that share a scale, at least
inline constexpr int quant_columns = 4;  ///< rows of weights decoded at a time
inline constexpr int quant_group = 128;  ///< elements that share an activation scale

/// One row of A from folded values, which the operand holds exactly.
struct QuantPack {
  float const* values;
  std::int64_t k;
  bool pairs;  ///< the weights' codes are of 4 bits
  void* out;   ///< round_up(k, quant_unit) of the operand
};

struct QuantMultiply {
  QuantCode code;
  QuantScale scale;
  /// Elements of a row that share a scale, a multiple of 32 (e4m3: 16); 0: the row has one, which
  /// is in column_scales.
  std::int64_t block;
  void const* a;  ///< [rows][a_stride] of the operand
  std::int64_t a_stride;
  std::int64_t rows;
  std::int64_t k;
  float const* a_scales;  ///< [rows][a_scale_stride] per quant_group; null: 1. Needs block != 0
  std::int64_t a_scale_stride;
  float const* row_scales;       ///< [rows], of the finished sums
  std::int32_t const* row_sums;  ///< s8: [rows], sums of the row of A
  // One panel of panel_columns rows of weights; null where there is no such column.
  std::uint8_t const* const* codes;
  void const* const* scales;         ///< float or bytes, as `scale`; where block != 0
  std::uint8_t const* const* zeros;  ///< null: 8 (int4)
  float const* column_scales;        ///< [panel_columns], of the finished sums
  void* decoded;                     ///< quant_columns * quant_row_bytes(k)
  void (*integer_dot)(struct QuantIntegers const&);  ///< s8
  /// bias (float), row_weights, out, out_stride, out_columns, accumulators, epilogue, gated, alpha,
  /// limit; of one panel.
  Multiply finish;
};

/// sums[m][n] = a[m, :] . w[n, :] for up to quant_columns rows of weights.
struct QuantIntegers {
  std::int8_t const* a;
  std::int64_t a_stride, rows, k;
  std::int32_t const* row_sums;
  std::uint8_t const* const* w;
  float* sums;  ///< [rows][sums_stride]
  std::int64_t sums_stride;
};

constexpr std::int64_t quant_row_bytes(std::int64_t k) {
  std::int64_t const units = (k + quant_unit - 1) / quant_unit;
  return units * (quant_unit * 4 + quant_unit / quant_scaled * 4);
}

struct QuantKernel {
  Isa isa;
  std::int32_t panel_columns;
  QuantOperand real;   ///< the operand for bfloat16 and for quantized activations, but int8
  QuantOperand mxfp4;  ///< the same for weights of e2m1 with e8m0
  void (*pack[3])(QuantPack const&);             ///< by operand; null: not supported
  void (*multiply[3][4])(QuantMultiply const&);  ///< by operand and HostElement of out
  void (*integer_dot)(QuantIntegers const&);
};

QuantKernel const& quant_kernel(Isa isa);
/// The processor's integer dot product, or the kernel's own.
void (*integer_dot(Isa isa))(QuantIntegers const&);

extern QuantKernel const portable_quant_kernel;
extern QuantKernel const avx2_quant_kernel;
extern QuantKernel const avx512_quant_kernel;
extern QuantKernel const avx512_bf16_quant_kernel;
extern QuantKernel const amx_quant_kernel;  ///< no tiles: it differs in the operands
void vnni_dot(QuantIntegers const&);

}  // namespace kmoe::device
