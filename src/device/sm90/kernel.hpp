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

  static constexpr int lead = Tile::groups == 2 && Tokens >= 128 ? 2 : 0;  // in tiles of k
  using Sums = float[Tile::parts][Tokens / 2];

  __device__ std::uint32_t stage(int s) const { return base + s * Tile::stage_bytes; }
  __device__ std::uint32_t full(int s) const { return base + Tile::barriers + 8 * s; }
  __device__ std::uint32_t empty(int s) const { return full(Stages + s); }
  __device__ std::uint32_t* ready(int tile) const { return launch.counters + 2 + tile; }
  __device__ Task* task_at(int place) const {
    return reinterpret_cast<Task*>(memory + Tile::tasks) + place;
  }
  __device__ std::uint32_t task_full(int place) const {
    return base + Tile::tasks + task_places * static_cast<int>(sizeof(Task)) + 8 * place;
  }
  __device__ std::uint32_t task_empty(int place) const { return task_full(task_places + place); }

  /// Cuts the groups into tiles. All threads.
  __device__ void make_schedule() {
    auto* const first_tile = reinterpret_cast<int*>(memory + Tile::tables);
    int* const first_row = first_tile + launch.groups + 1;
    for (int g = threadIdx.x; g <= launch.groups; g += Tile::threads) {
      first_row[g] = static_cast<int>(min(launch.offsets[g], launch.max_rows));
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      int const lane = threadIdx.x;
      int carry = 0;
      for (int base_group = 0; base_group < launch.groups; base_group += 32) {
        int const g = base_group + lane;
        int sum = g < launch.groups ? (first_row[g + 1] - first_row[g] + Tokens - 1) / Tokens : 0;
        int const own = sum;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
          int const below = __shfl_up_sync(~0U, sum, d);
          if (lane >= d) sum += below;
        }
        if (g < launch.groups) first_tile[g] = carry + sum - own;
        carry += __shfl_sync(~0U, sum, 31);
      }
      if (lane == 0) first_tile[launch.groups] = carry;
    }
    __syncthreads();
    auto const tiles = [&](int p) {
      return (launch.products[p].features + Tile::features - 1) / Tile::features;
    };
    schedule = {first_tile,  first_row,  launch.groups, first_tile[launch.groups],
                launch.band, launch.lag, tiles(0),      launch.count == 2 ? tiles(1) : 0};
  }

  __device__ int k_tiles(int product) const {
    return (launch.products[product].k + tile_k - 1) / tile_k;
  }

  /// The number of the next tile. Drawn from a counter where tiles wait for others, so that each
  /// one waits for earlier ones alone, and those are with blocks that run.
  __device__ int draw(int turn) const {
    if (launch.count == 1) return blockIdx.x + turn * gridDim.x;
    return static_cast<int>(atomicAdd(launch.counters + 1, 1U));
  }

  /// Thread 0: hands out the tiles, and brings their weights as far ahead as there are stages.
  __device__ void load_weights(int number) {
    Ring<Stages> ring;
    Ring<task_places> place;
    auto const hand_out = [&](int i) {
      Task const task = schedule.task(i);
      barrier_wait(task_empty(place.stage), place.phase ^ 1);
      *task_at(place.stage) = task;
      barrier_arrive(task_full(place.stage));
      place.next();
      return task;
    };
    Task task = hand_out(number);
    for (int turn = 1; task.product >= 0; ++turn) {
      number = draw(turn);
      Product const& product = launch.products[task.product];
      CUtensorMap const* const map = &launch.maps[task.product];
      int const tiles = k_tiles(task.product);
      Task next;
      for (int kt = 0; kt < tiles; ++kt) {
        // The loaders of rows want to know the next tile before this one can move on.
        if (kt == Stages) next = hand_out(number);
        barrier_wait(empty(ring.stage), ring.phase ^ 1);
        std::uint32_t const barrier = full(ring.stage);
        barrier_arrive_expecting(barrier, Tile::weight_bytes);
#pragma unroll
        for (int part = 0; part < Tile::features / copy_features; ++part) {
          std::uint32_t const to = stage(ring.stage) + part * copy_bytes;
          int const feature = task.feature * Tile::features + part * copy_features;
          if (product.halves == Halves::none) {
            tensor_copy_3d(to, map, barrier, kt * tile_k, feature, task.group);
          } else {
            tensor_copy_5d(to, map, barrier, kt * tile_k, 0, 0, feature / 16, task.group);
          }
        }
        ring.next();
      }
      if (tiles <= Stages) next = hand_out(number);
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

  /// Warps 1 to 3: the token rows of every tile. Eight lanes bring 128 bytes of a row.
  __device__ void load_tokens() {
    constexpr int step = loader_threads / 8;  // rows that are brought at once
    constexpr int steps = (Tokens + step - 1) / step;
    constexpr int own_rows = (Tokens + loader_threads - 1) / loader_threads;
    static_assert(step % 4 == 0);  // the swizzle of a lane's rows alternates between two
    int const thread = threadIdx.x - 32;
    int const piece = thread % 8, first = thread / 8;
    auto const spot = [&](int row) -> std::uint32_t {
      return Tile::weight_bytes + row * row_bytes + ((piece ^ (row & 7)) << 4);
    };
    std::uint32_t const to[2] = {spot(first), spot(first + step)};
    auto* const tables = reinterpret_cast<int*>(memory + Tile::rows);

    int const last_row = schedule.first_row[schedule.groups] - 1;
    // Where the rows of the next tile lie is looked up while this one is on its way.
    int rows[own_rows];
    auto const look_up = [&](Task const& task) {
      bool const slots = launch.slots != nullptr && launch.products[task.product].gather;
#pragma unroll
      for (int n = 0; n < own_rows; ++n) {
        // Rows past the end repeat the last one: their columns of D are not stored.
        int const row =
            min(task.row + min(thread + n * loader_threads, max(task.count - 1, 0)), last_row);
        rows[n] = slots ? launch.slots[row] : row;
      }
    };

    Ring<Stages> ring;
    Ring<task_places> place;
    Task next = next_task(place);
    if (next.product >= 0) look_up(next);
    for (int buffer = 0; next.product >= 0; buffer ^= 1) {
      Task const task = next;
      Product const& product = launch.products[task.product];
      int* const table = tables + buffer * Tokens;
      int const divisor = launch.slots != nullptr && product.gather ? launch.slots_per_row : 1;
#pragma unroll
      for (int n = 0; n < own_rows; ++n) {
        int const r = thread + n * loader_threads;
        if (r < Tokens) table[r] = rows[n] / divisor;
      }
      named_barrier(1, loader_threads);
      next = next_task(place);
      if (next.product >= 0) look_up(next);

      std::uint32_t pieces[steps];  // where a row's piece begins, in 16 bytes
      std::uint32_t const pitch = product.k / 8;
#pragma unroll
      for (int n = 0; n < steps; ++n) {
        if (first + n * step < Tokens) pieces[n] = table[first + n * step] * pitch + piece;
      }
      if (task.product == 1) {
        std::uint32_t const expected = schedule.features0 * Tile::groups;
        while (load_acquire(ready(task.tile)) < expected) __nanosleep(32);
      }
      auto const* const in = static_cast<uint4 const*>(product.in);
      int const tiles = k_tiles(task.product);
      for (int kt = 0; kt < tiles; ++kt) {
        barrier_wait(empty(ring.stage), ring.phase ^ 1);
        std::uint32_t const at[2] = {stage(ring.stage) + to[0], stage(ring.stage) + to[1]};
        uint4 const* const from = in + kt * (tile_k / 8);
        auto const bring = [&](auto const& copy) {
#pragma unroll
          for (int n = 0; n < steps; n += 2) {
            if (n * step >= task.count) break;
#pragma unroll
            for (int m = n; m < n + 2 && m < steps; ++m) {
              if (first + m * step < Tokens) {
                copy(at[m % 2] + m / 2 * 2 * step * row_bytes, from + pieces[m]);
              }
            }
          }
        };
        if ((kt + 1) * tile_k <= product.k) {
          bring([](std::uint32_t to, void const* from) { copy_async_16(to, from); });
        } else {
          bool const inside = kt * tile_k + piece * 8 < product.k;
          bring([=](std::uint32_t to, void const* from) {
            inside ? copy_async_16(to, from) : copy_async_zeros_16(to, in);
          });
        }
        copy_async_arrive(full(ring.stage));
        ring.next();
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
      auto const left = matrix_descriptor(at + group * Tile::parts * copy_bytes);
      auto const right = matrix_descriptor(at + Tile::weight_bytes);
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < tile_k / 16; ++step) {
#pragma unroll
        for (int part = 0; part < Tile::parts; ++part) {
          wgmma<Type, N>(acc[part], left + part * (copy_bytes >> 4) + 2 * step, right + 2 * step,
                         (kt | step) != 0);
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

  template <Operand Type>
  __device__ __forceinline__ void multiply(Sums& acc, Ring<Stages>& ring, int group, int tiles,
                                           bool signals, int count) {
#define KMOE_CASE(n)                                                               \
  if constexpr (n <= Tokens) {                                                     \
    if (count > n - 8) return multiply<Type, n>(acc, ring, group, tiles, signals); \
  }
    KMOE_CASE(128)
    KMOE_CASE(120)
    KMOE_CASE(112)
    KMOE_CASE(104)
    KMOE_CASE(96)
    KMOE_CASE(88)
    KMOE_CASE(80)
    KMOE_CASE(72)
    KMOE_CASE(64)
    KMOE_CASE(56)
    KMOE_CASE(48)
    KMOE_CASE(40)
    KMOE_CASE(32)
    KMOE_CASE(24)
    KMOE_CASE(16)
    multiply<Type, 8>(acc, ring, group, tiles, signals);
#undef KMOE_CASE
  }

  template <Operand Type>
  __device__ void consume(int group);
};

template <class Tile>
template <Operand Type>
__device__ void Block<Tile>::consume(int group) {
  int const thread = threadIdx.x % group_threads, warp = thread / 32, lane = thread % 32;
  int const barrier = 2 + group;
  std::uint32_t const staging = base + Tile::staging + group * Tile::staging_bytes;
  auto const* const staged = memory + Tile::staging + group * Tile::staging_bytes;
  auto* const token_weights = reinterpret_cast<float*>(memory + Tile::weights) + group * Tokens;
  constexpr int own_rows = (Tokens + group_threads - 1) / group_threads;

  Ring<Stages> ring;
  Sums acc;
  Ring<task_places> place;
  for (Task task = next_task(place); task.product >= 0; task = next_task(place)) {
    Product const& product = launch.products[task.product];
    bool const gated = product.halves != Halves::none;
    bool const weighted = product.weights != nullptr;

    float own_weights[own_rows];
    if (weighted) {
#pragma unroll
      for (int n = 0; n < own_rows; ++n) {
        int const r = thread + n * group_threads;
        if (r < task.count) {
          own_weights[n] =
              product.weights[launch.slots != nullptr ? launch.slots[task.row + r] : task.row + r];
        }
      }
    }

    multiply<Type>(acc, ring, group, k_tiles(task.product), lane == 0, task.count);

    if (weighted) {
#pragma unroll
      for (int n = 0; n < own_rows; ++n) {
        int const r = thread + n * group_threads;
        if (r < task.count) token_weights[r] = own_weights[n];
      }
      named_barrier(barrier, group_threads);
    }

    auto* const out = static_cast<std::uint16_t*>(product.out);
    if (gated) {
      constexpr int chunk = Tokens < 128 ? Tokens : 128;
      int const width = product.features / 2;
#pragma unroll
      for (int part = 0; part < Tile::parts; ++part) {
        int const begin =
            (task.feature * Tile::features + (group * Tile::parts + part) * copy_features) / 2;
        int const feature = begin + 8 * warp + lane / 4;
        float bias[2] = {0.0F, 0.0F};
        if (product.bias != nullptr && feature < width) {
          bool const interleaved = product.halves == Halves::interleaved;
          float const* const b = product.bias + std::int64_t{task.group} * product.features +
                                 (interleaved ? 2 * feature : feature);
          bias[0] = b[0];
          bias[1] = b[interleaved ? 1 : width];
        }
        bool const swapped = product.halves == Halves::up_first;
        with_activation(product, [&](auto const& act) {
          auto const finish = [&](float first, float second) {
            first += bias[0];
            second += bias[1];
            return act(swapped ? second : first, swapped ? first : second);
          };
#pragma unroll
          for (int c = 0; c < Tokens; c += chunk) {
            if (c < task.count) {
#pragma unroll
              for (int j = c / 8; j < (c + chunk) / 8; j += 4) {
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
                if (c + token < task.count && begin + 8 * piece < width) {
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
      constexpr int chunk = Tokens < 64 ? Tokens : 64;
      int const width = product.features;
#pragma unroll
      for (int part = 0; part < Tile::parts; ++part) {
        int const begin =
            task.feature * Tile::features + (group * Tile::parts + part) * copy_features;
        int const feature = begin + 16 * warp + lane / 4;
        float bias[2] = {0.0F, 0.0F};
        if (product.bias != nullptr) {
          float const* const b = product.bias + std::int64_t{task.group} * width;
          if (feature < width) bias[0] = b[feature];
          if (feature + 8 < width) bias[1] = b[feature + 8];
        }
        auto const finish = [&](auto const& act) {
#pragma unroll
          for (int c = 0; c < Tokens; c += chunk) {
            if (c < task.count) {
#pragma unroll
              for (int j = c / 8; j < (c + chunk) / 8; j += 2) {
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
              for (int n = 0; n < chunk * 8 / group_threads; ++n) {
                int const token = (thread + n * group_threads) / 8, piece = thread % 8;
                if (c + token < task.count && begin + 8 * piece < width) {
                  auto const value = *reinterpret_cast<uint4 const*>(staged + token * 128 +
                                                                     ((piece ^ (token & 7)) << 4));
                  *reinterpret_cast<uint4*>(out + std::int64_t{task.row + c + token} * width +
                                            begin + 8 * piece) = value;
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
    if (task.product == 0 && launch.count == 2 && thread == 0) {
      __threadfence();
      add_release(ready(task.tile), 1);
    }
  }
}

template <Operand Type, class Tile>
__global__ void __launch_bounds__(Tile::threads, 1)
    experts_kernel(__grid_constant__ Launch const launch) {
  extern __shared__ char raw[];
  std::uint32_t const address = shared_address(raw), base = (address + 1023) / 1024 * 1024;
  Block<Tile> block{launch, base, raw + (base - address), {}};
  int number = 0;
  if (threadIdx.x == 0) {
    number = block.draw(0);
    for (int p = 0; p < launch.count; ++p) tensor_prefetch(&launch.maps[p]);
    constexpr int consumer_warps = Tile::groups * group_threads / 32;
    for (int s = 0; s < Tile::stages; ++s) {
      barrier_init(block.full(s), 1 + loader_threads);
      barrier_init(block.empty(s), consumer_warps);
    }
    for (int p = 0; p < task_places; ++p) {
      barrier_init(block.task_full(p), 1);
      barrier_init(block.task_empty(p), loader_threads / 32 + consumer_warps);
    }
    barrier_init_fence();
  }
  block.make_schedule();

  if (threadIdx.x < group_threads) {
    registers_give<Tile::groups == 1 ? 104 : 72>();
    if (threadIdx.x == 0) {
      block.load_weights(number);
    } else if (threadIdx.x >= 32) {
      block.load_tokens();
    }
    __syncwarp();
  } else {
    registers_take<Tile::groups == 1 ? 240 : 216>();
    block.template consume<Type>(static_cast<int>(threadIdx.x) / group_threads - 1);
  }

  // The last block leaves the counters as it found them.
  if (launch.count == 2) {
    __syncthreads();
    bool const last = threadIdx.x == 0 && atomicAdd(launch.counters, 1U) == gridDim.x - 1;
    if (__syncthreads_or(last) != 0) {
      for (int t = threadIdx.x; t < block.schedule.num_tiles + 2; t += Tile::threads) {
        launch.counters[t] = 0;
      }
    }
  }
}

}  // namespace kmoe::device::sm90
