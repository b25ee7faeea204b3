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

#include "device/sm90/activation.hpp"
#include "device/sm90/grouping.hpp"
#include "device/sm90/ptx.hpp"
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

  // In tiles of k: what the first group is ahead of the second.
  static constexpr int lead = Tile::groups == 2 && Tokens >= 128 ? (Stages > 3 ? 2 : 1) : 0;
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

  /// All threads.
  __device__ void make_schedule() {
    auto const tiles = [&](int p) {
      return (launch.products[p].features + launch.widths[p] - 1) / launch.widths[p];
    };
    schedule = cut_groups<Tokens>(launch, memory + Tile::tables, memory, tiles(0),
                                  launch.count == 2 ? tiles(1) : 0);
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
    if (launch.count == 1) return blockIdx.x + turn * gridDim.x;
    return static_cast<int>(atomicAdd(launch.counters + 1, 1U));
  }

  /// While this tile of `tiles` steps is loaded: before which step the next one is drawn, and
  /// before which it is handed out, `tiles`: after the last. Drawn late, so that no block sits on a
  /// tile that another one could begin; handed out when the draw has come back.
  __device__ static int drawn_at(int tiles) {
    return min(tiles - 1, max(tiles - Stages - 2, Stages));
  }
  __device__ static int handed_at(int tiles) { return max(tiles - Stages, drawn_at(tiles) + 1); }

  /// Thread 0: the i-th tile to the other warps.
  __device__ Task hand_out(Ring<task_places>& place, int i) const {
    Task const task = schedule.task(i);
    barrier_wait(task_empty(place.stage), place.phase ^ 1);
    *task_at(place.stage) = task;
    barrier_arrive(task_full(place.stage));
    place.next();
    return task;
  }

  /// Thread 0: hands out the tiles, and brings their weights as far ahead as there are stages.
  __device__ void load_weights(int number) {
    Ring<Stages> ring;
    Ring<task_places> place;
    Task task = hand_out(place, number);
    for (int turn = 1; task.product >= 0; ++turn) {
      Product const& product = launch.products[task.product];
      int const tiles = k_tiles(task.product);
      int const handed = handed_at(tiles);
      int const first = task.feature * launch.widths[task.product];
      int const bytes = launch.widths[task.product] * row_bytes;
      CUtensorMap const* const inner_map = &launch.maps[task.product];
      CUtensorMap const* const edge_map = &launch.edge_maps[task.product];
      Task next;
      for (int kt = 0; kt < tiles; ++kt) {
        if (kt == drawn_at(tiles)) number = draw(turn);
        if (kt == handed) next = hand_out(place, number);
        barrier_wait(empty(ring.stage), ring.phase ^ 1);
        std::uint32_t const barrier = full(ring.stage);
        barrier_arrive_expecting(barrier, Tile::depth * bytes);
#pragma unroll
        for (int sub = 0; sub < Tile::depth; ++sub) {
          int const k = (kt * Tile::depth + sub) * Tile::row_k;
          bool const edge = k == 0 || k + Tile::row_k >= product.k;
          CUtensorMap const* const map = edge ? edge_map : inner_map;
          std::uint32_t const to = stage(ring.stage) + sub * Tile::features * row_bytes;
          if (product.halves == Halves::none) {
            tensor_copy_3d(to, map, barrier, k, first, task.group);
          } else {
            tensor_copy_5d(to, map, barrier, k, 0, 0, first / 16, task.group);
          }
        }
        ring.next();
      }
      if (handed >= tiles) next = hand_out(place, number);
      task = next;
    }
  }

  /// For whole warps: the next tile of this block.
  __device__ Task next_task(Ring<task_places>& place) const {
    barrier_wait(task_full(place.stage), place.phase);
    Task const task = *task_at(place.stage);
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(task_empty(place.stage));
    place.next();
    return task;
  }

  // What blocks derived from this one replace, see fp8_kernel.hpp, packed_kernel.hpp.
  static constexpr int row_lanes = 8;                    // bring 128 bytes of a row
  static constexpr int weight_threads = 1;               // of load_weights()
  static constexpr int token_arrivals = loader_threads;  // at a stage, of all but thread 0
  static constexpr bool finishes_together = false;       // the groups of a gated tile
  __device__ int beside_rows(Task const&, std::uint32_t const*) const {
    return 0;
  }
  __device__ void bring_beside_rows(int, int, int) const {}
  template <Operand>
  __device__ bool finish_gated(Sums&, Task const&, int, int) const {
    return false;
  }
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
    auto* const tables = reinterpret_cast<std::uint32_t*>(memory + Tile::rows);

    int const last_row = schedule.first_row[schedule.groups] - 1;
    // Where the rows of the next tile lie is looked up while this one is on its way.
    int rows[own_rows];
    auto const look_up = [&](Task const& task) {
      bool const slots = launch.products[task.product].gather;
#pragma unroll
      for (int n = 0; n < own_rows; ++n) {
        // Rows past the end repeat the last one: their columns of D are not stored.
        int const row =
            min(task.row + min(thread + n * loader_threads, max(task.count - 1, 0)), last_row);
        rows[n] = slots ? schedule.slot(row) : row;
      }
    };

    Ring<Stages> ring;
    Ring<task_places> place;
    typename Self::Arrivals arrivals{self};
    Task next = next_task(place);
    if (next.product >= 0) look_up(next);
    for (int buffer = 0; next.product >= 0; buffer ^= 1) {
      Task const task = next;
      Product const& product = launch.products[task.product];
      // Where each row begins, in 16 bytes; those that a thread brings lie together.
      std::uint32_t* const table = tables + buffer * Tile::row_places;
      auto const* const own = reinterpret_cast<uint4 const*>(table + first * Tile::own_places);
      std::uint32_t const pitch = product.k / Tile::piece_k;
      int const divisor = schedule.has_slots() && product.gather ? launch.slots_per_row : 1;
#pragma unroll
      for (int n = 0; n < own_rows; ++n) {
        int const r = thread + n * loader_threads;
        if (r < Tokens) table[r % step * Tile::own_places + r / step] = rows[n] / divisor * pitch;
      }
      named_barrier(1, loader_threads);
      [[maybe_unused]] uint4 kept[Tile::own_places / 4];
      if constexpr (Tile::rows_in_registers) {
#pragma unroll
        for (int n = 0; n < Tile::own_places / 4; ++n) kept[n] = own[n];
      }
      if (task.product == 1) {
        std::uint32_t const expected = schedule.features0 * Tile::groups;
        while (load_acquire(ready(task.tile)) < expected) __nanosleep(32);
      }
      auto const* const in = static_cast<uint4 const*>(product.in);
      auto const beside = self.beside_rows(task, table);
      int const tiles = k_tiles(task.product);
      // The next tile is looked up while the last stages of this one are on their way. To hand it
      // out at a step, the weights need the rows of all but Stages - 1 steps up to it.
      int const look_ahead = handed_at(tiles) < tiles
                                 ? min(max(tiles - Stages, 0) + Self::Arrivals::behind, tiles)
                                 : tiles;
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
          uint4 const* const from = in + k / Tile::piece_k + piece;
          auto const bring = [&](auto const& copy) {
#pragma unroll
            for (int n = 0; n < steps; n += 4) {
              if (n * step >= task.count) break;
              uint4 const four = Tile::rows_in_registers ? kept[n / 4] : own[n / 4];
              std::uint32_t const pieces[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
              for (int m = n; m < n + 4 && m < steps; ++m) {
                if (m % 2 == 0 && m * step >= task.count) break;
                if (first + m * step < Tokens) {
#pragma unroll
                  for (int p = 0; p < 8; p += lanes) {
                    copy((at[m % 2] ^ (p << 4)) + m / 2 * 2 * step * row_bytes,
                         from + pieces[m - n] + p, p);
                  }
                }
              }
            }
          };
          if (k + Tile::row_k <= product.k) {
            bring([](std::uint32_t to, void const* from, int) { copy_async_16(to, from); });
          } else {
            int const there = (product.k - k) / Tile::piece_k - piece;
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

  /// The sums of one tile: acc = B . X^T for N tokens.
  template <Operand Type, int N>
  __device__ __forceinline__ void multiply(Sums& acc, Ring<Stages>& ring, int group, int tiles,
                                           bool signals) {
    int previous = -1;
    // The second group stays behind the first one: they finish their tiles one after the other.
    if (lead > 0 && group == 1) named_barrier(4, 2 * group_threads);
    for (int kt = 0; kt < tiles; ++kt) {
      barrier_wait(full(ring.stage), ring.phase);
      proxy_fence();  // the rows came by ordinary copies
      std::uint32_t const at = stage(ring.stage);
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < Tile::depth * tile_k / 16; ++step) {
        int const sub = step / (tile_k / 16), inner = step % (tile_k / 16);
        auto const left = matrix_descriptor(at + sub * Tile::features * row_bytes +
                                            group * Tile::parts * Tile::part_bytes) +
                          2 * inner;
        auto const right =
            matrix_descriptor(at + Tile::weight_bytes + sub * Tokens * row_bytes) + 2 * inner;
#pragma unroll
        for (int part = 0; part < Tile::parts; ++part) {
          wgmma<Type, N>(acc[part], left + part * (Tile::part_bytes >> 4), right, (kt | step) != 0);
        }
      }
      wgmma_commit();
      if (lead > 0 && group == 0 && kt == min(lead, tiles) - 1) {
        named_barrier_arrive(4, 2 * group_threads);
      }
      if (previous >= 0) {
        wgmma_wait<1>();
        if (signals) barrier_arrive(empty(previous));
      }
      previous = ring.stage;
      ring.next();
    }
    wgmma_wait<0>();
    if (signals) barrier_arrive(empty(previous));
  }

  /// For a group that has no features in a tile.
  __device__ void pass_by(Ring<Stages>& ring, int group, int tiles, bool signals) {
    if (lead > 0 && group == 1) named_barrier(4, 2 * group_threads);
    for (int kt = 0; kt < tiles; ++kt) {
      barrier_wait(full(ring.stage), ring.phase);
      __syncwarp();
      if (signals) barrier_arrive(empty(ring.stage));
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

  template <Operand Type, class Self>
  __device__ void consume(Self& self, int group);
  template <Operand Type>
  __device__ void add_rows(int barrier, int thread) const;
};

template <class Tile>
template <Operand Type, class Self>
__device__ void Block<Tile>::consume(Self& self, int group) {
  int const thread = threadIdx.x % group_threads, warp = thread / 32, lane = thread % 32;
  int const barrier = 2 + group;
  std::uint32_t const staging = base + Tile::staging + group * Tile::staging_bytes;
  auto const* const staged = memory + Tile::staging + group * Tile::staging_bytes;
  auto* const token_weights = reinterpret_cast<float*>(memory + Tile::weights) + group * Tile::sums;
  constexpr int own_rows = (Tokens + group_threads - 1) / group_threads;

  clear_missing(launch, schedule, group * group_threads + thread, Tile::groups * group_threads);
  Ring<Stages> ring;
  Sums acc;
  Ring<task_places> place;
  for (Task task = next_task(place); task.product >= 0; task = next_task(place)) {
    Product const& product = launch.products[task.product];
    bool const gated = product.halves != Halves::none;
    bool const weighted = product.weights != nullptr;
    bool const tells = task.product == 0 ? launch.count == 2 : launch.sides.sums != nullptr;
    auto const tell = [&] {
      if (!tells || thread != 0) return;
      add_release(task.product == 0 ? ready(task.tile) : launch.counters + 2, 1);
    };
    int const own_first = group * Tile::parts * Tile::part_features;
    int const first_feature = task.feature * launch.widths[task.product] + own_first;
    if (features_from(task, own_first) <= 0 && !(gated && Self::finishes_together)) {
      pass_by(ring, group, k_tiles(task.product), lane == 0);
      tell();
      continue;
    }

    float own_weights[own_rows];
    if (weighted) {
#pragma unroll
      for (int n = 0; n < own_rows; ++n) {
        int const r = thread + n * group_threads;
        if (r < task.count) {
          own_weights[n] = product.weights[schedule.slot(task.row + r)];
        }
      }
    }

    self.template multiply_tile<Type>(acc, ring, group, lane == 0, task);

    if (weighted) {
#pragma unroll
      for (int n = 0; n < own_rows; ++n) {
        int const r = thread + n * group_threads;
        if (r < task.count) token_weights[r] = own_weights[n];
      }
      named_barrier(barrier, group_threads);
    }

    auto* const out = static_cast<std::uint16_t*>(product.out);
    if (gated && self.template finish_gated<Type>(acc, task, group, thread)) {
      // It is.
    } else if (gated) {
      constexpr int most = Tile::staging_bytes / 64;
      constexpr int chunk = Tile::sums < most ? Tile::sums : most;
      constexpr int own = Tile::part_features / 2;
      int const width = product.features / 2;
#pragma unroll
      for (int part = 0; part < Tile::parts; ++part) {
        int const begin = (first_feature + part * Tile::part_features) / 2;
        int const feature = begin + 8 * warp + lane / 4;
        float bias[2] = {0.0F, 0.0F};
        if (product.bias != nullptr && feature < width) {
          bool const interleaved = product.halves == Halves::interleaved;
          float const* const b = product.bias + std::int64_t{task.group} * product.features +
                                 (interleaved ? 2 * feature : feature);
          bias[0] = b[0];
          bias[1] = b[interleaved ? 1 : width];
        }
        with_activation(product, [&](auto const& act) {
          auto const finish = [&](float first, float second) {
            return act(first + bias[0], second + bias[1]);
          };
#pragma unroll
          for (int c = 0; c < Tile::sums; c += chunk) {
            if (c < task.count) {
#pragma unroll
              for (int j = c / 8; j < min(c + chunk, Tile::sums) / 8; j += 4) {
                if (8 * j < task.count) {
                  std::uint32_t m[4];
#pragma unroll
                  for (int n = 0; n < 4; ++n) {
                    float const* const d = acc[part] + 4 * (j + n);
                    m[n] = pack<Type>(finish(d[0], d[2]), finish(d[1], d[3]));
                  }
                  int const token = 8 * j - c + lane;
                  store_transposed(staging + token * 64 + ((warp ^ ((token >> 1) & 3)) << 4), m[0],
                                   m[1], m[2], m[3]);
                }
              }
              named_barrier(barrier, group_threads);
#pragma unroll
              for (int n = 0; n < chunk * 4 / group_threads; ++n) {
                int const token = (thread + n * group_threads) / 4, piece = thread % 4;
                if (c + token < task.count && 8 * piece < own && begin + 8 * piece < width) {
                  auto const value = *reinterpret_cast<uint4 const*>(
                      staged + token * 64 + ((piece ^ ((token >> 1) & 3)) << 4));
                  *reinterpret_cast<uint4*>(out + std::int64_t{task.row + c + token} * width +
                                            begin + 8 * piece) = value;
                }
              }
              named_barrier(barrier, group_threads);
            }
          }
        });
      }
    } else {
      constexpr int most = Tile::staging_bytes / 128;
      constexpr int chunk = Tile::sums < most ? Tile::sums : most;
      constexpr int own = Tile::part_features, stores = chunk * 8 / group_threads;
      int const width = product.features;
#pragma unroll
      for (int part = 0; part < Tile::parts; ++part) {
        int const begin = first_feature + part * Tile::part_features;
        int const feature = begin + 16 * warp + lane / 4;
        float bias[2] = {0.0F, 0.0F};
        if (product.bias != nullptr) {
          float const* const b = product.bias + std::int64_t{task.group} * width;
          if (feature < width) bias[0] = b[feature];
          if (feature + 8 < width) bias[1] = b[feature + 8];
        }
        auto const finish = [&](auto const& act) {
#pragma unroll
          for (int c = 0; c < Tile::sums; c += chunk) {
            if (c < task.count) {
              int to[stores];
#pragma unroll
              for (int n = 0; n < stores; ++n) {
                int const token = c + (thread + n * group_threads) / 8;
                to[n] = task.row + token;
                if (launch.sides.direct != nullptr && token < task.count)
                  to[n] = schedule.slot(to[n]);
              }
#pragma unroll
              for (int j = c / 8; j < min(c + chunk, Tile::sums) / 8; j += 2) {
                if (8 * j < task.count) {
                  std::uint32_t m[4];
#pragma unroll
                  for (int n = 0; n < 2; ++n) {
                    float const* const d = acc[part] + 4 * (j + n);
                    float2 w = {1.0F, 1.0F};
                    if (weighted) {
                      w = *reinterpret_cast<float2 const*>(token_weights + 8 * (j + n) +
                                                           2 * (lane % 4));
                    }
                    m[2 * n] = pack<Type>(w.x * act(d[0] + bias[0]), w.y * act(d[1] + bias[0]));
                    m[2 * n + 1] = pack<Type>(w.x * act(d[2] + bias[1]), w.y * act(d[3] + bias[1]));
                  }
                  int const token = 8 * j - c + 8 * (lane / 16) + lane % 8;
                  int const piece = 2 * warp + lane / 8 % 2;
                  store_transposed(staging + token * 128 + ((piece ^ (token & 7)) << 4), m[0], m[1],
                                   m[2], m[3]);
                }
              }
              named_barrier(barrier, group_threads);
#pragma unroll
              for (int n = 0; n < stores; ++n) {
                int const token = (thread + n * group_threads) / 8, piece = thread % 8;
                if (c + token < task.count && 8 * piece < own && begin + 8 * piece < width) {
                  auto const value = *reinterpret_cast<uint4 const*>(staged + token * 128 +
                                                                     ((piece ^ (token & 7)) << 4));
                  *reinterpret_cast<uint4*>(out + std::int64_t{to[n]} * width + begin + 8 * piece) =
                      value;
                }
              }
              named_barrier(barrier, group_threads);
            }
          }
        };
        if (product.act == Act::identity) {
          finish([](float x) { return x; });
        } else {
          finish([&](float x) { return activate_other(product.act, x); });
        }
      }
    }
    tell();
  }
  if (launch.sides.sums != nullptr) add_rows<Type>(barrier, group * group_threads + thread);
}

/// This block's share of the sums of tokens, once all rows are there: they are with blocks that
/// run.
template <class Tile>
template <Operand Type>
__device__ void Block<Tile>::add_rows(int barrier, int thread) const {
  if (thread % group_threads == 0) {
    std::uint32_t const expected = schedule.num_tiles * schedule.features1 * Tile::groups;
    while (load_acquire(launch.counters + 2) < expected) __nanosleep(32);
  }
  named_barrier(barrier, group_threads);
  constexpr int threads = Tile::groups * group_threads, batch = 8;  // rows in flight
  int const pieces = launch.products[1].features / 8, k = launch.slots_per_row;
  int const count = launch.sides.num_slots / k * pieces;
  auto const* const rows = static_cast<uint4 const*>(launch.products[1].out);
  for (int i = blockIdx.x * threads + thread; i < count; i += gridDim.x * threads) {
    int const token = i / pieces, piece = i - token * pieces;
    float sum[8] = {};
    for (int first = 0; first < k; first += batch) {
      int at[batch];
      uint4 part[batch];
#pragma unroll
      for (int n = 0; n < batch; ++n) {
        at[n] = first + n < k ? schedule.short_rows[token * k + first + n] : -1;
      }
#pragma unroll
      for (int n = 0; n < batch; ++n) {
        if (at[n] >= 0) part[n] = __ldcg(rows + std::int64_t{at[n]} * pieces + piece);
      }
#pragma unroll
      for (int n = 0; n < batch; ++n) {
        if (at[n] >= 0) add_unpacked<Type>(sum, part[n]);
      }
    }
    static_cast<uint4*>(launch.sides.sums)[i] = {
        pack<Type>(sum[0], sum[1]), pack<Type>(sum[2], sum[3]), pack<Type>(sum[4], sum[5]),
        pack<Type>(sum[6], sum[7])};
  }
}

}  // namespace kmoe::device::sm90
