// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "gemm/host_gemm.hpp"

namespace kmoe::detail {
namespace {

/// Gives each element of `columns` the address of a row of B, null beyond the last.
void raw_columns(HostGemm const& g, index_t group, offset_t panel, void const** columns) {
  offset_t const width = g.kernel->panel_columns;
  for (offset_t j = 0; j < width; ++j) {
    offset_t const n = panel * width + j;
    columns[j] = n < g.columns ? static_cast<std::byte const*>(g.raw) +
                                     (group * g.columns + n) * g.k * g.kernel->element_bytes
                               : nullptr;
  }
}

}  // namespace

void HostGemm::prepare() {
  full_rows = full_block_rows(*kernel, k);
  group_panels = num_panels(*kernel, columns, gated);
  block_offsets[0] = 0;
  for (index_t g = 0; g < groups; ++g) {
    offset_t const rows = group_end(g) - group_begin(g);
    offset_t const step = block_rows(rows);
    block_offsets[g + 1] = block_offsets[g] + (rows + step - 1) / step;
  }
  block_offsets[groups + 1] = 0;
  offset_t const blocks = block_offsets[groups];
  offset_t const wanted = workers == 1 ? 1 : offset_t{4} * workers;
  splits = blocks == 0 ? 1 : std::clamp<offset_t>((wanted + blocks - 1) / blocks, 1, group_panels);
  tasks = blocks * splits;
}

void HostGemm::work(index_t worker) const {
  constexpr index_t most_columns = 64;
  std::byte* const memory = worker_memory + worker * layout.bytes;
  auto* const row_weights = reinterpret_cast<float*>(memory + layout.weights);
  offset_t packed_block = -1;
  for (;;) {
    offset_t const task = Kokkos::atomic_fetch_add(&block_offsets[groups + 1], offset_t{1});
    if (task >= tasks) return;
    offset_t const block = task / splits, split = task % splits;
    auto const group = static_cast<index_t>(
        std::upper_bound(block_offsets, block_offsets + groups + 1, block) - block_offsets - 1);
    offset_t const begin = group_begin(group), end = group_end(group);
    offset_t const step = block_rows(end - begin);
    offset_t const first = begin + (block - block_offsets[group]) * step;
    offset_t const rows = std::min(step, end - first);
    if (block != packed_block) {
      bool const gathers = slots != nullptr && slots_per_row > 0;
      offset_t const x_row = gathers ? 0 : first - x_first;
      device::PackA pack{};
      pack.x = static_cast<std::byte const*>(x) + x_row * x_stride * kernel->element_bytes;
      pack.stride = x_stride;
      pack.slots = gathers ? slots + first : nullptr;
      pack.slots_per_row = slots_per_row;
      pack.weights = input_weights == nullptr || gathers ? input_weights : input_weights + first;
      pack.rows = rows;
      pack.k = k;
      pack.out = memory;
      kernel->pack_a(pack);
      if (output_weights != nullptr) {
        for (offset_t r = 0; r < rows; ++r) {
          row_weights[r] = output_weights[slots != nullptr ? slots[first + r] : first + r];
        }
      }
      packed_block = block;
    }

    offset_t const panel_begin = group_panels * split / splits;
    offset_t const panel_end = group_panels * (split + 1) / splits;
    offset_t const bytes = panel_bytes(*kernel, k);
    device::Multiply m{};
    m.a = memory;
    m.rows = rows;
    m.k = k;
    m.row_weights = output_weights != nullptr ? row_weights : nullptr;
    m.out_stride = out_stride;
    m.accumulators = memory + layout.accumulators;
    m.epilogue = epilogue;
    m.gated = gated;
    m.alpha = alpha;
    m.limit = limit;
    auto const multiply = [&](offset_t panel, offset_t count, void const* b) {
      offset_t const column = panel * output_columns(*kernel, gated);
      m.b = b;
      m.panels = count;
      if (bias != nullptr) {
        m.bias = static_cast<std::byte const*>(bias) +
                 (group * group_panels + panel) * kernel->panel_columns * kernel->accumulate_bytes;
      }
      m.out = static_cast<std::byte*>(out) +
              ((first - out_first) * out_stride + column) * kernel->element_bytes;
      m.out_columns = columns - column;
      kernel->multiply(m);
    };
    if (raw == nullptr) {
      multiply(
          panel_begin, panel_end - panel_begin,
          static_cast<std::byte const*>(panels) + (group * group_panels + panel_begin) * bytes);
      continue;
    }
    for (offset_t panel = panel_begin; panel < panel_end; ++panel) {
      void const* addresses[most_columns];
      raw_columns(*this, group, panel, addresses);
      kernel->pack_b({addresses, k, memory + layout.panel});
      multiply(panel, 1, memory + layout.panel);
    }
  }
}

}  // namespace kmoe::detail
