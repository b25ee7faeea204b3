// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Weights of four bits in the kernel: codes lie packed in a stage, their scales beside them, and
/// the warpgroup that multiplies decodes its share of the left operand into registers.
///
/// A thread of wgmma holds rows lane / 4 and 8 below, and of each 8 columns two neighbours: one
/// byte of codes. Decoding of the next columns overlaps the multiplication of these. Products of
/// codes and scales that bfloat16 holds exactly (mxfp4, nvfp4 without its float) are the operand;
/// where scales are floats (int4) the codes are, and sums of each block of k are multiplied.
///
/// Warp 0 brings codes by bulk tensor copies, and scales by copies of four bytes: rows of scales
/// lie as the checkpoint has them, at multiples of two bytes.

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "device/sm90/packed.hpp"
#include "device/sm90/run_block.hpp"

namespace kmoe::device::sm90 {

inline constexpr int side_slot = 8;  // bytes of scales of a feature's 128 of k, in a stage

__device__ __forceinline__ std::uint32_t multiply_bf16(std::uint32_t a, std::uint32_t b) {
  std::uint32_t d;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ std::uint32_t subtract_bf16(std::uint32_t a, std::uint32_t b) {
  std::uint32_t d;
  asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ uint4 load_shared_16(std::uint32_t at) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(at));
  return v;
}
__device__ __forceinline__ uint2 load_shared_8(std::uint32_t at) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at));
  return v;
}
/// Non-blocking copy of 4 bytes, zeros if not `there`.
__device__ __forceinline__ void copy_async_4(std::uint32_t to, void const* from, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from),
               "r"(there ? 4 : 0)
               : "memory");
}

/// An array that is indexed by what is not constant would not stay in registers.
__device__ __forceinline__ void set_if(float& to, bool condition, float value) {
  asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %1, 0;\n\t@p mov.b32 %0, %2;\n\t}"
               : "+f"(to)
               : "r"(static_cast<int>(condition)), "f"(value));
}

/// What a thread knows while it decodes.
struct Lane {
  std::uint32_t select;  // of own_byte()
  // Shifts are multiplications: those have a pipe of their own, the other operations share one.
  std::uint32_t sixteen, four;
};

/// Two e2m1 codes of the thread's byte of v, times 2^-126: their fields lie where a subnormal
/// number has them.
__device__ __forceinline__ std::uint32_t spread_e2m1(std::uint32_t v, Lane const& lane) {
  std::uint32_t const p = __byte_perm(v * lane.sixteen, v, lane.select);
  return (p & 0x80008000U) | ((p * lane.four) & 0x01c001c0U);
}
/// Picks byte `own` of a for the low and of b for the high half of a word, twice.
__device__ __forceinline__ std::uint32_t own_byte(int own) {
  return 0x4400U + 0x1111U * own;
}

/// What one thread has of the scales of a row's 128 of k, and how it decodes 32 of them: words of
/// eight codes into its pairs. The operand is 2^-32 of the value, so that the factor, 2^126 times
/// the scale, is a number for scales up to 2^32.
struct Mxfp4 {
  static constexpr bool in_sums = false, part_scaled = false, has_zeros = false, has_large = true;
  static constexpr float times = 0x1p32F;
  static constexpr int slot_bytes = 4;
  std::uint32_t scales;

  /// `blocks` of 32 are there.
  __device__ __forceinline__ void set(uint2 slot, int offset, int blocks, int) {
    scales = __funnelshift_r(slot.x, slot.y, 8 * offset);
    if (blocks < 4) scales &= (1U << 8 * blocks) - 1;
  }
  __device__ __forceinline__ void decode(uint4 const& v, int unit, Lane const& lane,
                                         std::uint32_t (&pairs)[4]) const {
    std::uint32_t const e = __byte_perm(scales, 0, 0x4440 | unit);
    std::uint32_t const factor = e * 0x00800080U + (126 - 32) * 0x00800080U;
    pairs[0] = multiply_bf16(spread_e2m1(v.x, lane), factor);
    pairs[1] = multiply_bf16(spread_e2m1(v.y, lane), factor);
    pairs[2] = multiply_bf16(spread_e2m1(v.z, lane), factor);
    pairs[3] = multiply_bf16(spread_e2m1(v.w, lane), factor);
  }
  /// Nonzero: a scale of 2^33 or more, or NaN. The factor is not, then.
  __device__ __forceinline__ std::uint32_t large() const {
    return scales & (scales << 1 | scales << 2) & 0x80808080U;
  }
  /// Weight k of a row, in the way that has no such limits.
  __device__ static float value(std::uint8_t const* codes, std::uint8_t const* scales, int k) {
    int const code = codes[k / 2] >> 4 * (k % 2) & 15, e = scales[k / 32], m = code & 7;
    float const magnitude = m < 2 ? 0.5F * m : __int_as_float((126 << 23) + (m << 22));
    float const scale = __int_as_float(e == 255 ? 0x7fc00000 : e == 0 ? 0x00400000 : e << 23);
    return (code & 8) != 0 ? -magnitude * scale : magnitude * scale;
  }
};

/// The operand is 2^-8 of the value, so that the largest scale times 2^126 is a number; part scales
/// make up for it.
struct Nvfp4 {
  static constexpr bool in_sums = false, part_scaled = true, has_zeros = false, has_large = false;
  static constexpr float times = 256;
  static constexpr int slot_bytes = 8;
  std::uint32_t scales[2];

  __device__ __forceinline__ void set(uint2 slot, int, int blocks, int) {
    scales[0] = slot.x;
    scales[1] = slot.y;
    if (blocks < 4) {
      scales[0] = blocks >= 2 ? slot.x : blocks == 1 ? slot.x & 0xffffU : 0;
      scales[1] = blocks == 3 ? slot.y & 0xffffU : 0;
    }
  }
  __device__ __forceinline__ void decode(uint4 const& v, int unit, Lane const& lane,
                                         std::uint32_t (&pairs)[4]) const {
    auto const two = static_cast<__nv_fp8x2_storage_t>(scales[unit / 2] >> (unit % 2 * 16));
    float2 const s = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(two, __NV_E4M3)));
    std::uint32_t const low = pack<Operand::bf16>(s.x * 0x1p118F, s.x * 0x1p118F);
    std::uint32_t const high = pack<Operand::bf16>(s.y * 0x1p118F, s.y * 0x1p118F);
    pairs[0] = multiply_bf16(spread_e2m1(v.x, lane), low);
    pairs[1] = multiply_bf16(spread_e2m1(v.y, lane), low);
    pairs[2] = multiply_bf16(spread_e2m1(v.z, lane), high);
    pairs[3] = multiply_bf16(spread_e2m1(v.w, lane), high);
  }
};

/// Integers less their zero point, in blocks of 128.
template <bool Zeros>
struct Int4 {
  static constexpr bool in_sums = true, part_scaled = false, has_zeros = Zeros, has_large = false;
  static constexpr float times = 1;
  static constexpr int slot_bytes = 4;
  float scale;
  std::uint32_t zero;  // 128 more, twice

  __device__ __forceinline__ void set(uint2 slot, int, int blocks, int zero_offset) {
    scale = blocks > 0 ? __uint_as_float(slot.x) : 0.0F;
    zero = 0x43084308U;
    if constexpr (Zeros)
      zero = 0x43004300U + (__byte_perm(slot.y, 0, 0x4440U + zero_offset) & 15U) * 0x00010001U;
  }
  __device__ __forceinline__ void decode(uint4 const& v, int, Lane const& lane,
                                         std::uint32_t (&pairs)[4]) const {
    auto const spread = [&](std::uint32_t w) {
      std::uint32_t const p = __byte_perm(w, w >> 4, lane.select);
      return subtract_bf16((p & 0x000f000fU) | 0x43004300U, zero);
    };
    pairs[0] = spread(v.x);
    pairs[1] = spread(v.y);
    pairs[2] = spread(v.z);
    pairs[3] = spread(v.w);
  }
};

/// Where row `row` of a tile's features (gates and ups by eights) lies among the rows of a matrix.
__device__ __forceinline__ int row_of_feature(Product const& product, int row) {
  if (product.halves == Halves::none) return row;
  int const pair = row / 16 * 8 + row % 8, half = row / 8 % 2;
  return product.halves == Halves::interleaved ? 2 * pair + half
                                               : pair + half * (product.features / 2);
}

struct PackedLaunch : Launch {
  PackedScales packed[2];
  std::uint32_t sixteen, four;  // see Lane
};

/// As Tile, with codes instead of weights in a stage and their scales apart. `Blocks` of them run
/// on a multiprocessor.
template <class Rows, int Features, int Tokens, int Stages, int Groups, int Depth, int Blocks = 1>
struct PackedTile {
  using Format = Rows;
  static constexpr int features = Features, tokens = Tokens, stages = Stages, groups = Groups;
  static constexpr int depth = Depth, blocks = Blocks;
  static constexpr int row_k = tile_k, piece_k = 8;
  static constexpr int parts = Features / Groups / 64, part_features = 64;
  static constexpr int sums = Tokens < 32 ? 32 : Tokens;
  static constexpr int threads = (1 + Groups) * group_threads;
  static constexpr int loader_registers = Blocks == 1 ? 56 : 48;
  static constexpr int registers = Blocks == 1 ? 224 : 96;
  static constexpr int row_places = places_of_rows(Tokens);
  static constexpr int pair = 1;
  static constexpr bool by_eights = false;
  static constexpr int box = Depth < 4 ? 32 * Depth : 128;  // bytes of a row of codes at once
  static constexpr int boxes = 32 * Depth / box;
  static constexpr int slots = Depth / 2;  // of 128 of k
  static constexpr int weight_bytes = 32 * Depth * Features;
  static constexpr int stage_bytes = weight_bytes + Depth * Tokens * row_bytes;
  static constexpr int side_bytes = slots * Features * side_slot;
  static constexpr int staging_bytes = 4 * warp_staging;
  static constexpr int sides = Stages * stage_bytes;
  static constexpr int staging = sides + Stages * side_bytes;
  static constexpr int rows = staging + Groups * staging_bytes;
  static constexpr int weights = rows + row_places * 8;
  static constexpr int barriers = weights + Groups * sums * 8;
  static constexpr int tasks = barriers + 2 * Stages * 8;
  static constexpr int tables = tasks + task_places * (sizeof(Task) + 16);
  static constexpr int bytes(int groups, bool grouping) {
    return 1024 + tables + bytes_of_tables(groups, grouping);
  }
  static_assert(Groups == 2 && Depth % 2 == 0 && Features % 128 == 0);
  static_assert(bytes(max_groups, false) <= shared_limit);
  static_assert(bytes(max_grouped_groups, true) <= shared_limit);
  static_assert(threads / 32 * max_grouped_groups * 2 <= Stages * stage_bytes);  // count_slots
};

template <class Tile>
struct PackedBlock : Block<Tile> {
  using Base = Block<Tile>;
  using Rows = typename Tile::Format;
  using typename Base::Sums;
  static constexpr int weight_threads = 32;
  static constexpr int token_arrivals = loader_threads + weight_threads;
  PackedLaunch const& more;

  __device__ std::uint32_t side(int s) const {
    return this->base + Tile::sides + s * Tile::side_bytes;
  }
  /// The elements of x of a row.
  __device__ std::uint16_t const* row_of_tokens(Product const& product, int row) const {
    Schedule const& schedule = this->schedule;
    int const from = product.gather ? schedule.slot(row) : row;
    int const divisor = schedule.has_slots() && product.gather ? more.slots_per_row : 1;
    return static_cast<std::uint16_t const*>(product.in) + std::int64_t{from / divisor} * product.k;
  }

  /// Warp 0: as Block::load_weights, with the scales of the tile's rows.
  __device__ void load_weights(int number) {
    constexpr int own_rows = Tile::features / 32, stages = Tile::stages;
    PackedLaunch const& launch = more;
    int const lane = threadIdx.x;
    bool const first = lane == 0;
    Ring<stages> ring;
    Ring<task_places> place;
    auto const tell = [](Task& task) {
      task.product = __shfl_sync(~0U, task.product, 0);
      task.group = __shfl_sync(~0U, task.group, 0);
      task.feature = __shfl_sync(~0U, task.feature, 0);
    };
    Task task{};
    if (first) task = this->hand_out(place, number);
    tell(task);
    for (int turn = 1; task.product >= 0; ++turn) {
      Product const& product = launch.products[task.product];
      PackedScales const& packed = launch.packed[task.product];
      CUtensorMap const* const map = &launch.maps[task.product];
      int const tiles = this->k_tiles(task.product);
      int const handed = this->handed_at(tiles), drawn = this->drawn_at(tiles);

      int const begin = task.feature * Tile::features;
      int const row = row_of_feature(product, begin + lane);
      bool const halved =
          product.halves == Halves::gate_first || product.halves == Halves::up_first;
      int const step = halved ? 16 : 32;  // rows from one of a lane's rows to the next
      bool const shifted = packed.scale_pitch % 4 != 0;
      // What lies behind a row or a matrix is not looked at; behind the last one there is nothing.
      auto const behind = [&](int pitch) {
        std::int64_t const rows = std::int64_t{launch.groups - task.group} * product.features;
        return static_cast<int>(min(rows * pitch, std::int64_t{1} << 30));
      };
      std::int64_t const rows_before = std::int64_t{task.group} * product.features;
      auto const* const scales = packed.scales + rows_before * packed.scale_pitch;
      auto const* const zeros = packed.zeros + rows_before * packed.zero_pitch;
      int const end = behind(packed.scale_pitch), zero_end = behind(packed.zero_pitch);
      int const at = row * packed.scale_pitch, at_zero = row * packed.zero_pitch;
      Task next{};
      for (int kt = 0; kt < tiles; ++kt) {
        if (first) {
          if (kt == drawn) number = this->draw(turn);
          if (kt == handed) next = this->hand_out(place, number);
        }
        barrier_wait(this->empty(ring.stage), ring.phase ^ 1);
        std::uint32_t const barrier = this->full(ring.stage);
        if (first) {
          barrier_arrive_expecting(barrier, Tile::weight_bytes);
#pragma unroll
          for (int copy = 0; copy < Tile::boxes; ++copy) {
            int const byte = (kt * Tile::boxes + copy) * Tile::box;
            std::uint32_t const to = this->stage(ring.stage) + copy * Tile::features * Tile::box;
            if (product.halves == Halves::none) {
              tensor_copy_3d(to, map, barrier, byte, begin, task.group);
            } else {
              tensor_copy_5d(to, map, barrier, byte, 0, 0, begin / 16, task.group);
            }
          }
        }
        __syncwarp();
#pragma unroll
        for (int slot = 0; slot < Tile::slots; ++slot) {
          int const block_k = kt * Tile::slots + slot;
          std::uint32_t const to = side(ring.stage) + (slot * Tile::features + lane) * side_slot;
          int from = (at + block_k * Rows::slot_bytes) & ~3, from_zero = (at_zero + block_k) & ~3;
#pragma unroll
          for (int n = 0; n < own_rows; ++n) {
            copy_async_4(to + n * 32 * side_slot, scales + from, from < end);
            if (Rows::slot_bytes == 8 || (!Rows::has_zeros && shifted)) {
              copy_async_4(to + n * 32 * side_slot + 4, scales + from + 4, from + 4 < end);
            }
            if constexpr (Rows::has_zeros) {
              copy_async_4(to + n * 32 * side_slot + 4, zeros + from_zero, from_zero < zero_end);
              from_zero += step * packed.zero_pitch;
            }
            from += step * packed.scale_pitch;
          }
        }
        copy_async_arrive(barrier);
        ring.next();
      }
      if (first && handed >= tiles) next = this->hand_out(place, number);
      task = next;
      tell(task);
    }
  }

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
    // An item is 32 of k of 64 features; a batch of them is decoded while the last one is
    // multiplied.
    constexpr int registers = Tile::registers;
    constexpr int batch = parts > 1 || Rows::in_sums || Tile::tokens > 32 ? 1
                          : registers > 150                               ? 4
                          : registers > 100                               ? 2
                                                                          : 1;
    constexpr int slot_batches = 4 * parts / batch, batches = Tile::slots * slot_batches;
    constexpr int lead = Tile::tokens >= 128 ? 1 : 0;
    int const tiles = this->k_tiles(task.product);
    Product const& product = more.products[task.product];
    PackedScales const& packed = more.packed[task.product];
    int const thread = threadIdx.x % group_threads, lane = thread % 32;
    int const row = group * parts * 64 + thread / 32 * 16 + lane / 4;  // and 8 below, and 64
    Lane const own{own_byte(lane % 4), more.sixteen, more.four};
    std::uint32_t const swizzle = (Tile::box == 128 ? lane / 4 : lane / 8) << 4;
    std::uint32_t const codes = (group * parts * 64 + thread / 32 * 16 + lane / 4) * Tile::box;
    int const k_units = (product.k + 31) / 32;

    // Of each row: where its words begin among the four bytes.
    int offset[2], zero_offset[2];
    int const feature = task.feature * Tile::features + row;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      // The same for all parts: rows 64 further lie at multiples of 4 of any pitch.
      int const at = row_of_feature(product, feature + 8 * h);
      offset[h] = (at * packed.scale_pitch) & 3;
      zero_offset[h] = Rows::has_zeros ? at * packed.zero_pitch : 0;
    }

    auto const row_address = [&](int stage, int slot, int unit, int part) {
      int const piece = slot * 4 + unit;
      return this->stage(stage) + codes +
             (piece / (Tile::box / 16) * Tile::features + part * 64) * Tile::box +
             (((piece % (Tile::box / 16)) << 4) ^ swizzle);
    };
    // Batch i of a stage, on its way to decode().
    uint4 raw[batch][2];
    uint2 words[parts][2];
    auto const fetch = [&](int stage, int i) {
      int const slot = i / slot_batches;
      if (i % slot_batches == 0) {
#pragma unroll
        for (int n = 0; n < 2 * parts; ++n) {
          words[n / 2][n % 2] = load_shared_8(
              side(stage) + (slot * Tile::features + row + n / 2 * 64 + n % 2 * 8) * side_slot);
        }
      }
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        int const item = i % slot_batches * batch + b;
        std::uint32_t const at = row_address(stage, slot, item / parts, item % parts);
        raw[b][0] = load_shared_16(at);
        raw[b][1] = load_shared_16(at + 8 * Tile::box);
      }
    };
    std::uint32_t a[2][batch][2][4];
    Rows rows[parts][2];
    std::uint32_t large[2 * parts] = {};
    auto const decode = [&](int kt, int i, std::uint32_t(&to)[batch][2][4]) {
      int const slot = i / slot_batches;
      if (i % slot_batches == 0) {
        int const number = kt * Tile::slots + slot, blocks = max(k_units - 4 * number, 0);
#pragma unroll
        for (int part = 0; part < parts; ++part) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            rows[part][h].set(words[part][h], offset[h], blocks, (zero_offset[h] + number) & 3);
            if constexpr (Rows::has_large) large[2 * part + h] |= rows[part][h].large();
          }
        }
      }
      auto const place = [&](int b, int h, std::uint32_t const(&pairs)[4]) {
        to[b][0][h] = pairs[0];
        to[b][0][2 + h] = pairs[1];
        to[b][1][h] = pairs[2];
        to[b][1][2 + h] = pairs[3];
      };
      std::uint32_t pairs[4];
#pragma unroll
      for (int n = 0; n < 2 * batch; ++n) {
        int const b = n / 2, h = n % 2, item = i % slot_batches * batch + b;
        rows[item % parts][h].decode(raw[b][h], item / parts, own, pairs);
        place(b, h, pairs);
      }
    };

    // The sums of a block of k, where they are multiplied with its scale.
    constexpr int block_sums = Rows::in_sums ? Tile::sums / 2 : 1;
    float sums[Rows::in_sums ? parts : 1][block_sums];
    if constexpr (Rows::in_sums) {
#pragma unroll
      for (int n = 0; n < parts * N / 2; ++n) acc[n / (N / 2)][n % (N / 2)] = 0;
    }

    if (lead > 0 && group == 1) named_barrier(4, 2 * group_threads);
    barrier_wait(this->full(ring.stage), ring.phase);
    fetch(ring.stage, 0);
    decode(0, 0, a[0]);
    fetch(ring.stage, 1);
    int previous = -1;
    for (int kt = 0; kt < tiles; ++kt) {
      proxy_fence();  // the rows came by ordinary copies
      auto const right0 = matrix_descriptor(this->stage(ring.stage) + Tile::weight_bytes);
#pragma unroll
      for (int i = 0; i < batches; ++i) {
        wgmma_begin();
#pragma unroll
        for (int s = 0; s < 2 * batch; ++s) {
          int const item = i * batch + s / 2, part = item % parts;
          int const step = item / parts * 2 + s % 2;  // of 16 of k
          // Addresses have 18 bits: no carry leaves the lower word.
          auto const low = static_cast<std::uint32_t>(right0) +
                           (step / 4 * Tile::tokens * row_bytes >> 4) + 2 * (step % 4);
          auto const right = (right0 >> 32) << 32 | low;
          if constexpr (Rows::in_sums) {
            wgmma<Type, N>(sums[part], a[i % 2][s / 2][s % 2], right, step % 8 != 0);
          } else {
            wgmma<Type, N>(acc[part], a[i % 2][s / 2][s % 2], right, (kt | step) != 0);
          }
        }
        wgmma_commit();
        if (lead > 0 && group == 0 && i == batches - 1 && kt == min(lead, tiles) - 1) {
          named_barrier_arrive(4, 2 * group_threads);
        }
        wgmma_wait<1>();
        if (i == 0 && previous >= 0 && signals) barrier_arrive(this->empty(previous));
        float scales[parts][2];
        if constexpr (Rows::in_sums) {
#pragma unroll
          for (int n = 0; n < 2 * parts; ++n) scales[n / 2][n % 2] = rows[n / 2][n % 2].scale;
        }
        bool const more = kt + 1 < tiles;
        if (i + 2 < batches) {
          decode(kt, i + 1, a[(i + 1) % 2]);
          fetch(ring.stage, i + 2);
        } else if (i + 1 < batches) {
          decode(kt, i + 1, a[(i + 1) % 2]);
          previous = ring.stage;
          ring.next();
          if (more) {
            barrier_wait(this->full(ring.stage), ring.phase);
            fetch(ring.stage, 0);
          }
        } else if (more) {
          decode(kt + 1, 0, a[0]);
          fetch(ring.stage, 1);
        }
        if constexpr (Rows::in_sums) {
          if (i % slot_batches == slot_batches - 1) {
            wgmma_wait<0>();
#pragma unroll
            for (int part = 0; part < parts; ++part) {
#pragma unroll
              for (int n = 0; n < N / 2; ++n) {
                float const s = scales[part][n / 2 % 2];
                acc[part][n] = fmaf(s, sums[part][n], acc[part][n]);
              }
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
            min(row_of_feature(product, feature + 64 * part + 8 * h), product.features - 1);
        s[h] *= scales[at / packed.part_rows];
      }
#pragma unroll
      for (int n = 0; Rows::times != 1 && n < N / 2; ++n) acc[part][n] *= s[n / 2 % 2];
    }
    if constexpr (Rows::has_large) {
      // Rare: the sums of such rows again, one by one.
#pragma unroll 1
      for (int r = 0; r < 2 * parts; ++r) {
        std::uint32_t found = 0;
#pragma unroll
        for (int n = 0; n < 2 * parts; ++n) found = n == r ? large[n] : found;
        int const at = feature + r / 2 * 64 + r % 2 * 8;
        if (found == 0 || at >= product.features) continue;
        std::int64_t const of =
            std::int64_t{task.group} * product.features + row_of_feature(product, at);
        auto const* const row_codes =
            static_cast<std::uint8_t const*>(product.b) + of * packed.code_pitch;
        auto const* const row_scales = packed.scales + of * packed.scale_pitch;
#pragma unroll 1
        for (int c = 0; c < N / 4; ++c) {
          int const column = min(c / 2 * 8 + lane % 4 * 2 + c % 2, task.count - 1);
          auto const* const x = row_of_tokens(product, task.row + column);
          float sum = 0;
          for (int k = 0; k < product.k; ++k) {
            sum += __uint_as_float(std::uint32_t{__ldcg(x + k)} << 16) *
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

template <class Tile>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks)
    packed_kernel(__grid_constant__ PackedLaunch const launch) {
  extern __shared__ char raw[];
  std::uint32_t const address = shared_address(raw), base = (address + 1023) / 1024 * 1024;
  PackedBlock<Tile> block{{launch, base, raw + (base - address), {}}, launch};
  run_block<Operand::bf16, Tile>(launch, block);
}

}  // namespace kmoe::device::sm90
