// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// NVIDIA, compute capability 8.0 and later: mma.sync for bfloat16, half and double, FFMA for
/// float. (TF32 in three parts would be wrong by up to 10 units of the last place in a single
/// product, and infinite inputs would become NaN.) Layouts: PTX ISA, "Matrix fragments".

#include <kmoe/core/element.hpp>

#include "device/slab.hpp"
#include "device/warp.hpp"

#if defined(KOKKOS_ENABLE_CUDA) && (defined(KOKKOS_ARCH_AMPERE) || defined(KOKKOS_ARCH_ADA89) || \
                                    defined(KOKKOS_ARCH_HOPPER) || defined(KOKKOS_ARCH_BLACKWELL))
#define KMOE_DEVICE_SM80

namespace kmoe::device::sm80 {

/// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
KOKKOS_FORCEINLINE_FUNCTION Chunk load_matrices([[maybe_unused]] std::byte const* row) {
  Chunk r{};
#if defined(__CUDA_ARCH__)
  auto const address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r.words[0]), "=r"(r.words[1]), "=r"(r.words[2]), "=r"(r.words[3])
               : "r"(address)
               : "memory");
#endif
  return r;
}

/// Two neighbours, and two more `further` on.
template <class A>
KOKKOS_FORCEINLINE_FUNCTION void store_pairs(A const (&sums)[4], A* to, int further) {
  struct alignas(2 * sizeof(A)) Pair {
    A values[2];
  };
  *static_cast<Pair*>(static_cast<void*>(to)) = {{sums[0], sums[1]}};
  *static_cast<Pair*>(static_cast<void*>(to + further)) = {{sums[2], sums[3]}};
}

/// bfloat16 and half: m16n8k16, twice for a slab of 32 elements.
template <Element T>
class Mma {
 public:
  static constexpr int lanes = 32, m = 16, n = 8, steps = 1;
  struct A {
    Chunk k[2];
  };
  using B = Chunk;
  struct C {
    float sums[4];
  };

  KOKKOS_FORCEINLINE_FUNCTION explicit Mma(int lane)
      : lane_(lane), a_(slab_offset(lane % 16, lane / 16)), b_(slab_offset(lane % 8, lane / 8)) {}

  KOKKOS_FORCEINLINE_FUNCTION A load_a(std::byte const* slab, int row, int) const {
    std::byte const* const rows = slab + row * slab_bytes;
    return {{load_matrices(rows + a_), load_matrices(rows + (a_ ^ (2 * chunk_bytes)))}};
  }
  KOKKOS_FORCEINLINE_FUNCTION B load_b(std::byte const* slab, int row, int) const {
    return load_matrices(slab + row * slab_bytes + b_);
  }

  KOKKOS_FORCEINLINE_FUNCTION static void clear(C& c) {
    KMOE_UNROLL
    for (float& sum : c.sums) sum = 0;
  }
  KOKKOS_FORCEINLINE_FUNCTION static void multiply(C& c, A const& a, B const& b) {
    multiply(c, a.k[0], b.words[0], b.words[1]);
    multiply(c, a.k[1], b.words[2], b.words[3]);
  }
  KOKKOS_FORCEINLINE_FUNCTION void store(C const& c, float* to, int pitch) const {
    store_pairs(c.sums, to + lane_ / 4 * pitch + lane_ % 4 * 2, 8 * pitch);
  }

 private:
  KOKKOS_FORCEINLINE_FUNCTION static void multiply([[maybe_unused]] C& c,
                                                   [[maybe_unused]] Chunk const& a,
                                                   [[maybe_unused]] std::uint32_t b0,
                                                   [[maybe_unused]] std::uint32_t b1) {
#if defined(__CUDA_ARCH__)
#define KMOE_MMA(type)                                                                        \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                         \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"         \
               : "+f"(c.sums[0]), "+f"(c.sums[1]), "+f"(c.sums[2]), "+f"(c.sums[3])           \
               : "r"(a.words[0]), "r"(a.words[1]), "r"(a.words[2]), "r"(a.words[3]), "r"(b0), \
                 "r"(b1))
    if constexpr (std::is_same_v<T, bfloat16>) {
      KMOE_MMA("bf16");
    } else {
      KMOE_MMA("f16");
    }
#undef KMOE_MMA
#endif
  }

  int lane_, a_, b_;
};

/// m16n8k8, or on chips before 9.0 four m8n8k4 of the same layout. A lane's two columns k are
/// neighbours in memory: the order of the sum is 0 2 4 6 1 3 5 7.
template <>
class Mma<double> {
 public:
  static constexpr int lanes = 32, m = 16, n = 8, steps = 1;
  struct B {
    double k[2];
  };
  struct A {
    B rows[2];
  };
  struct C {
    double sums[4];
  };

  KOKKOS_FORCEINLINE_FUNCTION explicit Mma(int lane)
      : lane_(lane), offset_(slab_offset(lane / 4, lane % 4)) {}

  KOKKOS_FORCEINLINE_FUNCTION A load_a(std::byte const* slab, int row, int step) const {
    return {{load_b(slab, row, step), load_b(slab, row + 8, step)}};
  }
  KOKKOS_FORCEINLINE_FUNCTION B load_b(std::byte const* slab, int row, int) const {
    return load_chunk<B>(slab + row * slab_bytes + offset_);
  }

  KOKKOS_FORCEINLINE_FUNCTION static void clear(C& c) {
    KMOE_UNROLL
    for (double& sum : c.sums) sum = 0;
  }
  KOKKOS_FORCEINLINE_FUNCTION static void multiply([[maybe_unused]] C& c,
                                                   [[maybe_unused]] A const& a,
                                                   [[maybe_unused]] B const& b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+d"(c.sums[0]), "+d"(c.sums[1]), "+d"(c.sums[2]), "+d"(c.sums[3])
        : "d"(a.rows[0].k[0]), "d"(a.rows[1].k[0]), "d"(a.rows[0].k[1]), "d"(a.rows[1].k[1]),
          "d"(b.k[0]), "d"(b.k[1]));
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    KMOE_UNROLL
    for (int k = 0; k < 2; ++k) {
      KMOE_UNROLL
      for (int half = 0; half < 2; ++half) {
        asm volatile(
            "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
            : "+d"(c.sums[2 * half]), "+d"(c.sums[2 * half + 1])
            : "d"(a.rows[half].k[k]), "d"(b.k[k]));
      }
    }
#endif
  }
  KOKKOS_FORCEINLINE_FUNCTION void store(C const& c, double* to, int pitch) const {
    store_pairs(c.sums, to + lane_ / 4 * pitch + lane_ % 4 * 2, 8 * pitch);
  }

 private:
  int lane_, offset_;
};

/// A lane multiplies one row by columns j and j + 4, in the order of k. Rows and columns are so
/// spread over the lanes that neighbours in either sense read the same 16 bytes.
template <>
class Mma<float> {
 public:
  static constexpr int lanes = 32, m = 8, n = 8, steps = slab_chunks;
  struct A {
    float k[4];
  };
  struct B {
    A columns[2];
  };
  struct C {
    float sums[2];
  };

  KOKKOS_FORCEINLINE_FUNCTION explicit Mma(int lane)
      : row_((lane >> 1 & 1) | (lane >> 2 & 6)),
        column_((lane & 1) | (lane >> 1 & 2)),
        a_(slab_offset(row_, 0)),
        b_(slab_offset(column_, 0)) {}

  KOKKOS_FORCEINLINE_FUNCTION A load_a(std::byte const* slab, int row, int step) const {
    return load_chunk<A>(slab + row * slab_bytes + (a_ ^ (step * chunk_bytes)));
  }
  KOKKOS_FORCEINLINE_FUNCTION B load_b(std::byte const* slab, int row, int step) const {
    std::byte const* const rows = slab + row * slab_bytes;
    int const first = b_ ^ (step * chunk_bytes);
    return {{load_chunk<A>(rows + first),
             load_chunk<A>(rows + (first ^ (2 * chunk_bytes)) + 4 * slab_bytes)}};
  }

  KOKKOS_FORCEINLINE_FUNCTION static void clear(C& c) { c.sums[0] = c.sums[1] = 0; }
  KOKKOS_FORCEINLINE_FUNCTION static void multiply(C& c, A const& a, B const& b) {
    KMOE_UNROLL
    for (int k = 0; k < 4; ++k) {
      c.sums[0] = Kokkos::fma(a.k[k], b.columns[0].k[k], c.sums[0]);
      c.sums[1] = Kokkos::fma(a.k[k], b.columns[1].k[k], c.sums[1]);
    }
  }
  KOKKOS_FORCEINLINE_FUNCTION void store(C const& c, float* to, int pitch) const {
    to[row_ * pitch + column_] = c.sums[0];
    to[row_ * pitch + column_ + 4] = c.sums[1];
  }

 private:
  int row_, column_, a_, b_;
};

}  // namespace kmoe::device::sm80
#endif
