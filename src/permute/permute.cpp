// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <algorithm>

#include <kmoe/core/error.hpp>
#include <kmoe/permute/permutation.hpp>

#include "device/launch.hpp"
#include "instantiate.hpp"
#include "permute/row_tiles.hpp"

namespace kmoe {
namespace {

template <class E>
using Range = Kokkos::RangePolicy<E, Kokkos::IndexType<offset_t>>;

template <class E, class T, int Width>
struct Permute {
  detail::Rows<T const> x;
  offset_t const* num_rows;
  index_t const* slot_of_row;
  detail::Rows<T> rows;
  index_t slots_per_token;
  detail::Tiles<Width> tiles;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t item) const {
    offset_t const row = tiles.row(item);
    if (row >= *num_rows) return;
    index_t const begin = tiles.begin(item, row);
    offset_t const token = slot_of_row[row] / slots_per_token;
    detail::copy_tile<E, Width>(x.at(token, begin), rows.at(row, begin), tiles.size(begin));
  }
};

/// What a row is multiplied by.
template <class A, bool weighted>
struct Factor {
  A weight;
  KOKKOS_INLINE_FUNCTION A operator()(A value) const { return weighted ? weight * value : value; }
};

template <class E, class T, int Width, bool weighted>
struct Unpermute {
  detail::Rows<T const> rows;
  index_t const* row_of_slot;
  detail::Rows<float const> weights;
  detail::Rows<T> y;
  index_t slots_per_token;
  detail::Tiles<Width> tiles;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t item) const {
    using A = accumulate_t<T>;
    offset_t const token = tiles.row(item);
    index_t const begin = tiles.begin(item, token);
    index_t const* const own_rows = row_of_slot + token * slots_per_token;
    auto const row_of = [&](index_t k) -> T const* {
      return own_rows[k] < 0 ? nullptr : rows.at(own_rows[k], begin);
    };
    auto const term_of = [&](index_t k) {
      return Factor<A, weighted>{weighted ? static_cast<A>(*weights.at(token, k)) : A(1)};
    };
    detail::add_tile<E, Width, T>(slots_per_token, row_of, term_of, nullptr, y.at(token, begin),
                                  tiles.size(begin));
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
  auto const width = static_cast<index_t>(x.extent(1));
  offset_t const* const counted =
      permutation.expert_offsets.data() + permutation.expert_offsets.extent(0) - 1;
  auto const from = detail::rows_of(x);
  auto const to = detail::rows_of(rows);
  auto const launch = [&]<int Width>(std::integral_constant<int, Width>) {
    detail::Tiles<Width> const tiles(width);
    Kokkos::parallel_for("kmoe::permute", Range<E>(exec, 0, num_rows * tiles.per_row),
                         Permute<E, T, Width>{from, counted, permutation.slot_of_row.data(), to,
                                              static_cast<index_t>(k), tiles});
  };
  detail::with_tile_width<E>(width, launch, from, to);
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
  auto const width = static_cast<index_t>(y.extent(1));
  auto const from = detail::rows_of(rows);
  auto const to = detail::rows_of(y);
  auto const run = [&]<int Width, bool with_weights>() {
    detail::Tiles<Width> const tiles(width);
    device::dependent_for(exec, "kmoe::unpermute",
                          static_cast<offset_t>(y.extent(0)) * tiles.per_row,
                          Unpermute<E, T, Width, with_weights>{
                              from, permutation.row_of_slot.data(), detail::rows_of(weights), to,
                              static_cast<index_t>(permutation.row_of_slot.extent(1)), tiles});
  };
  auto const launch = [&]<int Width>(std::integral_constant<int, Width>) {
    weighted ? run.template operator()<Width, true>() : run.template operator()<Width, false>();
  };
  detail::with_tile_width<E>(width, launch, from, to);
}

#define KMOE_INSTANTIATE(SPACE, T)                                                                \
  template KMOE_API void permute(SPACE const&, Matrix<T const, SPACE>, Permutation<SPACE> const&, \
                                 Matrix<T, SPACE> const&);                                        \
  template KMOE_API void unpermute(SPACE const&, Matrix<T const, SPACE>,                          \
                                   Permutation<SPACE> const&, Matrix<float const, SPACE>,         \
                                   Matrix<T, SPACE> const&);
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)

}  // namespace kmoe
