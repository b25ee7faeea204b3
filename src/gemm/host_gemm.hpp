// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Which rows and columns a thread of a host execution space multiplies next.
///
/// The rows of each group are cut into blocks that fit the cache, and where there are fewer blocks
/// than threads need, the columns into ranges of panels. Threads draw (block, range) tasks from a
/// counter: who computes what changes nothing, because every element is one chain over k.

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include <kmoe/core/options.hpp>
#include <kmoe/core/types.hpp>

#include "device/host_kernel.hpp"
#include "device/isa.hpp"

namespace kmoe::detail {

/// Whether the host kernels serve an execution space.
template <ExecutionSpace E>
inline constexpr bool uses_host_kernels =
    Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename E::memory_space>::accessible&&
        Kokkos::SpaceAccessibility<E, Kokkos::HostSpace>::accessible;

template <Element T>
device::HostKernel const& host_kernel_of() {
  constexpr auto element = std::is_same_v<T, double>     ? device::HostElement::f64
                           : std::is_same_v<T, float>    ? device::HostElement::f32
                           : std::is_same_v<T, bfloat16> ? device::HostElement::bf16
                                                         : device::HostElement::f16;
  return device::host_kernel(device::host_isa(), element);
}

inline device::Epilogue epilogue_of(Activation activation) {
  switch (activation) {
    case Activation::silu:
      return device::Epilogue::silu;
    case Activation::gelu_erf:
      return device::Epilogue::gelu_erf;
    case Activation::gelu_tanh:
      return device::Epilogue::gelu_tanh;
    case Activation::relu:
      return device::Epilogue::relu;
    case Activation::relu2:
      return device::Epilogue::relu2;
    case Activation::swiglu_oai:
      break;
  }
  return device::Epilogue::swiglu_oai;
}

// Sizes, from the description of the formats in host_kernel.hpp.

constexpr offset_t round_up(offset_t n, offset_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
inline offset_t panel_bytes(device::HostKernel const& kernel, offset_t k) {
  return round_up(k, kernel.k_multiple) * kernel.panel_columns * kernel.element_bytes;
}
/// Columns of c in one panel.
inline offset_t output_columns(device::HostKernel const& kernel, bool gated) {
  return gated ? kernel.panel_columns / 2 : kernel.panel_columns;
}
inline offset_t num_panels(device::HostKernel const& kernel, offset_t columns, bool gated) {
  auto const width = output_columns(kernel, gated);
  return (columns + width - 1) / width;
}
inline offset_t block_bytes(device::HostKernel const& kernel, offset_t rows, offset_t k) {
  offset_t const padded = round_up(k, kernel.k_multiple);
  offset_t const cut = kernel.k_block == 0 ? padded : kernel.k_block;
  return (padded + cut - 1) / cut * round_up(rows, kernel.tile_rows) * (cut + kernel.a_pad) *
         kernel.a_bytes;
}
/// Rows of a full block: A stays in the second-level cache while the panels stream past it.
inline offset_t full_block_rows(device::HostKernel const& kernel, offset_t k) {
  constexpr offset_t cache_bytes = offset_t{1} << 20, most_rows = 256;
  offset_t const rows = cache_bytes / std::max<offset_t>(1, k * kernel.a_bytes);
  offset_t const tile = kernel.tile_rows;
  return std::clamp(rows / tile * tile, 2 * tile, round_up(most_rows, tile));
}

/// What one thread needs: a block of A, accumulators, row weights and a panel packed on the fly.
struct WorkerLayout {
  offset_t accumulators = 0, weights = 0, panel = 0, bytes = 0;
};
inline WorkerLayout worker_layout(device::HostKernel const& kernel, offset_t k, offset_t max_rows,
                                  bool pack_panels) {
  constexpr offset_t line = 128;
  offset_t const rows = std::min(full_block_rows(kernel, k), round_up(max_rows, kernel.tile_rows));
  WorkerLayout layout;
  layout.accumulators = round_up(block_bytes(kernel, rows, k), line);
  layout.weights =
      layout.accumulators + round_up(rows * kernel.panel_columns * kernel.accumulate_bytes, line);
  layout.panel = layout.weights + round_up(rows * offset_t{sizeof(float)}, line);
  layout.bytes = layout.panel + (pack_panels ? round_up(panel_bytes(kernel, k), line) : 0);
  return layout;
}

/// One grouped multiplication on a host space.
struct HostGemm {
  device::HostKernel const* kernel = nullptr;
  index_t groups = 0;
  offset_t const* offsets = nullptr;    // [groups + 1]
  offset_t row_begin = 0, row_end = 0;  // the rows to compute, cut out of all groups

  index_t const* slots = nullptr;  // of each row; null: row r is slot r
  void const* x = nullptr;
  offset_t x_stride = 0;
  index_t slots_per_row = 0;  // row r is x[slot / slots_per_row]; 0: x[r - x_first]
  offset_t x_first = 0;
  float const* input_weights = nullptr;  // by slot

  offset_t k = 0;
  offset_t columns = 0;  // of c
  bool gated = false;
  void const* panels = nullptr;  // packed, or
  void const* raw = nullptr;     // [groups, columns, k], packed on the fly
  void const* bias = nullptr;    // [groups, panels, panel_columns]

  device::Epilogue epilogue = device::Epilogue::identity;
  float alpha = 0, limit = 0;
  float const* output_weights = nullptr;  // by slot
  void* out = nullptr;                    // row out_first is out's row 0
  offset_t out_stride = 0, out_first = 0;

  index_t workers = 1;
  std::byte* worker_memory = nullptr;  // [workers][layout.bytes]
  WorkerLayout layout;
  offset_t* block_offsets = nullptr;  // [groups + 1], then the task counter

  // Derived by prepare().
  offset_t full_rows = 0, group_panels = 0, splits = 1, tasks = 0;

  [[nodiscard]] offset_t group_begin(index_t g) const {
    return std::clamp(offsets[g], row_begin, row_end);
  }
  [[nodiscard]] offset_t group_end(index_t g) const {
    return std::clamp(offsets[g + 1], row_begin, row_end);
  }
  /// Rows of each block of a group of so many: nearly equal, whole tiles.
  [[nodiscard]] offset_t block_rows(offset_t rows) const {
    offset_t const blocks = std::max<offset_t>(1, (rows + full_rows - 1) / full_rows);
    return std::max<offset_t>(1, round_up((rows + blocks - 1) / blocks, kernel->tile_rows));
  }

  void prepare();
  void work(index_t worker) const;
};

/// Runs it. The kernels of a host space are complete on return.
template <ExecutionSpace E>
void run(E const& exec, char const* label, HostGemm gemm) {
  gemm.prepare();
  if (gemm.tasks == 0) return;
  using Policy = Kokkos::RangePolicy<E, Kokkos::Schedule<Kokkos::Static>, Kokkos::IndexType<int>>;
  Kokkos::parallel_for(label, Policy(exec, 0, gemm.workers, Kokkos::ChunkSize(1)),
                       [=](int worker) { gemm.work(worker); });
  exec.fence(label);
}

}  // namespace kmoe::detail
