// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The portable twin: a warp is one lane, which multiplies 4 x 4 tiles.

#include <cstddef>

#include "device/slab.hpp"
#include "device/warp.hpp"

namespace kmoe::device::portable {

template <Operand T>
class Mma {
 public:
  using Accumulate = sum_t<T>;
  static constexpr int lanes = 1, m = 4, n = 4, steps = slab_chunks;

  struct A {
    Accumulate values[4][chunk_bytes / sizeof(T)];
  };
  using B = A;
  struct C {
    Accumulate sums[m][n];
    KOKKOS_FORCEINLINE_FUNCTION Accumulate& operator[](int i) { return sums[i / n][i % n]; }
  };
  static constexpr int own = m * n;

  KOKKOS_FORCEINLINE_FUNCTION explicit Mma(int) {}

  KOKKOS_FORCEINLINE_FUNCTION A load_a(std::byte const* slab, int row, int step) const {
    A a;
    KMOE_UNROLL
    for (int i = 0; i < 4; ++i) {
      struct Elements {
        T values[chunk_bytes / sizeof(T)];
      };
      auto const from = load_chunk<Elements>(slab + slab_offset(row + i, step));
      KMOE_UNROLL
      for (unsigned k = 0; k < chunk_bytes / sizeof(T); ++k) {
        a.values[i][k] = static_cast<Accumulate>(from.values[k]);
      }
    }
    return a;
  }
  KOKKOS_FORCEINLINE_FUNCTION B load_b(std::byte const* slab, int row, int step) const {
    return load_a(slab, row, step);
  }

  KOKKOS_FORCEINLINE_FUNCTION static void clear(C& c) {
    KMOE_UNROLL
    for (int i = 0; i < m * n; ++i) c.sums[i / n][i % n] = 0;
  }
  KOKKOS_FORCEINLINE_FUNCTION static void multiply(C& c, A const& a, B const& b) {
    KMOE_UNROLL
    for (unsigned k = 0; k < chunk_bytes / sizeof(T); ++k) {
      KMOE_UNROLL
      for (int i = 0; i < m * n; ++i) {
        c.sums[i / n][i % n] += a.values[i / n][k] * b.values[i % n][k];
      }
    }
  }
  KOKKOS_FORCEINLINE_FUNCTION int row_of(int i) const { return i / n; }
  KOKKOS_FORCEINLINE_FUNCTION int column_of(int i) const { return i % n; }
  KOKKOS_FORCEINLINE_FUNCTION void store(C const& c, Accumulate* to, int pitch) const {
    KMOE_UNROLL
    for (int i = 0; i < m * n; ++i) to[i / n * pitch + i % n] = c.sums[i / n][i % n];
  }
};

}  // namespace kmoe::device::portable
