// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The kernel for small H: 128 rows from x to the expert's output, the intermediate in registers.
///
/// Here the tokens are the 64-row operand, 64 rows of each multiplying warpgroup, and the columns
/// of gate_up the N: a thread's sums of gates and ups become, activated and rounded, its share of
/// the left operand of the second product. x lies in shared memory, the sums of the output in
/// registers; 64 columns of the intermediate at a time, their weights pass through a ring. The
/// warpgroups take turns: while one multiplies, the other applies the activation.
///
/// The products are added in the same order as by kernel.hpp, so the bits are the same.

#include "device/sm90/activation.hpp"
#include "device/sm90/grouping.hpp"
#include "device/sm90/ptx.hpp"
#include "device/sm90/results.hpp"
#include "device/sm90/schedule.hpp"
#include "device/sm90/wgmma.hpp"

namespace kmoe::device::sm90 {

inline constexpr int chunk = 64;  // columns of the intermediate

/// `Width`: H rounded up to a multiple of 64, up to 256.
template <int Width>
struct FusedTile {
  static constexpr int width = Width, tokens = 128, threads = 3 * group_threads, pair = 1;
  static constexpr int blocks = Width / 64;  // of k of gate_up, of columns of the output
  static constexpr int block_bytes = tokens * row_bytes;  // 64 of k of x, or of gate_up's chunk
  // A unit of the ring holds gate_up's chunk for 128 of k, or down's chunk for all of H.
  static constexpr int unit_blocks = blocks < 2 ? blocks : 2;
  static constexpr int unit_bytes = unit_blocks * block_bytes;
  static constexpr int up_units = (blocks + 1) / 2;
  __host__ __device__ static constexpr int blocks_of(int unit) {
    return unit == 0 ? unit_blocks : blocks - unit_blocks;
  }
  static constexpr int x_bytes = blocks * block_bytes;
  static constexpr int units =
      (212 * 1024 - x_bytes) / unit_bytes < 12 ? (212 * 1024 - x_bytes) / unit_bytes : 12;
  static constexpr int rows = x_bytes + units * unit_bytes;  // int [2][tokens]
  static constexpr int barriers = rows + 2 * tokens * 4;     // full, empty; of x: full, empty
  static constexpr int tables = barriers + (2 * units + 2) * 8;
  static constexpr int bytes(int groups, bool grouping) {
    return 1024 + tables + bytes_of_tables(groups, grouping);
  }
  static_assert(Width * row_bytes <= unit_bytes);
  static_assert(bytes(max_groups, false) <= shared_limit);
  static_assert(bytes(max_grouped_groups, true) <= shared_limit);
};

template <class Tile>
struct FusedBlock {
  static constexpr int Width = Tile::width;
  Launch const& launch;
  std::uint32_t base;  // shared memory, a multiple of 1024
  char* memory;        // the same
  Schedule schedule;

  __device__ std::uint32_t unit(int u) const { return base + Tile::x_bytes + u * Tile::unit_bytes; }
  __device__ std::uint32_t full(int u) const { return base + Tile::barriers + 8 * u; }
  __device__ std::uint32_t empty(int u) const { return full(Tile::units + u); }
  __device__ std::uint32_t x_full() const { return full(2 * Tile::units); }
  __device__ std::uint32_t x_empty() const { return x_full() + 8; }
  __device__ int chunks() const { return (launch.products[1].k + chunk - 1) / chunk; }

  /// Warp 0, see Block::load_weights.
  __device__ void load_weights() {
    Ring<Tile::units> ring;
    for (int i = blockIdx.x; i < schedule.num_tiles(); i += gridDim.x) {
      int const group = same_in_warp(schedule.task(i).group);
      for (int c = 0; c < chunks(); ++c) {
#pragma unroll
        for (int u = 0; u < Tile::up_units; ++u) {
          barrier_wait(empty(ring.stage), ring.phase ^ 1);
          if (elect_one()) {
            barrier_arrive_expecting(full(ring.stage), Tile::blocks_of(u) * Tile::block_bytes);
#pragma unroll
            for (int b = 0; b < Tile::blocks_of(u); ++b) {
              tensor_copy_5d(unit(ring.stage) + b * Tile::block_bytes, &launch.maps[0],
                             full(ring.stage), (u * Tile::unit_blocks + b) * 64, 0, 0, c * 8,
                             group);
            }
          }
          ring.next();
        }
        barrier_wait(empty(ring.stage), ring.phase ^ 1);
        if (elect_one()) {
          barrier_arrive_expecting(full(ring.stage), Width * row_bytes);
          tensor_copy_5d(unit(ring.stage), &launch.maps[1], full(ring.stage), c * chunk, 0, 0,
                         group, 0);
        }
        ring.next();
      }
    }
  }

  /// Warps 1 to 3.
  __device__ void load_tokens() {
    int const thread = threadIdx.x - 32, piece = thread % 8, first = thread / 8;
    auto* const tables = reinterpret_cast<int*>(memory + Tile::rows);
    auto const* const in = static_cast<uint4 const*>(launch.products[0].in);
    int const pieces = launch.products[0].k / 8;
    std::uint32_t phase = 0;
    for (int i = blockIdx.x, buffer = 0; i < schedule.num_tiles(); i += gridDim.x, buffer ^= 1) {
      Task const task = schedule.task(i);
      int* const table = tables + buffer * Tile::tokens;
      for (int r = thread; r < Tile::tokens; r += loader_threads) {
        table[r] = schedule.token(task.row + min(r, task.count - 1));
      }
      named_barrier(1, loader_threads);
      barrier_wait(x_empty(), phase ^ 1);
      phase ^= 1;
      for (int r = first; r < Tile::tokens; r += loader_threads / 8) {
        auto const* const from = in + std::int64_t{table[r]} * pieces;
        std::uint32_t const to = base + r * row_bytes + ((piece ^ (r & 7)) << 4);
#pragma unroll
        for (int b = 0; b < Tile::blocks; ++b) {
          if (b * 8 + piece < pieces) {
            copy_async_16(to + b * Tile::block_bytes, from + b * 8 + piece);
          } else {
            copy_async_zeros_16(to + b * Tile::block_bytes, in);
          }
        }
      }
      copy_async_arrive(x_full());
    }
  }

  __device__ static void take_turn(int group) {
    named_barrier(2 + group, 2 * group_threads);
  }
  __device__ static void give_turn(int group) {
    named_barrier_arrive(2 + (1 - group), 2 * group_threads);
  }

  /// A tile without rows for this group.
  __device__ void pass(int group, Ring<Tile::units>& ring, std::uint32_t& phase) const {
    bool const signals = threadIdx.x % 32 == 0;
    barrier_wait(x_full(), phase);
    phase ^= 1;
    if (signals) barrier_arrive(x_empty());
    for (int c = 0; c < chunks(); ++c) {
      take_turn(group);
      give_turn(group);
      for (int u = 0; u < Tile::up_units + 1; ++u) {
        barrier_wait(full(ring.stage), ring.phase);
        if (signals) barrier_arrive(empty(ring.stage));
        ring.next();
      }
    }
    take_turn(group);
    give_turn(group);
  }

  /// To the sums of gates and ups of chunk c.
  __device__ void add_bias(float (&sums)[chunk], float const* bias, int c) const {
    Product const& up = launch.products[0];
    bool const interleaved = up.halves == Halves::interleaved;
    int const width = up.features / 2, first = c * chunk + 2 * (threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < chunk / 8; ++n) {
      if (first + 8 * n >= width) break;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        int const feature = first + 8 * n + j;
        float const one = bias[interleaved ? 2 * feature : feature];
        float const two = bias[interleaved ? 2 * feature + 1 : width + feature];
        sums[8 * n + j] += one;
        sums[8 * n + j + 2] += one;
        sums[8 * n + j + 4] += two;
        sums[8 * n + j + 6] += two;
      }
    }
  }

  template <Operand Type>
  __device__ void consume(int group);
  template <Operand Type>
  __device__ void store(Task const& task, int group, float const (&out)[Width / 2]);
};

template <class Tile>
template <Operand Type>
__device__ void FusedBlock<Tile>::consume(int group) {
  int const lane = threadIdx.x % 32;
  bool const signals = lane == 0;
  Product const& up = launch.products[0];
  int const last = chunks() - 1;
  clear_missing(launch, schedule, static_cast<int>(threadIdx.x) - group_threads, 2 * group_threads);
  Ring<Tile::units> ring;
  std::uint32_t phase = 0;
  if (group == 1) give_turn(group);  // the other one begins

  for (int i = blockIdx.x; i < schedule.num_tiles(); i += gridDim.x) {
    Task const task = schedule.task(i);
    if (64 * group >= task.count) {
      pass(group, ring, phase);
      continue;
    }
    float const* const bias =
        up.bias == nullptr ? nullptr : up.bias + std::int64_t{task.group} * up.features;
    float out[Width / 2];
    barrier_wait(x_full(), phase);
    phase ^= 1;
    proxy_fence();  // the rows came by ordinary copies

    with_activation(up, [&](auto const& act) {
      float sums[chunk];
      std::uint32_t h[chunk / 16][4];
      auto const rows = matrix_descriptor(base + same_in_warp(group * 64 * row_bytes));
      auto const weights_of_stage = [&] {
        return matrix_descriptor(base + Tile::x_bytes +
                                 same_in_warp(ring.stage * Tile::unit_bytes));
      };
      auto const gate_up = [&] {
#pragma unroll
        for (int u = 0; u < Tile::up_units; ++u) {
          auto const right = weights_of_stage();
          barrier_wait(full(ring.stage), ring.phase);
#pragma unroll
          for (int b = 0; b < Tile::blocks_of(u); ++b) {
            int const block = u * Tile::unit_blocks + b;
#pragma unroll
            for (int step = 0; step < 4; ++step) {
              wgmma<Type, 2 * chunk>(sums, further(rows, block * Tile::block_bytes + 32 * step),
                                     further(right, b * Tile::block_bytes + 32 * step),
                                     (block | step) != 0);
            }
          }
          wgmma_commit();
          ring.next();
        }
      };
      // Of 16 columns 8 are gates and 8 ups: 32 of them make 16 columns of the left operand.
      auto const activate = [&](int c) {
        if (bias != nullptr) add_bias(sums, bias, c);
        std::uint32_t made = 0;
#pragma unroll
        for (int n = 0; n < chunk / 8; ++n) {
          float const* const d = sums + 8 * n;
          std::uint32_t& low = h[n / 2][n % 2 * 2];
          std::uint32_t& high = h[n / 2][n % 2 * 2 + 1];
          low = pack<Type>(act(d[0], d[4]), act(d[1], d[5]));
          high = pack<Type>(act(d[2], d[6]), act(d[3], d[7]));
          made |= low | high;
        }
        settle(made);
      };
      auto const down = [&](int c) {
        auto const right = weights_of_stage();
        barrier_wait(full(ring.stage), ring.phase);
#pragma unroll
        for (int s = 0; s < chunk / 16; ++s) {
          wgmma<Type, Width>(out, h[s], further(right, 32 * s), (c | s) != 0);
        }
        wgmma_commit();
        ring.next();
      };
      auto const begin_turn = [&] {
        take_turn(group);
        wgmma_begin();
      };
      // The units before the ring's place, the latest first.
      auto const release = [&](int before) {
        if (!signals) return;
        int const u = ring.stage - before;
        barrier_arrive(empty(u < 0 ? u + Tile::units : u));
      };
      // The other one's first products follow this one's last without a gap.
      auto const finish_turn = [&](bool both) {
        wgmma_wait<1>();
        give_turn(group);
        for (int before = Tile::up_units + (both ? 1 : 0); before > 1; --before) release(before);
        wgmma_wait<0>();
        release(1);
      };

      begin_turn();
      gate_up();
      finish_turn(false);
#pragma unroll 1
      for (int c = 0; c < last; ++c) {
        activate(c);
        begin_turn();
        down(c);
        gate_up();
        finish_turn(true);
      }
      if (signals) barrier_arrive(x_empty());
      activate(last);
      begin_turn();
      down(last);
      wgmma_wait<0>();
      give_turn(group);
      release(1);
    });
    store<Type>(schedule.task(i), group, out);  // again: no register is left to keep it
  }
  if (group == 0) take_turn(group);  // of the last give_turn
}

/// w * (out + bias) to the rows; a thread of four exchanges words with its neighbours so that each
/// stores 16 bytes.
template <class Tile>
template <Operand Type>
__device__ void FusedBlock<Tile>::store(Task const& task, int group,
                                        float const (&out)[Width / 2]) {
  int const lane = threadIdx.x % 32, warp = threadIdx.x % group_threads / 32, own = lane % 4;
  Product const& down = launch.products[1];
  float const* const bias =
      down.bias == nullptr ? nullptr : down.bias + std::int64_t{task.group} * down.features;
  auto* const rows = static_cast<std::uint16_t*>(down.out);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    int const r = group * 64 + warp * 16 + lane / 4 + 8 * n, row = task.row + r;
    bool const there = r < task.count;
    int const slot = there ? schedule.slot(row) : row;
    float const w = there && down.weights != nullptr ? down.weights[slot] : 1.0F;
    auto* const to = reinterpret_cast<uint4*>(
        rows + std::int64_t{launch.sides.direct != nullptr ? slot : row} * down.features);
#pragma unroll
    for (int m = 0; m < Width / 32; ++m) {
      std::uint32_t v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        int const column = 8 * (4 * m + j) + 2 * own;
        float const* const d = out + 4 * (4 * m + j) + 2 * n;
        float2 b = {0.0F, 0.0F};
        if (bias != nullptr && column < down.features) {
          b = {bias[column], bias[column + 1]};
        }
        v[j] = pack<Type>(w * (d[0] + b.x), w * (d[1] + b.y));
      }
      transpose_words(v, own);
      if (there && 8 * (4 * m + own) < down.features) to[4 * m + own] = {v[0], v[1], v[2], v[3]};
    }
  }
}

template <Operand Type, class Tile>
__global__ void __launch_bounds__(Tile::threads, 1)
    fused_kernel(__grid_constant__ Launch const launch) {
  extern __shared__ char raw[];
  std::uint32_t const address = shared_address(raw), base = (address + 1023) / 1024 * 1024;
  FusedBlock<Tile> block{launch, base, raw + (base - address), {}};
  if (threadIdx.x == 0) {
    for (auto const& map : launch.maps) tensor_prefetch(&map);
    for (int u = 0; u < Tile::units; ++u) {
      barrier_init(block.full(u), 1);
      barrier_init(block.empty(u), 2 * group_threads / 32);
    }
    barrier_init(block.x_full(), loader_threads);
    barrier_init(block.x_empty(), 2 * group_threads / 32);
    barrier_init_fence();
  }
  wait_for_kernels_before();
  let_next_begin();
  block.schedule =
      cut_groups<Tile::tokens>(launch, block.memory + Tile::tables, block.memory, 0, [](Task) {});
  if (threadIdx.x < group_threads) {
    registers_give<24>();
    if (threadIdx.x < 32) {
      block.load_weights();
    } else if (threadIdx.x >= 32) {
      block.load_tokens();
    }
    __syncwarp();
  } else {
    registers_take<240>();
    block.template consume<Type>(static_cast<int>(threadIdx.x) / group_threads - 1);
  }
}

}  // namespace kmoe::device::sm90
