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
///
/// Warp 0 brings codes by bulk tensor copies, and scales by copies of four bytes: rows of scales
/// lie as the checkpoint has them, at multiples of two bytes.

#include <type_traits>

#include "device/sm90/packed.hpp"
#include "device/sm90/packed_decode.hpp"
#include "device/sm90/run_block.hpp"

namespace kmoe::device::sm90 {

/// Where row `row` of a tile's features (gates and ups by eights) lies among the rows of a matrix.
__device__ __forceinline__ int row_of_feature(Product const& product, int row) {
  if (product.halves == Halves::none) return row;
  int const pair = row / 16 * 8 + row % 8, half = row / 8 % 2;
  return product.halves == Halves::interleaved ? 2 * pair + half
                                               : pair + half * (product.features / 2);
}

struct PackedLaunch : Launch {
  PackedScales packed[2];
  Factors factors;
};

/// As Tile, with codes instead of weights in a stage and their scales apart. `Blocks` of them run
/// on a multiprocessor. `Arranged`: rows of tokens lie in the operand's order in memory, x because
/// arrange_kernel() has been there, the intermediate as it comes out of the first product.
template <class Rows, int Features, int Tokens, int Stages, int Groups, int Depth, int Blocks = 1,
          bool Arranged = false>
struct PackedTile {
  using Format = Rows;
  static constexpr int features = Features, tokens = Tokens, stages = Stages, groups = Groups;
  static constexpr int depth = Depth, blocks = Blocks;
  static constexpr bool arranged = Arranged;
  static constexpr int row_k = tile_k, piece_k = 8;
  static constexpr int parts = Features / Groups / 64, part_features = 64;
  static constexpr int sums = Tokens < 32 ? 32 : Tokens;
  static constexpr int threads = (1 + Groups) * group_threads;
  static constexpr int loader_registers = Blocks == 1 ? 56 : 48;
  static constexpr int registers = Blocks == 1 ? 224 : 96;
  static constexpr int row_places = places_of_rows(Tokens, 4);
  static constexpr int pair = 1;
  static constexpr bool by_eights = false;
  static constexpr int box = Depth < 4 ? 32 * Depth : 128;  // bytes of a row of codes at once
  static constexpr int boxes = 32 * Depth / box;
  static constexpr int slots = Depth / 2;  // of 128 of k
  static constexpr int weight_bytes = 32 * Depth * Features;
  static constexpr int stage_bytes = weight_bytes + Depth * Tokens * row_bytes;
  static constexpr int side_rows = Features + (Arranged ? 16 : 0);  // see side_place()
  static constexpr int side_bytes = slots * side_rows * side_slot;
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
  static_assert(!Arranged || (Features == 256 && box == 64));  // see row_of()
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
  static constexpr int row_lanes = Tile::arranged ? 8 : 4;
  static constexpr bool arranged = Tile::arranged;
  PackedLaunch const& more;

  /// Eight lanes in a row access eight rows' or halves' different pieces of 128 bytes.
  __device__ static int first_row(int thread) {
    if (arranged) return thread / row_lanes;
    int const row = thread / 4;
    return (row & ~5) | (row & 1) << 2 | (row >> 2 & 1);
  }

  /// Rows in the order of the operand are whole blocks of 128.
  __device__ static int width_of(int k) { return arranged ? arranged_width(k) : k; }
  __device__ static int element_of(int column) {
    return arranged ? arranged_element(column) : column;
  }

  /// Row of the tile's codes that is row `row` of the left operand. Those of gates and ups are
  /// taken in the order in which a warp's eight outputs are eight columns of the next product's
  /// operand.
  __device__ static int row_of(bool gated, int row) {
    if (!arranged || !gated) return row;
    int const output = arranged_element(row / 16 * 8 + row % 8);
    return output / 8 * 16 + row / 8 % 2 * 8 + output % 8;
  }
  /// Where the scales of a row of codes lie among those of the tile, so that lanes access different
  /// banks in either order.
  __device__ static constexpr int side_place(int row) {
    return arranged ? row + row / 64 % 2 * 2 + row / 128 * 8 : row;
  }

  /// Of 128 of k of a row a thread brings pieces p, p + 4, p + 8 and p + 12 of 8, and puts them in
  /// the order of the operand.
  struct Arranging {
    static constexpr int behind = Tile::stages > 3 ? 2 : 1;
    PackedBlock const& block;
    Ring<Tile::stages> ring;
    int pending = 0;

    __device__ void arrange(int count) {
      int const thread = threadIdx.x - 32, first = first_row(thread);
      std::uint32_t const to = block.stage(ring.stage) + Tile::weight_bytes + first * row_bytes +
                               ((thread % 4 ^ (first & 7)) << 4);
      for (int row = first; row < count; row += loader_threads / 4) {
#pragma unroll
        for (int slot = 0; slot < Tile::slots; ++slot) {
          std::uint32_t const low =
              to + (row - first) * row_bytes + 2 * slot * Tile::tokens * row_bytes;
          std::uint32_t const at[4] = {low, low ^ 64, low + Tile::tokens * row_bytes,
                                       (low ^ 64) + Tile::tokens * row_bytes};
          uint4 v[4];
#pragma unroll
          for (int l = 0; l < 4; ++l) v[l] = load_shared_16(at[l]);
#pragma unroll
          for (int n = 0; n < 4; ++n) store_shared_16(at[n], arranged_piece(v, n));
        }
      }
      proxy_fence();  // these were ordinary accesses
      barrier_arrive(block.full(ring.stage));
      ring.next();
      --pending;
    }
    __device__ void add(int, int count) {
      copy_async_commit();
      if (++pending <= behind) return;
      copy_async_wait<behind>();
      arrange(count);
    }
    __device__ void finish(int count) {
      if (pending > 1) {
        copy_async_wait<1>();
        arrange(count);
      }
      if (pending > 0) {
        copy_async_wait<0>();
        arrange(count);
      }
    }
  };

  using Arrivals = std::conditional_t<arranged, typename Base::Arrivals, Arranging>;

  __device__ std::uint32_t side(int s) const {
    return this->base + Tile::sides + s * Tile::side_bytes;
  }
  /// The elements of a row of tokens.
  __device__ std::uint16_t const* row_of_tokens(Product const& product, int row) const {
    Schedule const& schedule = this->schedule;
    int const from = product.gather ? schedule.slot(row) : row;
    int const divisor = schedule.has_slots() && product.gather ? more.slots_per_row : 1;
    return static_cast<std::uint16_t const*>(product.in) +
           std::int64_t{from / divisor} * width_of(product.k);
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
          std::uint32_t const to = side(ring.stage) + (slot * Tile::side_rows + lane) * side_slot;
          int from = (at + block_k * Rows::slot_bytes) & ~3, from_zero = (at_zero + block_k) & ~3;
#pragma unroll
          for (int n = 0; n < own_rows; ++n) {
            std::uint32_t const place = to + side_place(n * 32) * side_slot;
            copy_async_4(place, scales + from, from < end);
            if (Rows::slot_bytes == 8 || (!Rows::has_zeros && shifted)) {
              copy_async_4(place + 4, scales + from + 4, from + 4 < end);
            }
            if constexpr (Rows::has_zeros) {
              copy_async_4(place + 4, zeros + from_zero, from_zero < zero_end);
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
    constexpr int side_step = (side_place(64) - side_place(0)) * side_slot;
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
    int const feature = task.feature * Tile::features + row;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      int const at = row_of_feature(product, feature + 8 * h);
      int const offset = Rows::has_offset ? (at * packed.scale_pitch) & 3 : 0;
      spot[h] = (side_place(row) + 8 * h) * side_slot + offset;
      zero_offset[h] = Rows::has_zeros ? at * packed.zero_pitch : 0;
    }
    // From one part to the next: bytes of codes, then of scales with, in bit 1, the change of place
    // among four bytes.
    bool const shifted = Rows::has_offset && product.halves != Halves::interleaved;
    int const steps =
        turned ? pack_steps(-Tile::box, -side_slot + (shifted ? packed.scale_pitch & 2 : 0))
               : pack_steps(64 * Tile::box, side_step);

    // A unit's codes and scales, on their way to decode().
    auto const swizzled = [&](int piece) -> std::uint32_t {
      return row * Tile::box + ((piece ^ (Tile::box == 128 ? row % 8 : row / 2 % 4)) << 4);
    };
    std::uint32_t const codes[2] = {swizzled(own), swizzled(own + (Tile::box == 128 ? 4 : 0))};
    uint4 raw[2];
    decltype(Rows::load(0, 0)) words[2];
    auto const fetch = [&](int stage, int unit) {
      int const slot = unit / parts, part = unit % parts;
      int const copy = slot * 64 / Tile::box;
      std::uint32_t at = this->stage(stage) + codes[slot % 2] + copy * Tile::features * Tile::box;
      std::uint32_t const scales = side(stage) + slot * Tile::side_rows * side_slot;
      bool const apart = arranged && part > 0;
      at += apart ? steps_high(steps) : part * 64 * Tile::box;
      int const change = apart ? steps_low(steps) : part * side_step;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        raw[h] = load_shared_16(at + h * 8 * Tile::box);
        std::uint32_t const place = scales + spot[h];
        words[h] = Rows::load(
            Rows::has_offset ? (place + (change & ~7)) ^ (change & 2) : place + change, own);
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
          rows[h].set(words[h], (zero_offset[h] + number) & 3);
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
        fetch(ring.stage, unit + 1);
      } else {
        previous = ring.stage;
        ring.next();
        if (kt + 1 < tiles) {
          wait_full();
          fetch(ring.stage, 0);
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
    fetch(ring.stage, 0);
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
          auto const* const x = row_of_tokens(product, task.row + column);
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
  PackedBlock<Tile> block{{launch, base, raw + (base - address), {}}, launch};
  run_block<Operand::bf16, Tile>(launch, block);
}

}  // namespace kmoe::device::sm90
