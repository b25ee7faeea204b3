// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What the blocks do to y beside the products. Called by the multiplying threads: `thread` of the
/// `threads` of a block.

#include "device/sm90/activation.hpp"
#include "device/sm90/schedule.hpp"

namespace kmoe::device::sm90 {

/// Zeros for the tokens that have no expert, where the experts write to y.
__device__ inline void clear_missing(Launch const& launch, Schedule const& schedule, int thread,
                                     int threads) {
  Sides const& what = launch.sides;
  if (what.direct == nullptr) return;
  int const pieces = launch.products[1].features / 8;
  for (int slot = blockIdx.x * threads + thread; slot < what.num_slots;
       slot += gridDim.x * threads) {
    int const row = what.ids != nullptr ? schedule.short_rows()[slot] : what.row_of_slot[slot];
    if (row >= 0) continue;
    auto* const y = static_cast<uint4*>(what.direct) + std::int64_t{slot} * pieces;
    for (int p = 0; p < pieces; ++p) y[p] = {0, 0, 0, 0};
  }
}

/// This block's share of the sums of tokens, of the rows of several slots; those are there.
template <Operand Type>
__device__ inline void add_rows(Launch const& launch, Schedule const& schedule, int thread,
                                int threads) {
  constexpr int batch = 8;  // rows in flight
  int const pieces = launch.products[1].features / 8,
            k = static_cast<int>(launch.slots_per_row.value);
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
        at[n] = first + n < k ? schedule.short_rows()[token * k + first + n] : -1;
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
