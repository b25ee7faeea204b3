// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What each block does by itself before the products: it groups few slots by their ids, a stable
/// counting sort in shared memory (all blocks come to the same result), and cuts the groups into
/// tiles.

#include "device/sm90/ptx.hpp"
#include "device/sm90/schedule.hpp"

namespace kmoe::device::sm90 {

/// body(i) for 0 <= i < count, spread over the threads of a block. Warps go round as a whole and
/// come out so: a loop that some lanes leave before others was compiled without a place where they
/// meet again (nvcc 13.0), the block's barrier then counted such a warp twice, and blocks hung.
template <class Body>
__device__ __forceinline__ void over_block(int count, Body const& body) {
  int const lane = threadIdx.x % 32;
  for (int begin = threadIdx.x - lane; begin < count; begin += blockDim.x) {
    if (begin + lane < count) body(begin + lane);
    __syncwarp();
  }
}

/// Adds to what the caller counts; waits for no memory.
__device__ inline void count_rows(Sides const& what, int group, int rows) {
  if (what.rows_per_group == nullptr || rows == 0) return;
  atomicAdd(reinterpret_cast<unsigned long long*>(what.rows_per_group + group),
            static_cast<unsigned long long>(rows));
}

/// What a block knows of its slots while it groups them: a warp has those from `first` on.
struct OwnSlots {
  static constexpr int most = max_grouped / 256 + 1;  // of a thread, with 8 warps or more
  int first, rounds;
  int group[most], rank[most];  // group < 0: none
};

/// Counts the slots of each group in each warp. All threads of a block; `counts` [warps][groups] in
/// shared memory.
__device__ inline void count_slots(Sides const& what, int groups, std::uint16_t* counts,
                                   OwnSlots& own) {
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  own.rounds = (what.num_slots + blockDim.x - 1) / blockDim.x;
  own.first = warp * own.rounds * 32 + lane;
#pragma unroll
  for (int i = 0; i < OwnSlots::most; ++i) {
    int const slot = own.first + i * 32;
    own.group[i] = i < own.rounds && slot < what.num_slots ? what.ids[slot] : -1;
    if (own.group[i] >= groups) own.group[i] = -1;
  }
  std::uint16_t* const mine = counts + warp * groups;
  for (int g = lane; g < groups; g += 32) mine[g] = 0;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < OwnSlots::most; ++i) {
    if (i >= own.rounds) break;
    int const g = own.group[i];
    std::uint32_t const same = __match_any_sync(~0U, g);
    int const before = __popc(same & ((1U << lane) - 1));
    int const counted = g >= 0 ? mine[g] : 0;
    __syncwarp();
    if (g >= 0 && before == 0) mine[g] = static_cast<std::uint16_t>(counted + __popc(same));
    __syncwarp();
    own.rank[i] = counted + before;
  }
}

/// Of group g: its slots; what lies in `counts` are then those of the warps before.
__device__ inline int sum_counts(std::uint16_t* counts, int groups, int g) {
  constexpr int batch = 4;  // of warps, of which there are 8 or 12
  int sum = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / 32; w += batch) {
    int counted[batch];
#pragma unroll
    for (int n = 0; n < batch; ++n) counted[n] = counts[(w + n) * groups + g];
#pragma unroll
    for (int n = 0; n < batch; ++n) {
      counts[(w + n) * groups + g] = static_cast<std::uint16_t>(sum);
      sum += counted[n];
    }
  }
  return sum;
}

/// The first tile of up to Tokens rows, and the first row, of each group of rows_of(g), rows from
/// begin_row on: a thread has a group. All threads of a block; `totals` of each warp in shared
/// memory.
template <int Tokens, class Rows>
__device__ inline void scan_groups(Schedule const& schedule, int begin_row, int2* totals,
                                   Rows const& rows_of) {
  int const groups = schedule.launch->groups;
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int2 before = {0, begin_row};  // tiles, rows
  for (int begin = 0; begin <= groups; begin += static_cast<int>(blockDim.x)) {
    int const g = begin + static_cast<int>(threadIdx.x);
    int const rows = g < groups ? rows_of(g) : 0, tiles = (rows + Tokens - 1) / Tokens;
    int2 sum = {tiles, rows};
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      int const t = __shfl_up_sync(~0U, sum.x, d), r = __shfl_up_sync(~0U, sum.y, d);
      if (lane >= d) sum.x += t, sum.y += r;
    }
    if (lane == 31) totals[warp] = sum;
    __syncthreads();
    int2 own = before;
    int const warps = min(static_cast<int>(blockDim.x), groups - begin + 32) / 32;  // with groups
    for (int w = 0; w < warps; ++w) {
      int2 const total = totals[w];
      if (w < warp) own.x += total.x, own.y += total.y;
      before.x += total.x;
      before.y += total.y;
    }
    if (g <= groups) {
      schedule.first_tile()[g] = own.x + sum.x - tiles;
      schedule.first_row()[g] = own.y + sum.y - rows;
    }
    __syncthreads();
  }
}

/// Gives the slots their rows, once first_row is known; the first block tells the others' kernels.
__device__ inline void place_slots(Schedule const& schedule, std::uint16_t const* counts,
                                   OwnSlots const& own) {
  Sides const& what = schedule.launch->sides;
  int const groups = schedule.launch->groups;
  int const* const first_row = schedule.first_row();
  bool const tells = blockIdx.x == 0;
  std::uint16_t const* const before = counts + threadIdx.x / 32 * groups;
#pragma unroll
  for (int i = 0; i < OwnSlots::most; ++i) {
    int const slot = own.first + i * 32, g = own.group[i];
    if (i >= own.rounds || slot >= what.num_slots) break;
    int const row = g < 0 ? -1 : first_row[g] + before[g] + own.rank[i];
    if (g >= 0) schedule.short_slots()[row] = static_cast<std::uint16_t>(slot);
    schedule.short_rows()[slot] = static_cast<std::int16_t>(row);
    if (tells) what.row_of_slot[slot] = row;
    if (tells && g >= 0) what.slots[row] = slot;
  }
  if (!tells) return;
  over_block(groups + 1, [&](int g) {
    what.offsets[g] = first_row[g];
    if (g < groups) count_rows(what, g, first_row[g + 1] - first_row[g]);
  });
}

/// No more slots than a warp has lanes and a tile rows: each warp knows them all.
struct FewSlots {
  int groups, num_slots;
  int own;                     // group of the lane's slot; < 0: none
  std::uint32_t same, firsts;  // slots of that group; the first ones of all groups
  struct Before {
    int tile, row;  // of the slots of groups before
    int size;       // slots of this one
  };

  __device__ static FewSlots of(Sides const& what, int groups) {
    int const lane = threadIdx.x % 32;
    int own = lane < what.num_slots ? what.ids[lane] : -1;
    if (own >= groups) own = -1;
    std::uint32_t const same = __match_any_sync(~0U, own), lower = (1U << lane) - 1;
    return {groups, what.num_slots, own, same, __ballot_sync(~0U, own >= 0 && (same & lower) == 0)};
  }

  /// For whole warps.
  __device__ Before before(int group) const {
    Before b{};
    for (int first = 0; first < num_slots; first += 8) {  // lanes without a slot have none
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        int const slot = first + n, id = __shfl_sync(~0U, own, slot);
        bool const below = id >= 0 && id < group;
        b.row += below;
        b.tile += below && (firsts >> slot & 1) != 0;
        b.size += id == group;
      }
    }
    return b;
  }

  /// The i-th tile. For whole warps.
  __device__ Task task(Schedule const& schedule, int i) const {
    auto const [product, tile, feature] = schedule.place(i, __popc(firsts));
    Before const b = before(own);
    int const lane = max(__ffs(__ballot_sync(~0U, own >= 0 && b.tile == tile)) - 1, 0);
    auto const there = [&](int value) { return __shfl_sync(~0U, value, lane); };
    return {product, there(own), there(b.row), there(b.size), tile, feature};
  }

  /// The groups' first tiles and rows, and the slots' rows. All warps but the first.
  __device__ void place_all(Schedule const& schedule) const {
    Sides const& what = schedule.launch->sides;
    int const lane = threadIdx.x % 32, threads = static_cast<int>(blockDim.x) - 32;
    bool const tells = blockIdx.x == 0;
    for (int first = static_cast<int>(threadIdx.x) - 32 - lane; first <= groups; first += threads) {
      int const g = first + lane;
      Before const b = before(g);
      if (g <= groups) {
        schedule.first_tile()[g] = b.tile;
        schedule.first_row()[g] = b.row;
        if (tells) what.offsets[g] = b.row;
        if (tells && g < groups) count_rows(what, g, b.size);
      }
      __syncwarp();
    }
    if (threadIdx.x < blockDim.x - 32) return;  // the last has had no groups, where they are few
    std::uint32_t const lower = (1U << lane) - 1;
    int const place = before(own).row + __popc(same & lower), row = own < 0 ? -1 : place;
    if (lane < num_slots) {
      if (row >= 0) schedule.short_slots()[row] = static_cast<std::uint16_t>(lane);
      schedule.short_rows()[lane] = static_cast<std::int16_t>(row);
      if (tells) what.row_of_slot[lane] = row;
      if (tells && row >= 0) what.slots[row] = lane;
    }
    __syncwarp();
  }
};

/// Cuts the groups into tiles of up to Tokens rows, and groups the slots before, if that is to be
/// done here. All threads of a block; shared memory: `tables` of bytes_of_tables(), `scratch` of
/// two bytes for each group and warp and eight more for each warp. As soon as the tiles are known,
/// warp 0 is given the one with the number that its lane 0 has: begin(task).
template <int Tokens, class Begin>
__device__ inline Schedule cut_groups(Launch const& launch, char* tables, char* scratch, int number,
                                      Begin const& begin) {
  int const groups = launch.groups;
  Sides const& sides = launch.sides;
  bool const grouping = sides.ids != nullptr;
  bool const few = grouping && sides.num_slots <= (Tokens < 32 ? Tokens : 32);
  Schedule const schedule{&launch, tables, Tokens % 16 == 0 ? 16 : 8};
  auto* const totals = reinterpret_cast<int2*>(scratch);
  auto* const counts = reinterpret_cast<std::uint16_t*>(totals + blockDim.x / 32);
  FewSlots few_slots;
  OwnSlots own;
  if (few) {
    few_slots = FewSlots::of(sides, groups);
  } else if (grouping) {
    count_slots(sides, groups, counts, own);
    __syncthreads();
    scan_groups<Tokens>(schedule, 0, totals, [&](int g) { return sum_counts(counts, groups, g); });
  } else {
    auto const begin_of = [&](int g) {
      return static_cast<int>(min(launch.offsets[g], launch.max_rows));
    };
    scan_groups<Tokens>(schedule, begin_of(0), totals,
                        [&](int g) { return begin_of(g + 1) - begin_of(g); });
  }
  if (threadIdx.x < 32) {
    number = same_in_warp(number);
    begin(few ? few_slots.task(schedule, number) : schedule.task(number));
  }
  if (few) {
    if (threadIdx.x >= 32) few_slots.place_all(schedule);
  } else {
    if (grouping) place_slots(schedule, counts, own);
    proxy_fence();  // bulk copies will overwrite the scratch
  }
  __syncthreads();
  return schedule;
}

}  // namespace kmoe::device::sm90
