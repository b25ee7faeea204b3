// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What the threads of a block do, whatever the block is.

#include "device/sm90/consume.hpp"

namespace kmoe::device::sm90 {

/// All of a kernel: `block` knows its shared memory.
template <Operand Type, class Tile, class Block>
__device__ __forceinline__ void run_block(Launch const& launch, Block& block) {
  if (threadIdx.x == 0) {
    for (int p = 0; p < launch.count; ++p) {
      tensor_prefetch(&launch.maps[p]);
      tensor_prefetch(&launch.edge_maps[p]);
    }
    constexpr int consumer_warps = Tile::groups * group_threads / 32;
    for (int s = 0; s < Tile::stages; ++s) {
      barrier_init(block.full(s), 1 + Block::token_arrivals);
      barrier_init(block.empty(s), Tile::pair * consumer_warps);
    }
    for (int p = 0; p < task_places; ++p) {
      barrier_init(block.task_full(p), 1);
      barrier_init(block.task_empty(p), loader_threads + 32 * consumer_warps);
    }
    if constexpr (Tile::pair > 1) {
      for (int p = 0; p < number_places; ++p) barrier_init(block.number_full(p), 1);
    }
    barrier_init_fence();
  }
  if constexpr (Tile::pair > 1) cluster_sync();  // each block's barriers before the other's signals
  wait_for_kernels_before();
  let_next_begin();
  bool const draws = threadIdx.x == 0 && (Tile::pair == 1 || cluster_rank() == 0);
  int number = draws ? block.draw(0) : 0;
  if constexpr (Tile::pair > 1) {
    Ring<number_places> place;
    if (threadIdx.x < 32) number = block.share(place, same_in_warp(number));
  }
  block.make_schedule(block, number);
  if constexpr (Tile::pair > 1) cluster_sync();  // what one brings to both, neither's scratch needs

  if (threadIdx.x < group_threads) {
    registers_give<Tile::loader_registers>();
    if (threadIdx.x < 32) {
      block.load_weights(block);
    } else if (threadIdx.x >= 32) {
      block.template load_tokens<Type>(block);
    }
    __syncwarp();
  } else {
    registers_take<Tile::registers>();
    block.template consume<Type>(block, static_cast<int>(threadIdx.x) / group_threads - 1);
  }

  if constexpr (Tile::pair > 1) {
    __syncwarp();
    cluster_sync();  // the other one may still signal here
  }
  // The last block leaves the counters as it found them.
  if (launch.count == 2) {
    __syncthreads();
    bool const last = threadIdx.x == 0 && atomicAdd(launch.counters, 1U) == gridDim.x - 1;
    if (__syncthreads_or(last) != 0) {
      for (int t = threadIdx.x; t < block.schedule.num_tiles() + 3; t += Tile::threads) {
        launch.counters[t] = 0;
      }
    }
  }
}

template <Operand Type, class Tile>
__global__ void __launch_bounds__(Tile::threads, 1)
    experts_kernel(__grid_constant__ Launch const launch) {
  extern __shared__ char raw[];
  std::uint32_t const address = shared_address(raw), base = (address + 1023) / 1024 * 1024;
  Block<Tile> block{launch, base, raw + (base - address), {}};
  run_block<Type, Tile>(launch, block);
}

}  // namespace kmoe::device::sm90
