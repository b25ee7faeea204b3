// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Portable kernels for the router logits. Both add in the order that router_logits() documents.

#include <kmoe/routing/router.hpp>

namespace kmoe::routing {

/// Consecutive h that are added up before they join the total: bounds the rounding error of a long
/// sum, and a tile of this depth stays in the L2 cache.
inline constexpr index_t slice = 256;

/// One thread per logit: for devices.
template <ExecutionSpace E, Element T>
struct LogitPerThread {
  Matrix<T const, E> x;
  RouterWeights<E, T> weights;
  Matrix<float, E> logits;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    using A = accumulate_t<T>;
    auto const num_columns = static_cast<offset_t>(logits.extent(1));
    auto const t = static_cast<index_t>(i / num_columns);
    auto const e = static_cast<index_t>(i % num_columns);
    auto const hidden = static_cast<index_t>(x.extent(1));
    T const* const a = detail::row_of(x, t);
    T const* const b = detail::row_of(weights.weight, e);
    A total = 0;
    for (index_t begin = 0; begin < hidden; begin += slice) {
      index_t const end = hidden - begin < slice ? hidden : begin + slice;
      A sum = 0;
      for (index_t h = begin; h < end; ++h) sum += static_cast<A>(a[h]) * static_cast<A>(b[h]);
      total += sum;
    }
    if (weights.bias.extent(0) > 0) total += static_cast<A>(weights.bias(e));
    logits(t, e) = static_cast<float>(total);
  }
};

/// A tile of 64 tokens x 64 columns at a time: each worker packs slices of x and of the weights,
/// converted to A, into its own scratch, and multiplies those. Rows that a tile lacks are zeros, so
/// every logit comes out of the same code whatever its place.
template <ExecutionSpace E, Element T>
struct LogitTiles {
  using A = accumulate_t<T>;
  static constexpr index_t tile = 64;
  // 4 x 8 sums fit the 16 registers of SSE2; compilers vectorize the innermost loop.
  static constexpr index_t rows = 4;
  static constexpr index_t cols = 8;
  /// Scratch of one worker: a slice of x, a slice of the weights and the totals.
  static constexpr offset_t scratch_size = 2 * tile * slice + tile * tile;

  Matrix<T const, E> x;
  RouterWeights<E, T> weights;
  Matrix<float, E> logits;
  Vector<A, E> scratch;
  index_t num_workers;

  static index_t ceil_div(index_t a, index_t b) { return a / b + (a % b != 0 ? 1 : 0); }

  void operator()(index_t worker) const {
    A* const packed_x = scratch.data() + worker * scratch_size;
    A* const packed_w = packed_x + tile * slice;
    A* const totals = packed_w + tile * slice;
    auto const tokens = static_cast<index_t>(logits.extent(0));
    auto const columns = static_cast<index_t>(logits.extent(1));
    auto const hidden = static_cast<index_t>(x.extent(1));
    index_t const column_tiles = ceil_div(columns, tile);
    offset_t const num_tiles = static_cast<offset_t>(ceil_div(tokens, tile)) * column_tiles;
    for (offset_t i = worker; i < num_tiles; i += num_workers) {
      auto const t = static_cast<index_t>(i / column_tiles) * tile;
      auto const e = static_cast<index_t>(i % column_tiles) * tile;
      index_t const num_t = Kokkos::min(tile, tokens - t);
      index_t const num_e = Kokkos::min(tile, columns - e);
      for (index_t j = 0; j < tile * tile; ++j) totals[j] = 0;
      for (index_t h = 0; h < hidden; h += slice) {
        index_t const depth = Kokkos::min(slice, hidden - h);
        pack<rows>(x, t, num_t, h, depth, packed_x);
        pack<cols>(weights.weight, e, num_e, h, depth, packed_w);
        for (index_t n = 0; n < num_e; n += cols) {
          for (index_t m = 0; m < num_t; m += rows) {
            multiply(packed_x + m * depth, packed_w + n * depth, depth, totals + m * tile + n);
          }
        }
      }
      for (index_t m = 0; m < num_t; ++m) {
        float* const out = detail::row_of(logits, t + m) + e;
        for (index_t n = 0; n < num_e; ++n) {
          A total = totals[m * tile + n];
          if (weights.bias.extent(0) > 0) total += static_cast<A>(weights.bias(e + n));
          out[n] = static_cast<float>(total);
        }
      }
    }
  }

  /// Panels of `width` rows, each stored as [depth][width]; missing rows of the last one are zero.
  template <index_t width>
  static void pack(Matrix<T const, E> const& from, index_t row, index_t num_rows, index_t h,
                   index_t depth, A* to) {
    for (index_t p = 0; p < num_rows; p += width, to += width * depth) {
      for (index_t r = 0; r < width; ++r) {
        if (p + r < num_rows) {
          T const* const source = detail::row_of(from, row + p + r) + h;
          for (index_t k = 0; k < depth; ++k) to[k * width + r] = static_cast<A>(source[k]);
        } else {
          for (index_t k = 0; k < depth; ++k) to[k * width + r] = 0;
        }
      }
    }
  }

  static void multiply(A const* a, A const* b, index_t depth, A* totals) {
    A sum[rows][cols] = {};
    for (index_t k = 0; k < depth; ++k) {
      for (index_t m = 0; m < rows; ++m) {
        A const factor = a[k * rows + m];
        for (index_t n = 0; n < cols; ++n) sum[m][n] += factor * b[k * cols + n];
      }
    }
    for (index_t m = 0; m < rows; ++m) {
      for (index_t n = 0; n < cols; ++n) totals[m * tile + n] += sum[m][n];
    }
  }
};

}  // namespace kmoe::routing
