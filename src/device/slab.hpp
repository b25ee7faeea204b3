// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// How operands of matrix instructions lie in scratch memory: slabs of 64 bytes of each row, 16
/// bytes a chunk. The chunks of a row are permuted so that eight rows' chunks of one number, and
/// two rows' chunks of all numbers, lie in different banks.

#include <concepts>
#include <cstddef>
#include <cstdint>

#include <kmoe/core/codes.hpp>
#include <kmoe/core/element.hpp>

namespace kmoe::device {

/// A code of e4m3fnuz: what CDNA 3 multiplies of one byte.
struct E4m3 {
  std::uint8_t code;
  KOKKOS_FORCEINLINE_FUNCTION explicit operator float() const { return decode_e4m3fnuz(code); }
};

/// What matrix instructions multiply, and the type of the sums.
template <class T>
concept Operand = Element<T> || std::same_as<T, E4m3>;
namespace detail {
template <Operand T>
struct SumOf {
  using type = float;
};
template <>
struct SumOf<double> {
  using type = double;
};
}  // namespace detail
template <Operand T>
using sum_t = typename detail::SumOf<T>::type;

inline constexpr int slab_bytes = 64, chunk_bytes = 16, slab_chunks = slab_bytes / chunk_bytes;

/// 16 bytes of memory that holds elements of any type.
struct alignas(chunk_bytes) Chunk {
  std::uint32_t words[4];
};

/// Byte of a slab at which chunk `chunk` of row `row` begins. 8 rows further is 512 bytes more.
KOKKOS_FORCEINLINE_FUNCTION constexpr int slab_offset(int row, int chunk) {
  return row * slab_bytes + ((chunk ^ ((row >> 1) & 3)) * chunk_bytes);
}

/// Chunks at 16-byte boundaries of global memory and of scratch memory.
KOKKOS_FORCEINLINE_FUNCTION Chunk read_chunk(void const* from) {
#if defined(__CUDA_ARCH__)
  return *static_cast<Chunk const*>(from);
#else
  Chunk chunk;
  __builtin_memcpy(&chunk, __builtin_assume_aligned(from, chunk_bytes), chunk_bytes);
  return chunk;
#endif
}
KOKKOS_FORCEINLINE_FUNCTION void store_chunk(std::byte* to, Chunk const& chunk) {
#if defined(__CUDA_ARCH__)
  *static_cast<Chunk*>(static_cast<void*>(to)) = chunk;
#else
  __builtin_memcpy(__builtin_assume_aligned(to, chunk_bytes), &chunk, chunk_bytes);
#endif
}
/// As any type of that size.
template <class V = Chunk>
KOKKOS_FORCEINLINE_FUNCTION V load_chunk(std::byte const* from) {
#if defined(__CUDA_ARCH__)
  Chunk chunk;  // left to the compiler, the load is cut into words
  auto const address = static_cast<std::uint32_t>(__cvta_generic_to_shared(from));
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(chunk.words[0]), "=r"(chunk.words[1]), "=r"(chunk.words[2]),
                 "=r"(chunk.words[3])
               : "r"(address)
               : "memory");
  return Kokkos::bit_cast<V>(chunk);
#else
  return Kokkos::bit_cast<V>(read_chunk(from));
#endif
}

}  // namespace kmoe::device
