// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Weights of four bits in the kernel: codes lie packed in a stage, their scales beside them, and
/// the warpgroup that multiplies decodes its share of the left operand into registers.
///
/// A thread of wgmma holds rows lane / 4 and 8 below, and of each 8 columns two neighbours. A sum
/// over k can take its terms in any order that both operands have: of 128 of k a thread decodes 32
/// that lie together, one load, and the pair of a word is two codes 16 bits apart, one shift and
/// one mask for both. The loading warps bring rows of tokens into that order (Arrivals). Decoding
/// of the next columns overlaps the multiplication of these. Products of codes and scales that
/// bfloat16 holds exactly (mxfp4, nvfp4 without its float) are the operand; where scales are floats
/// (int4) the codes are, and sums of each block of k are multiplied.

#include "device/sm90/packed_loader.hpp"
#include "device/sm90/run_block.hpp"

namespace kmoe::device::sm90 {

template <class Tile>
struct PackedBlock : PackedLoader<Tile> {
  using Base = PackedLoader<Tile>;
  using Base::arranged;
  using Base::more;
  using Base::row_of;
  using Base::side;
  using Base::side_place;
  using typename Base::Rows;
  using typename Base::Sums;

  /// With the smallest N, in steps of 32, that the tokens need.
  template <Operand Type, int N = Tile::tokens>
  __device__ __forceinline__ void multiply_tile(Sums& acc, Ring<Tile::stages>& ring, int group,
                                                bool signals, Task const& task) {
    constexpr int fewer = N > 32 ? N - 32 : 8;
    if constexpr (N > 8) {
      if (task.count <= fewer) return multiply_tile<Type, fewer>(acc, ring, group, signals, task);
    }
    multiply<Type, N>(acc, ring, group, signals, task);
  }

  template <Operand Type, int N>
  __device__ __forceinline__ void multiply(Sums& acc, Ring<Tile::stages>& ring, int group,
                                           bool signals, Task const& task) {
    constexpr int parts = Tile::parts;
    // A unit is 128 of k of 64 features, 32 of k an item; a batch of them is decoded while the last
    // one is multiplied.
    constexpr int registers = Tile::registers;
    constexpr int batch = parts > 1 || Rows::in_sums || Tile::tokens > 32 ? 1
                          : registers > 150                               ? 4
                          : registers > 100                               ? 2
                                                                          : 1;
    constexpr int units = Tile::slots * parts, unit_batches = 4 / batch;
    constexpr int batches = units * unit_batches;
    static_assert(batches > 1);
    constexpr int lead = Tile::tokens >= 128 ? 1 : 0;
    int const tiles = this->k_tiles(task.product);
    Product const& product = more.products[task.product];
    PackedScales const& packed = more.packed[task.product];
    bool const turned = arranged && product.halves != Halves::none;
    // The second group begins later, and passes by tiles in which it has no features: then nobody
    // waits for the first.
    bool const leads = lead > 0 && (turned || this->features_from(task, parts * 64) > 0);
    int const thread = threadIdx.x % group_threads, lane = thread % 32, own = lane % 4;
    constexpr int side_step = (side_place(64) - side_place(0)) * Tile::side_row;
    // The codes' row of the first part; those of others are steps away, the second halves 8 below.
    int const row = row_of(turned, group * parts * 64 + thread / 32 * 16 + lane / 4);
    int const row_step = turned ? -1 : 64;
    Factors const by = more.factors;
    // Slots of which this lane has codes; behind them there are none, whatever the scales.
    int const own_slots = (product.k / 32 + 3 - (Rows::in_sums ? 0 : own)) / 4;

    // Where the scales of each row are in a stage's. Those of parts 64 rows further have the same
    // place among four bytes, their rows lie at multiples of 4 of any pitch; those of neighbours
    // may be two bytes away.
    std::uint32_t spot[2];
    int zero_offset[2];
    int const feature = task.feature * more.widths[task.product] + row;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      int const at = row_of_feature(product, feature + 8 * h);
      int const offset = Rows::has_offset ? (at * packed.scale_pitch) & 3 : 0;
      spot[h] = (side_place(row) + 8 * h) * Tile::side_row + offset;
      zero_offset[h] = Rows::has_zeros ? at * packed.zero_pitch : 0;
    }
    int const zero_step = !Rows::has_zeros || !turned             ? 0
                          : product.halves == Halves::interleaved ? -2 * packed.zero_pitch
                                                                  : -packed.zero_pitch;
    // From one part to the next: bytes of codes, then of scales with, in bit 1, the change of place
    // among four bytes.
    bool const shifted = Rows::has_offset && product.halves != Halves::interleaved;
    int const steps =
        turned ? pack_steps(-Tile::box, -Tile::side_row + (shifted ? packed.scale_pitch & 2 : 0))
               : pack_steps(64 * Tile::box, side_step);

    // A unit's codes and scales, on their way to decode().
    auto const swizzled = [&](int piece) -> std::uint32_t {
      return row * Tile::box + ((piece ^ (Tile::box == 128 ? row % 8 : row / 2 % 4)) << 4);
    };
    std::uint32_t const codes[2] = {swizzled(own), swizzled(own + (Tile::box == 128 ? 4 : 0))};
    uint4 raw[2];
    decltype(Rows::load(0, 0, 0)) words[2];
    std::uint32_t side_at = 0;  // kept: where registers are few that is one less than finding it
    auto const fetch = [&](int kt, int unit) {
      int const slot = unit / parts, part = unit % parts;
      int const copy = slot * 64 / Tile::box;
      std::uint32_t at =
          this->stage(ring.stage) + codes[slot % 2] + copy * Tile::features * Tile::box;
      if (unit == 0) side_at = side(ring.stage);
      std::uint32_t const scales = side_at + slot * Rows::slot_bytes;
      bool const apart = arranged && part > 0;
      at += apart ? steps_high(steps) : part * 64 * Tile::box;
      int const change = apart ? steps_low(steps) : part * side_step;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        raw[h] = load_shared_16(at + h * 8 * Tile::box);
        std::uint32_t const place = scales + spot[h];
        // The bytes of zero points begin anywhere in their first word.
        int const first = zero_offset[h] + part * zero_step + kt * Tile::slots;
        int const zero = 4 * Tile::slots - 3 * slot + (first & 3);
        words[h] = Rows::load(
            Rows::has_offset ? (place + (change & ~7)) ^ (change & 2) : place + change, zero, own);
      }
    };
    auto const wait_full = [&] {
      barrier_wait(this->full(ring.stage), ring.phase);
      if constexpr (arranged) proxy_fence();  // the rows came by ordinary copies
    };
    int previous = -1;
    std::uint32_t a[2][batch][2][4], near[2][4];
    Rows rows[2];
    std::uint32_t largest[2 * parts] = {};
    // Decodes batch i of a stage; once the codes of its unit are spread, the next ones are fetched.
    auto const decode = [&](int kt, int i) {
      int const unit = i / unit_batches, part = unit % parts, first = i % unit_batches * batch;
      if (first == 0) {
        int const number = kt * Tile::slots + unit / parts;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if (number >= own_slots) words[h] = {};
          rows[h].set(words[h]);
          if constexpr (Rows::has_large) {
            largest[2 * part + h] = max(largest[2 * part + h], words[h]);
          }
        }
      }
#pragma unroll
      for (int n = first; n < first + batch; ++n) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          std::uint32_t const of[4] = {raw[h].x, raw[h].y, raw[h].z, raw[h].w};
#pragma unroll
          for (int word = 0; word < 4; ++word) {
            if (n % 2 == 0) near[h][word] = Rows::near(of[word], n / 2, by);
            a[i % 2][n - first][word / 2][word % 2 * 2 + h] =
                rows[h].decode(near[h][word], n, word, by);
          }
        }
      }
      if (first > 2 || first + batch <= 2) return;
      if (unit + 1 < units) {
        fetch(kt, unit + 1);
      } else {
        previous = ring.stage;
        ring.next();
        if (kt + 1 < tiles) {
          wait_full();
          fetch(kt + 1, 0);
        }
      }
    };

    // The sums of a block of k, where they are multiplied with its scale.
    constexpr int block_sums = Rows::in_sums ? Tile::sums / 2 : 1;
    float sums[block_sums];
    if constexpr (Rows::in_sums) {
#pragma unroll
      for (int n = 0; n < parts * N / 2; ++n) acc[n / (N / 2)][n % (N / 2)] = 0;
    }

    if (leads && group == 1) named_barrier(4, 2 * group_threads);
    wait_full();
    fetch(0, 0);
    decode(0, 0);
    for (int kt = 0; kt < tiles; ++kt) {
      int const done = previous;
      // The same in all lanes, and the compiler is to know it.
      int const stage = __shfl_sync(~0U, ring.stage, 0);
      auto const right0 = matrix_descriptor(this->stage(stage) + Tile::weight_bytes);
#pragma unroll
      for (int i = 0; i < batches; ++i) {
        int const unit = i / unit_batches, part = unit % parts;
        wgmma_begin();
#pragma unroll
        for (int s = 0; s < 2 * batch; ++s) {
          int const of_unit = i % unit_batches * 2 * batch + s;
          int const step = unit / parts * 8 + of_unit;  // of 16 of k
          // Addresses have 18 bits: no carry leaves the lower word.
          auto const low = static_cast<std::uint32_t>(right0) +
                           (step / 4 * Tile::tokens * row_bytes >> 4) + 2 * (step % 4);
          auto const right = (right0 >> 32) << 32 | low;
          if constexpr (Rows::in_sums) {
            wgmma<Type, N>(sums, a[i % 2][s / 2][s % 2], right, of_unit != 0);
          } else {
            wgmma<Type, N>(acc[part], a[i % 2][s / 2][s % 2], right, (kt | step) != 0);
          }
        }
        wgmma_commit();
        if (leads && group == 0 && i == batches - 1 && kt == min(lead, tiles) - 1) {
          named_barrier_arrive(4, 2 * group_threads);
        }
        wgmma_wait<1>();
        if (i == 0 && done >= 0 && signals) barrier_arrive(this->empty(done));
        float scale[2];
        if constexpr (Rows::in_sums) {
          scale[0] = rows[0].scale;
          scale[1] = rows[1].scale;
        }
        if (i + 1 < batches) {
          decode(kt, i + 1);
        } else if (kt + 1 < tiles) {
          decode(kt + 1, 0);
        }
        if constexpr (Rows::in_sums) {
          if (i % unit_batches == unit_batches - 1) {
            wgmma_wait<0>();
#pragma unroll
            for (int n = 0; n < N / 2; ++n) {
              acc[part][n] = fmaf(scale[n / 2 % 2], sums[n], acc[part][n]);
            }
          }
        }
      }
    }
    wgmma_wait<0>();
    if (signals) barrier_arrive(this->empty(previous));

    float const* const scales = packed.part_scales + task.group * packed.parts;
#pragma unroll
    for (int part = 0; part < parts; ++part) {
      float s[2] = {Rows::times, Rows::times};
#pragma unroll
      for (int h = 0; Rows::part_scaled && h < 2; ++h) {
        int const at =
            min(row_of_feature(product, feature + part * row_step + 8 * h), product.features - 1);
        s[h] *= scales[at / packed.part_rows];
      }
#pragma unroll
      for (int n = 0; Rows::times != 1 && n < N / 2; ++n) acc[part][n] *= s[n / 2 % 2];
    }
    if constexpr (Rows::has_large) {
      // Rare: the sums of such rows again, one by one.
#pragma unroll
      for (int n = 0; n < 2 * parts; ++n) {
        largest[n] = max(largest[n], __shfl_xor_sync(~0U, largest[n], 1));
        largest[n] = max(largest[n], __shfl_xor_sync(~0U, largest[n], 2));
      }
#pragma unroll 1
      for (int r = 0; r < 2 * parts; ++r) {
        std::uint32_t found = 0;
#pragma unroll
        for (int n = 0; n < 2 * parts; ++n) found = n == r ? largest[n] : found;
        int const at = feature + r / 2 * row_step + r % 2 * 8;
        if (found < Rows::large || at >= product.features) continue;
        std::int64_t const of =
            std::int64_t{task.group} * product.features + row_of_feature(product, at);
        auto const* const row_codes =
            static_cast<std::uint8_t const*>(product.b) + of * packed.code_pitch;
        auto const* const row_scales = packed.scales + of * packed.scale_pitch;
#pragma unroll 1
        for (int c = 0; c < N / 4; ++c) {
          int const column = min(c / 2 * 8 + lane % 4 * 2 + c % 2, task.count - 1);
          auto const* const x = this->row_of_tokens(product, task.row + column);
          float sum = 0;
          for (int k = 0; k < product.k; ++k) {
            int const place = arranged ? arranged_column(k) : k;
            sum += __uint_as_float(std::uint32_t{__ldcg(x + place)} << 16) *
                   Rows::value(row_codes, row_scales, k);
          }
          int const place = r / 2 * (N / 2) + c / 2 * 4 + r % 2 * 2 + c % 2;
#pragma unroll
          for (int n = 0; n < parts * N / 2; ++n) {
            set_if(acc[n / (N / 2)][n % (N / 2)], place == n, sum);
          }
        }
      }
    }
  }
};

/// x [rows, k] to rows of whole blocks of 128 in the operand's order.
__global__ void __launch_bounds__(256)
    arrange_kernel(void const* x, std::int64_t rows, int k, void* out) {
  wait_for_kernels_before();
  let_next_begin();
  int const blocks = arranged_width(k) / 128;
  std::int64_t const stride = std::int64_t{gridDim.x} * blockDim.x, count = rows * blocks * 4;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    std::int64_t const block = i / 4, row = block / blocks;
    int const first = static_cast<int>(block - row * blocks) * 16 + static_cast<int>(i % 4);
    auto const* const from = static_cast<uint4 const*>(x) + row * (k / 8);
    uint4 v[4];
#pragma unroll
    for (int l = 0; l < 4; ++l) {
      int const piece = first + 4 * l;
      v[l] = 8 * piece < k ? from[piece] : uint4{};
    }
    auto* const to = static_cast<uint4*>(out) + block * 16 + i % 4;
#pragma unroll
    for (int n = 0; n < 4; ++n) to[4 * n] = arranged_piece(v, n);
  }
}

template <class Tile>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks)
    packed_kernel(__grid_constant__ PackedLaunch const launch) {
  extern __shared__ char raw[];
  std::uint32_t const address = shared_address(raw), base = (address + 1023) / 1024 * 1024;
  PackedBlock<Tile> block{{{launch, base, raw + (base - address), {}}, launch}};
  run_block<Operand::bf16, Tile>(launch, block);
}

}  // namespace kmoe::device::sm90
