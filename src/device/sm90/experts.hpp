// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Expert MLPs and grouped GEMMs on Hopper's tensor cores: what the rest of kmoe sees of them.
/// Plain C++ of pointers and a stream, compiled apart for the one architecture; builds without it
/// have available() = false.

#include <cstddef>
#include <cstdint>

namespace kmoe::device::sm90 {

enum class Operand { bf16, f16, e4m3 };  // e4m3: of the instruction alone
enum class Act { identity, silu, gelu_erf, gelu_tanh, relu, relu2, swiglu_oai };
/// Where gates and ups lie among the rows of a matrix; `none`: it has no gates.
enum class Halves { none, gate_first, up_first, interleaved };

/// out[r, :] = w * act(in[...] . B_g^T + bias_g) for the rows r of each group g.
struct Product {
  void const* b;  ///< [groups, features, k]
  int features;   ///< rows of each B_g, gates and ups
  int k;
  Halves halves;
  void const* in;     ///< rows of k elements
  bool gather;        ///< row r is in[slots[r] / slots_per_row], else in[r]
  float const* bias;  ///< [groups, features] or null
  Act act;
  float alpha, limit;    ///< of swiglu_oai
  float const* weights;  ///< w by slot, or null
  void* out;             ///< [rows, features], or half as many columns where gated
};

/// One or two products over the same rows, the second on what the first writes.
struct Work {
  Product products[2];
  int count;
  int groups;
  std::int64_t const* offsets;  ///< [groups + 1]
  std::int32_t const* slots;    ///< of each row; null: row r is slot r
  int slots_per_row;
  std::int64_t rows;        ///< no more rows than these
  std::int64_t tokens;      ///< rows of the first `in`: no group has more, if ids are distinct
  std::uint32_t* counters;  ///< num_counters() zeros, and zeros again afterwards; two products

  // Stages of an MLP beside the products. First, what is instead of offsets and slots: ids that are
  // grouped here, by a stable counting sort whose result is told.
  std::int32_t const* ids;       ///< [num_slots]; outside 0..groups-1: no row. Null: not this
  std::int64_t num_slots;        ///< of row_of_slot
  std::int64_t* offsets_out;     ///< [groups + 1]
  std::int32_t* slots_out;       ///< of each row
  std::int32_t* row_of_slot;     ///< or -1; without ids an input, for y
  std::int64_t* rows_per_group;  ///< [groups] that the sizes are added to, or null
  /// Then the sum of each token's rows in ascending slots: [num_slots / slots_per_row, H] or null.
  void* y;
};

/// Whether the current device runs these kernels.
bool available();

/// Whether they can do that work: rows of whole 16-byte pieces, aligned; at most 1024 groups, 2048
/// slots and 512 groups if it groups them. Sums want groups made here, or one slot per token.
bool takes(Work const& work);

/// Words of Work::counters for up to so many rows, whatever the groups.
std::size_t num_counters(std::int64_t rows);

/// One kernel, asynchronous on `stream` (a cudaStream_t); does not allocate, can be captured into a
/// graph. For work that takes() accepts. Throws std::runtime_error if the launch fails.
/// Cost: 2 rows k features flops of each product; each expert's weights cross once for a
/// tile of its rows, up to 176. Tested through ExpertMlp and grouped_gemm.
void launch(void* stream, Operand operand, Work const& work);

}  // namespace kmoe::device::sm90
