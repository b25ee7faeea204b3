// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Tokens into the rows of user experts, and router weights onto them.

#include <kmoe/core/element.hpp>
#include <kmoe/permute/permutation.hpp>

namespace kmoe::detail {

/// The rows of the user experts of a rank: the last ones of its permutation.
template <ExecutionSpace E>
struct UserRange {
  Vector<offset_t const, E> offsets;  // [U' + 1]
  index_t num = 0;                    // U'
  offset_t max_rows = 0;              // exact on hosts
};

template <ExecutionSpace E>
UserRange<E> user_range(E const& exec, Permutation<E> const& permutation, index_t num_mlp,
                        index_t num_user, offset_t max_rows) {
  UserRange<E> range;
  range.num = num_user;
  range.offsets = Vector<offset_t const, E>(permutation.expert_offsets.data() + num_mlp,
                                            static_cast<std::size_t>(num_user) + 1);
  range.max_rows = max_rows;
  if constexpr (Kokkos::SpaceAccessibility<Kokkos::HostSpace,
                                           typename E::memory_space>::accessible) {
    exec.fence("kmoe::user_range");
    range.max_rows = range.offsets(num_user) - range.offsets(0);
  }
  return range;
}

/// One element of the rows of user experts.
template <ExecutionSpace E, Element T, class Set>
void for_each_user_element(char const* label, E const& exec, UserRange<E> const& range,
                           Permutation<E> const& permutation, offset_t hidden, Set const& set) {
  auto const offsets = range.offsets;
  auto const slot_of_row = permutation.slot_of_row;
  index_t const num = range.num;
  Kokkos::parallel_for(
      label, Kokkos::RangePolicy<E, Kokkos::IndexType<offset_t>>(exec, 0, range.max_rows * hidden),
      KOKKOS_LAMBDA(offset_t i) {
        offset_t const row = offsets(0) + i / hidden;
        if (row < offsets(num)) set(row, i % hidden, slot_of_row(row));
      });
}

/// out[row, :] = x[token of row, :], with weights: T(weight of its slot * x[...])
template <ExecutionSpace E, Element T>
void gather_user_rows(E const& exec, UserRange<E> const& range, Matrix<T const, E> const& x,
                      Permutation<E> const& permutation, Matrix<float const, E> const& weights,
                      Matrix<T, E> const& out) {
  using A = accumulate_t<T>;
  auto const slots = static_cast<index_t>(permutation.row_of_slot.extent(1));
  float const* const weight_of = weights.extent(0) == 0 ? nullptr : weights.data();
  for_each_user_element<E, T>(
      "kmoe::gather_user_rows", exec, range, permutation, static_cast<offset_t>(x.extent(1)),
      KOKKOS_LAMBDA(offset_t row, offset_t h, index_t slot) {
        T const value = x(slot / slots, h);
        out(row, h) = weight_of == nullptr
                          ? value
                          : static_cast<T>(A(weight_of[slot]) * static_cast<A>(value));
      });
}

/// rows[row, :] = T(weight of its slot * rows[row, :])
template <ExecutionSpace E, Element T>
void weigh_user_rows(E const& exec, UserRange<E> const& range, Permutation<E> const& permutation,
                     Matrix<float const, E> const& weights, Matrix<T, E> const& rows) {
  using A = accumulate_t<T>;
  float const* const weight_of = weights.data();
  for_each_user_element<E, T>(
      "kmoe::weigh_user_rows", exec, range, permutation, static_cast<offset_t>(rows.extent(1)),
      KOKKOS_LAMBDA(offset_t row, offset_t h, index_t slot) {
        rows(row, h) = static_cast<T>(A(weight_of[slot]) * static_cast<A>(rows(row, h)));
      });
}

}  // namespace kmoe::detail
