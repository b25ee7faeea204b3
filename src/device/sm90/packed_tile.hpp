// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The sizes of a tile whose weights are codes of four bits.

#include "device/sm90/packed.hpp"
#include "device/sm90/packed_decode.hpp"
#include "device/sm90/schedule.hpp"

namespace kmoe::device::sm90 {

/// Where row `row` of a tile's features (gates and ups by eights) lies among the rows of a matrix.
__device__ __forceinline__ int row_of_feature(Product const& product, int row) {
  if (product.halves == Halves::none) return row;
  int const pair = row / 16 * 8 + row % 8, half = row / 8 % 2;
  return product.halves == Halves::interleaved ? 2 * pair + half
                                               : pair + half * (product.features / 2);
}

struct PackedLaunch : Launch {
  PackedScales packed[2];
  Factors factors;
};

/// As Tile, with codes instead of weights in a stage and their scales apart. `Blocks` of them run
/// on a multiprocessor. `Arranged`: rows of tokens lie in the operand's order in memory, x because
/// arrange_kernel() has been there, the intermediate as it comes out of the first product.
template <class Rows, int Features, int Tokens, int Stages, int Groups, int Depth, int Blocks = 1,
          bool Arranged = false>
struct PackedTile {
  using Format = Rows;
  static constexpr int features = Features, tokens = Tokens, stages = Stages, groups = Groups;
  static constexpr int depth = Depth, blocks = Blocks;
  static constexpr bool arranged = Arranged;
  static constexpr int row_k = tile_k, piece_k = 8;
  static constexpr int parts = Features / Groups / 64, part_features = 64;
  static constexpr int sums = Tokens < 32 ? 32 : Tokens;
  static constexpr int threads = (1 + Groups) * group_threads;
  static constexpr int loader_registers = Blocks == 1 ? 56 : 48;
  static constexpr int registers = Blocks == 1 ? 224 : 96;
  static constexpr int row_places = places_of_rows(Tokens, 4);
  static constexpr int pair = 1;
  static constexpr bool by_eights = false;
  static constexpr int box = Depth < 4 ? 32 * Depth : 128;  // bytes of a row of codes at once
  static constexpr int boxes = 32 * Depth / box;
  static constexpr int slots = Depth / 2;  // of 128 of k
  static constexpr int weight_bytes = 32 * Depth * Features;
  static constexpr int stage_bytes = weight_bytes + Depth * Tokens * row_bytes;
  static constexpr int side_row = 4 * Rows::side_words(slots);  // bytes of scales of a row of codes
  static constexpr int side_rows = Features + (Arranged ? 16 : 0);  // see side_place()
  static constexpr int side_bytes = side_rows * side_row;
  static constexpr int staging_bytes = 4 * warp_staging;
  static constexpr int sides = Stages * stage_bytes;
  static constexpr int staging = sides + Stages * side_bytes;
  static constexpr int rows = staging + Groups * staging_bytes;
  static constexpr int weights = rows + row_places * 8;
  static constexpr int barriers = weights + Groups * sums * 8;
  static constexpr int tasks = barriers + 2 * Stages * 8;
  static constexpr int tables = tasks + task_places * (sizeof(Task) + 16);
  static constexpr int bytes(int groups, bool grouping) {
    return 1024 + tables + bytes_of_tables(groups, grouping);
  }
  static constexpr int early_stages = stages_beside_scratch(threads, Stages, stage_bytes);
  static_assert(Groups == 2 && Depth % 2 == 0 && Features % 128 == 0);
  static_assert(!Arranged || (Features == 256 && box == 64));  // see row_of()
  static_assert(parts == 1 || (slots == 1 && side_row == 8));  // see multiply()
  static_assert(bytes(max_groups, false) <= shared_limit);
  static_assert(bytes(max_grouped_groups, true) <= shared_limit);
  static_assert(early_stages > 0);
};

}  // namespace kmoe::device::sm90
