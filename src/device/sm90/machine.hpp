// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What launches ask of the machine: its multiprocessors, and maps of weights for the copy engine.

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "device/sm90/launch.hpp"

namespace kmoe::device::sm90 {

/// What does not change while the program runs.
struct Machine {
  bool hopper = false;
  int multiprocessors = 0;
};
inline Machine const& machine() {
  static Machine const known = [] {
    Machine m;
    int device = 0, major = 0, minor = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return m;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    cudaDeviceGetAttribute(&m.multiprocessors, cudaDevAttrMultiProcessorCount, device);
    m.hopper = major == 9 && minor == 0;
    return m;
  }();
  return known;
}

/// The driver's function, found through the runtime: libcuda need not be linked.
inline decltype(&cuTensorMapEncodeTiled) encoder() {
  static auto const function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                           cudaEnableDefault, &found),
          "cuTensorMapEncodeTiled");
    if (found != cudaDriverEntryPointSuccess) {
      throw std::runtime_error("kmoe: the driver has no cuTensorMapEncodeTiled");
    }
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  }();
  return function;
}

/// What B [groups, features, k] is for the copy engine; `pairs`: 128 bytes bring the other half of
/// their 256 into the cache.
inline CUtensorMap encode(Product const& product, Operand operand, int groups,
                          cuuint32_t copy_features, bool pairs) {
  using u64 = cuuint64_t;
  bool const codes = operand == Operand::e4m3;
  cuuint32_t const row_k = codes ? row_bytes : tile_k;
  u64 const k = u64(product.k), row = codes ? k : 2 * k, rows = u64(product.features),
            matrices = u64(groups);
  CUtensorMap map;
  CUresult status{};
  auto const tiled = [&](int rank, u64 const* sizes, u64 const* pitches, cuuint32_t const* box) {
    cuuint32_t const steps[5] = {1, 1, 1, 1, 1};
    auto const type = codes                      ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                      : operand == Operand::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    return encoder()(
        &map, type, rank, const_cast<void*>(product.b), sizes, pitches, box, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        pairs ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B : CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  if (product.halves == Halves::none) {
    // As many dimensions as below: one instruction brings either.
    u64 const sizes[] = {k, 8, rows / 8, matrices, 1};
    u64 const pitches[] = {row, 8 * row, row * rows, row * rows};
    cuuint32_t const box[] = {row_k, 8, copy_features / 8, 1, 1};
    status = tiled(5, sizes, pitches, box);
  } else {
    // Eight rows of one half, the same eight of the other, and so on: a thread then holds both
    // sums of an output.
    bool const interleaved = product.halves == Halves::interleaved;
    u64 const sizes[] = {k, 8, 2, rows / 16, matrices};
    u64 const pitches[] = {interleaved ? 2 * row : row, interleaved ? row : row * (rows / 2),
                           (interleaved ? 16 : 8) * row, row * rows};
    cuuint32_t const box[] = {row_k, 8, 2, copy_features / 16, 1};
    status = tiled(5, sizes, pitches, box);
  }
  if (status != CUDA_SUCCESS) {
    throw std::runtime_error("kmoe: cuTensorMapEncodeTiled refuses weights [" +
                             std::to_string(groups) + ", " + std::to_string(product.features) +
                             ", " + std::to_string(product.k) + "]: error " +
                             std::to_string(status));
  }
  return map;
}

/// One bulk copy brings all features of a tile, or the end of them and zeros; those of a pair of
/// blocks a half each. `depth`: copies of adjacent k that are asked for together.
inline void encode_maps(Launch& what, Operand operand, int pair = 1, int depth = 1) {
  for (int p = 0; p < what.count; ++p) {
    auto const& product = what.products[p];
    auto const box = static_cast<cuuint32_t>(what.widths[p] / pair);
    bool const alone = depth == 1;  // else the other half is asked for, too
    what.maps[p] = encode(product, operand, what.groups, box, alone);
    // Where rows do not begin at multiples of 256 bytes, the other half is of another row, and
    // would leave the cache before it is used: memory of Kokkos begins 128 bytes past one.
    bool const whole = reinterpret_cast<std::uintptr_t>(product.b) % 256 == 0 &&
                       product.k % (operand == Operand::e4m3 ? 256 : 128) == 0;
    what.edge_maps[p] =
        whole || !alone ? what.maps[p] : encode(product, operand, what.groups, box, false);
  }
}

inline int ceil_div(std::int64_t n, std::int64_t d) {
  return static_cast<int>((n + d - 1) / d);
}

inline bool aligned(void const* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

/// All of a Launch but its maps and what depends on the tile.
inline void describe(Work const& work, Launch& what) {
  for (int p = 0; p < work.count; ++p) {
    what.products[p] = work.products[p];
  }
  what.count = work.count;
  what.groups = work.groups;
  bool const slots = work.ids != nullptr || work.slots != nullptr;
  what.slots_per_row = Divisor::of(slots ? static_cast<std::uint32_t>(work.slots_per_row) : 1);
  what.offsets = work.offsets;
  what.slots = work.slots;
  what.max_rows = work.rows;
  what.counters = work.counters;
  bool const direct = work.slots_per_row == 1;
  what.sides = {work.ids,
                static_cast<int>(work.num_slots),
                work.offsets_out,
                work.slots_out,
                work.row_of_slot,
                work.rows_per_group,
                direct ? nullptr : work.y,
                direct ? work.y : nullptr};
  if (what.sides.direct != nullptr) what.products[1].out = work.y;
}

}  // namespace kmoe::device::sm90
