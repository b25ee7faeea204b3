// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The interface between the grouped GEMM (which rows and columns, on which thread) and the kernels
/// of one instruction set. Plain pointers and integers: the sources behind it are compiled with
/// their own flags and must share no inline function with the rest of the library.
///
/// Formats. K is cut into blocks of k_block and padded with zeros to a multiple of k_multiple.
///  - A panel of B holds panel_columns columns, [K / k_step][panel_columns][k_step]. In a gated
///    panel the first half are gates, the second half the ups of the same intermediate columns.
///  - A block of A is [K / k_block][rows][stride], in what the multiply instruction takes.
///
/// Bits: every c[m, n] is one chain of multiply-adds over ascending k (pairs of k where the
/// instruction takes pairs), carried from block to block in an accumulator that is stored and
/// loaded unchanged. No kernel choice depends on the number of rows or columns.

#include <cstdint>

namespace kmoe::device {

/// Instruction sets in ascending order; each includes those before it.
enum class Isa : std::uint8_t {
  portable,     ///< no intrinsics: 128-bit vectors as the compiler maps them
  avx2,         ///< AVX2, FMA, F16C
  avx512,       ///< AVX-512 F, BW, VL, DQ
  avx512_bf16,  ///< and AVX-512 BF16
  amx,          ///< and AMX BF16 tiles
};

/// What happens to a finished accumulator x; gated panels have g (gate) and u (up).
enum class Epilogue : std::uint8_t {
  identity,
  silu,
  gelu_erf,
  gelu_tanh,
  relu,
  relu2,
  swiglu_oai,
};

/// Gathers and converts `rows` rows of x into a block of A.
struct PackA {
  void const* x;               ///< elements, row-major
  std::int64_t stride;         ///< elements between rows of x
  std::int32_t const* slots;   ///< row r is x[slots[r] / slots_per_row]; null: x[r]
  std::int32_t slots_per_row;  ///< K
  float const* weights;        ///< row r is multiplied by weights[slots[r]] and rounded; null: 1
  std::int64_t rows;
  std::int64_t k;
  void* out;
};

/// Packs one panel of B.
struct PackB {
  void const* const* columns;  ///< [panel_columns] where each column's K elements begin; null: 0
  std::int64_t k;
  void* out;
};

/// A block of A times a range of panels.
struct Multiply {
  void const* a;
  std::int64_t rows;
  std::int64_t k;
  void const* b;  ///< the first panel; the others follow at once
  std::int64_t panels;
  void const* bias;          ///< [panels, panel_columns] of the accumulator's type; null: 0
  float const* row_weights;  ///< [rows], multiply the finished values; null: 1
  void* out;                 ///< elements, row-major: the first column of the first panel
  std::int64_t out_stride;   ///< elements between rows of out
  std::int64_t out_columns;  ///< valid columns from `out` on
  void* accumulators;        ///< [rows, panel_columns]
  Epilogue epilogue;
  bool gated;
  float alpha, limit;  ///< swiglu_oai
};

/// The kernels of one instruction set for one element type.
struct HostKernel {
  Isa isa;
  std::int32_t element_bytes;     ///< of x, B and out
  std::int32_t accumulate_bytes;  ///< of accumulators and bias
  std::int32_t panel_columns;
  std::int32_t tile_rows;  ///< rows of a full register tile
  std::int32_t k_multiple;
  std::int32_t k_block;  ///< 0: K is not cut
  std::int32_t a_bytes;  ///< of one element of A
  std::int32_t a_pad;    ///< elements between the rows of A beyond k_block (or K)
  void (*pack_a)(PackA const&);
  void (*pack_b)(PackB const&);
  void (*multiply)(Multiply const&);
};

/// Indices into the tables below.
enum class HostElement : std::uint8_t { f64, f32, bf16, f16 };

HostKernel const& host_kernel(Isa isa, HostElement element);

extern HostKernel const portable_kernels[4];
extern HostKernel const avx2_kernels[4];
extern HostKernel const avx512_kernels[4];
extern HostKernel const avx512_bf16_kernel;
extern HostKernel const amx_bf16_kernel;

}  // namespace kmoe::device
