// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// wgmma: d[64, N] += a[64, 16] . b[N, 16]^T of a warpgroup, a and b in shared memory; of e4m3
/// codes 32 columns at once.
///
/// d: thread t of the 128 holds, for each 8 columns j, d[4j], d[4j + 1] of row 16 (t / 32) +
/// (t % 32) / 4, columns 8j + 2 (t % 4) and the next, and d[4j + 2], d[4j + 3] of the row 8 below.
/// Operands: rows of 128 bytes, K-major, in the 128-byte swizzle. Source: PTX ISA, "wgmma".

#include <cstdint>

#include "device/sm90/experts.hpp"

namespace kmoe::device::sm90 {

/// What the tensor core is told of a matrix that begins at a multiple of 1024 bytes. 16 columns
/// further is 2 more. Every eight rows are `Step` times 1024 bytes after the eight before.
template <int Step = 1>
__device__ __forceinline__ std::uint64_t matrix_descriptor(std::uint32_t address) {
  constexpr std::uint64_t swizzle_128 = std::uint64_t{1} << 62;
  constexpr std::uint64_t eight_rows = std::uint64_t{Step * 1024 >> 4} << 32;
  return swizzle_128 | eight_rows | std::uint64_t{1} << 16 | (address & 0x3ffffU) >> 4;
}
/// Of the matrix that begins `bytes` later: addresses have 18 bits, so that no carry leaves them.
__device__ __forceinline__ std::uint64_t further(std::uint64_t descriptor, int bytes) {
  auto const low = static_cast<std::uint32_t>(descriptor) + (bytes >> 4);
  return descriptor >> 32 << 32 | low;
}

__device__ __forceinline__ void wgmma_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Names of the registers, four to a list, and the same registers as operands.
#define KMOE_R0 "%0, %1, %2, %3"
#define KMOE_R1 "%4, %5, %6, %7"
#define KMOE_R2 "%8, %9, %10, %11"
#define KMOE_R3 "%12, %13, %14, %15"
#define KMOE_R4 "%16, %17, %18, %19"
#define KMOE_R5 "%20, %21, %22, %23"
#define KMOE_R6 "%24, %25, %26, %27"
#define KMOE_R7 "%28, %29, %30, %31"
#define KMOE_R8 "%32, %33, %34, %35"
#define KMOE_R9 "%36, %37, %38, %39"
#define KMOE_R10 "%40, %41, %42, %43"
#define KMOE_R11 "%44, %45, %46, %47"
#define KMOE_R12 "%48, %49, %50, %51"
#define KMOE_R13 "%52, %53, %54, %55"
#define KMOE_R14 "%56, %57, %58, %59"
#define KMOE_R15 "%60, %61, %62, %63"
#define KMOE_R16 "%64, %65, %66, %67"
#define KMOE_R17 "%68, %69, %70, %71"
#define KMOE_R18 "%72, %73, %74, %75"
#define KMOE_R19 "%76, %77, %78, %79"
#define KMOE_R20 "%80, %81, %82, %83"
#define KMOE_R21 "%84, %85, %86, %87"
#define KMOE_R22 "%88, %89, %90, %91"
#define KMOE_R23 "%92, %93, %94, %95"
#define KMOE_R0_15                                                                         \
  KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5 ", " KMOE_R6    \
          ", " KMOE_R7 ", " KMOE_R8 ", " KMOE_R9 ", " KMOE_R10 ", " KMOE_R11 ", " KMOE_R12 \
          ", " KMOE_R13 ", " KMOE_R14 ", " KMOE_R15
#define KMOE_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define KMOE_D8(i) KMOE_D4(i), KMOE_D4(i + 4)
#define KMOE_D16(i) KMOE_D8(i), KMOE_D8(i + 8)
#define KMOE_D32(i) KMOE_D16(i), KMOE_D16(i + 16)
#define KMOE_D64(i) KMOE_D32(i), KMOE_D32(i + 32)
#define KMOE_WGMMA(n, type, end, registers, a, b, add, ...)                                  \
  asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %" #add                                 \
               ", 0;\n\t"                                                                    \
               "wgmma.mma_async.sync.aligned.m64n" #n type " {" registers "}, %" #a ", %" #b \
               ", p, 1, 1" end ";\n\t}"                                                      \
               : __VA_ARGS__                                                                 \
               : "l"(left), "l"(right), "r"(accumulate))
#define KMOE_SHAPE(n, registers, a, b, add, ...)                                     \
  if constexpr (N == n && Type == Operand::bf16)                                     \
    KMOE_WGMMA(n, "k16.f32.bf16.bf16", ", 0, 0", registers, a, b, add, __VA_ARGS__); \
  if constexpr (N == n && Type == Operand::f16)                                      \
    KMOE_WGMMA(n, "k16.f32.f16.f16", ", 0, 0", registers, a, b, add, __VA_ARGS__);   \
  if constexpr (N == n && Type == Operand::e4m3)                                     \
  KMOE_WGMMA(n, "k32.f32.e4m3.e4m3", "", registers, a, b, add, __VA_ARGS__)

/// accumulate = 0 begins a sum. N is a multiple of 8, of 16 above 128, at most 192; only the first
/// N / 2 elements of d are used.
template <Operand Type, int N, int Size>
__device__ __forceinline__ void wgmma(float (&d)[Size], std::uint64_t left, std::uint64_t right,
                                      int accumulate) {
  static_assert(N % (N > 128 ? 16 : 8) == 0 && N <= 192 && N / 2 <= Size);
  // clang-format off
  KMOE_SHAPE(8, KMOE_R0, 4, 5, 6, KMOE_D4(0));
  KMOE_SHAPE(16, KMOE_R0 ", " KMOE_R1, 8, 9, 10, KMOE_D8(0));
  KMOE_SHAPE(24, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2, 12, 13, 14, KMOE_D8(0), KMOE_D4(8));
  KMOE_SHAPE(32, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3, 16, 17, 18, KMOE_D16(0));
  KMOE_SHAPE(40, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4,
             20, 21, 22, KMOE_D16(0), KMOE_D4(16));
  KMOE_SHAPE(48, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5,
             24, 25, 26, KMOE_D16(0), KMOE_D8(16));
  KMOE_SHAPE(56, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5
             ", " KMOE_R6,
             28, 29, 30, KMOE_D16(0), KMOE_D8(16), KMOE_D4(24));
  KMOE_SHAPE(64, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5
             ", " KMOE_R6 ", " KMOE_R7,
             32, 33, 34, KMOE_D32(0));
  KMOE_SHAPE(72, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5
             ", " KMOE_R6 ", " KMOE_R7 ", " KMOE_R8,
             36, 37, 38, KMOE_D32(0), KMOE_D4(32));
  KMOE_SHAPE(80, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5
             ", " KMOE_R6 ", " KMOE_R7 ", " KMOE_R8 ", " KMOE_R9,
             40, 41, 42, KMOE_D32(0), KMOE_D8(32));
  KMOE_SHAPE(88, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5
             ", " KMOE_R6 ", " KMOE_R7 ", " KMOE_R8 ", " KMOE_R9 ", " KMOE_R10,
             44, 45, 46, KMOE_D32(0), KMOE_D8(32), KMOE_D4(40));
  KMOE_SHAPE(96, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5
             ", " KMOE_R6 ", " KMOE_R7 ", " KMOE_R8 ", " KMOE_R9 ", " KMOE_R10 ", " KMOE_R11,
             48, 49, 50, KMOE_D32(0), KMOE_D16(32));
  KMOE_SHAPE(104, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5
             ", " KMOE_R6 ", " KMOE_R7 ", " KMOE_R8 ", " KMOE_R9 ", " KMOE_R10 ", " KMOE_R11
             ", " KMOE_R12,
             52, 53, 54, KMOE_D32(0), KMOE_D16(32), KMOE_D4(48));
  KMOE_SHAPE(112, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5
             ", " KMOE_R6 ", " KMOE_R7 ", " KMOE_R8 ", " KMOE_R9 ", " KMOE_R10 ", " KMOE_R11
             ", " KMOE_R12 ", " KMOE_R13,
             56, 57, 58, KMOE_D32(0), KMOE_D16(32), KMOE_D8(48));
  KMOE_SHAPE(120, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5
             ", " KMOE_R6 ", " KMOE_R7 ", " KMOE_R8 ", " KMOE_R9 ", " KMOE_R10 ", " KMOE_R11
             ", " KMOE_R12 ", " KMOE_R13 ", " KMOE_R14,
             60, 61, 62, KMOE_D32(0), KMOE_D16(32), KMOE_D8(48), KMOE_D4(56));
  KMOE_SHAPE(128, KMOE_R0_15, 64, 65, 66, KMOE_D64(0));
  KMOE_SHAPE(144, KMOE_R0_15 ", " KMOE_R16 ", " KMOE_R17, 72, 73, 74, KMOE_D64(0), KMOE_D8(64));
  KMOE_SHAPE(160, KMOE_R0_15 ", " KMOE_R16 ", " KMOE_R17 ", " KMOE_R18 ", " KMOE_R19,
             80, 81, 82, KMOE_D64(0), KMOE_D16(64));
  KMOE_SHAPE(176, KMOE_R0_15 ", " KMOE_R16 ", " KMOE_R17 ", " KMOE_R18 ", " KMOE_R19
             ", " KMOE_R20 ", " KMOE_R21,
             88, 89, 90, KMOE_D64(0), KMOE_D16(64), KMOE_D8(80));
  KMOE_SHAPE(192, KMOE_R0_15 ", " KMOE_R16 ", " KMOE_R17 ", " KMOE_R18 ", " KMOE_R19
             ", " KMOE_R20 ", " KMOE_R21 ", " KMOE_R22 ", " KMOE_R23,
             96, 97, 98, KMOE_D64(0), KMOE_D32(64));
  // clang-format on
}

// The same with a in registers: rows and columns as of d, 16 columns in four words.
#define KMOE_R16_23                                                                  \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define KMOE_R24_31                                                                        \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, " \
  "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, "   \
  "%125, %126, %127"
#define KMOE_WGMMA_A(n, type, registers, a0, a1, a2, a3, b, add, ...)                         \
  asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %" #add                                  \
               ", 0;\n\t"                                                                     \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" registers \
               "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b ", p, 1, 1, 0;\n\t}"       \
               : __VA_ARGS__                                                                  \
               : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right),          \
                 "r"(accumulate))
#define KMOE_SHAPE_A(n, registers, a0, a1, a2, a3, b, add, ...)              \
  if constexpr (N == n && Type == Operand::bf16)                             \
    KMOE_WGMMA_A(n, "bf16", registers, a0, a1, a2, a3, b, add, __VA_ARGS__); \
  if constexpr (N == n && Type == Operand::f16)                              \
  KMOE_WGMMA_A(n, "f16", registers, a0, a1, a2, a3, b, add, __VA_ARGS__)

template <Operand Type, int N, int Size>
__device__ __forceinline__ void wgmma(float (&d)[Size], std::uint32_t const (&left)[4],
                                      std::uint64_t right, int accumulate) {
  static_assert(N == 8 || (N % 16 == 0 && N <= 128) || N == 160 || N == 192 || N == 256);
  static_assert(N / 2 <= Size);
  // clang-format off
  KMOE_SHAPE_A(8, KMOE_R0, 4, 5, 6, 7, 8, 9, KMOE_D4(0));
  KMOE_SHAPE_A(16, KMOE_R0 ", " KMOE_R1, 8, 9, 10, 11, 12, 13, KMOE_D8(0));
  KMOE_SHAPE_A(32, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3,
               16, 17, 18, 19, 20, 21, KMOE_D16(0));
  KMOE_SHAPE_A(48, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5,
               24, 25, 26, 27, 28, 29, KMOE_D16(0), KMOE_D8(16));
  KMOE_SHAPE_A(80, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5
               ", " KMOE_R6 ", " KMOE_R7 ", " KMOE_R8 ", " KMOE_R9,
               40, 41, 42, 43, 44, 45, KMOE_D32(0), KMOE_D8(32));
  KMOE_SHAPE_A(96, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5
               ", " KMOE_R6 ", " KMOE_R7 ", " KMOE_R8 ", " KMOE_R9 ", " KMOE_R10 ", " KMOE_R11,
               48, 49, 50, 51, 52, 53, KMOE_D32(0), KMOE_D16(32));
  KMOE_SHAPE_A(112, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5
               ", " KMOE_R6 ", " KMOE_R7 ", " KMOE_R8 ", " KMOE_R9 ", " KMOE_R10 ", " KMOE_R11
               ", " KMOE_R12 ", " KMOE_R13,
               56, 57, 58, 59, 60, 61, KMOE_D32(0), KMOE_D16(32), KMOE_D8(48));
  KMOE_SHAPE_A(64, KMOE_R0 ", " KMOE_R1 ", " KMOE_R2 ", " KMOE_R3 ", " KMOE_R4 ", " KMOE_R5
               ", " KMOE_R6 ", " KMOE_R7,
               32, 33, 34, 35, 36, 37, KMOE_D32(0));
  KMOE_SHAPE_A(128, KMOE_R0_15, 64, 65, 66, 67, 68, 69, KMOE_D64(0));
  KMOE_SHAPE_A(160, KMOE_R0_15 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, "
               "%76, %77, %78, %79", 80, 81, 82, 83, 84, 85, KMOE_D64(0), KMOE_D16(64));
  KMOE_SHAPE_A(192, KMOE_R0_15 ", " KMOE_R16_23, 96, 97, 98, 99, 100, 101,
               KMOE_D64(0), KMOE_D32(64));
  KMOE_SHAPE_A(256, KMOE_R0_15 ", " KMOE_R16_23 ", " KMOE_R24_31, 128, 129, 130, 131, 132, 133,
               KMOE_D64(0), KMOE_D64(64));
  // clang-format on
}

#undef KMOE_R0_15
#undef KMOE_R16_23
#undef KMOE_R24_31
#undef KMOE_WGMMA_A
#undef KMOE_SHAPE_A
#undef KMOE_R16
#undef KMOE_R17
#undef KMOE_R18
#undef KMOE_R19
#undef KMOE_R20
#undef KMOE_R21
#undef KMOE_R22
#undef KMOE_R23
#undef KMOE_R0
#undef KMOE_R1
#undef KMOE_R2
#undef KMOE_R3
#undef KMOE_R4
#undef KMOE_R5
#undef KMOE_R6
#undef KMOE_R7
#undef KMOE_R8
#undef KMOE_R9
#undef KMOE_R10
#undef KMOE_R11
#undef KMOE_R12
#undef KMOE_R13
#undef KMOE_R14
#undef KMOE_R15
#undef KMOE_D4
#undef KMOE_D8
#undef KMOE_D16
#undef KMOE_D32
#undef KMOE_D64
#undef KMOE_WGMMA
#undef KMOE_SHAPE

}  // namespace kmoe::device::sm90
