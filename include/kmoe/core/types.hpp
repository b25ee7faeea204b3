// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Index types, concepts and View aliases shared by every module.
///
/// Shape letters, the same everywhere: T tokens, K top-k, E experts, El local experts, H hidden
/// size, I intermediate size, P ranks, M rows. A *token* is a row of x, a *slot* a (token, k)
/// pair flattened as t * K + k, a *row* a row of a permuted (grouped by expert) matrix.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <Kokkos_Core.hpp>

#include <kmoe/core/element.hpp>

namespace kmoe KMOE_API {

/// Counts tokens, slots, experts and ranks. Slots of one call (T * K) must stay below 2^31, which
/// is checked; anything multiplied by a width is an offset_t.
using index_t = std::int32_t;

/// Offsets and sizes that may exceed 2^31: rows times widths, byte counts, expert_offsets.
using offset_t = std::int64_t;

/// Marks a slot that no expert serves: a padded token, or an expert that lives on another rank.
inline constexpr index_t no_expert = -1;

template <class E>
concept ExecutionSpace = Kokkos::is_execution_space_v<E>;

/// Dense row-major array with `cols` contiguous elements per row: a token is one contiguous row.
/// LayoutRight is part of the type, so a column-major View is a compile-time error.
template <class T, class E>
using Matrix = Kokkos::View<T**, Kokkos::LayoutRight, typename E::memory_space>;

template <class T, class E>
using Vector = Kokkos::View<T*, Kokkos::LayoutRight, typename E::memory_space>;

/// [experts, rows, cols], row-major.
template <class T, class E>
using Tensor3 = Kokkos::View<T***, Kokkos::LayoutRight, typename E::memory_space>;

/// Input forms: T is not deduced from them, so that View<T**> converts to View<T const**> at a
/// call; the element type is deduced from the output alone.
template <class T, class E>
using InMatrix = Matrix<std::type_identity_t<T> const, E>;
template <class T, class E>
using InVector = Vector<std::type_identity_t<T> const, E>;
template <class T, class E>
using InTensor3 = Tensor3<std::type_identity_t<T> const, E>;

/// Rows begin..end-1 of a matrix as an unmanaged view of the same type; the matrix must stay alive.
/// (Kokkos::subview may change the layout type; rows of a Matrix are contiguous and unpadded.)
template <class V>
requires(V::rank() == 2) V row_range(V const& matrix, std::size_t begin, std::size_t end) {
  return V(matrix.data() + begin * matrix.extent(1), end - begin, matrix.extent(1));
}

}  // namespace KMOE_API
