// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Mma<E, T>: the matrix instructions of execution space E for element type T.
///
/// c[m, n] += a[m, depth] . b[n, depth]^T for the tiles of a warp, a and b in slabs (slab.hpp), in
/// `steps` steps that together are the 64 bytes of a slab. Which lane holds which element is the
/// business of each family:
///
///     lanes               of a warp
///     m, n, steps
///     A, B, C             what a lane holds of a, b (one step) and c
///     Mma(lane)
///     A load_a(slab, row, step), B load_b(...)     the m or n rows from `row` (a multiple of m, n)
///     clear(C&), multiply(C&, A, B)
///     store(C, to, pitch)                          c to scratch memory, row-major
///     own, row_of(i), column_of(i)                 sums c[i] of a lane (portable, CDNA)
///
/// The sums over k have one order, the same for every element of c and every row of it.

#include "device/mma_cdna.hpp"
#include "device/mma_portable.hpp"
#include "device/mma_sm80.hpp"

namespace kmoe::device {

namespace detail {
template <class E, Operand T>
struct MmaOf {
  using type = portable::Mma<T>;
};
#if defined(KMOE_DEVICE_SM80)
template <Element T>
struct MmaOf<Kokkos::Cuda, T> {
  using type = sm80::Mma<T>;
};
#elif defined(KMOE_DEVICE_CDNA)
template <Operand T>
struct MmaOf<Kokkos::HIP, T> {
  using type = cdna::Mma<T>;
};
#endif
}  // namespace detail

template <class E, Operand T>
using Mma = typename detail::MmaOf<E, T>::type;

/// Whether E multiplies codes faster than the floats that they are.
template <class E>
inline constexpr bool multiplies_codes = false;
#if defined(KMOE_DEVICE_CDNA)
template <>
inline constexpr bool multiplies_codes<Kokkos::HIP> = true;
#endif

}  // namespace kmoe::device
