// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// A grouped multiplication on a device space.

#include <cstddef>
#include <cstdint>

#include <kmoe/core/options.hpp>
#include <kmoe/core/types.hpp>

namespace kmoe::detail {

/// out[r, :] = w_out * act(x'[r, :] . b[g, :, :]^T + bias[g, :]) for the rows r of each group g.
template <Element T>
struct DeviceGemm {
  /// x, b and out are what the pointers say; QuantDeviceGemm decodes.
  static constexpr bool decodes = false;
  /// Sums of blocks of k are multiplied with scales: CodeDeviceGemm.
  static constexpr int block_k = 0;
  index_t groups = 0;
  offset_t const* offsets = nullptr;    // [groups + 1]
  offset_t row_begin = 0, row_end = 0;  // the rows to compute, cut out of all groups
  index_t const* slots = nullptr;       // of each row; null: row r is slot r
  T const* x = nullptr;                 // x_rows rows of k
  offset_t x_rows = 0;                  // with distinct ids no group has more rows
  index_t slots_per_row = 0;            // row r is x[slot / slots_per_row]; 0: x[r - x_first]
  offset_t x_first = 0;
  float const* input_weights = nullptr;  // by slot; null: x' = x

  offset_t k = 0;
  offset_t columns = 0;  // of out
  GateUpLayout layout = GateUpLayout::plain;
  T const* b = nullptr;                   // [groups, rows_of_b(), k]
  accumulate_t<T> const* bias = nullptr;  // [groups, rows_of_b()] or null
  bool activated = false;                 // of plain layouts; gated ones are
  ExpertOptions options;
  float const* output_weights = nullptr;  // by slot
  T* out = nullptr;                       // row out_first is out's row 0
  offset_t out_first = 0;

  [[nodiscard]] KOKKOS_INLINE_FUNCTION bool gated() const { return layout != GateUpLayout::plain; }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION offset_t rows_of_b() const {
    return gated() ? 2 * columns : columns;
  }
  /// Row of b that makes column n, or its gate or up.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION offset_t row_of_b(offset_t n, bool up) const {
    if (layout == GateUpLayout::plain) return n;
    if (layout == GateUpLayout::interleaved) return 2 * n + (up ? 1 : 0);
    return up == (layout == GateUpLayout::gate_first) ? columns + n : n;
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION offset_t slot(offset_t row) const {
    return slots == nullptr ? row : slots[row];
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION offset_t row_of_x(offset_t row) const {
    if (slots_per_row == 0) return row - x_first;
    return static_cast<std::uint32_t>(slot(row)) / static_cast<std::uint32_t>(slots_per_row);
  }
};

/// Runs it with the best kernel of E. Asynchronous; nothing on host spaces, which have kernels of
/// their own.
template <ExecutionSpace E, Element T>
void device_gemm(E const& exec, char const* label, DeviceGemm<T> const& gemm);

/// What the launch of an MLP can do beside its products.
struct MlpStages {
  /// make_permutation(ids, ...) before; null: the slots are grouped.
  index_t const* ids = nullptr;
  offset_t num_slots = 0;
  offset_t* offsets = nullptr;  // this, the next two: of the permutation
  index_t* slots = nullptr;
  index_t* row_of_slot = nullptr;
  offset_t* rows_per_group = nullptr;  // or null
  /// unpermute() of the rows to y [tokens, H] after; null: not. They may then not be written.
  void* y = nullptr;
};

/// The two products of an MLP, the second on the output of the first; over all rows of both.
/// \param counters num_device_counters(row_end), zero; they are zero again afterwards
/// \return false: nothing was done, as a stage needs a kernel of its own here
template <ExecutionSpace E, Element T>
bool device_mlp(E const& exec, DeviceGemm<T> const& gate_up, DeviceGemm<T> const& down,
                std::uint32_t* counters, MlpStages const& stages);
std::size_t num_device_counters(offset_t rows);

}  // namespace kmoe::detail
