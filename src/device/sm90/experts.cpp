// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "device/sm90/experts.hpp"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "device/sm90/kernel.hpp"
#include "device/sm90/launch.hpp"

namespace kmoe::device::sm90 {
namespace {

/// What does not change while the program runs.
struct Machine {
  bool hopper = false;
  int multiprocessors = 0;
};
Machine const& machine() {
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

/// What B [groups, features, k] is for the copy engine.
CUtensorMap encode(Product const& product, Operand operand, int groups, cuuint32_t copy_features) {
  using u64 = cuuint64_t;
  u64 const k = u64(product.k), row = 2 * k, rows = u64(product.features), matrices = u64(groups);
  CUtensorMap map;
  CUresult status{};
  auto const tiled = [&](int rank, u64 const* sizes, u64 const* pitches, cuuint32_t const* box) {
    cuuint32_t const steps[5] = {1, 1, 1, 1, 1};
    auto const type = operand == Operand::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                               : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    return encoder()(&map, type, rank, const_cast<void*>(product.b), sizes, pitches, box, steps,
                     CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  if (product.halves == Halves::none) {
    u64 const sizes[] = {k, rows, matrices}, pitches[] = {row, row * rows};
    cuuint32_t const box[] = {tile_k, copy_features, 1};
    status = tiled(3, sizes, pitches, box);
  } else {
    // Eight rows of one half, the same eight of the other, and so on: a thread then holds both
    // sums of an output.
    bool const interleaved = product.halves == Halves::interleaved;
    u64 const sizes[] = {k, 8, 2, rows / 16, matrices};
    u64 const pitches[] = {interleaved ? 2 * row : row, interleaved ? row : row * (rows / 2),
                           (interleaved ? 16 : 8) * row, row * rows};
    cuuint32_t const box[] = {tile_k, 8, 2, copy_features / 16, 1};
    status = tiled(5, sizes, pitches, box);
  }
  check_map(status, product, groups);
  return map;
}

void encode_maps(Launch& what, Operand operand, int copy_features) {
  for (int p = 0; p < what.count; ++p) {
    what.maps[p] =
        encode(what.products[p], operand, what.groups, static_cast<cuuint32_t>(copy_features));
  }
}

/// Chooses the tile. Sizes decide, never the routing, which is not known here: any choice is right
/// for any routing and gives the same bits.
template <Operand Type>
void launch_of(cudaStream_t stream, Launch& what, Work const& work) {
  int const blocks = machine().multiprocessors;
  int const features = work.products[0].features;
  auto const with = [&](auto tile) {
    using T = decltype(tile);
    // Blocks of one processing cluster share few weights and few rows at a time (8 tiles of tokens
    // were best of 1 to 32). Enough tiles of the first product lie between a tile of the second
    // and its input.
    what.band = work.tokens <= 64 ? 2 : 8;
    what.lag = ceil_div(3 * blocks, what.band * ceil_div(features, T::features));
    encode_maps(what, Type, T::copy_features);
    launch_kernel<experts_kernel<Type, T>, T>(stream, what, blocks);
  };
  if (fused_takes(what) && 5 * (ceil_div(work.rows, 128) + work.groups / 2) >= 2 * blocks) {
    encode_maps(what, Type, 64);
    return launch_fused(Type, stream, what, blocks);
  }
  // Weights stream past few rows. Narrow tiles keep all multiprocessors busy where there are few.
  auto const active = std::min<std::int64_t>(work.rows, work.groups);
  if (work.tokens <= 8 && active * ceil_div(features, 128) < 4 * blocks) {
    return with(Tile<64, 8, 11, 1, 2>{});
  }
  if (work.tokens <= 64 && work.rows <= 8 * std::int64_t{work.groups}) {
    return with(Tile<128, 32, 9, 2>{});
  }
  std::int64_t const tiles = ceil_div(work.rows, 128) + work.groups;
  if (tiles * ceil_div(features, 256) < 4 * blocks) return with(Tile<128, 128, 6, 2>{});
  with(Tile<256, 128, 4, 2>{});
}

bool aligned(void const* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

bool fits(Product const& product) {
  int const step = product.halves == Halves::none ? 8 : 16;
  return product.k > 0 && product.k % 8 == 0 && product.features > 0 &&
         product.features % step == 0 && aligned(product.b) && aligned(product.in) &&
         aligned(product.out);
}

}  // namespace

decltype(&cuTensorMapEncodeTiled) encoder() {
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

void check_map(CUresult status, Product const& product, int groups) {
  if (status == CUDA_SUCCESS) return;
  throw std::runtime_error("kmoe: cuTensorMapEncodeTiled refuses weights [" +
                           std::to_string(groups) + ", " + std::to_string(product.features) + ", " +
                           std::to_string(product.k) + "]: error " + std::to_string(status));
}

bool available() {
  return machine().hopper;
}

bool takes(Work const& work) {
  constexpr std::int64_t pieces = std::int64_t{1} << 32;  // of 16 bytes, in a 32-bit number
  auto const rows = std::max(work.rows, work.tokens);
  std::int64_t features = 0;
  for (int p = 0; p < work.count; ++p) {
    if (!fits(work.products[p]) || rows * (work.products[p].k / 8) >= pieces) return false;
    features += ceil_div(work.products[p].features, 64);
  }
  // The tiles are numbered in 32 bits, with room for draws past the last; no tile is smaller.
  if ((rows / 32 + max_groups) * features >= std::int64_t{1} << 30) return false;
  bool const groups_here = work.ids != nullptr;
  if (groups_here && (work.num_slots > max_grouped || work.groups > max_grouped_groups)) {
    return false;
  }
  if (work.y != nullptr) {
    // More pieces of 16 bytes are better added by a kernel of their own.
    constexpr std::int64_t most = std::int64_t{1} << 17;
    bool const few = work.num_slots / work.slots_per_row * (work.products[1].features / 8) <= most;
    if (!aligned(work.y) || !(work.slots_per_row == 1 || (groups_here && few))) return false;
  }
  if (work.format != Format::plain && !packed_takes(work)) return false;
  return available() && work.groups >= 1 && work.groups <= max_groups &&
         work.rows < (std::int64_t{1} << 31);
}

std::size_t num_counters(std::int64_t rows) {
  constexpr int fewest = 8;  // rows of a tile
  return 3 + static_cast<std::size_t>(rows / fewest + max_groups);
}

void launch(void* stream, Operand operand, Work const& work) {
  Launch what{};
  for (int p = 0; p < work.count; ++p) {
    what.products[p] = work.products[p];
    what.packed[p] = work.packed[p];
  }
  what.count = work.count;
  what.groups = work.groups;
  what.slots_per_row = work.slots_per_row;
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
  auto const queue = static_cast<cudaStream_t>(stream);
  if (work.format != Format::plain) {
    launch_packed(queue, what, work, machine().multiprocessors);
  } else if (operand == Operand::bf16) {
    launch_of<Operand::bf16>(queue, what, work);
  } else {
    launch_of<Operand::f16>(queue, what, work);
  }
}

}  // namespace kmoe::device::sm90
