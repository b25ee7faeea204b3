// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The kernel of fp8_kernel.hpp for many rows: tokens as the 64-row operand.
///
/// A thread then holds two tokens, and the scales that sums are multiplied with are four numbers,
/// not one per pair of columns: reading those from shared memory takes from the bandwidth that the
/// tensor cores read their operands with. A warpgroup has all 128 of a token's intermediate: it
/// quantizes them among four threads, and needs no other group and no shared memory to finish.

#include "device/sm90/fp8_kernel.hpp"

namespace kmoe::device::sm90 {

/// 256 features x 128 tokens, 64 of each group.
template <int Stages, bool PerRow>
struct Fp8WideTile : Fp8Tile<256, 128, Stages, 2, 1, true, PerRow> {
  static_assert(Stages <= scale_batches);
};

template <class Tile>
struct WideBlock : Fp8Block<Tile> {
  using Base = Fp8Block<Tile>;
  static constexpr int Stages = Tile::stages;
  static constexpr int own_tokens = 64, halves = 2, half = Tile::features / halves;
  using Sums = float[halves][half / 2];  // of two tokens
  static constexpr int down =
      Tile::per_row ? 0 : 1;  // with scales of rows a launch has one product
  __device__ bool is_gated(Task const& task) const {
    return Tile::per_row ? this->launch.products[0].halves != Halves::none : task.product == 0;
  }

  // The tokens' scales come for four steps of k at once, float4 [scale_batches][tokens], in the
  // place of the staging memory. A batch is taken when the stage before `Stages` steps is.
  static_assert(Tile::per_row ||
                scale_batches * Tile::tokens * 16 <= Tile::groups * Tile::staging_bytes);

  struct Beside {
    static constexpr int own = Base::Beside::own;
    Scales const* scales;
    int from[own], weights, batch;
  };
  int next_batch;  // of the loaders

  __device__ Beside beside_rows(Task const& task, int const* rows) {
    auto const b = Base::beside_rows(task, rows);
    Beside own{b.scales, {}, b.weights, next_batch};
#pragma unroll
    for (int n = 0; n < Beside::own; ++n) own.from[n] = b.from[n];
    next_batch = (next_batch + (b.scales->blocks + 3) / 4) % scale_batches;
    return own;
  }
  __device__ void bring_beside_rows(Beside const& b, int stage, int kt) const {
    if constexpr (Tile::per_row) return;
    int const thread = threadIdx.x - 32;
    if (kt % 4 == 0) {
      int const batch = (b.batch + kt / 4) % scale_batches;
      std::uint32_t const to = this->base + Tile::staging + (batch * Tile::tokens + thread) * 16;
#pragma unroll
      for (int n = 0; n < Beside::own; ++n) {
        if (b.from[n] >= 0) {
          copy_async_16(to + n * loader_threads * 16, b.scales->in + b.from[n] + kt);
        }
      }
    }
    if (b.weights >= 0) {
      copy_async_4(this->base + this->place_of_scales(stage, 0) + (Tile::tokens + thread) * 4,
                   b.scales->weights + b.weights + kt);
    }
  }

  /// The sums of one tile: features 128 h + 8 j + 2 (lane % 4) and the next in acc[h][4 j], ...
  /// The groups take turns at the tensor cores, half of the features each: what one multiplies, it
  /// adds while the other multiplies. Left alone, they would do both at the same time.
  __device__ __forceinline__ void multiply_tokens(Sums& acc, Ring<Stages>& ring, int group,
                                                  int tiles, int count, bool signals,
                                                  int& batch) const {
    int const row =
        own_tokens * group + threadIdx.x % group_threads / 32 * 16 + threadIdx.x % 32 / 4;
    float sums[half / 2];
#pragma unroll
    for (int h = 0; h < halves; ++h) {
#pragma unroll
      for (int i = 0; i < half / 2; ++i) acc[h][i] = 0.0F;
    }
    if (own_tokens * group >= count) {
      for (int kt = 0; kt < tiles; ++kt) {
        barrier_wait(this->full(ring.stage), ring.phase);
        for (int h = 0; h < halves; ++h) {
          take_turn(group);
          give_turn(group);
        }
        __syncwarp();
        if (signals) barrier_arrive(this->empty(ring.stage));
        ring.next();
      }
      batch = (batch + (tiles + 3) / 4) % scale_batches;
      return;
    }
    auto const* const scales = reinterpret_cast<float const*>(this->memory + Tile::staging);
    for (int kt = 0; kt < tiles; ++kt) {
      barrier_wait(this->full(ring.stage), ring.phase);
      std::uint32_t const at = this->stage(ring.stage);
      proxy_fence();
      // The same for all lanes: so that its sums are computed once for a warp.
      auto const right = __shfl_sync(~0U, static_cast<std::uint32_t>(matrix_descriptor(at)), 0);
      auto const left = right + ((Tile::weight_bytes + own_tokens * group * row_bytes) >> 4);
      auto const above = matrix_descriptor(0) >> 32 << 32;
      float const* const tokens = scales + (batch * Tile::tokens + row) * 4 + kt % 4;
      float const* const weights = this->scales_at(ring.stage, 0) + Tile::tokens;
      float low = 0, high = 0;
      if constexpr (!Tile::per_row) low = tokens[0], high = tokens[32];
#pragma unroll
      for (int h = 0; h < halves; ++h) {
        float2 weight = {};
        if constexpr (!Tile::per_row) weight = *reinterpret_cast<float2 const*>(weights + 2 * h);
        take_turn(group);
        wgmma_begin();
#pragma unroll
        for (int inner = 0; inner < scale_k / 32; ++inner) {
          if (inner == scale_k / 32 - 1) wgmma_commit();  // the turn is over before the last one is
          wgmma<Operand::e4m3, half>(sums, above | (left + 2 * inner),
                                     above | (right + h * (half * row_bytes >> 4) + 2 * inner),
                                     inner != 0);
        }
        wgmma_commit();
        wgmma_wait<1>();
        give_turn(group);
        float const factors[2][2] = {{low * weight.x, high * weight.x},
                                     {low * weight.y, high * weight.y}};
        wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < half / 2; ++i) asm volatile("" : "+f"(sums[i])::"memory");
        if (h == halves - 1) {
          __syncwarp();
          if (signals) barrier_arrive(this->empty(ring.stage));
        }
#pragma unroll
        for (int i = 0; i < half / 2; ++i) {
          acc[h][i] = Tile::per_row ? acc[h][i] + sums[i]
                                    : fmaf(sums[i], factors[i / 4 % 2][i / 2 % 2], acc[h][i]);
        }
      }
      ring.next();
      if (kt % 4 == 3 || kt == tiles - 1) batch = (batch + 1) % scale_batches;
    }
    if constexpr (Tile::per_row) scale_tokens(acc, group, row);
  }
  /// As scale_columns(), of tokens `row` and row + 8 of a tile.
  __device__ __forceinline__ void scale_tokens(Sums& acc, int group, int row) const {
    float const* const all = this->row_scales(group);
    float const low = all[Tile::features + row], high = all[Tile::features + row + 8];
    float const* const weights = all + 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < Tile::features / 8; ++i) {
      float2 const weight = *reinterpret_cast<float2 const*>(weights + 8 * i);
      float* const d = acc[i / 16] + 4 * (i % 16);
      d[0] = __fmul_rn(d[0], low * weight.x);
      d[1] = __fmul_rn(d[1], low * weight.y);
      d[2] = __fmul_rn(d[2], high * weight.x);
      d[3] = __fmul_rn(d[3], high * weight.y);
    }
  }
  // The second group gives the first turn before it begins.
  __device__ void take_turn(int group) const {
    named_barrier(4 + group, 2 * group_threads);
  }
  __device__ void give_turn(int group) const {
    named_barrier_arrive(5 - group, 2 * group_threads);
  }

  /// What is known of a token's row before it is finished: where it goes, and its weight.
  struct Kept {
    int to;
    float weight;
  };
  static_assert(Tile::tokens * sizeof(Kept) <= Tile::groups * Tile::sums * 4);
  __device__ void keep(Task const& task, int first) const {
    float const* const all = this->launch.products[down].weights;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (first + 8 * side >= task.count) continue;
      int const row = task.row + first + 8 * side, slot = this->schedule.slot(row);
      reinterpret_cast<Kept*>(this->memory + Tile::weights)[first + 8 * side] = {
          this->launch.sides.direct != nullptr ? slot : row, all != nullptr ? all[slot] : 1.0F};
    }
  }

  /// The bias of columns 8 i + 2 (lane % 4) + n of a tile, which `place` finds, or nothing: zero.
  template <class Place>
  __device__ __forceinline__ void add_bias(Sums& acc, float const* bias, Place const& place) const {
    auto const add = [&](auto const& value) {
#pragma unroll
      for (int i = 0; i < Tile::features / 8; ++i) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float const v = value(i, n);
          float* const d = acc[i / 16] + 4 * (i % 16) + n;
          d[0] += v;
          d[2] += v;
        }
      }
    };
    if (bias == nullptr) return add([](int, int) { return 0.0F; });
    add([&](int i, int n) {
      std::int64_t const at = place(i, n);
      return at < 0 ? 0.0F : bias[at];
    });
  }

  /// Words of features 8 j + 2 (lane % 4) of Features of a row of `width` elements, from `begin`
  /// on.
  template <int Features, class Word>
  __device__ __forceinline__ void store_features(std::uint16_t* row, int begin, int width,
                                                 bool stores, Word const& word) const {
    int const own = threadIdx.x % 4;
#pragma unroll
    for (int b = 0; b < Features / 32; ++b) {
      std::uint32_t v[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) v[n] = word(4 * b + n);
      transpose_words(v, own);
      int const feature = begin + 32 * b + 8 * own;
      if (stores && feature < width) {
        *reinterpret_cast<uint4*>(row + feature) = {v[0], v[1], v[2], v[3]};
      }
    }
  }

  /// The codes and the scale of this thread's two tokens, which four threads share; with scales of
  /// rows the elements.
  template <Operand Type>
  __device__ __forceinline__ void finish_gated_rows(Sums& acc, Task const& task, int first) const {
    Product const& product = this->launch.products[0];
    int const width = product.features / 2, begin = task.feature * scale_k;
    int const own = threadIdx.x % 4;
    bool const interleaved = product.halves == Halves::interleaved;
    add_bias(acc, product.bias, [&](int i, int n) {  // of features 8 i / 2 + 2 own + n
      int const feature = begin + 8 * (i / 2) + 2 * own + n, up = i % 2;
      if (feature >= width) return std::int64_t{-1};
      return std::int64_t{task.group} * product.features +
             (interleaved ? 2 * feature + up : up * width + feature);
    });
    with_activation(product, [&](auto const& act) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        std::uint32_t pairs[16], largest = 0;  // of features 8 i + 2 own
#pragma unroll
        for (int i = 0; i < 16; ++i) {
          float const* const d = acc[i / 8] + 8 * (i % 8) + 2 * side;
          pairs[i] = pack<Type>(act(d[0], d[4]), act(d[1], d[5]));
          largest = __vmaxu2(largest, pairs[i] & 0x7fff7fffU);
        }
        if constexpr (Tile::per_row) {
          auto* const out = static_cast<std::uint16_t*>(product.out);
          int const token = first + 8 * side;
          store_features<scale_k>(out + std::int64_t{task.row + token} * width, begin, width,
                                  token < task.count, [&](int j) { return pairs[j]; });
          continue;
        }
        std::uint32_t most = max(largest & 0xffffU, largest >> 16);
        most = max(most, __shfl_xor_sync(~0U, most, 1));
        most = max(most, __shfl_xor_sync(~0U, most, 2));
        float const scale = group_scale<Type>(most), inverse = invert(scale);
        int const token = first + 8 * side;
        std::int64_t const row = task.row + token;
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          std::uint32_t v[4];  // of features 64 b + 16 n + 2 own, and 8 further
#pragma unroll
          for (int n = 0; n < 4; ++n) {
            v[n] = encode_pair<Type>(pairs[8 * b + 2 * n], scale, inverse) |
                   encode_pair<Type>(pairs[8 * b + 2 * n + 1], scale, inverse) << 16;
          }
          transpose_words(v, own);
          int const feature = begin + 64 * b + 16 * own;
          if (token < task.count && feature < width) {
            *reinterpret_cast<uint4*>(static_cast<char*>(product.out) + row * width + feature) = {
                __byte_perm(v[0], v[1], 0x5410), __byte_perm(v[2], v[3], 0x5410),
                __byte_perm(v[0], v[1], 0x7632), __byte_perm(v[2], v[3], 0x7632)};
          }
        }
        if (token < task.count && own == 0) {
          this->scales[1].out[row * this->scales[1].in_row + task.feature] = scale;
        }
      }
    });
  }

  /// The elements of this thread's two tokens times their weights, to the rows `to`.
  template <Operand Type>
  __device__ __forceinline__ void finish_rows(Sums& acc, Task const& task, Kept const* kept,
                                              int first) const {
    Product const& product = this->launch.products[down];
    int const width = product.features, begin = task.feature * Tile::features;
    int const own = threadIdx.x % 4;
    add_bias(acc, product.bias, [&](int i, int n) {
      int const feature = begin + 8 * i + 2 * own + n;
      return feature < width ? std::int64_t{task.group} * width + feature : std::int64_t{-1};
    });
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      auto const [to, weight] = kept[8 * side];
      auto* const out = static_cast<std::uint16_t*>(product.out) + std::int64_t{to} * width;
      float const factor = weight;
      store_features<Tile::features>(out, begin, width, first + 8 * side < task.count, [&](int j) {
        float const* const d = acc[j / 16] + 4 * (j % 16) + 2 * side;
        return pack<Type>(factor * d[0], factor * d[1]);
      });
    }
  }

  template <Operand Type, class Self>
  __device__ void consume(Self&, int group) {
    int const thread = threadIdx.x % group_threads, lane = thread % 32;
    int const first = own_tokens * group + thread / 32 * 16 + lane / 4;  // token of a tile
    clear_missing(this->launch, this->schedule, group * group_threads + thread,
                  Tile::groups * group_threads);
    Ring<Stages> ring;
    Sums acc;
    int batch = 0;
    Ring<task_places> place;
    if (group == 1) give_turn(group);
    // A tile is read again where it is needed, for the sums take the registers.
    auto const* const kept = reinterpret_cast<Kept*>(this->memory + Tile::weights) + first;
    for (Task const* task = this->wait_for_task(place); task->product >= 0;
         task = this->wait_for_task(place)) {
      if (!is_gated(*task) && lane % 4 == 0) keep(*task, first);
      if constexpr (Tile::per_row) {
        if (own_tokens * group < task->count) {
          this->bring_feature_scales(*task, group);
          this->bring_token_scales(*task, group);  // a launch has one product
        }
      }
      multiply_tokens(acc, ring, group, this->k_tiles(task->product), task->count, lane == 0,
                      batch);
      __syncwarp();
      if (is_gated(*task)) {
        finish_gated_rows<Type>(acc, *task, first);
      } else {
        finish_rows<Type>(acc, *task, kept, first);
      }
      if constexpr (Tile::per_row) {
        named_barrier(2 + group, group_threads);  // nobody needs the scales any more
      } else if (task->product == 0 || this->launch.sides.sums != nullptr) {
        named_barrier(2 + group, group_threads);
        if (thread == 0) {
          add_release(task->product == 0 ? this->ready(task->tile) : this->launch.counters + 2, 1);
        }
      }
      this->pass_task(place);
    }
    if (this->launch.sides.sums != nullptr) {
      this->template add_rows<Type>(2 + group, group * group_threads + thread);
    }
  }
};

template <Operand Type, class Tile>
__global__ void __launch_bounds__(Tile::threads, 1)
    fp8_wide_kernel(__grid_constant__ Fp8Launch const launch) {
  extern __shared__ char raw[];
  std::uint32_t const address = shared_address(raw), base = (address + 1023) / 1024 * 1024;
  WideBlock<Tile> block{{{launch, base, raw + (base - address), {}}, launch.scales}, 0};
  run_block<Type, Tile>(launch, block);
}

}  // namespace kmoe::device::sm90
