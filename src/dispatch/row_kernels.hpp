// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Kernels on the experts' rows: gathering them for a message, and adding them at home.
///
/// Each iteration works on one tile of columns of one row.

#include "permute/row_tiles.hpp"

namespace kmoe::detail {

/// message[r, :] = the experts' row of slot slot_of_message[r], zeros if it has none.
template <ExecutionSpace E, Element T, int Width>
struct GatherRows {
  index_t const* slot_of_message;
  index_t const* row_of_slot;
  Rows<T const> rows;
  Rows<T> message;
  Tiles<Width> tiles;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t item) const {
    offset_t const to = tiles.row(item);
    index_t const begin = tiles.begin(item, to);
    index_t const row = row_of_slot[slot_of_message[to]];
    copy_tile<E, Width>(row < 0 ? nullptr : rows.at(row, begin), message.at(to, begin),
                        tiles.size(begin));
  }
};

/// Where the rows of the tokens at home are: some came from other ranks, some never left.
template <ExecutionSpace E, Element T>
struct HomeRows {
  index_t const* arrived_of_slot;  // row in `arrived` of each slot at home, -1; null with one rank
  index_t const* row_of_slot;      // row in `rows` of each slot at home, -1
  index_t const* ids;              // of the slots at home
  Rows<T const> arrived, rows, x;
  index_t first_zero;  // zero experts: ids first_zero .. first_zero + num_zero - 1
  index_t num_zero;

  /// The row of a slot from column `begin` on, for a zero expert the token; null if it has none.
  KOKKOS_INLINE_FUNCTION T const* operator()(offset_t slot, offset_t token, index_t begin) const {
    index_t const row = row_of_slot[slot];
    if (arrived_of_slot != nullptr && arrived_of_slot[slot] >= 0) {
      return arrived.at(arrived_of_slot[slot], begin);
    }
    if (row >= 0) return rows.at(row, begin);
    return is_zero_expert(slot) ? x.at(token, begin) : nullptr;
  }
  /// Of a slot whose row is not null. (A zero expert has no other row.)
  KOKKOS_INLINE_FUNCTION bool is_zero_expert(offset_t slot) const {
    return num_zero != 0 &&
           static_cast<std::uint32_t>(ids[slot]) - static_cast<std::uint32_t>(first_zero) <
               static_cast<std::uint32_t>(num_zero);
  }
};

/// What a slot adds without zero experts.
template <class A>
struct Itself {
  KOKKOS_INLINE_FUNCTION A operator()(A value) const { return value; }
};

/// What a slot adds: its row (rounded to bfloat16 if rows travel so), or weight * x rounded to T.
template <Element T>
struct Contribution {
  using A = accumulate_t<T>;
  A weight;
  bool zero_expert;
  bool rounds;
  KOKKOS_INLINE_FUNCTION A operator()(A value) const {
    if (zero_expert) return static_cast<A>(static_cast<T>(weight * value));
    return rounds ? static_cast<A>(bfloat16(value)) : value;
  }
};

/// y[t, :] = sum over k of the slots' rows + addend[t, :]
template <ExecutionSpace E, Element T, int Width>
struct AddRows {
  HomeRows<E, T> source;
  index_t num_slots;
  float const* weights;
  Rows<T const> addend;  // null = none
  Rows<T> y;
  bool rounds;
  Tiles<Width> tiles;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t item) const {
    using A = accumulate_t<T>;
    offset_t const token = tiles.row(item);
    index_t const begin = tiles.begin(item, token);
    offset_t const first = token * num_slots;
    auto const row_of = [&](index_t k) { return source(first + k, token, begin); };
    T const* const last = addend.data == nullptr ? nullptr : addend.at(token, begin);
    if (source.num_zero == 0 && !rounds) {
      add_tile<E, Width, T>(
          num_slots, row_of, [](index_t) { return Itself<A>(); }, last, y.at(token, begin),
          tiles.size(begin));
      return;
    }
    auto const term_of = [&](index_t k) {
      bool const zero_expert = source.is_zero_expert(first + k);
      return Contribution<T>{zero_expert ? static_cast<A>(weights[first + k]) : A(1), zero_expert,
                             rounds};
    };
    add_tile<E, Width, T>(num_slots, row_of, term_of, last, y.at(token, begin), tiles.size(begin));
  }
};

/// y[slot, :] = the slot's row, x of the token for a zero expert, else 0
template <ExecutionSpace E, Element T, int Width>
struct PlaceRows {
  HomeRows<E, T> source;
  index_t num_slots;
  Rows<T> y;
  Tiles<Width> tiles;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t item) const {
    offset_t const slot = tiles.row(item);
    index_t const begin = tiles.begin(item, slot);
    copy_tile<E, Width>(source(slot, slot / num_slots, begin), y.at(slot, begin),
                        tiles.size(begin));
  }
};

}  // namespace kmoe::detail
