// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <algorithm>

#include <kmoe/core/error.hpp>
#include <kmoe/permute/permutation.hpp>

#include "instantiate.hpp"

namespace kmoe {
namespace {

/// Elements of a row that one work item handles: consecutive ones for the host's vector units, one
/// on a device, where neighbouring threads make the consecutive accesses.
template <class E>
inline constexpr offset_t tile =
    Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename E::memory_space>::accessible ? 256 : 1;

template <class E>
using Range = Kokkos::RangePolicy<E, Kokkos::IndexType<offset_t>>;

/// Work item i of a matrix whose rows are cut into tiles.
template <class E>
struct Tiles {
  offset_t width;
  offset_t per_row;

  explicit Tiles(offset_t num_cols)
      : width(num_cols), per_row((num_cols + tile<E> - 1) / tile<E>) {}
  KOKKOS_INLINE_FUNCTION offset_t row(offset_t i) const { return i / per_row; }
  KOKKOS_INLINE_FUNCTION offset_t begin(offset_t i) const { return i % per_row * tile<E>; }
  KOKKOS_INLINE_FUNCTION offset_t size(offset_t i) const {
    return Kokkos::min(offset_t{tile<E>}, width - begin(i));  // a copy: min takes references
  }
};

template <class E, class T>
struct Permute {
  Matrix<T const, E> x;
  Vector<offset_t const, E> expert_offsets;
  Vector<index_t const, E> slot_of_row;
  Matrix<T, E> rows;
  offset_t slots_per_token;
  Tiles<E> tiles;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t i) const {
    offset_t const row = tiles.row(i);
    if (row >= expert_offsets(expert_offsets.extent(0) - 1)) return;
    offset_t const token = slot_of_row(row) / slots_per_token;
    T const* const from = &x(token, tiles.begin(i));
    T* const to = &rows(row, tiles.begin(i));
    offset_t const n = tiles.size(i);
    for (offset_t j = 0; j < n; ++j) to[j] = from[j];
  }
};

template <class E, class T>
struct Unpermute {
  Matrix<T const, E> rows;
  Matrix<index_t const, E> row_of_slot;
  Matrix<float const, E> weights;
  Matrix<T, E> y;
  Tiles<E> tiles;
  bool weighted;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t i) const {
    using A = accumulate_t<T>;
    offset_t const token = tiles.row(i);
    offset_t const begin = tiles.begin(i);
    offset_t const n = tiles.size(i);
    A sum[tile<E>];
    for (offset_t j = 0; j < n; ++j) sum[j] = 0;
    for (std::size_t k = 0; k < row_of_slot.extent(1); ++k) {
      index_t const row = row_of_slot(token, k);
      if (row < 0) continue;
      T const* const from = &rows(row, begin);
      if (weighted) {
        A const w = weights(token, k);
        for (offset_t j = 0; j < n; ++j) sum[j] += w * static_cast<A>(from[j]);
      } else {
        for (offset_t j = 0; j < n; ++j) sum[j] += static_cast<A>(from[j]);
      }
    }
    T* const to = &y(token, begin);
    for (offset_t j = 0; j < n; ++j) to[j] = static_cast<T>(sum[j]);
  }
};

template <class E, class V>
void expect_tokens(std::string_view function, char const* argument, V const& view,
                   Permutation<E> const& permutation) {
  auto const most = permutation.row_of_slot.extent(0);
  if (view.extent(0) > most) {
    detail::throw_invalid(function,
                          std::string(argument) +
                              ".extent(0) must be at most the tokens of the "
                              "permutation, " +
                              std::to_string(most),
                          std::to_string(view.extent(0)), view.label());
  }
}

}  // namespace

template <ExecutionSpace E, Element T>
void permute(E const& exec, InMatrix<T, E> x, Permutation<E> const& permutation,
             Matrix<T, E> const& rows) {
  constexpr std::string_view function = "kmoe::permute";
  detail::expect_extent(
      function, "rows.extent(1) must equal x.extent(1) =", static_cast<long long>(x.extent(1)),
      static_cast<long long>(rows.extent(1)), rows.label());
  expect_tokens(function, "x", x, permutation);
  auto const k = static_cast<offset_t>(permutation.row_of_slot.extent(1));
  auto const num_rows =
      std::min(static_cast<offset_t>(rows.extent(0)), static_cast<offset_t>(x.extent(0)) * k);
  Tiles<E> const tiles(static_cast<offset_t>(x.extent(1)));
  Kokkos::parallel_for(
      "kmoe::permute", Range<E>(exec, 0, num_rows * tiles.per_row),
      Permute<E, T>{x, permutation.expert_offsets, permutation.slot_of_row, rows, k, tiles});
}

template <ExecutionSpace E, Element T>
void unpermute(E const& exec, InMatrix<T, E> rows, Permutation<E> const& permutation,
               InMatrix<float, E> weights, Matrix<T, E> const& y) {
  constexpr std::string_view function = "kmoe::unpermute";
  detail::expect_extent(
      function, "rows.extent(1) must equal y.extent(1) =", static_cast<long long>(y.extent(1)),
      static_cast<long long>(rows.extent(1)), rows.label());
  expect_tokens(function, "y", y, permutation);
  bool const weighted = weights.extent(0) > 0;
  if (weighted) {
    detail::expect_extent(
        function, "weights.extent(0) must equal y.extent(0) =", static_cast<long long>(y.extent(0)),
        static_cast<long long>(weights.extent(0)), weights.label());
    detail::expect_extent(function, "weights.extent(1) must equal K =",
                          static_cast<long long>(permutation.row_of_slot.extent(1)),
                          static_cast<long long>(weights.extent(1)), weights.label());
  }
  Tiles<E> const tiles(static_cast<offset_t>(y.extent(1)));
  auto const items = static_cast<offset_t>(y.extent(0)) * tiles.per_row;
  Kokkos::parallel_for("kmoe::unpermute", Range<E>(exec, 0, items),
                       Unpermute<E, T>{rows, permutation.row_of_slot, weights, y, tiles, weighted});
}

#define KMOE_INSTANTIATE(SPACE, T)                                                         \
  template void permute(SPACE const&, Matrix<T const, SPACE>, Permutation<SPACE> const&,   \
                        Matrix<T, SPACE> const&);                                          \
  template void unpermute(SPACE const&, Matrix<T const, SPACE>, Permutation<SPACE> const&, \
                          Matrix<float const, SPACE>, Matrix<T, SPACE> const&);
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)

}  // namespace kmoe
