// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The kernel: tiles of Tile::features features x up to Tile::tokens tokens, each D = B . X^T.
///
/// The weights are the 64-row operand and the tokens the N of the instruction, which comes in steps
/// of 8: an expert with few rows wastes little, and one kernel serves decoding and prefill alike.
/// Persistent blocks: thread 0 hands out tiles and brings weights by bulk tensor copies, warps 1 to
/// 3 gather token rows, one or two warpgroups multiply their share of the features and finish it
/// alone, so that one multiplies while the other applies the activation. The second product of a
/// tile of tokens waits for the first by a counter, not for the end of a kernel; it runs some bands
/// of tiles later (Schedule), when its input is still in the second-level cache.

#include "device/sm90/grouping.hpp"
#include "device/sm90/ptx.hpp"
#include "device/sm90/results.hpp"
#include "device/sm90/schedule.hpp"
#include "device/sm90/wgmma.hpp"

namespace kmoe::device::sm90 {

template <class Tile>
struct Block {
  static constexpr int Tokens = Tile::tokens, Stages = Tile::stages;
  Launch const& launch;
  std::uint32_t base;  // shared memory, a multiple of 1024
  char* memory;        // the same
  Schedule schedule;

  using Sums = float[Tile::parts][Tile::sums / 2];

  __device__ std::uint32_t stage(int s) const { return base + s * Tile::stage_bytes; }
  __device__ std::uint32_t full(int s) const { return base + Tile::barriers + 8 * s; }
  __device__ std::uint32_t empty(int s) const { return full(Stages + s); }
  __device__ std::uint32_t* ready(int tile) const { return launch.counters + 3 + tile; }
  __device__ Task* task_at(int place) const {
    return reinterpret_cast<Task*>(memory + Tile::tasks) + place;
  }
  __device__ std::uint32_t task_full(int place) const {
    return base + Tile::tasks + task_places * static_cast<int>(sizeof(Task)) + 8 * place;
  }
  __device__ std::uint32_t task_empty(int place) const { return task_full(task_places + place); }
  __device__ std::uint32_t number_full(int place) const { return base + Tile::numbers + 8 * place; }
  __device__ std::uint32_t number_at(int place) const {
    return number_full(number_places) + 4 * place;
  }

  /// All threads; lane 0 of warp 0 has the number of the block's first tile, see begin().
  template <class Self>
  __device__ void make_schedule(Self const& self, int number) {
    constexpr int scratch = Tile::early_stages * Tile::stage_bytes;
    schedule =
        cut_groups<Tile::pair * Tokens>(launch, memory + Tile::tables, memory + scratch, number,
                                        [&](Task const& first) { begin(self, first); });
  }

  /// Features of a tile from `first` on that there are.
  __device__ int features_from(Task const& task, int first) const {
    int const width = launch.widths[task.product];
    return min(width, launch.products[task.product].features - task.feature * width) - first;
  }

  __device__ int k_tiles(int product) const {
    constexpr int k = Tile::depth * Tile::row_k;
    return (launch.products[product].k + k - 1) / k;
  }

  /// The number of the next tile. Drawn from a counter where tiles wait for others, so that each
  /// one waits for earlier ones alone, and those are with blocks that run.
  __device__ int draw(int turn) const {
    if (launch.count == 1) return (blockIdx.x + turn * gridDim.x) / Tile::pair;
    return static_cast<int>(atomicAdd(launch.counters + 1, 1U));
  }

  /// While this tile of `tiles` steps is loaded: before which step the next one is drawn, and
  /// before which it is handed out, `tiles`: after the last. Drawn late, so that no block sits on a
  /// tile that another one could begin; handed out when the draw has come back.
  __device__ static int drawn_at(int tiles) {
    return min(tiles - 1, max(tiles - Stages - 2, Stages));
  }
  __device__ static int handed_at(int tiles) { return max(tiles - Stages, drawn_at(tiles) + 1); }

  /// Warp 0 of a pair's blocks: what the first of them has drawn.
  __device__ int share(Ring<number_places>& place, int number) const {
    if (cluster_rank() == 0) {
      if (elect_one()) {
        store_async(address_in(1, number_at(place.stage)), number,
                    address_in(1, number_full(place.stage)));
      }
    } else {
      if (elect_one()) barrier_arrive_expecting(number_full(place.stage), 4);
      barrier_wait(number_full(place.stage), place.phase);
      number = *reinterpret_cast<int volatile const*>(memory + Tile::numbers + 8 * number_places +
                                                      4 * place.stage);
    }
    place.next();
    return number;
  }

  /// A block's half of a pair's tile.
  __device__ static Task own_half(Task task) {
    int const first = min((task.count + 15) / 16 * 8, task.count);
    int const rank = cluster_rank();
    task.row += rank * first;
    task.count = rank == 0 ? first : task.count - first;
    return task;
  }

  /// What all lanes of a warp have; the compiler sees of its place that it is the same for them.
  __device__ static Task same_task(Task task) {
    task.product = same_in_warp(task.product);
    task.group = same_in_warp(task.group);
    task.feature = same_in_warp(task.feature);
    return task;
  }

  /// Warp 0: a tile, to the other warps.
  __device__ Task hand_out(Ring<task_places>& place, Task task) const {
    if constexpr (Tile::pair > 1) task = own_half(task);
    barrier_wait(task_empty(place.stage), place.phase ^ 1);
    if (threadIdx.x == 0) {
      *task_at(place.stage) = task;
      barrier_arrive(task_full(place.stage));
    }
    place.next();
    return same_task(task);
  }

  /// Where features of a matrix begin, in the dimensions of its map behind those of eight rows.
  struct Corner {
    int c2, c3, c4;
  };
  __device__ static Corner corner(Product const& product, int group, int feature) {
    if (product.halves == Halves::none) return {feature / 8, group, 0};
    return {0, feature / 16, group};
  }

  /// Where the weights of a tile are.
  struct Weights {
    CUtensorMap const *inner, *edge;
    int k, width, place;  // place: of a pair's block
    Corner corner;
  };
  __device__ Weights weights_of(Task const& task) const {
    Product const& product = launch.products[task.product];
    int const width = launch.widths[task.product];
    int const own = Tile::pair > 1 ? cluster_rank() * (width / Tile::pair) : 0;
    return {&launch.maps[task.product],
            &launch.edge_maps[task.product],
            product.k,
            width,
            own,
            corner(product, task.group, task.feature * width + own)};
  }

  /// Warp 0: asks for those of step kt. One lane does, but all know: what a copy is told lies in
  /// registers of the warp, where the compiler only puts what it sees to be the same for all lanes.
  /// For one lane alone it makes a loop over lanes of each copy, 50 instructions, and those were
  /// the rate at which few rows streamed.
  __device__ void bring_weights(Weights const& of, int to, int kt) const {
    if (!elect_one()) return;
    barrier_arrive_expecting(full(to), Tile::depth * of.width * row_bytes);
#pragma unroll
    for (int sub = 0; sub < Tile::depth; ++sub) {
      int const k = (kt * Tile::depth + sub) * Tile::row_k;
      bool const edge = k == 0 || k + Tile::row_k >= of.k;
      auto const [c2, c3, c4] = of.corner;
      tensor_copy_5d<Tile::pair>(stage(to) + (sub * Tile::features + of.place) * row_bytes,
                                 edge ? of.edge : of.inner, full(to), k, 0, c2, c3, c4);
    }
  }

  /// Steps of its first tile that warp 0 asks for while the other warps give the slots their
  /// places.
  __device__ int early_steps(Task const& first) const {
    return first.product < 0 ? 0 : min(Tile::early_stages, k_tiles(first.product));
  }
  /// Warp 0: hands the first tile out and does so.
  template <class Self>
  __device__ void begin(Self const& self, Task first) const {
    Ring<task_places> place;
    first = hand_out(place, first);
    if (first.product < 0) return;
    int const early = early_steps(first);
    auto const weights = self.weights_of(first);
    for (int kt = 0; kt < early; ++kt) self.bring_weights(weights, kt, kt);
  }

  /// Warp 0: hands out the tiles, and brings their weights as far ahead as there are stages; the
  /// first one has begun.
  template <class Self>
  __device__ void load_weights(Self const& self) const {
    Ring<Stages> ring;
    Ring<task_places> place;
    Ring<number_places> numbers;
    Task task = same_task(*task_at(0));
    place.next();
    numbers.next();
    int const rank = Tile::pair > 1 ? cluster_rank() : 0;
    int begun = early_steps(task), number = 0;
    for (int turn = 1; task.product >= 0; ++turn) {
      int const tiles = k_tiles(task.product), handed = handed_at(tiles);
      auto const weights = self.weights_of(task);
      for (int kt = 0;; ++kt) {  // from zero: a number that all lanes are seen to have
        if (kt == handed) {
          if constexpr (Tile::pair > 1) number = share(numbers, same_in_warp(number));
          task = hand_out(place, schedule.task(same_in_warp(number)));
        }
        if (kt == tiles) break;
        if (kt == drawn_at(tiles) && rank == 0 && threadIdx.x == 0) number = draw(turn);
        if (kt >= begun) {
          barrier_wait(empty(ring.stage), ring.phase ^ 1);
          self.bring_weights(weights, ring.stage, kt);
        }
        ring.next();
      }
      begun = 0;
    }
  }

  /// For whole warps: the next tile of this block, which stays there until it is passed.
  __device__ Task const* wait_for_task(Ring<task_places> const& place) const {
    barrier_wait(task_full(place.stage), place.phase);
    return task_at(place.stage);
  }
  __device__ void pass_task(Ring<task_places>& place) const {
    barrier_arrive(task_empty(place.stage));  // each lane for itself: racecheck sees no other order
    place.next();
  }
  __device__ Task next_task(Ring<task_places>& place) const {
    Task const task = *wait_for_task(place);
    pass_task(place);
    return task;
  }

  // What blocks derived from this one replace, see fp8_kernel.hpp, packed_kernel.hpp.
  static constexpr int row_lanes = 8;                    // bring 128 bytes of a row
  static constexpr int token_arrivals = loader_threads;  // at a stage, beside that of its weights
  static constexpr bool finishes_together = false;       // the groups of a gated tile
  static constexpr bool finishes_codes = false;  // the last group of the gated tiles of some tokens
  __device__ int beside_rows(Task const&, int const*) const {
    return 0;
  }
  __device__ void bring_beside_rows(int, int, int) const {}
  // Rows of tokens, and those that a gated tile leaves: how wide they are for `k` elements, and
  // which element a column has; what is behind k is zero.
  static constexpr bool arranged = false;
  __device__ static int width_of(int k) {
    return k;
  }
  __device__ static int element_of(int column) {
    return column;
  }
  template <Operand>
  __device__ bool finish_gated(Sums&, Task const&, int, int) const {
    return false;
  }
  template <Operand>
  __device__ void finish_codes(Task const&, int) const {}
  /// The first of the rows that come to a loading thread.
  __device__ static int first_row(int thread) {
    return thread / row_lanes;
  }
  /// Tells a stage's barrier when what this thread has brought is there.
  struct Arrivals {
    static constexpr int behind = 0;  // steps of k: stages of which the barrier is told later
    Block const& block;
    __device__ void add(int stage, int) const { copy_async_arrive(block.full(stage)); }
    __device__ void finish(int) const {}
  };

  /// Warps 1 to 3: the token rows of every tile. Self::row_lanes bring 128 bytes of a row.
  template <Operand Type, class Self>
  __device__ void load_tokens(Self& self) {
    constexpr int lanes = Self::row_lanes;
    constexpr int step = loader_threads / lanes;  // rows that are brought at once
    constexpr int steps = (Tokens + step - 1) / step;
    constexpr int own_rows = (Tokens + loader_threads - 1) / loader_threads;
    static_assert(step % 4 == 0);  // the swizzle of a lane's rows alternates between two
    int const thread = threadIdx.x - 32;
    int const piece = thread % lanes, first = Self::first_row(thread);
    auto const spot = [&](int row) -> std::uint32_t {
      return Tile::weight_bytes + row * row_bytes + ((piece ^ (row & 7)) << 4);
    };
    std::uint32_t const to[2] = {spot(first), spot(first + step)};
    // Where each row begins; the first two of a thread, then the first two of the next...
    struct alignas(16) Two {
      char const* row[2];
    };
    auto* const table = reinterpret_cast<Two*>(memory + Tile::rows);
    auto const* const own = table + first;

    int const last_row = schedule.num_rows() - 1;
    // Which rows the next tile has is looked up while this one is on its way.
    int rows[own_rows];
    auto const look_up = [&](Task const& task) {
      bool const slots = launch.products[task.product].gather;
#pragma unroll
      for (int n = 0; n < own_rows; ++n) {
        // Rows past the end repeat the last one: their columns of D are not stored.
        int const row =
            min(task.row + min(thread + n * loader_threads, max(task.count - 1, 0)), last_row);
        rows[n] = slots ? schedule.token(row) : row;
      }
    };

    Ring<Stages> ring;
    Ring<task_places> place;
    typename Self::Arrivals arrivals{self};
    Task next = next_task(place);
    if (next.product >= 0) look_up(next);
    while (next.product >= 0) {
      Task const task = next;
      Product const& product = launch.products[task.product];
      auto const* const in = static_cast<char const*>(product.in);
      int const width = Self::width_of(product.k), pitch = width / Tile::piece_k * 16;
      named_barrier(1, loader_threads);  // nobody needs the table of the last tile
#pragma unroll
      for (int n = 0; n < own_rows; ++n) {
        int const r = thread + n * loader_threads, m = r / step;
        if (r < Tokens) {
          table[m / 2 * step + r % step].row[m % 2] = in + std::int64_t{rows[n]} * pitch;
        }
      }
      named_barrier(1, loader_threads);
      auto const beside = self.beside_rows(task, rows);
      if (task.product == 1) {
        std::uint32_t const expected =
            launch.order.features[0] * Tile::groups * Tile::pair + (Self::finishes_codes ? 1 : 0);
        while (load_acquire(ready(task.tile)) < expected) __nanosleep(32);
      }
      int const tiles = k_tiles(task.product);
      // The next tile is looked up while the last stages of this one are on their way. To hand it
      // out at a step, the weights need the rows of all but Stages - 1 steps up to it.
      int const look_ahead = handed_at(tiles) < tiles
                                 ? min(max(tiles - Stages, 0) + Self::Arrivals::behind, tiles)
                                 : tiles;
      // Where a tile has few rows, those past the end are not brought, and a thread's first ones
      // are known for all of the tile.
      constexpr bool exact = Tokens <= 64;
      int const count = exact ? task.count - first : task.count;
      Two const ends = own[0];
      for (int kt = 0; kt < tiles; ++kt) {
        if (kt == look_ahead) {
          next = next_task(place);
          if (next.product >= 0) look_up(next);
        }
        barrier_wait(empty(ring.stage), ring.phase ^ 1);
#pragma unroll
        for (int sub = 0; sub < Tile::depth; ++sub) {
          int const k = (kt * Tile::depth + sub) * Tile::row_k;
          std::uint32_t const base = stage(ring.stage) + sub * Tokens * row_bytes;
          std::uint32_t const at[2] = {base + to[0], base + to[1]};
          std::uint32_t const offset = (kt * Tile::depth + sub) * row_bytes + piece * 16;
          auto const bring = [&](auto const& copy) {
            Two ahead = steps > 2 ? own[0] : ends;
#pragma unroll
            for (int m = 0; m < steps; m += 2) {
              if (m * step >= count) break;
              Two const two = ahead;
              if (m + 2 < steps) ahead = own[(m / 2 + 1) * step];
#pragma unroll
              for (int odd = 0; odd < 2; ++odd) {
                if (first + (m + odd) * step >= Tokens) continue;
                if (exact && odd == 1 && (m + odd) * step >= count) continue;
#pragma unroll
                for (int p = 0; p < 8; p += lanes) {
                  copy((at[odd] ^ (p << 4)) + m * step * row_bytes, two.row[odd] + offset + 16 * p,
                       p);
                }
              }
            }
          };
          if (k + Tile::row_k <= width) {
            bring([](std::uint32_t to, void const* from, int) { copy_async_16(to, from); });
          } else {
            int const there = (width - k) / Tile::piece_k - piece;
            bring([=](std::uint32_t to, void const* from, int p) {
              p < there ? copy_async_16(to, from) : copy_async_zeros_16(to, in);
            });
          }
        }
        self.bring_beside_rows(beside, ring.stage, kt);
        arrivals.add(ring.stage, task.count);
        ring.next();
      }
      arrivals.finish(task.count);
      if (look_ahead >= tiles) {
        next = next_task(place);
        if (next.product >= 0) look_up(next);
      }
    }
  }

  /// One lane of a warp that has done with a stage: in both blocks of a pair, each of which loads a
  /// half of the weights for both.
  __device__ void leave(int stage) const {
    barrier_arrive(empty(stage));
    if constexpr (Tile::pair > 1) {
      barrier_arrive_in_cluster(address_in(cluster_rank() ^ 1, empty(stage)));
    }
  }

  /// The sums of one tile: acc = B . X^T for N tokens.
  template <Operand Type, int N>
  __device__ __forceinline__ void multiply(Sums& acc, Ring<Stages>& ring, int group, int tiles,
                                           bool signals) {
    int previous = -1;
    for (int kt = 0; kt < tiles; ++kt) {
      // The same for all lanes, and seen to be: the matrices after these are found beside the
      // others.
      std::uint32_t const at = base + same_in_warp(ring.stage * Tile::stage_bytes);
      std::uint32_t const own = same_in_warp(group * Tile::parts * Tile::part_bytes);
      auto const left = matrix_descriptor<Tile::parts>(at + own);
      auto const right = matrix_descriptor(at + Tile::weight_bytes);
      barrier_wait(full(ring.stage), ring.phase);
      proxy_fence();  // the rows came by ordinary copies
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < Tile::depth * tile_k / 16; ++step) {
        int const sub = step / (tile_k / 16), inner = step % (tile_k / 16);
#pragma unroll
        for (int part = 0; part < Tile::parts; ++part) {
          wgmma<Type, N>(
              acc[part],
              further(left, sub * Tile::features * row_bytes + part * 8 * row_bytes + 32 * inner),
              further(right, sub * Tokens * row_bytes + 32 * inner), (kt | step) != 0);
        }
      }
      wgmma_commit();
      if (previous >= 0) {
        wgmma_wait<1>();
        if (signals) leave(previous);
      }
      previous = ring.stage;
      ring.next();
    }
    wgmma_wait<0>();
    if (signals) leave(previous);
  }

  /// For a group that has no features in a tile.
  __device__ void pass_by(Ring<Stages>& ring, int group, int tiles, bool signals) {
    for (int kt = 0; kt < tiles; ++kt) {
      barrier_wait(full(ring.stage), ring.phase);
      __syncwarp();
      if (signals) leave(ring.stage);
      ring.next();
    }
  }

  /// With the smallest N that `count` tokens need.
  template <Operand Type, int N = Tokens>
  __device__ __forceinline__ void multiply_some(Sums& acc, Ring<Stages>& ring, int group, int tiles,
                                                bool signals, int count) {
    constexpr int fewer = N - (N > 128 ? 16 : 8);
    if constexpr (fewer > 0) {
      if (count <= fewer) {
        return multiply_some<Type, fewer>(acc, ring, group, tiles, signals, count);
      }
    }
    multiply<Type, N>(acc, ring, group, tiles, signals);
  }

  template <Operand Type>
  __device__ __forceinline__ void multiply_tile(Sums& acc, Ring<Stages>& ring, int group,
                                                bool signals, Task const& task) {
    multiply_some<Type>(acc, ring, group, k_tiles(task.product), signals, task.count);
  }

  /// This block's share of the sums of tokens, once all rows are there: they are with blocks that
  /// run.
  template <Operand Type>
  __device__ void add_rows(int barrier, int thread) const {
    if (thread % group_threads == 0) {
      std::uint32_t const expected =
          schedule.num_tiles() * launch.order.features[1] * Tile::groups * Tile::pair;
      while (load_acquire(launch.counters + 2) < expected) __nanosleep(32);
    }
    named_barrier(barrier, group_threads);
    sm90::add_rows<Type>(launch, schedule, thread, Tile::groups * group_threads);
  }

  /// What a warpgroup that multiplies does, see consume.hpp.
  template <Operand Type, class Self>
  __device__ void consume(Self& self, int group);
};

}  // namespace kmoe::device::sm90
