// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The sizes of a tile and the order in which the blocks of a launch work on the tiles.

#include <cuda.h>

#include "device/sm90/experts.hpp"
#include "device/sm90/store.hpp"

namespace kmoe::device::sm90 {

inline constexpr int tile_k = 64;
inline constexpr int row_bytes = 2 * tile_k;  // of a tile in shared memory
inline constexpr int loader_threads = 96, group_threads = 128;
inline constexpr int shared_limit = 232448;
inline constexpr int max_groups = 1024;

/// What there is to do beside the products, see Work.
struct Sides {
  std::int32_t const* ids;
  int num_slots;
  std::int64_t* offsets;
  std::int32_t* slots;
  std::int32_t* row_of_slot;
  std::int64_t* rows_per_group;
  void* sums;    // y of several slots per token
  void* direct;  // y of one: the second product's output, by slot
};
inline constexpr int max_grouped = 2048, max_grouped_groups = 512;

/// What the blocks of one launch are told.
struct Launch {
  CUtensorMap maps[2];       // of the weights
  CUtensorMap edge_maps[2];  // for the first and the last 128 bytes of their rows
  Product products[2];
  int count, groups, slots_per_row;
  std::int64_t const* offsets;
  std::int32_t const* slots;
  std::int64_t max_rows;
  std::uint32_t* counters;  // blocks that are done, tiles handed out, warpgroups that have finished
                            // a tile of the second product; then for each tile of tokens those
                            // that have finished a tile of its first product
  int widths[2];            // features of a tile: Tile::features or, if two groups, half of them
  int band, lag;            // see Schedule::task
  Sides sides;
};

/// One tile of one product: rows [row, row + count) of a group by one tile of features.
struct Task {
  int product, group, row, count;  // product < 0: there is no more
  int tile;                        // of tokens, over all groups
  int feature;                     // tile of features
};
inline constexpr int task_places = 4;    // between the thread that hands them out and the warps
inline constexpr int number_places = 8;  // between the blocks of a pair; more than any Stages

/// Of the tables of a Schedule.
constexpr int bytes_of_tables(int groups, bool grouping) {
  return 2 * (groups + 1) * 4 + (grouping ? 2 * max_grouped * 2 : 0);
}

/// Where the rows of a tile begin is kept in twos for each thread that brings some; `lanes` bring
/// one.
constexpr int places_of_rows(int tokens, int lanes) {
  int const two = loader_threads / lanes * 2;
  return (tokens + two - 1) / two * two;
}

/// Sizes of a tile, and the shared memory of a block that works on it: `Groups` warpgroups multiply
/// Features / Groups features each, 64 in one instruction. With 32 features the other half of an
/// instruction's rows is what happens to lie there, and is not stored.
/// A stage is Depth times 64 of k. `Pair`: of 2, blocks that share the features of a tile and what
/// they load of the weights, and have half of its tokens each. `Staging`: bytes of a warp, where
/// the elements that it has made are turned into rows.
template <int Features, int Tokens, int Stages, int Groups, int Depth = 1, int Pair = 1,
          int Staging = warp_staging>
struct Tile {
  static constexpr int features = Features, tokens = Tokens, stages = Stages, groups = Groups;
  static constexpr int depth = Depth, pair = Pair;
  static constexpr int row_k = tile_k, piece_k = 8;  // elements of 128 bytes, of 16
  static constexpr int parts =
      Features < 64 ? 1 : Features / Groups / 64;                      // instructions of a group
  static constexpr int part_features = Features < 64 ? Features : 64;  // of one instruction
  static constexpr int part_bytes = part_features * row_bytes;
  // The parts take turns in eights of features: what a warp has of them all is adjacent.
  static constexpr bool by_eights = true;
  static constexpr int sums = Tokens < 32 ? 32 : Tokens;  // tokens that registers are kept for
  static constexpr int threads = (1 + Groups) * group_threads;
  // Of a thread that multiplies, and of one that loads.
  static constexpr int registers = Groups == 1 ? 240 : Tokens > 128 ? 232 : 216;
  static constexpr int loader_registers = Groups == 1 ? 104 : Tokens > 128 ? 40 : 72;
  static constexpr int row_places = places_of_rows(Tokens, 8);
  static constexpr int weight_bytes = Depth * Features * row_bytes;
  static constexpr int stage_bytes = weight_bytes + Depth * Tokens * row_bytes;
  static constexpr int staging_bytes = 4 * Staging;  // of each group
  static constexpr int staging = Stages * stage_bytes;
  static constexpr int rows = staging + Groups * staging_bytes;  // addresses [row_places]
  static constexpr int weights = rows + row_places * 8;          // and slots, [Groups][2][sums]
  static constexpr int barriers = weights + Groups * sums * 8;   // full, empty
  static constexpr int tasks = barriers + 2 * Stages * 8;        // Task [task_places], full, empty
  static constexpr int numbers = tasks + task_places * (sizeof(Task) + 16);  // see share()
  static constexpr int tables = numbers + (Pair > 1 ? number_places * 16 : 0);
  static constexpr int bytes(int groups, bool grouping) {
    return 1024 + tables + bytes_of_tables(groups, grouping);
  }
  // Larger tiles are chosen where they fit (experts.cpp).
  static_assert(Tokens > 128 || bytes(max_groups, false) <= shared_limit);
  static_assert(Tokens > 128 || bytes(max_grouped_groups, true) <= shared_limit);
  static_assert(threads / 32 * (max_grouped_groups * 2 + 8) <= Stages * stage_bytes);  // cut_groups
};

/// The tiles of tokens and the order of the work; the same on every block.
struct Schedule {
  int const* first_tile;             // [groups + 1]
  int const* first_row;              // [groups + 1]
  std::int32_t const* slots;         // of each row, in global memory
  std::uint16_t const* short_slots;  // or here; neither: row r is slot r
  std::int16_t const* short_rows;    // of each slot, or -1; with short_slots
  int groups, band, lag;
  int step;  // tiles of a group have multiples of it, a power of 2, but for the last
  int features0, features1;  // tiles; features1 = 0: one product

  __device__ bool has_slots() const { return slots != nullptr || short_slots != nullptr; }
  __device__ int slot(int row) const {
    return short_slots != nullptr ? short_slots[row] : slots != nullptr ? slots[row] : row;
  }
  __device__ int num_tiles() const { return first_tile[groups]; }

  /// The i-th tile.
  __device__ Task task(int i) const {
    int const num_tiles = this->num_tiles();
    if (i >= num_tiles * (features0 + features1)) return {-1};
    // Bands of tiles of tokens. The second product of band b follows the first one of band b + lag:
    // by then its input is there, and still in the second-level cache where lag is small.
    int const size0 = band * features0, size1 = band * features1;
    int const ahead = min(lag * band, num_tiles) * features0;
    int product = 0, b = 0;
    if (i < ahead || features1 == 0) {
      b = quotient(i, size0);
      i -= b * size0;
    } else {
      int const bands = quotient(num_tiles + band - 1, band);
      i -= ahead;
      b = min(quotient(i, size0 + size1), max(bands - lag - 1, 0));
      i -= b * (size0 + size1);
      int const next0 = max(min(band, num_tiles - (b + lag) * band), 0) * features0;
      if (i < next0) {
        b += lag;
      } else {
        i -= next0;
        product = 1;
        int const more = quotient(i, size1);
        b += more;
        i -= more * size1;
      }
    }
    // Within a band all tiles of tokens for one tile of features, then the next: blocks that run
    // at the same time share weights where an expert has several tiles.
    int const tiles = min(band, num_tiles - b * band);
    int const feature = quotient(i, tiles), tile = b * band + i - feature * tiles;

    int low = 0, high = groups;  // first_tile[low] <= tile < first_tile[high]
    while (high - low > 1) {
      int const middle = (low + high) / 2;
      (first_tile[middle] <= tile ? low : high) = middle;
    }
    int const begin = first_row[low], rows = first_row[low + 1] - begin;
    int const parts = first_tile[low + 1] - first_tile[low];
    int const size = ((parts > 1 ? quotient(rows + parts - 1, parts) : rows) + step - 1) & -step;
    int const row = (tile - first_tile[low]) * size;
    return {product, low, begin + row, min(size, rows - row), tile, feature};
  }

 private:
  /// Of numbers that are not negative.
  __device__ static int quotient(int n, int d) {
    return static_cast<int>(static_cast<unsigned>(n) / static_cast<unsigned>(d));
  }
};

/// Position in a ring of places in shared memory.
template <int Stages>
struct Ring {
  int stage = 0;
  std::uint32_t phase = 0;
  __device__ void next(int places = 1) {
    stage += places;
    if (stage >= Stages) {
      stage -= Stages;
      phase ^= 1;
    }
  }
};

}  // namespace kmoe::device::sm90
