// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What the loading warps of packed_kernel.hpp do.
///
/// Warp 0 brings codes by bulk tensor copies. The other warps bring rows of tokens in the order of
/// the operand (packed_decode.hpp): many rows together, few rows in turns, a stage each, so that
/// three stages are on their way. Scales come by copies of four bytes, since their rows lie as the
/// checkpoint has them, at multiples of two bytes: by warp 0, with few rows by the warp whose turn
/// it is. How many instructions one warp has for a stage is what bounds the rate at which few rows
/// stream.

#include <type_traits>

#include "device/sm90/kernel.hpp"
#include "device/sm90/packed_tile.hpp"

namespace kmoe::device::sm90 {

/// What a block is but for its products.
template <class Tile>
struct PackedLoader : Block<Tile> {
  using Base = Block<Tile>;
  using Rows = typename Tile::Format;
  using typename Base::Sums;
  static constexpr bool arranged = Tile::arranged;
  // Few rows: a warp brings all that is beside the codes of a stage.
  static constexpr bool by_stage = !arranged && Tile::tokens <= 32;
  static constexpr int token_arrivals = (by_stage ? 1 : loader_threads) + 32;
  static constexpr int row_lanes = arranged ? 8 : 4;
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
    PackedLoader const& block;
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

  template <Operand Type, class Self>
  __device__ void load_tokens(Self& self) {
    if constexpr (by_stage) {
      load_few_tokens();
    } else {
      Base::template load_tokens<Type>(self);
    }
  }

  /// Warps 1 to 3, which take turns at the stages. A lane has row first_row() and every eighth, of
  /// 128 of k of them four pieces. It puts a stage in order while the copies to its next one are on
  /// their way, or at once where there is no place for those yet.
  __device__ void load_few_tokens() const {
    constexpr int own_rows = (Tile::tokens + 7) / 8, warps = loader_threads / 32;
    static_assert(Tile::stages >= warps);
    Schedule const& schedule = this->schedule;
    int const lane = threadIdx.x % 32, own = lane % 4, first = first_row(lane);
    std::uint32_t const to = Tile::weight_bytes + first * row_bytes + ((own ^ (first & 7)) << 4);
    Ring<Tile::stages> ring;
    ring.stage = threadIdx.x / 32 - 1;
    int kt = ring.stage;  // this warp's next step of the tile
    Ring<task_places> place;
    for (Task task = this->next_task(place); task.product >= 0; task = this->next_task(place)) {
      Product const& product = more.products[task.product];
      bool const slots = product.gather;
      int const pieces = product.k / 8, count = task.count;
      auto const* const in = static_cast<uint4 const*>(product.in);
      std::uint32_t rows[own_rows];  // where they begin; past the end the last one
#pragma unroll
      for (int n = 0; n < own_rows; ++n) {
        int const row = task.row + min(first + 8 * n, count - 1);
        rows[n] = (slots ? schedule.token(row) : row) * pieces + own;
      }
      if (task.product == 1 && lane == 0) {
        std::uint32_t const expected = more.order.features[0] * Tile::groups;
        while (load_relaxed(this->ready(task.tile)) < expected) __nanosleep(32);
        load_acquire(this->ready(task.tile));
      }
      __syncwarp();
      int const tiles = this->k_tiles(task.product);
      ScaleRows const scales = scale_rows(task, lane);
      // body(slot, n, at): the lane's places at(l) in a stage.
      auto const over_places = [&](int stage, auto const& body) {
        std::uint32_t const own = this->stage(stage) + to;
#pragma unroll
        for (int n = 0; n < own_rows; ++n) {
          if (8 * n >= count) break;
#pragma unroll
          for (int slot = 0; slot < Tile::slots; ++slot) {
            body(slot, n, [&](int l) -> std::uint32_t {
              return (own ^ l % 2 * 64) + ((2 * slot + l / 2) * Tile::tokens + 8 * n) * row_bytes;
            });
          }
        }
      };
      int before = -1;  // the stage that is not in order yet
      for (bool left = kt < tiles; left || before >= 0; left = kt < tiles) {
        std::uint32_t const empty = this->empty(ring.stage);
        bool const begins = left && (before < 0 || barrier_test(empty, ring.phase ^ 1));
        if (begins) {
          barrier_wait(empty, ring.phase ^ 1);
          bring_scales(scales, ring.stage, kt, lane);
          copy_async_arrive(this->full(ring.stage));
          over_places(ring.stage, [&](int slot, int n, auto const& at) {
            int const piece = (kt * Tile::slots + slot) * 16;
            auto const* const from = in + (rows[n] + piece);
#pragma unroll
            for (int l = 0; l < 4; ++l) {
              copy_async_16(at(l), from + 4 * l, piece + 4 * l < pieces);
            }
          });
          copy_async_commit();
        }
        if (before >= 0) {
          begins ? copy_async_wait<1>() : copy_async_wait<0>();
          over_places(before, [&](int, int, auto const& at) {
            uint4 v[4];
#pragma unroll
            for (int l = 0; l < 4; ++l) v[l] = load_shared_16(at(l));
#pragma unroll
            for (int l = 0; l < 4; ++l) store_shared_16(at(l), arranged_piece(v, l));
          });
          proxy_fence();  // these were ordinary accesses
          __syncwarp();
          if (lane == 0) barrier_arrive(this->full(before));
          before = -1;
        }
        if (begins) {
          before = ring.stage;
          ring.next(warps);
          kt += warps;
        }
      }
      kt -= tiles;
    }
  }

  __device__ std::uint32_t side(int s) const {
    return this->base + Tile::sides + s * Tile::side_bytes;
  }
  /// The elements of a row of tokens.
  __device__ std::uint16_t const* row_of_tokens(Product const& product, int row) const {
    Schedule const& schedule = this->schedule;
    std::int64_t const from = product.gather ? schedule.token(row) : row;
    return static_cast<std::uint16_t const*>(product.in) + from * width_of(product.k);
  }

  // The scales of a tile's rows, as a warp brings them: `words` lanes the words of one row.
  static constexpr int words = Tile::slots * Rows::slot_bytes / 4;
  struct ScaleRows {
    std::uint8_t const *scales, *zeros;
    int end, zero_end;  // what lies behind is not looked at; of a row or a matrix it may be
    int pitch, zero_pitch, width;
    int row_8, row_16;  // from a row of a tile to the ones 8 and 16 below
    int at, row;        // the lane's bytes, and its row where it brings what is of whole rows
    __device__ int below(int rows) const { return rows / 16 * row_16 + rows / 8 % 2 * row_8; }
  };
  __device__ ScaleRows scale_rows(Task const& task, int lane) const {
    Product const& product = more.products[task.product];
    PackedScales const& packed = more.packed[task.product];
    ScaleRows r;
    r.pitch = packed.scale_pitch;
    r.zero_pitch = packed.zero_pitch;
    std::int64_t const before = std::int64_t{task.group} * product.features;
    std::int64_t const behind = std::int64_t{more.groups} * product.features - before;
    r.scales = packed.scales + before * r.pitch;
    r.zeros = packed.zeros + before * r.zero_pitch;
    r.end = static_cast<int>(min(behind * r.pitch, std::int64_t{1} << 30));
    r.zero_end = static_cast<int>(min(behind * r.zero_pitch, std::int64_t{1} << 30));
    bool const whole = product.halves == Halves::none;
    bool const interleaved = product.halves == Halves::interleaved;
    r.row_8 = whole ? 8 : interleaved ? 1 : product.features / 2;
    r.row_16 = whole || interleaved ? 16 : 8;
    r.width = more.widths[task.product];
    int const begin = task.feature * r.width;
    r.at = row_of_feature(product, begin + lane / words) * r.pitch;
    r.row = row_of_feature(product, begin + lane);
    return r;
  }
  __device__ void bring_scales(ScaleRows const& r, int stage, int kt, int lane) const {
    int const slot = kt * Tile::slots, word = lane % words * 4;
    int const from = ((r.at + slot * Rows::slot_bytes) & ~3) + word;
    std::uint32_t const to = side(stage) + lane / words * Tile::side_row + word;
#pragma unroll
    for (int n = 0; n < Tile::features; n += 32 / words) {
      if (n == Tile::features / 2 && r.width < Tile::features) break;
      int const own = from + r.below(n) * r.pitch;
      copy_async_4(to + side_place(n) * Tile::side_row, r.scales + own, own < r.end);
    }
    // Of whole rows: a word more, zero points.
    bool const shifted = Rows::has_offset && r.pitch % 4 != 0;
    if (!shifted && !Rows::has_zeros) return;
    std::uint32_t const more_to = side(stage) + lane * Tile::side_row + 4 * words;
    int const more_from = ((r.row * r.pitch + slot * Rows::slot_bytes) & ~3) + 4 * words;
    int const zero_from = (r.row * r.zero_pitch + slot) & ~3;
#pragma unroll
    for (int n = 0; n < Tile::features; n += 32) {
      if (n == Tile::features / 2 && r.width < Tile::features) break;
      std::uint32_t const place = more_to + side_place(n) * Tile::side_row;
      if constexpr (Rows::has_offset) {
        int const own = more_from + r.below(n) * r.pitch;
        copy_async_4(place, r.scales + own, own < r.end);
      }
      if constexpr (Rows::has_zeros) {
        int const own = zero_from + r.below(n) * r.zero_pitch;
        copy_async_4(place, r.zeros + own, own < r.zero_end);
        if constexpr (Tile::slots > 1) {
          copy_async_4(place + 4, r.zeros + own + 4, own + 4 < r.zero_end);
        }
      }
    }
  }

  /// Codes, and the scales of their rows.
  struct Weights {
    CUtensorMap const* map;
    int width;
    typename Base::Corner corner;
    ScaleRows scales;
  };
  __device__ Weights weights_of(Task const& task) const {
    int const width = more.widths[task.product];
    Product const& product = more.products[task.product];
    return {&more.maps[task.product], width,
            this->corner(product, task.group, task.feature * width),
            scale_rows(task, static_cast<int>(threadIdx.x))};
  }
  __device__ void bring_weights(Weights const& of, int to, int kt) const {
    std::uint32_t const barrier = this->full(to);
    if (elect_one()) {
      barrier_arrive_expecting(barrier, 32 * Tile::depth * of.width);
      auto const [c2, c3, c4] = of.corner;
#pragma unroll
      for (int copy = 0; copy < Tile::boxes; ++copy) {
        tensor_copy_5d(this->stage(to) + copy * Tile::features * Tile::box, of.map, barrier,
                       (kt * Tile::boxes + copy) * Tile::box, 0, c2, c3, c4);
      }
    }
    if constexpr (!by_stage) {
      __syncwarp();
      bring_scales(of.scales, to, kt, static_cast<int>(threadIdx.x));
      copy_async_arrive(barrier);
    }
  }
};

}  // namespace kmoe::device::sm90
