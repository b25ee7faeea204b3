// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "device/sm90/packed.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "device/sm90/launch.hpp"
#include "device/sm90/machine.hpp"
#include "device/sm90/packed_kernel.hpp"

namespace kmoe::device::sm90 {
namespace {

/// What the codes are for the copy engine: `box_bytes` of `box_rows` rows.
CUtensorMap encode_codes(Product const& product, PackedScales const& packed, int groups,
                         cuuint32_t box_bytes, cuuint32_t box_rows) {
  using u64 = cuuint64_t;
  u64 const bytes = u64(product.k) / 2, row = u64(packed.code_pitch);
  u64 const rows = u64(product.features), matrices = u64(groups);
  auto const swizzle = box_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B;
  CUtensorMap map;
  CUresult status{};
  auto const tiled = [&](u64 const* sizes, u64 const* pitches, cuuint32_t const* box) {
    cuuint32_t const steps[5] = {1, 1, 1, 1, 1};
    return encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 5, const_cast<void*>(product.b), sizes,
                     pitches, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  if (product.halves == Halves::none) {
    u64 const sizes[] = {bytes, 8, rows / 8, matrices, 1};
    u64 const pitches[] = {row, 8 * row, row * rows, row * rows};
    cuuint32_t const box[] = {box_bytes, 8, box_rows / 8, 1, 1};
    status = tiled(sizes, pitches, box);
  } else {
    bool const interleaved = product.halves == Halves::interleaved;
    u64 const sizes[] = {bytes, 8, 2, rows / 16, matrices};
    u64 const pitches[] = {interleaved ? 2 * row : row, interleaved ? row : row * (rows / 2),
                           (interleaved ? 16 : 8) * row, row * rows};
    cuuint32_t const box[] = {box_bytes, 8, 2, box_rows / 16, 1};
    status = tiled(sizes, pitches, box);
  }
  if (status != CUDA_SUCCESS) {
    throw std::runtime_error("kmoe: cuTensorMapEncodeTiled refuses codes [" +
                             std::to_string(groups) + ", " + std::to_string(product.features) +
                             ", " + std::to_string(product.k / 2) + "]: error " +
                             std::to_string(status));
  }
  return map;
}

template <class Tile>
void launch_tile(cudaStream_t stream, PackedLaunch& what, Work const& work) {
  int const blocks = Tile::blocks * machine().multiprocessors;
  what.factors = {4, 16, 256};
  what.widths[0] = what.widths[1] = Tile::features;
  // A second product of few tiles: half of them leave more multiprocessors without work.
  auto const active = std::min<std::int64_t>(work.rows, work.groups);
  if (what.count == 2 && work.rows <= Tile::tokens &&
      2 * active * ceil_div(work.products[1].features, Tile::features) <= blocks) {
    what.widths[1] /= 2;
  }
  set_order(what, work.tokens <= 64 ? 4 : 8, blocks);
  for (int p = 0; p < what.count; ++p) {
    what.maps[p] = what.edge_maps[p] =
        encode_codes(what.products[p], what.packed[p], what.groups, Tile::box, what.widths[p]);
  }
  launch_kernel<packed_kernel<Tile>, Tile>(stream, what, blocks);
}

/// Whether the work is such that the kernel takes rows in the operand's order.
bool can_arrange(PackedWork const& all) {
  return all.arranged != nullptr && all.work.count == 2 &&
         all.work.products[0].halves != Halves::none;
}

/// Brings x into the operand's order, and tells the kernel of it.
void arrange_first(cudaStream_t stream, PackedLaunch& what, PackedWork const& all) {
  Product& up = what.products[0];
  std::int64_t const threads = all.work.tokens * (arranged_width(up.k) / 32);
  launch_before(stream, 8 * machine().multiprocessors, threads, arrange_kernel, up.in,
                all.work.tokens, up.k, all.arranged);
  up.in = all.arranged;
}

/// Chooses the tile: sizes decide, and any choice gives the same bits. Decoding takes the time of
/// few rows; two blocks of a multiprocessor hide each other's waits and ends of tiles, where those
/// are short. Sums of blocks of k take as many registers as the sums, so that fewer tokens have
/// room.
template <class Rows>
void launch_format(cudaStream_t stream, PackedLaunch& what, PackedWork const& all) {
  Work const& work = all.work;
  auto const active = std::min<std::int64_t>(work.rows, work.groups);
  auto const with = [&](auto tile) { launch_tile<decltype(tile)>(stream, what, work); };
  if (work.tokens <= 2) return with(PackedTile<Rows, 128, 8, 8, 2, 4>{});
  if (work.tokens <= 8 || work.rows < 4 * active) {
    return with(PackedTile<Rows, 128, 8, 4, 2, 4, 2>{});
  }
  if (work.rows <= 10 * active) return with(PackedTile<Rows, 128, 16, 3, 2, 4, 2>{});
  if (work.rows <= 20 * active) return with(PackedTile<Rows, 128, 32, 6, 2, 4>{});
  if (work.rows > 24 * active && can_arrange(all)) {
    arrange_first(stream, what, all);
    if constexpr (Rows::in_sums) {
      return with(PackedTile<Rows, 256, 96, 4, 2, 2, 1, true>{});
    } else {
      return with(PackedTile<Rows, 256, 128, 3, 2, 2, 1, true>{});
    }
  }
  if (work.rows <= 48 * active) return with(PackedTile<Rows, 128, 64, 3, 2, 2, 2>{});
  if constexpr (Rows::in_sums) {
    with(PackedTile<Rows, 128, 96, 5, 2, 2>{});
  } else if (work.rows > 96 * active && work.products[work.count - 1].features % 256 != 0) {
    with(PackedTile<Rows, 128, 192, 3, 2, 2>{});
  } else {
    with(PackedTile<Rows, 256, 128, 3, 2, 2>{});
  }
}

}  // namespace

std::size_t arranged_bytes(Format format, std::int64_t tokens, std::int64_t hidden_size) {
  if (format == Format::other) return 0;
  return static_cast<std::size_t>(2 * tokens * arranged_columns(hidden_size));
}

bool takes_packed(PackedWork const& what) {
  Work const& work = what.work;
  if (what.format == Format::other || !takes(work)) return false;
  for (int p = 0; p < work.count; ++p) {
    Product const& product = work.products[p];
    PackedScales const& packed = what.packed[p];
    // Words of scales lie at the same place in their four bytes for every 16th row.
    int const step = what.format == Format::mxfp4 ? 2 : 4;
    auto const bytes = std::int64_t{product.features} * packed.scale_pitch;
    if (product.k % 32 != 0 || bytes >= std::int64_t{1} << 30 || packed.code_pitch % 16 != 0 ||
        packed.scale_pitch % step != 0 || !aligned(packed.scales) || !aligned(packed.zeros)) {
      return false;
    }
  }
  return true;
}

void launch_packed(void* stream, PackedWork const& all) {
  PackedLaunch what{};
  describe(all.work, what);
  for (int p = 0; p < all.work.count; ++p) what.packed[p] = all.packed[p];
  auto const queue = static_cast<cudaStream_t>(stream);
  switch (all.format) {
    case Format::nvfp4:
      return launch_format<Nvfp4>(queue, what, all);
    case Format::int4:
      return launch_format<Int4<false>>(queue, what, all);
    case Format::int4_zero:
      return launch_format<Int4<true>>(queue, what, all);
    default:
      return launch_format<Mxfp4>(queue, what, all);
  }
}

}  // namespace kmoe::device::sm90
