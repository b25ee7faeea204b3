// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Grouping of slots on devices that have warps: one kernel where one team can hold all slots, else
/// one that counts and one that places.
///
/// A warp ranks its slots in ascending order by matching their groups among its lanes; the ranks of
/// the warps of a team, and of teams, are sums of counts. Nothing depends on who comes first.

#include <kmoe/core/types.hpp>

#include "device/team.hpp"

namespace kmoe::grouping {

// Together they must fit the 48 KB of shared memory that every device and Kokkos offers.
inline constexpr int team_threads = 512;
inline constexpr int slots_per_thread = 8;
inline constexpr index_t tile_slots = team_threads * slots_per_thread;
inline constexpr index_t max_groups = 2 * team_threads;
inline constexpr index_t max_slots = 1 << 30;
inline constexpr index_t max_ids = 3 * team_threads;

/// What is grouped: as a kernel's argument, hence small and of pointers.
struct Slots {
  index_t const* ids;   // [num_slots]
  index_t num_slots;    // at most max_slots
  index_t num_groups;   // at most max_groups
  index_t const* mask;  // [num_ids] or null: ids are global, those with flag 1 are numbered
  index_t num_ids;      // at most max_ids
  index_t slots_per_block;
};

using Count = std::uint32_t;
inline constexpr Count no_group = 0xffff;

template <class E>
using Member = device::Team<E>;

/// What the kernels have in common: the threads, ids as groups, and scratch memory.
template <class E, int Threads = team_threads>
struct Team {
  static constexpr int warp = device::warp_size<E>;
  static constexpr int num_warps = Threads / warp;

  Member<E> const& member;
  Slots const& slots;
  int rank, lane, own_warp, key_bits;
  std::byte* scratch_begin;
  std::uint16_t* table = nullptr;  // groups of the ids, with a mask
  Count* sums = nullptr;           // [num_warps]

  KOKKOS_INLINE_FUNCTION Team(Member<E> const& m, Slots const& s, int scratch_bytes)
      : member(m),
        slots(s),
        rank(m.team_rank()),
        lane(rank % warp),
        own_warp(rank / warp),
        scratch_begin(device::scratch_of(m, scratch_bytes)) {
    for (key_bits = 1; (s.num_groups >> key_bits) != 0;) ++key_bits;
    sums = take<Count>(num_warps);
    if (s.mask != nullptr) {
      table = take<std::uint16_t>(s.num_ids);
      number_hosted();
    }
  }
  KOKKOS_INLINE_FUNCTION static int scratch(Slots const& s) {
    return bytes<Count>(num_warps) + (s.mask != nullptr ? bytes<std::uint16_t>(s.num_ids) : 0);
  }

  template <class T>
  KOKKOS_INLINE_FUNCTION static int bytes(int n) {
    return (n * static_cast<int>(sizeof(T)) + 15) / 16 * 16;
  }
  template <class T>
  KOKKOS_INLINE_FUNCTION T* take(int n) {
    auto* const taken = static_cast<T*>(static_cast<void*>(scratch_begin));
    scratch_begin += bytes<T>(n);
    return taken;
  }

  /// groups[i] = group of slot first + i * step, none from `end` on. All loads are under way before
  /// the first is waited for: none is behind a branch.
  template <int n>
  KOKKOS_INLINE_FUNCTION void load(Count (&groups)[n], index_t first, index_t step,
                                   index_t end) const {
    KMOE_UNROLL
    for (int i = 0; i < n; ++i) {
      index_t const slot = first + i * step;
      groups[i] = static_cast<Count>(slots.ids[slot < end ? slot : end - 1]);
    }
    KMOE_UNROLL
    for (int i = 0; i < n; ++i) {
      bool const there = first + i * step < end;
      if (table == nullptr) {
        groups[i] =
            there && groups[i] < static_cast<Count>(slots.num_groups) ? groups[i] : no_group;
      } else {
        groups[i] =
            there && groups[i] < static_cast<Count>(slots.num_ids) ? table[groups[i]] : no_group;
      }
    }
  }
  KOKKOS_INLINE_FUNCTION bool valid(Count group) const {
    return group < static_cast<Count>(slots.num_groups);
  }
  KOKKOS_INLINE_FUNCTION device::LaneMask match(Count group) const {
    return device::match(valid(group) ? group : static_cast<Count>(slots.num_groups), key_bits);
  }

  KOKKOS_INLINE_FUNCTION Count sum_before(Count value) const {
    return device::sum_before<E, Threads>(member, value, sums);
  }

 private:
  KOKKOS_INLINE_FUNCTION void number_hosted() const {
    constexpr int ids_per_thread = max_ids / Threads;
    Count hosted = 0;
    for (int i = 0; i < ids_per_thread; ++i) {
      index_t const id = rank * ids_per_thread + i;
      if (id < slots.num_ids && slots.mask[id] != 0) hosted |= 1U << i;
    }
    Count number = 0;
    for (int i = 0; i < ids_per_thread; ++i) number += hosted >> i & 1U;
    number = sum_before(number);
    for (int i = 0; i < ids_per_thread; ++i) {
      index_t const id = rank * ids_per_thread + i;
      if (id >= slots.num_ids) break;
      bool const here = (hosted >> i & 1U) != 0;
      table[id] = static_cast<std::uint16_t>(here ? number++ : no_group);
    }
    member.team_barrier();
  }
};

/// counts[block, g] = slots of group g in the block.
template <class E>
struct CountSlots {
  static constexpr int threads = team_threads;
  using Bounds = Kokkos::LaunchBounds<threads>;
  Slots slots;
  Count* counts;

  KOKKOS_INLINE_FUNCTION static int scratch(Slots const& s) {
    return Team<E>::scratch(s) + Team<E>::template bytes<Count>(s.num_groups);
  }
  KOKKOS_FUNCTION void operator()(Member<E> const& member) const {
    device::wait_for_previous();
    device::let_next_begin();  // which waits for the counts
    Team<E> team(member, slots, scratch(slots));
    Count* const sums = team.template take<Count>(slots.num_groups);
    for (int g = team.rank; g < slots.num_groups; g += team_threads) sums[g] = 0;
    member.team_barrier();
    index_t const begin = member.league_rank() * slots.slots_per_block;
    index_t const end = Kokkos::min(begin + slots.slots_per_block, index_t{slots.num_slots});
    constexpr int batch = 4;
    for (index_t first = begin; first < end; first += batch * team_threads) {
      Count groups[batch];
      team.load(groups, first + team.rank, team_threads, end);
      KMOE_UNROLL
      for (int i = 0; i < batch; ++i) {
        auto const same = team.match(groups[i]);
        bool const leads = device::count(same & device::lanes_before(team.lane)) == 0;
        if (leads && team.valid(groups[i])) {
          Kokkos::atomic_add(&sums[groups[i]], static_cast<Count>(device::count(same)));
        }
      }
    }
    member.team_barrier();
    Count* const own = counts + static_cast<offset_t>(member.league_rank()) * slots.num_groups;
    for (int g = team.rank; g < slots.num_groups; g += team_threads) own[g] = sums[g];
  }
};

/// Offsets of the groups and places of the slots of a block, in tiles of as many slots as the
/// threads can hold. Without `counts` one block, one tile is all there is.
template <class E>
struct PlaceSlots {
  static constexpr int threads = team_threads;
  using Bounds = Kokkos::LaunchBounds<threads>;
  Slots slots;
  Count const* counts;  // [blocks, num_groups] or null
  index_t num_blocks;
  offset_t* expert_offsets;   // [num_groups + 1]
  offset_t* rows_per_expert;  // [num_groups] that the sizes of the groups are added to, or null
  index_t* slot_of_row;
  index_t* row_of_slot;

  using Warps = Team<E>;

  /// Slots of a tile are sorted in shared memory before they leave, where it has room for that:
  /// neighbouring threads then write to neighbouring addresses.
  KOKKOS_INLINE_FUNCTION static bool sorts(Slots const& s) {
    return s.num_groups <= max_groups / 2;
  }
  /// Words of two 16-bit counts in a warp's row.
  KOKKOS_INLINE_FUNCTION static int words(Slots const& s) { return (s.num_groups + 1) / 2; }

  KOKKOS_INLINE_FUNCTION static int scratch(Slots const& s) {
    return Warps::scratch(s) + 2 * Warps::template bytes<Count>(2 * words(s) + 1) +
           Warps::template bytes<Count>(Warps::num_warps * words(s)) +
           (sorts(s) ? Warps::template bytes<Count>(tile_slots) : 0);
  }

  KOKKOS_FUNCTION void operator()(Member<E> const& member) const {
    device::wait_for_previous();
    device::let_next_begin();
    Warps team(member, slots, scratch(slots));
    bool const sort = sorts(slots);
    int const row_words = words(slots);
    Count* const first_row = team.template take<Count>(2 * row_words);        // of each group
    Count* const first_place = team.template take<Count>(2 * row_words + 1);  // in a sorted tile
    Count* const warp_words = team.template take<Count>(Warps::num_warps * row_words);
    Count* const sorted = sort ? team.template take<Count>(tile_slots) : nullptr;
    auto* const own_counts =
        reinterpret_cast<std::uint16_t*>(warp_words + team.own_warp * row_words);
    if (counts != nullptr) add_blocks(team, first_row, first_place);

    index_t const begin = member.league_rank() * slots.slots_per_block;
    index_t const end = Kokkos::min(begin + slots.slots_per_block, index_t{slots.num_slots});
    index_t tile = begin;
    do {  // once also without slots
      index_t const tile_end = Kokkos::min(tile + tile_slots, end);
      int const rounds = (tile_end - tile + team_threads - 1) / team_threads;
      index_t const first_slot = tile + team.own_warp * rounds * Warps::warp + team.lane;
      Count group[slots_per_thread], rank[slots_per_thread];
      if (tile < tile_end) {
        index_t const own_end = first_slot - team.lane + rounds * Warps::warp;
        team.load(group, first_slot, Warps::warp, Kokkos::min(own_end, index_t{tile_end}));
      }
      for (int i = team.lane; i < row_words; i += Warps::warp) {
        warp_words[team.own_warp * row_words + i] = 0;
      }
      device::sync_warp();
      KMOE_UNROLL
      for (int i = 0; i < slots_per_thread; ++i) {
        if (i >= rounds) break;
        auto const same = team.match(group[i]);
        auto const before =
            static_cast<Count>(device::count(same & device::lanes_before(team.lane)));
        bool const valid = team.valid(group[i]);
        Count const counted = valid ? own_counts[group[i]] : 0;
        device::sync_warp();
        if (valid && before == 0) {
          own_counts[group[i]] = static_cast<std::uint16_t>(counted + device::count(same));
        }
        device::sync_warp();
        rank[i] = counted + before;
      }
      member.team_barrier();

      // Two groups per thread: counts of the warps before, in both halves of a word at once.
      Count pair = 0;
      if (team.rank < row_words) {
        Count counted[Warps::num_warps];
        KMOE_UNROLL
        for (int w = 0; w < Warps::num_warps; ++w) {
          counted[w] = warp_words[w * row_words + team.rank];
        }
        KMOE_UNROLL
        for (int w = 0; w < Warps::num_warps; ++w) {
          warp_words[w * row_words + team.rank] = pair;
          pair += counted[w];
        }
      }
      Count const size[2] = {pair & 0xffffU, pair >> 16};
      if (counts == nullptr) {
        set_offsets(team, size, nullptr, first_row);
      }
      if (sort) {
        Count const place = team.sum_before(size[0] + size[1]);
        if (team.rank < row_words) {
          first_place[2 * team.rank] = place;
          first_place[2 * team.rank + 1] = place + size[0];
          if (team.rank == row_words - 1) first_place[2 * row_words] = place + size[0] + size[1];
        }
      }
      member.team_barrier();

      KMOE_UNROLL
      for (int i = 0; i < slots_per_thread; ++i) {
        index_t const slot = first_slot + i * Warps::warp;
        if (i >= rounds || slot >= tile_end) break;
        index_t row = no_expert;
        if (team.valid(group[i])) {
          Count const in_tile = own_counts[group[i]] + rank[i];
          row = static_cast<index_t>(first_row[group[i]] + in_tile);
          if (sort) {
            sorted[first_place[group[i]] + in_tile] =
                group[i] << 16 | static_cast<Count>(slot - tile);
          } else {
            slot_of_row[row] = slot;
          }
        }
        row_of_slot[slot] = row;
      }
      if (sort) {
        member.team_barrier();
        int const rows = row_words == 0 ? 0 : static_cast<int>(first_place[2 * row_words]);
        for (int p = team.rank; p < rows; p += team_threads) {
          Count const g = sorted[p] >> 16;
          slot_of_row[first_row[g] + static_cast<Count>(p) - first_place[g]] =
              tile + static_cast<index_t>(sorted[p] & 0xffffU);
        }
      }
      tile = tile_end;
      if (tile < end) {
        member.team_barrier();
        if (team.rank < row_words) {
          first_row[2 * team.rank] += size[0];
          first_row[2 * team.rank + 1] += size[1];
        }
      }
    } while (tile < end);
  }

 private:
  /// first_row = rows of the groups before, and of the same group in blocks before.
  KOKKOS_INLINE_FUNCTION void add_blocks(Warps const& team, Count* before, Count* total) const {
    index_t const own = team.member.league_rank();
    if (team.rank < words(slots)) {
      for (int i = 2 * team.rank; i < 2 * team.rank + 2; ++i) before[i] = total[i] = 0;
    }
    team.member.team_barrier();
    for (int g = team.lane; g < slots.num_groups; g += Warps::warp) {
      Count sum = 0, sum_before = 0;
      KMOE_UNROLL_8
      for (index_t b = team.own_warp; b < num_blocks; b += Warps::num_warps) {
        Count const counted = counts[static_cast<offset_t>(b) * slots.num_groups + g];
        sum += counted;
        sum_before += b < own ? counted : 0;
      }
      Kokkos::atomic_add(&total[g], sum);  // integers: the order does not show
      Kokkos::atomic_add(&before[g], sum_before);
    }
    team.member.team_barrier();
    Count size[2] = {0, 0};
    if (team.rank < words(slots)) {
      for (int i = 0; i < 2; ++i) size[i] = total[2 * team.rank + i];
    }
    set_offsets(team, size, before, before);
    team.member.team_barrier();
  }

  /// first_row[g] = rows of the groups before g, plus before[g]; the first block writes the
  /// offsets.
  KOKKOS_INLINE_FUNCTION void set_offsets(Warps const& team, Count const (&size)[2],
                                          Count const* before, Count* first_row) const {
    Count offset = team.sum_before(size[0] + size[1]);
    if (team.rank >= words(slots)) {
      if (slots.num_groups == 0 && team.rank == 0) expert_offsets[0] = 0;
      return;
    }
    bool const writes = team.member.league_rank() == 0;
    for (int i = 0; i < 2; ++i) {
      int const g = 2 * team.rank + i;
      if (writes && g < slots.num_groups) {
        expert_offsets[g] = offset;
        if (rows_per_expert != nullptr) rows_per_expert[g] += size[i];
      }
      first_row[g] = offset + (before == nullptr ? 0 : before[g]);
      offset += size[i];
      if (writes && g == slots.num_groups - 1) expert_offsets[g + 1] = offset;
    }
  }
};

}  // namespace kmoe::grouping
