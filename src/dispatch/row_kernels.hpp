// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Kernels on the experts' rows: gathering them for a message, and adding them at home.
///
/// Each iteration works on one tile of columns of one row.

#include <kmoe/core/types.hpp>

namespace kmoe::detail {

/// Columns per iteration: enough on a host to amortize finding the rows, one on a device so that
/// neighbouring threads touch neighbouring elements.
template <ExecutionSpace E>
inline constexpr index_t column_tile =
    Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename E::memory_space>::accessible ? 256 : 1;

/// Row and columns of one iteration.
template <ExecutionSpace E>
struct Tile {
  offset_t row;
  index_t begin;
  index_t width;

  static offset_t per_row(index_t hidden) { return (hidden + column_tile<E> - 1) / column_tile<E>; }
  KOKKOS_INLINE_FUNCTION Tile(offset_t item, index_t hidden) {
    index_t const tiles = (hidden + column_tile<E> - 1) / column_tile<E>;
    row = item / tiles;
    begin = static_cast<index_t>(item % tiles) * column_tile<E>;
    width = hidden - begin < column_tile<E> ? hidden - begin : column_tile<E>;
  }
};

/// message[r, :] = the experts' row of slot slot_of_message[r], zeros if it has none.
template <ExecutionSpace E, Element T>
struct GatherRows {
  Vector<index_t const, E> slot_of_message;
  index_t const* row_of_slot;
  T const* rows;
  T* message;
  index_t hidden;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t item) const {
    Tile<E> const tile(item, hidden);
    index_t const row = row_of_slot[slot_of_message(tile.row)];
    T* const to = message + tile.row * hidden + tile.begin;
    T const* const from = rows + offset_t{row} * hidden + tile.begin;
    for (index_t c = 0; c < tile.width; ++c) to[c] = row < 0 ? T(0.0F) : from[c];
  }
};

/// Where the rows of the tokens at home are: some came from other ranks, some never left.
template <ExecutionSpace E, Element T>
struct HomeRows {
  index_t const* arrived_of_slot;  // row in `arrived` of each slot at home, -1; null with one rank
  T const* arrived;
  index_t const* row_of_slot;  // row in `rows` of each slot at home, -1
  T const* rows;
  index_t const* ids;  // of the slots at home
  index_t first_zero;  // zero experts: ids first_zero .. first_zero + num_zero - 1
  index_t num_zero;
  index_t hidden;

  KOKKOS_INLINE_FUNCTION T const* operator()(offset_t slot) const {
    if (arrived_of_slot != nullptr && arrived_of_slot[slot] >= 0) {
      return arrived + offset_t{arrived_of_slot[slot]} * hidden;
    }
    return row_of_slot[slot] >= 0 ? rows + offset_t{row_of_slot[slot]} * hidden : nullptr;
  }
  KOKKOS_INLINE_FUNCTION bool is_zero_expert(offset_t slot) const {
    return static_cast<std::uint32_t>(ids[slot]) - static_cast<std::uint32_t>(first_zero) <
           static_cast<std::uint32_t>(num_zero);
  }
};

/// y[t, :] = sum over k of the slots' rows + addend[t, :]
template <ExecutionSpace E, Element T>
struct AddRows {
  HomeRows<E, T> source;
  index_t num_slots;
  T const* x;
  float const* weights;
  T const* addend;  // null = none
  T* y;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t item) const {
    using A = accumulate_t<T>;
    Tile<E> const tile(item, source.hidden);
    offset_t const at = tile.row * source.hidden + tile.begin;
    A sum[column_tile<E>] = {};
    for (index_t k = 0; k < num_slots; ++k) {
      offset_t const slot = tile.row * num_slots + k;
      if (T const* const row = source(slot)) {
        add(sum, row + tile.begin, tile.width);
      } else if (source.is_zero_expert(slot)) {
        auto const weight = static_cast<A>(weights[slot]);
        for (index_t c = 0; c < tile.width; ++c) {
          sum[c] += static_cast<A>(static_cast<T>(weight * static_cast<A>(x[at + c])));
        }
      }
    }
    if (addend != nullptr) add(sum, addend + at, tile.width);
    for (index_t c = 0; c < tile.width; ++c) y[at + c] = static_cast<T>(sum[c]);
  }

 private:
  template <class A>
  KOKKOS_INLINE_FUNCTION static void add(A* sum, T const* row, index_t width) {
    for (index_t c = 0; c < width; ++c) sum[c] += static_cast<A>(row[c]);
  }
};

/// y[slot, :] = the slot's row, x of the token for a zero expert, else 0
template <ExecutionSpace E, Element T>
struct PlaceRows {
  HomeRows<E, T> source;
  index_t num_slots;
  T const* x;
  T* y;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t item) const {
    Tile<E> const tile(item, source.hidden);
    T const* row = source(tile.row);
    if (row == nullptr && source.is_zero_expert(tile.row)) {
      row = x + tile.row / num_slots * source.hidden;
    }
    T* const to = y + tile.row * source.hidden + tile.begin;
    for (index_t c = 0; c < tile.width; ++c) {
      to[c] = row == nullptr ? T(0.0F) : row[tile.begin + c];
    }
  }
};

}  // namespace kmoe::detail
