// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Experts that are not MLPs: a table lookup, an ODE solver, anything that maps a token to a row of
/// the same width. They share routing, dispatch and combine with the MLP experts of their layer.

#include <concepts>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include <kmoe/core/types.hpp>

namespace kmoe KMOE_API {

/// The rows that a rank's user experts must compute in one step of forward(): y[r, :] for
/// offsets(0) <= r < offsets(U'), U' the number of user experts of this rank.
template <ExecutionSpace E, Element T>
struct UserRows {
  std::span<index_t const> experts;     ///< [U'] global ids, ascending, on the host
  Vector<index_t const, E> expert_ids;  ///< [U'] the same in E's memory
  /// [U' + 1] rows offsets(u) .. offsets(u+1) - 1 belong to experts[u]; in E's memory.
  Vector<offset_t const, E> offsets;
  offset_t max_rows = 0;  ///< offsets(U') - offsets(0) is at most this
  Matrix<T const, E> x;   ///< [.., H] the token of row r (with router_weight_on_input: T(w * x))
  Matrix<T, E> y;         ///< [.., H] to be written, not yet multiplied by the router weight
};

/// Computes the rows on `exec`. For the reproducibility contract of the layer a row's result must
/// depend on its token and its expert alone.
template <ExecutionSpace E, Element T>
using UserExperts = std::function<void(E const& exec, UserRows<E, T> const& rows)>;

/// One row as a functor sees it.
template <Element T>
struct ExpertRow {
  index_t expert;       ///< global id
  T const* x;           ///< [hidden_size]
  T* y;                 ///< [hidden_size] to be written
  index_t hidden_size;  ///< H
};

/// A functor that computes one row, callable in a kernel: void operator()(ExpertRow<T> const&)
/// const.
template <class F, class T>
concept ExpertFunctor = std::invocable < F const&,
        ExpertRow<T>
const& > ;

namespace detail {

template <ExecutionSpace E, Element T, class F>
struct RunExpertRows {
  F functor;
  UserRows<E, T> rows;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const experts = static_cast<index_t>(rows.expert_ids.extent(0));
    offset_t const row = rows.offsets(0) + i;
    if (row >= rows.offsets(experts)) return;
    index_t u = 0;
    while (row >= rows.offsets(u + 1)) ++u;
    auto const hidden = static_cast<offset_t>(rows.y.extent(1));
    functor(ExpertRow<T>{rows.expert_ids(u), rows.x.data() + row * hidden,
                         rows.y.data() + row * hidden, static_cast<index_t>(hidden)});
  }
};

}  // namespace detail

/// User experts as a functor of one row: one thread per row, in a kernel named kmoe::user_experts.
///
/// The functor is copied into the kernel; it may read device memory through Views it holds.
/// Asynchronous; does not allocate. Tested in tests/mpi/test_user_experts.cpp.
template <ExecutionSpace E, Element T, ExpertFunctor<T> F>
UserExperts<E, T> row_experts(F functor) {
  return [functor = std::move(functor)](E const& exec, UserRows<E, T> const& rows) {
    Kokkos::parallel_for(
        "kmoe::user_experts",
        Kokkos::RangePolicy<E, Kokkos::IndexType<offset_t>>(exec, 0, rows.max_rows),
        detail::RunExpertRows<E, T, F>{functor, rows});
  };
}

/// A host function that computes all rows of one expert: x, y [n, H], n >= 1, in E's memory.
template <ExecutionSpace E, Element T>
using ExpertBatch = std::function<void(E const& exec, index_t expert, Matrix<T const, E> const& x,
                                       Matrix<T, E> const& y)>;

/// User experts as a host function that is called once per expert that has rows, in ascending order
/// of ids. Fences `exec`; where E's memory is not the host's it allocates a host copy of the
/// offsets.
template <ExecutionSpace E, Element T>
UserExperts<E, T> batch_experts(ExpertBatch<E, T> function) {
  return [function = std::move(function)](E const& exec, UserRows<E, T> const& rows) {
    exec.fence("kmoe::batch_experts");
    auto const offsets =
        Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), rows.offsets, "kmoe::offsets");
    for (std::size_t u = 0; u < rows.experts.size(); ++u) {
      offset_t const begin = offsets(u), end = offsets(u + 1);
      if (begin == end) continue;
      function(exec, rows.experts[u], row_range(rows.x, begin, end), row_range(rows.y, begin, end));
    }
  };
}

}  // namespace KMOE_API
