// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What the warpgroups that multiply do with their sums: bias, activation and routing weight, a
/// warp's columns at a time, then the other blocks are told.

#include "device/sm90/activation.hpp"
#include "device/sm90/kernel.hpp"
#include "device/sm90/store.hpp"

namespace kmoe::device::sm90 {

template <class Tile>
template <Operand Type, class Self>
__device__ void Block<Tile>::consume(Self& self, int group) {
  int const thread = threadIdx.x % group_threads, warp = thread / 32, lane = thread % 32;
  int const barrier = 2 + group;
  int const staging = Tile::staging + group * Tile::staging_bytes + warp * warp_staging;
  auto* const token_weights =
      reinterpret_cast<float*>(memory + Tile::weights) + group * 2 * Tile::sums;
  auto* const token_targets = reinterpret_cast<int*>(token_weights + Tile::sums);
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
      // All warps have stored what they have, and nobody needs the weights of the tokens any more.
      named_barrier(barrier, group_threads);
      if constexpr (Self::finishes_codes) {
        if (gated && tells) return self.template finish_codes<Type>(task, group);
      }
      if (!tells || thread != 0) return;
      add_release(task.product == 0 ? ready(task.tile) : launch.counters + 2, 1);
    };
    int const own_first = group * Tile::parts * Tile::part_features;
    int const first_feature = task.feature * launch.widths[task.product] + own_first;
    if (features_from(task, own_first) <= 0 &&
        !(gated && (Self::finishes_together || Self::arranged))) {
      pass_by(ring, group, k_tiles(task.product), lane == 0);
      tell();
      continue;
    }

    float own_weights[own_rows];
    int own_targets[own_rows];  // rows of the result
    if (!gated) {
      bool const to_slots = task.product == 1 && launch.sides.direct != nullptr;
#pragma unroll
      for (int n = 0; n < own_rows; ++n) {
        int const r = thread + n * group_threads, row = task.row + r;
        own_weights[n] = 1.0F;
        own_targets[n] = row;
        if (r < task.count && (weighted || to_slots)) {
          int const slot = schedule.slot(row);
          if (weighted) own_weights[n] = product.weights[slot];
          if (to_slots) own_targets[n] = slot;
        }
      }
    }

    self.template multiply_tile<Type>(acc, ring, group, lane == 0, task);

    if (!gated) {
#pragma unroll
      for (int n = 0; n < own_rows; ++n) {
        int const r = thread + n * group_threads;
        if (r < Tokens) {
          token_weights[r] = own_weights[n];
          token_targets[r] = own_targets[n];
        }
      }
      named_barrier(barrier, group_threads);
    }

    // Parts whose features are finished together.
    constexpr int together = Tile::by_eights ? Tile::parts : 1;
    int const own_end = first_feature + min(launch.widths[task.product] - own_first,
                                            Tile::parts * Tile::part_features);
    auto const first_of = [&](int part) {
      return first_feature + part * Tile::part_features + 16 * together * warp;
    };
    if (gated && self.template finish_gated<Type>(acc, task, group, thread)) {
      // It is.
    } else if (gated) {
      int const width = product.features / 2, columns = Self::width_of(width);
      bool const interleaved = product.halves == Halves::interleaved;
#pragma unroll
      for (int part = 0; part < Tile::parts; part += together) {
        int const first = first_of(part) / 2;
        float bias[together][2] = {};
        bool absent[together] = {};
#pragma unroll
        for (int piece = 0; piece < together; ++piece) {
          int const feature = Self::element_of(first + 8 * piece + lane / 4);
          absent[piece] = Self::arranged && feature >= width;
          if (product.bias == nullptr || feature >= width) continue;
          float const* const b = product.bias + std::int64_t{task.group} * product.features;
          bias[piece][0] = b[interleaved ? 2 * feature : feature];
          bias[piece][1] = b[interleaved ? 2 * feature + 1 : feature + width];
        }
        with_activation(product, [&](auto const& act) {
          auto const word = [&](int j, int piece) {
            // Two parts are the gates and the ups, one has both in its halves.
            float const* const a = acc[part] + 4 * j + 2 * piece;
            float const* const b = together == 2 ? acc[Tile::parts - 1] + 4 * j + 2 * piece : a + 2;
            auto const two = pack<Type>(act(a[0] + bias[piece][0], b[0] + bias[piece][1]),
                                        act(a[1] + bias[piece][0], b[1] + bias[piece][1]));
            return absent[piece] ? 0 : two;
          };
          store_columns<together, Tile::sums>(
              {product.out, columns, first, min(columns, own_end / 2), task.count}, base + staging,
              memory + staging, word, [&](int r) -> std::uint32_t { return task.row + r; });
        });
      }
    } else {
      constexpr int pieces = 2 * together;
      int const width = product.features;
      auto const finish = [&](auto const& act) {
#pragma unroll
        for (int part = 0; part < Tile::parts; part += together) {
          int const first = first_of(part);
          float bias[pieces] = {};
#pragma unroll
          for (int piece = 0; piece < pieces; ++piece) {
            int const feature = first + 8 * piece + lane / 4;
            if (product.bias == nullptr || feature >= width) continue;
            bias[piece] = product.bias[std::int64_t{task.group} * width + feature];
          }
          auto const word = [&](int j, int piece) {
            float const* const d = acc[part + piece % together] + 4 * j + piece / together * 2;
            auto const w = *reinterpret_cast<float2 const*>(token_weights + 8 * j + 2 * (lane % 4));
            return pack<Type>(w.x * act(d[0] + bias[piece]), w.y * act(d[1] + bias[piece]));
          };
          store_columns<pieces, Tile::sums>(
              {product.out, width, first, min(width, own_end), task.count}, base + staging,
              memory + staging, word, [&](int r) -> std::uint32_t { return token_targets[r]; });
        }
      };
      if (product.act == Act::identity) {
        finish([](float x) { return x; });
      } else {
        finish([&](float x) { return activate_other(product.act, x); });
      }
    }
    tell();
  }
  if (launch.sides.sums != nullptr) add_rows<Type>(barrier, group * group_threads + thread);
}

}  // namespace kmoe::device::sm90
