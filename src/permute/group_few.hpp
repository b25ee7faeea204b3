// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Grouping of many slots by at most 16 groups, where a warp has 32 lanes.
///
/// A thread has 16 neighbouring slots and counts them by group in half bytes of one register, so
/// that it meets no other thread; its places follow from sums over windows of 8 threads, windows of
/// a team, and teams. Two kernels, the second of which loads and counts while the first counts.

#include "device/slab.hpp"
#include "permute/group_slots.hpp"

namespace kmoe::grouping {

inline constexpr int few_groups = 16;
inline constexpr Count no_row = ~Count{0};  // -1 of index_t

/// Whether the kernels of this file exist for E.
template <class E>
inline constexpr bool has_few = device::warp_size<E> == 32;

/// Sixteen counts of at most 15, for a thread; or twice as many, once they are bytes.
struct HalfBytes {
  std::uint64_t counts = 0;

  /// 4 * group; 64, which counts nothing, for slots without one.
  KOKKOS_FORCEINLINE_FUNCTION void add(std::uint32_t shift) {
    counts += device::shift_left(1, shift);
  }
  KOKKOS_FORCEINLINE_FUNCTION std::uint32_t of(std::uint32_t shift) const {
    return static_cast<std::uint32_t>(device::shift_right(counts, shift)) & 15U;
  }
};

/// Sixteen counts of at most 255 in four words.
struct Bytes {
  std::uint32_t words[4];

  Bytes() = default;
  /// Of half bytes, added.
  KOKKOS_FORCEINLINE_FUNCTION Bytes(std::uint64_t a, std::uint64_t b) {
    constexpr std::uint32_t low = 0x0f0f0f0f;
    KMOE_UNROLL
    for (int h = 0; h < 2; ++h) {
      auto const x = static_cast<std::uint32_t>(a >> 32 * h);
      auto const y = static_cast<std::uint32_t>(b >> 32 * h);
      words[2 * h] = (x & low) + (y & low);
      words[2 * h + 1] = (x >> 4 & low) + (y >> 4 & low);
    }
  }
  /// Where the count of a group lies: the even and the odd groups of each half are neighbours.
  KOKKOS_FORCEINLINE_FUNCTION static constexpr int place(int group) {
    return (group / 8 * 2 + group % 2) * 4 + group / 2 % 4;
  }
  KOKKOS_FORCEINLINE_FUNCTION std::uint32_t of(int group) const {
    return words[place(group) / 4] >> (8 * (place(group) % 4)) & 255U;
  }
};

/// Both kernels.
template <class E, int Threads>
struct Few : Team<E, Threads> {
  static constexpr int own_slots = 16, quads = own_slots / 4;  // of a thread
  static constexpr index_t tile = Threads * own_slots;
  using Base = Team<E, Threads>;
  using Base::Base;
  using Base::rank, Base::slots, Base::table;

  /// 4 * group of slot i of those in `words`.
  KOKKOS_FORCEINLINE_FUNCTION static std::uint32_t shift(std::uint32_t const (&words)[4], int i) {
    return words[i / 4] << 2 >> 8 * (i % 4) & 255U;
  }
  KOKKOS_FORCEINLINE_FUNCTION index_t begin() const {
    return Kokkos::min(this->member.league_rank() * slots.slots_per_block, slots.num_slots);
  }
  KOKKOS_FORCEINLINE_FUNCTION index_t end() const {
    return Kokkos::min(begin() + slots.slots_per_block, slots.num_slots);
  }

  /// quad[i] = four slots from first + 4 * (rank + i * Threads) on, as groups in bytes.
  KOKKOS_FORCEINLINE_FUNCTION void load(index_t first, index_t end,
                                        std::uint32_t (&quad)[quads]) const {
    device::Chunk ids[quads];
    KMOE_UNROLL
    for (int i = 0; i < quads; ++i) {
      index_t const slot = first + 4 * (rank + i * Threads);
      ids[i] = {{no_group, no_group, no_group, no_group}};
      if (slot + 3 < end) {
        ids[i] = device::read_chunk(slots.ids + slot);
      } else {
        KMOE_UNROLL
        for (int j = 0; j < 4; ++j) {
          if (slot + j < end) ids[i].words[j] = static_cast<Count>(slots.ids[slot + j]);
        }
      }
    }
    KMOE_UNROLL
    for (int i = 0; i < quads; ++i) {
      quad[i] = 0;
      KMOE_UNROLL
      for (int j = 0; j < 4; ++j) {
        Count group = ids[i].words[j];
        if (table != nullptr) {
          group = group < static_cast<Count>(slots.num_ids) ? table[group] : no_group;
        }
        quad[i] |= (this->valid(group) ? group : Count{few_groups}) << 8 * j;
      }
    }
  }
};

/// counts[g, block] = slots of group g in the block.
template <class E>
struct CountFew {
  static constexpr int threads = 256;
  using Bounds = Kokkos::LaunchBounds<threads, 8>;
  using Own = Few<E, threads>;
  Slots slots;
  Count* counts;
  index_t num_blocks;

  KOKKOS_INLINE_FUNCTION static int scratch(Slots const& s) {
    return Own::scratch(s) + Own::template bytes<Count>(few_groups);
  }
  KOKKOS_FUNCTION void operator()(Member<E> const& member) const {
    device::wait_for_previous();
    device::let_next_begin();
    Own team(member, slots, scratch(slots));
    Count* const sums = team.template take<Count>(few_groups);
    if (team.rank < few_groups) sums[team.rank] = 0;
    index_t const end = team.end();
    Count pairs[few_groups / 2] = {};  // of 16 bits
    KMOE_ROLL
    for (index_t first = team.begin(); first < end; first += Own::tile) {
      std::uint32_t quad[Own::quads];
      team.load(first, end, quad);
      HalfBytes half[2];
      KMOE_UNROLL
      for (int i = 0; i < Own::own_slots; ++i) half[i / 8].add(Own::shift(quad, i));
      Bytes const bytes(half[0].counts, half[1].counts);
      KMOE_UNROLL
      for (int i = 0; i < few_groups / 2; ++i) {
        pairs[i] += bytes.words[i / 2] >> 8 * (i % 2) & 0x00ff00ffU;
      }
    }
    member.team_barrier();
    Count own = 0;
    KMOE_UNROLL
    for (int g = 0; g < few_groups; ++g) {
      int const byte = Bytes::place(g);
      Count const pair = pairs[byte / 4 * 2 + byte % 2];
      Count const sum = device::sum_over<Own::warp>(byte % 4 < 2 ? pair & 0xffffU : pair >> 16);
      if (team.lane == g) own = sum;
    }
    if (team.lane < few_groups) Kokkos::atomic_add(&sums[team.lane], own);
    member.team_barrier();
    if (team.rank < few_groups) {
      counts[team.rank * num_blocks + member.league_rank()] = sums[team.rank];
    }
  }
};

template <class E>
struct PlaceFew {
  static constexpr int threads = 512;
  // With registers left for a team of CountFew beside each of two.
  using Bounds = Kokkos::LaunchBounds<threads + 128, 2>;
  using Own = Few<E, threads>;
  static constexpr int windows = threads / 8, own_windows = windows / Own::warp;
  static_assert(Own::num_warps == few_groups && Own::tile <= 1 << 13);

  Slots slots;
  Count const* counts;        // [16, num_blocks]
  index_t num_blocks;         // a multiple of 4
  offset_t* expert_offsets;   // [num_groups + 1]
  offset_t* rows_per_expert;  // [num_groups] that the sizes of the groups are added to, or null
  index_t* slot_of_row;
  index_t* row_of_slot;

  struct Shared {
    Count next[few_groups + 1][threads];  // row of the thread's first slot of each group
    device::Chunk rows[Own::tile / 4];
    device::Chunk groups[threads];
    std::uint16_t sorted[Own::tile];  // slots by row: 13 bits, and 3 of the group
    device::Chunk window_bytes[windows];
    Count window_base[few_groups][windows + 2];
    Count warp_rows[Own::num_warps][4][few_groups];
    Count size[few_groups], total[few_groups], before[few_groups];
    Count delta[few_groups];  // from the place in the sorted tile to the row
  };
  KOKKOS_INLINE_FUNCTION static int scratch(Slots const& s) {
    return Own::scratch(s) + static_cast<int>(sizeof(Shared));
  }

  KOKKOS_FUNCTION void operator()(Member<E> const& member) const {
    Own team(member, slots, scratch(slots));
    auto& s = *team.template take<Shared>(1);
    index_t const end = team.end();
    Count before = 0;  // rows of group `own_warp` in blocks and tiles before
    index_t tile = team.begin();
    do {  // once also without slots
      bool const first = tile == team.begin();
      place(team, s, tile, end, first, before);
      tile += Own::tile;
      if (tile < end) member.team_barrier();
    } while (tile < end);
  }

 private:
  KOKKOS_FORCEINLINE_FUNCTION void place(Own const& team, Shared& s, index_t tile, index_t end,
                                         bool first_tile, Count& before) const {
    int const t = team.rank, lane = team.lane, warp = team.own_warp;
    std::uint32_t quad[Own::quads];
    team.load(tile, end, quad);
    auto* const group_words = reinterpret_cast<std::uint32_t*>(s.groups);
    KMOE_UNROLL
    for (int i = 0; i < Own::quads; ++i) group_words[t + i * threads] = quad[i];
    team.member.team_barrier();

    // Neighbouring slots from here on. The rank of each among the thread's of its group.
    device::Chunk own = s.groups[t];
    std::uint64_t ranks = 0;
    HalfBytes half, all;
    KMOE_UNROLL
    for (int i = 0; i < Own::own_slots; ++i) {
      if (i == Own::own_slots / 2) half = all;
      std::uint32_t const shift = Own::shift(own.words, i);
      ranks |= std::uint64_t{all.of(shift)} << 4 * i;
      all.add(shift);
    }
    // That of all slots of a group would be 16, but differences are right.
    Bytes const mine(half.counts, all.counts - half.counts);
    Bytes sum = mine;
    KMOE_UNROLL
    for (int by = 1; by < 8; by *= 2) {
      KMOE_UNROLL
      for (std::uint32_t& word : sum.words) {
        std::uint32_t const other = device::shuffle_up(word, by);
        if (lane % 8 >= by) word += other;
      }
    }
    if (lane % 8 == 7) {
      s.window_bytes[t / 8] = {{sum.words[0], sum.words[1], sum.words[2], sum.words[3]}};
    }
    KMOE_UNROLL
    for (int i = 0; i < 4; ++i) sum.words[i] -= mine.words[i];
    // Parked where the thread's rows will be: registers are few (Bounds).
    s.rows[4 * t] = Kokkos::bit_cast<device::Chunk>(sum);
    s.rows[4 * t + 1] = {
        {static_cast<std::uint32_t>(ranks), static_cast<std::uint32_t>(ranks >> 32)}};
    if (first_tile) {
      device::wait_for_previous();
      device::let_next_begin();
    }
    team.member.team_barrier();
    add_windows(s, lane, warp, first_tile, team.member.league_rank(), before);
    team.member.team_barrier();

    // Groups on lanes: where each begins in the sorted tile and among all rows.
    int const group = lane % few_groups;
    bool const lower = lane < few_groups;
    Count const size = s.size[group], total = s.total[group];
    Count const first = device::sum_before<Own::warp>(lower ? size : 0, lane);
    Count const offset = device::sum_before<Own::warp>(lower ? total : 0, lane);
    Count const num_rows = device::shuffle(first + size, few_groups - 1);
    Count const upper = device::shuffle(first, few_groups / 2);
    Count const row = device::shuffle(offset + s.before[group], group);
    if (warp == 0 && lower) {
      s.delta[group] = row - first;
      if (first_tile && team.member.league_rank() == 0 && group < slots.num_groups) {
        expert_offsets[group] = offset;
        if (rows_per_expert != nullptr) rows_per_expert[group] += total;
        if (group == slots.num_groups - 1) expert_offsets[group + 1] = offset + total;
      }
    }
    KMOE_UNROLL
    for (int i = 0; i < 2; ++i) {
      int const window = lane / few_groups + 2 * i;
      s.warp_rows[warp][window][group] = row + s.window_base[group][4 * warp + window];
    }
    team.member.team_barrier();

    Count const* const window_rows = s.warp_rows[warp][lane / 8];
    sum = Kokkos::bit_cast<Bytes>(s.rows[4 * t]);
    ranks = std::uint64_t{s.rows[4 * t + 1].words[1]} << 32 | s.rows[4 * t + 1].words[0];
    KMOE_UNROLL
    for (int g = 0; g < few_groups; ++g) s.next[g][t] = window_rows[g] + sum.of(g);
    s.next[few_groups][t] = no_row;
    own = s.groups[t];
    KMOE_UNROLL
    for (int i = 0; i < Own::quads; ++i) {
      device::Chunk rows;
      KMOE_UNROLL
      for (int j = 0; j < 4; ++j) {
        int const n = 4 * i + j;
        std::uint32_t const g = own.words[i] >> 8 * j & 255U;
        rows.words[j] = s.next[g][t] + (static_cast<Count>(ranks >> 4 * n) & 15U);
        if (g < few_groups) {
          s.sorted[rows.words[j] - s.delta[g]] =
              static_cast<std::uint16_t>(t * Own::own_slots + n + (g << 13));
        }
      }
      s.rows[4 * t + (i ^ (t >> 1 & 3))] = rows;  // so that eight threads meet all banks
    }
    team.member.team_barrier();

    KMOE_UNROLL
    for (int i = 0; i < Own::quads; ++i) {
      int const q = t + i * threads;
      index_t const slot = tile + 4 * q;
      device::Chunk const rows = s.rows[q / 4 * 4 + (q % 4 ^ (q >> 3 & 3))];
      if (slot + 3 < end) {
        *static_cast<device::Chunk*>(static_cast<void*>(row_of_slot + slot)) = rows;
      } else {
        KMOE_UNROLL
        for (int j = 0; j < 4; ++j) {
          if (slot + j < end) row_of_slot[slot + j] = static_cast<index_t>(rows.words[j]);
        }
      }
    }
    KMOE_UNROLL
    for (int i = 0; i < Own::own_slots; ++i) {
      auto const p = static_cast<Count>(t + i * threads);
      if (p >= num_rows) break;
      std::uint32_t const entry = s.sorted[p], g = (entry >> 13) + (p >= upper ? 8 : 0);
      slot_of_row[p + s.delta[g]] = tile + static_cast<index_t>(entry & 0x1fffU);
    }
  }

  /// A warp for each group: its slots in the windows before, and in the blocks.
  KOKKOS_FORCEINLINE_FUNCTION void add_windows(Shared& s, int lane, int group, bool first_tile,
                                               index_t block, Count& before) const {
    constexpr int ahead = 3;  // loads under way: of 384 blocks
    device::Chunk loaded[ahead];
    auto const load = [&](index_t b) {
      if (b >= num_blocks) return device::Chunk{};
      return device::read_chunk(counts + group * num_blocks + b);
    };
    if (first_tile) {
      KMOE_UNROLL
      for (int i = 0; i < ahead; ++i) loaded[i] = load(4 * (lane + i * Own::warp));
    }
    Count counted[own_windows], own = 0;
    auto const* const bytes = reinterpret_cast<std::uint8_t const*>(s.window_bytes);
    KMOE_UNROLL
    for (int i = 0; i < own_windows; ++i) {
      counted[i] = bytes[(own_windows * lane + i) * sizeof(device::Chunk) + Bytes::place(group)];
      own += counted[i];
    }
    Count base = device::sum_before<Own::warp>(own, lane);
    if (lane == Own::warp - 1) s.size[group] = base + own;
    KMOE_UNROLL
    for (int i = 0; i < own_windows; ++i) {
      s.window_base[group][own_windows * lane + i] = base;
      base += counted[i];
    }
    if (first_tile) {
      Count total = 0;
      auto const add = [&](device::Chunk const& c, index_t b) {
        Count const four = c.words[0] + c.words[1] + c.words[2] + c.words[3];
        total += four;
        before += b + 4 <= block ? four : 0;
        KMOE_UNROLL
        for (int j = 0; j < 3; ++j) before += b <= block - j - 1 && block < b + 4 ? c.words[j] : 0;
      };
      KMOE_UNROLL
      for (int i = 0; i < ahead; ++i) add(loaded[i], 4 * (lane + i * Own::warp));
      for (index_t b = 4 * (lane + ahead * Own::warp); b < num_blocks; b += 4 * Own::warp) {
        add(load(b), b);
      }
      total = device::sum_over<Own::warp>(total);
      before = device::sum_over<Own::warp>(before);
      if (lane == 0) s.total[group] = total;
    }
    if (lane == 0) s.before[group] = before;
    before += device::shuffle(base, Own::warp - 1);
  }
};

}  // namespace kmoe::grouping
