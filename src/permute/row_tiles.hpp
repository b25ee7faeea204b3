// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Work items of kernels that move and add rows: each is a tile of columns of one row. On a host a
/// tile is wide enough to amortize finding the row; on a device it is what one instruction loads,
/// so that neighbouring threads touch neighbouring memory.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <kmoe/core/types.hpp>

#include "device/warp.hpp"

namespace kmoe::detail {

template <class E>
inline constexpr bool on_host =
    Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename E::memory_space>::accessible;

/// `Width` columns of a row in registers.
template <class T, int Width>
struct alignas(Width * sizeof(T)) Pack {
  T at[Width];
};

template <int Width>
struct Tiles {
  index_t width;
  index_t per_row;

  explicit Tiles(index_t num_cols) : width(num_cols), per_row((num_cols + Width - 1) / Width) {}

  KOKKOS_INLINE_FUNCTION offset_t row(offset_t item) const {
    auto const n = static_cast<std::uint64_t>(item);
    auto const divisor = static_cast<std::uint32_t>(per_row);
    return static_cast<offset_t>(n >> 32 == 0 ? static_cast<std::uint32_t>(n) / divisor
                                              : n / divisor);
  }
  KOKKOS_INLINE_FUNCTION index_t begin(offset_t item, offset_t row) const {
    return static_cast<index_t>(item - row * per_row) * Width;
  }
  /// Columns of the tile that begins here: the last one of a row may be narrower.
  KOKKOS_INLINE_FUNCTION index_t size(index_t begin) const {
    return width - begin < Width ? width - begin : Width;
  }
};

/// The copy of one tile; a row that is not there is zeros.
template <class E, int Width, class T>
KOKKOS_INLINE_FUNCTION void copy_tile(T const* from, T* to, [[maybe_unused]] index_t size) {
  if constexpr (on_host<E>) {
    for (index_t c = 0; c < size; ++c) to[c] = from == nullptr ? T(0.0F) : from[c];
  } else {
    using P = Pack<T, Width>;
    P zeros;
    for (int c = 0; c < Width; ++c) zeros.at[c] = T(0.0F);
    *reinterpret_cast<P*>(to) = from == nullptr ? zeros : *reinterpret_cast<P const*>(from);
  }
}

/// to[c] = sum over k < num_slots of term_of(k)(row_of(k)[c]) (+ addend[c]), in ascending order.
/// row_of(k) may be null: such a slot is left out.
template <class E, int Width, class T, class RowOf, class TermOf>
KOKKOS_INLINE_FUNCTION void add_tile(index_t num_slots, RowOf const& row_of, TermOf const& term_of,
                                     T const* addend, T* to, [[maybe_unused]] index_t size) {
  using A = accumulate_t<T>;
  A sum[Width] = {};
  if constexpr (on_host<E>) {
    for (index_t k = 0; k < num_slots; ++k) {
      T const* const row = row_of(k);
      if (row == nullptr) continue;
      auto const term = term_of(k);
      for (index_t c = 0; c < size; ++c) sum[c] += term(static_cast<A>(row[c]));
    }
    if (addend != nullptr) {
      for (index_t c = 0; c < size; ++c) sum[c] += static_cast<A>(addend[c]);
    }
    for (index_t c = 0; c < size; ++c) to[c] = static_cast<T>(sum[c]);
  } else {
    using P = Pack<T, Width>;
    constexpr int batch = 4;  // rows in flight
    for (index_t first = 0; first < num_slots; first += batch) {
      T const* rows[batch];
      decltype(term_of(0)) terms[batch];
      P parts[batch];
      KMOE_UNROLL
      for (int i = 0; i < batch; ++i) {
        rows[i] = first + i < num_slots ? row_of(first + i) : nullptr;
        if (rows[i] != nullptr) terms[i] = term_of(first + i);
      }
      KMOE_UNROLL
      for (int i = 0; i < batch; ++i) {
        if (rows[i] != nullptr) parts[i] = *reinterpret_cast<P const*>(rows[i]);
      }
      KMOE_UNROLL
      for (int i = 0; i < batch; ++i) {
        if (rows[i] == nullptr) continue;
        for (int c = 0; c < Width; ++c) sum[c] += terms[i](static_cast<A>(parts[i].at[c]));
      }
    }
    P out;
    if (addend != nullptr) {
      P const part = *reinterpret_cast<P const*>(addend);
      for (int c = 0; c < Width; ++c) sum[c] += static_cast<A>(part.at[c]);
    }
    for (int c = 0; c < Width; ++c) out.at[c] = static_cast<T>(sum[c]);
    *reinterpret_cast<P*>(to) = out;
  }
}

/// Where rows of T begin, and how far apart.
template <class T>
struct Rows {
  T* data;
  offset_t stride;

  // NOLINTNEXTLINE: implicit, as for pointers
  operator Rows<T const>() const requires(!std::is_const_v<T>) { return {data, stride}; }
  KOKKOS_INLINE_FUNCTION T* at(offset_t row, index_t column) const {
    return data + row * stride + column;
  }
};
template <class V>
auto rows_of(V const& view) {
  return Rows<typename V::value_type>{view.data(), static_cast<offset_t>(view.stride(0))};
}

/// Calls launch(std::integral_constant<int, Width>) with the width of tiles for these rows of
/// `num_cols` columns.
template <class E, class Launch, class... T>
void with_tile_width(index_t num_cols, Launch const& launch, Rows<T> const&... rows) {
  if constexpr (on_host<E>) {
    launch(std::integral_constant<int, 256>());
  } else {
    constexpr int pack = std::min({16 / sizeof(T)...});
    auto const aligned = [](auto const& r) {
      return reinterpret_cast<std::uintptr_t>(r.data) % 16 == 0 && r.stride % pack == 0;
    };
    if (num_cols % pack == 0 && (aligned(rows) && ...)) {
      launch(std::integral_constant<int, pack>());
    } else {
      launch(std::integral_constant<int, 1>());
    }
  }
}

}  // namespace kmoe::detail
