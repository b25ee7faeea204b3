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

/// A divisor that is known before a launch: a quotient of 0 <= n < 2^31 is a product (T. Granlund,
/// P. L. Montgomery, Division by invariant integers using multiplication, 1994, theorem 4.2).
struct Divisor {
  std::uint32_t value, multiplier;
  int shift;

  static constexpr Divisor of(std::uint32_t value) {
    int bits = 0;  // 2^bits >= value
    while (std::uint64_t{1} << bits < value) ++bits;
    return {value, static_cast<std::uint32_t>((std::uint64_t{1} << (31 + bits)) / value + 1),
            bits - 1};
  }
  __host__ __device__ constexpr int quotient(int n) const {
    if (value == 1) return n;
    std::uint64_t const product = std::uint64_t{static_cast<std::uint32_t>(n)} * multiplier;
    return static_cast<int>(static_cast<std::uint32_t>(product >> 32) >> shift);
  }
};

static_assert(Divisor::of(1).quotient(2147483647) == 2147483647);
static_assert(Divisor::of(7).quotient(2147483645) == 306783377);
static_assert(Divisor::of(7).quotient(2147483646) == 306783378);
static_assert(Divisor::of(4096).quotient(2147483647) == 524287);
static_assert(Divisor::of(2147483647).quotient(2147483646) == 0);

/// The order of the work on the tiles, see Schedule::task.
struct Order {
  int band, lag;
  int features[2];  // tiles of a product; the second 0: there is none
  // By a band's tiles of tokens, and by its tiles of the first, the second and both products.
  Divisor by_band, by_first, by_second, by_both;
};

/// What the blocks of one launch are told.
struct Launch {
  CUtensorMap maps[2];       // of the weights
  CUtensorMap edge_maps[2];  // for the first and the last 128 bytes of their rows
  Product products[2];
  int count, groups;
  Divisor slots_per_row;  // 1 where row r is slot r
  std::int64_t const* offsets;
  std::int32_t const* slots;
  std::int64_t max_rows;
  std::uint32_t* counters;  // blocks that are done, tiles handed out, warpgroups that have finished
                            // a tile of the second product; then for each tile of tokens those
                            // that have finished a tile of its first product
  int widths[2];            // features of a tile: Tile::features or, if two groups, half of them
  Order order;
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

/// How many stages cut_groups() leaves free: its scratch lies behind them.
constexpr int stages_beside_scratch(int threads, int stages, int stage_bytes) {
  return (stages * stage_bytes - threads / 32 * (max_grouped_groups * 2 + 8)) / stage_bytes;
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
  static constexpr int early_stages = stages_beside_scratch(threads, Stages, stage_bytes);
  // Larger tiles are chosen where they fit (experts.cpp).
  static_assert(Tokens > 128 || bytes(max_groups, false) <= shared_limit);
  static_assert(Tokens > 128 || bytes(max_grouped_groups, true) <= shared_limit);
  static_assert(early_stages > 0);
};

/// The tiles of tokens and the order of the work; the same on every block.
struct Schedule {
  Launch const* launch;  // what is there already stays there: registers are few
  char* tables;          // of bytes_of_tables(), all found by one address
  int step;              // tiles of a group have multiples of it, a power of 2, but for the last

  __device__ int* first_tile() const { return reinterpret_cast<int*>(tables); }  // [groups + 1]
  __device__ int* first_row() const { return first_tile() + launch->groups + 1; }
  /// Of each row, and the rows of each slot or -1, if they were grouped here.
  __device__ std::uint16_t* short_slots() const {
    return reinterpret_cast<std::uint16_t*>(first_row() + launch->groups + 1);
  }
  __device__ std::int16_t* short_rows() const {
    return reinterpret_cast<std::int16_t*>(short_slots() + max_grouped);
  }

  __device__ int slot(int row) const {
    if (launch->sides.ids != nullptr) return short_slots()[row];
    return launch->slots != nullptr ? launch->slots[row] : row;
  }
  /// The row of x that row `row` is a copy of.
  __device__ int token(int row) const { return launch->slots_per_row.quotient(slot(row)); }
  __device__ int num_tiles() const { return first_tile()[launch->groups]; }
  __device__ int num_rows() const { return first_row()[launch->groups]; }

  /// Where the i-th tile is, of `num_tiles` tiles of tokens.
  struct Place {
    int product, tile, feature;  // as of a Task
  };
  __device__ Place place(int i, int num_tiles) const {
    auto const& [band, lag, features, by_band, by_first, by_second, by_both] = launch->order;
    if (i >= num_tiles * (features[0] + features[1])) return {-1};
    // Bands of tiles of tokens. The second product of band b follows the first one of band b + lag:
    // by then its input is there, and still in the second-level cache where lag is small.
    int const size0 = band * features[0], size1 = band * features[1];
    int const ahead = min(lag * band, num_tiles) * features[0];
    int product = 0, b = 0;
    if (i < ahead || features[1] == 0) {
      b = by_first.quotient(i);
      i -= b * size0;
    } else {
      int const bands = by_band.quotient(num_tiles + band - 1);
      i -= ahead;
      b = min(by_both.quotient(i), max(bands - lag - 1, 0));
      i -= b * (size0 + size1);
      int const next0 = max(min(band, num_tiles - (b + lag) * band), 0) * features[0];
      if (i < next0) {
        b += lag;
      } else {
        i -= next0;
        product = 1;
        int const more = by_second.quotient(i);
        b += more;
        i -= more * size1;
      }
    }
    // Within a band all tiles of tokens for one tile of features, then the next: blocks that run
    // at the same time share weights where an expert has several tiles.
    int const tiles = min(band, num_tiles - b * band);
    int const feature = tiles == band ? by_band.quotient(i) : quotient(i, tiles);
    return {product, b * band + i - feature * tiles, feature};
  }

  /// The i-th tile. For whole warps.
  __device__ Task task(int i) const {
    auto const [product, tile, feature] = place(i, num_tiles());
    if (product < 0) return {-1};
    int const group = group_of(tile);
    int const begin = first_row()[group], rows = first_row()[group + 1] - begin;
    int const first = first_tile()[group], parts = first_tile()[group + 1] - first;
    int const size = ((parts > 1 ? quotient(rows + parts - 1, parts) : rows) + step - 1) & -step;
    int const row = (tile - first) * size;
    return {product, group, begin + row, min(size, rows - row), tile, feature};
  }

 private:
  /// Of numbers that are not negative.
  __device__ static int quotient(int n, int d) {
    return static_cast<int>(static_cast<unsigned>(n) / static_cast<unsigned>(d));
  }

  /// The last group whose first tile is not behind this one: each lane looks at one of 32 places of
  /// the groups, then at one group of what lies between two places.
  __device__ int group_of(int tile) const {
    static_assert(max_groups <= 32 * 32);
    int const groups = launch->groups, step = (groups + 31) / 32;
    int const lane = threadIdx.x % 32;
    auto const last_of = [&](int group) {
      bool const before = first_tile()[min(group, groups)] <= tile;  // not the end of all
      return __popc(__ballot_sync(~0U, before)) - 1;
    };
    int const low = last_of(lane * step) * step;
    return low + last_of(lane < step ? low + lane : groups);
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
