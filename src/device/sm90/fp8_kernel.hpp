// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The kernel of kernel.hpp for e4m3 weights with a scale per 128 x 128, and activations with one
/// per 128 of a row; or with scales of rows, or of parts of the weights and rows.
///
/// Sums are in two levels: the tensor cores add 128 of k, and their sums are added to a float,
/// times both scales if those are of blocks. Scales of rows are multiplied with what all of k
/// gives.
///
/// Many rows: x comes in codes from a kernel before. With blocks, a tile of 256 gates and ups,
/// which is 128 of the intermediate, leaves codes and scales for the second product. The scale of a
/// row of the intermediate is known when all of it is: with scales of rows tiles leave elements, of
/// which the group that is the last to finish some tokens makes codes; for the largest tiles
/// another kernel does, and each product is a launch. Few rows: tiles are narrower than a block's
/// 128, the intermediate is kept in 16 bits, and the loading warps quantize what they bring, for
/// which they look through rows twice: no kernel before this one. The bits are the same.

#include "device/sm90/fp8.hpp"
#include "device/sm90/fp8_quantize.hpp"
#include "device/sm90/run_block.hpp"

namespace kmoe::device::sm90 {

/// The scales of one product.
struct Scales {
  float const* weights;  // [groups, rows, blocks]
  int rows, blocks;
  int shift;  // a tile's feature has the row feature >> shift, up to last
  int last;
  int second;  // rows from a first half's scale to its second half's; scales of rows: the first
               // feature with the second part's scale, 0: each has its own
  float const* in;  // of the codes that come in, in_row for each row: whole batches
  float* out;       // of the codes that go out, the next product's
  void* codes;      // those; of blocks the first product's out
  int in_row;
  float const* given;  // [groups] scale of all rows that come in; null, 0: of each row
};
struct Fp8Launch : Launch {
  Scales scales[2];
};

/// `Codes`: what comes in is codes, else elements. `PerRow`: with scales of rows, else of blocks.
template <int Features, int Tokens, int Stages, int Groups, int Depth, bool Codes, bool PerRow>
struct Fp8Tile : Tile<Features, Tokens, Stages, Groups, Depth, 1, PerRow ? 512 : 2048> {
  using Base = Tile<Features, Tokens, Stages, Groups, Depth, 1, PerRow ? 512 : 2048>;
  static constexpr bool codes = Codes, per_row = PerRow, by_eights = false;
  static constexpr int row_k = scale_k, piece_k = 16;
  static constexpr int loader_registers = Groups == 1 ? 104 : Codes ? 56 : 168;
  static constexpr int registers = Groups == 1 ? 240 : Codes ? 224 : 168;
  // Of a step of k: those of the tokens, then for each group of the first and the second halves.
  static constexpr int step_scales = Tokens + 2 * Groups;
  static constexpr int scales = (Base::tables + 15) / 16 * 16;  // float [Stages][Depth][..]
  static constexpr int row_scales = scales + Stages * Depth * step_scales * 4;  // [Groups][..]
  static constexpr int tables = row_scales + (PerRow ? Groups * (Features + Tokens) * 4 : 0);
  static constexpr int bytes(int groups, bool grouping) {
    return 1024 + tables + bytes_of_tables(groups, grouping);
  }
  static_assert(bytes(max_groups, false) <= shared_limit);
  static_assert(bytes(max_grouped_groups, true) <= shared_limit);
};

template <class Tile>
struct Fp8Block : Block<Tile> {
  using Base = Block<Tile>;
  using typename Base::Sums;
  static constexpr int Tokens = Tile::tokens, Stages = Tile::stages;
  static constexpr int token_arrivals = Tile::codes ? loader_threads : 1;
  static constexpr bool finishes_together = Tile::codes && !Tile::per_row;
  static constexpr bool finishes_codes = Tile::codes && Tile::per_row;
  Scales const* scales;

  __device__ int place_of_scales(int stage, int sub) const {
    return Tile::scales + (stage * Tile::depth + sub) * Tile::step_scales * 4;
  }
  /// The scales of a group's weights, the first or the second half of them, for block 0 of k.
  __device__ float const* weight_scales(Task const& task, int group, int half) const {
    Scales const& s = scales[task.product];
    int const feature = task.feature * Tile::features + group * (Tile::features / Tile::groups);
    int const row = min(feature >> s.shift, s.last) + half * s.second;
    return s.weights + (std::int64_t{task.group} * s.rows + row) * s.blocks;
  }

  // Codes: the scales come as the rows do.

  struct Beside {
    static constexpr int own = (Tokens + loader_threads - 1) / loader_threads;
    Scales const* scales;
    int from[own], weights;  // where they begin, or -1
  };
  __device__ Beside beside_rows(Task const& task, int const* rows) const {
    Scales const& s = scales[task.product];
    int const thread = threadIdx.x - 32;
    Beside b;
    b.scales = &s;
#pragma unroll
    for (int n = 0; n < Beside::own; ++n) {
      int const r = thread + n * loader_threads;
      b.from[n] = r < task.count ? rows[n] * s.in_row : -1;
    }
    b.weights = -1;
    if (thread < 2 * Tile::groups) {
      b.weights = static_cast<int>(weight_scales(task, thread / 2, thread % 2) - s.weights);
    }
    return b;
  }
  __device__ void bring_beside_rows(Beside const& b, int stage, int kt) const {
    if constexpr (Tile::per_row) return;
    int const thread = threadIdx.x - 32;
    std::uint32_t const to = this->base + place_of_scales(stage, 0) + thread * 4;
    float const* const in = b.scales->in + kt;
#pragma unroll
    for (int n = 0; n < Beside::own; ++n) {
      if (b.from[n] >= 0) copy_async_4(to + n * loader_threads * 4, in + b.from[n]);
    }
    if (b.weights >= 0) copy_async_4(to + Tokens * 4, b.scales->weights + b.weights + kt);
  }

  // Scales of rows: a group brings those of a tile while it multiplies, of the features in the
  // order of the weights there, and behind them of the tokens, for itself: it waits for no other.

  __device__ int place_of_row_scales(int group) const {
    return Tile::row_scales + group * (Tile::features + Tokens) * 4;
  }
  __device__ void bring_feature_scales(Task const& task, int group) const {
    Product const& product = this->launch.products[task.product];
    Scales const& s = scales[task.product];
    float const* const weights = s.weights + std::int64_t{task.group} * s.rows;
    std::uint32_t const to = this->base + place_of_row_scales(group);
    int const thread = threadIdx.x % group_threads, width = product.features / 2;
#pragma unroll
    for (int i = thread; i < Tile::features; i += group_threads) {
      int n = task.feature * Tile::features + i;
      bool inside = n < product.features;
      if (product.halves != Halves::none) {  // eight of one half, eight of the other
        int const column = n / 16 * 8 + n % 8, half = n / 8 % 2;
        n = product.halves == Halves::interleaved ? 2 * column + half : column + half * width;
        inside = column < width;
      }
      if (inside) copy_async_4(to + 4 * i, weights + (s.second == 0 ? n : n >= s.second));
    }
  }
  /// Not before the tile's first stage is there: the rows that come into a second product, and
  /// their scales, may be made by this launch.
  __device__ void bring_token_scales(Task const& task, int group) const {
    Product const& product = this->launch.products[task.product];
    std::uint32_t const to = this->base + place_of_row_scales(group) + 4 * Tile::features;
    for (int r = threadIdx.x % group_threads; r < task.count; r += group_threads) {
      int const row = task.row + r;
      int const from = product.gather ? this->schedule.token(row) : row;
      copy_async_4(to + 4 * r, scales[task.product].in + from);
    }
  }
  /// Where they are when all threads of the group are here.
  __device__ float const* row_scales(int group) const {
    copy_async_wait();
    named_barrier(2 + group, group_threads);
    return reinterpret_cast<float const*>(this->memory + place_of_row_scales(group));
  }
  /// `own`: the scales of the first tokens where they have come with the stages.
  template <int N>
  __device__ __forceinline__ void scale_columns(Sums& acc, int group, float2 own) const {
    int const lane = threadIdx.x % 32, warp = threadIdx.x % group_threads / 32;
    float const* const all = row_scales(group);
    float const* const tokens = all + Tile::features + 2 * (lane % 4);
    static_assert(!Tile::per_row || Tile::codes || Tokens == 8);
#pragma unroll
    for (int part = 0; part < Tile::parts; ++part) {
      float const* const weights = all + (group * Tile::parts + part) * 64 + 16 * warp + lane / 4;
      float const low = weights[0], high = weights[8];
#pragma unroll
      for (int j = 0; j < N / 8; ++j) {
        float2 const token = Tile::codes ? *reinterpret_cast<float2 const*>(tokens + 8 * j) : own;
        float* const d = acc[part] + 4 * j;
        d[0] = __fmul_rn(d[0], token.x * low);  // not rounded together with a bias
        d[1] = __fmul_rn(d[1], token.y * low);
        d[2] = __fmul_rn(d[2], token.x * high);
        d[3] = __fmul_rn(d[3], token.y * high);
      }
    }
  }

  /// All threads of a group that has stored its part of a gated tile: the last one makes codes of
  /// the rows, which are whole then.
  template <Operand Type>
  __device__ void finish_codes(Task const& task, int group) const {
    Product const& product = this->launch.products[0];
    Scales const& s = scales[1];
    auto* const is_last = reinterpret_cast<int*>(this->memory + place_of_row_scales(group));
    std::uint32_t* const ready = this->ready(task.tile);
    int const thread = threadIdx.x % group_threads;
    if (thread == 0) {
      std::uint32_t const groups = this->launch.order.features[0] * Tile::groups;
      *is_last = add_acquire_release(ready, 1) == groups - 1 ? 1 : 0;
    }
    named_barrier(2 + group, group_threads);
    bool const last = *is_last != 0;
    if (last) {
      int const pieces = product.features / 16;
      float const given = s.given != nullptr ? s.given[task.group] : 0.0F;
      for (int r = thread / 32; r < task.count; r += group_threads / 32) {
        std::int64_t const row = task.row + r;
        quantize_row<Type>(static_cast<uint4 const*>(product.out) + row * pieces, pieces, nullptr,
                           given, static_cast<uint2*>(s.codes) + row * pieces, s.out + row);
      }
    }
    named_barrier(2 + group, group_threads);
    if (last && thread == 0) add_release(ready, 1);
  }

  /// Warps 1 to 3.
  template <Operand Type, class Self>
  __device__ void load_tokens(Self& self) {
    if constexpr (Tile::codes) {
      Base::template load_tokens<Type>(self);
    } else {
      quantize_tokens<Type>();
    }
  }

  /// Elements: the warps take turns, a stage each. Eight lanes bring 128 of a row.
  template <Operand Type>
  __device__ void quantize_tokens() const {
    constexpr int rounds = (Tile::depth * Tokens + 3) / 4;  // of four times eight lanes
    constexpr int warps = loader_threads / 32;
    int const warp = threadIdx.x / 32 - 1, lane = threadIdx.x % 32, piece = lane % 8;
    int const last_row = this->schedule.num_rows() - 1;
    Ring<Stages> ring;
    Ring<task_places> place;
    int turn = 0;
    for (Task task = this->next_task(place); task.product >= 0; task = this->next_task(place)) {
      Product const& product = this->launch.products[task.product];
      auto const* const in = static_cast<uint4 const*>(product.in);
      auto const pitch = static_cast<std::uint32_t>(product.k / 8);
      auto const row_of = [&](int r) {
        int const row = min(task.row + r, last_row);
        return product.gather ? this->schedule.token(row) : row;
      };
      // The 128 that these lanes bring in round n: block sub[n] of the stage of a row.
      std::uint32_t from[rounds];  // in 16 bytes
      int sub[rounds], own_row[rounds];
#pragma unroll
      for (int n = 0; n < rounds; ++n) {
        int const item = 4 * n + lane / 8;
        sub[n] = item / task.count;
        own_row[n] = item - sub[n] * task.count;
        from[n] = row_of(own_row[n]) * pitch + sub[n] * (scale_k / 8) + 2 * piece;
      }
      float const* weights = nullptr;
      if (!Tile::per_row && lane < 2 * Tile::groups * Tile::depth) {
        weights = weight_scales(task, lane / 2 % Tile::groups, lane % 2) + lane / 2 / Tile::groups;
      }
      int const blocks = scales[task.product].blocks;
      if (warp == 0 && weights != nullptr) {
        for (int block = 0; block < blocks; block += 8) prefetch_l2(weights + block);
      }
      if (task.product == 1) {
        std::uint32_t const expected = this->launch.order.features[0] * Tile::groups;
        while (load_acquire(this->ready(task.tile)) < expected) __nanosleep(32);
      }
      float row_scale[rounds];
      bool is_given = false;
      if constexpr (Tile::per_row) {
        float const* const all = scales[task.product].given;
        float const given = all != nullptr ? all[task.group] : 0.0F;
        is_given = given != 0;
        auto* const kept = reinterpret_cast<std::uint32_t*>(this->memory + Tile::rows);
        named_barrier(1, loader_threads);  // nobody needs those of the last tile
        for (int r = 0; r < task.count && !is_given; ++r) {
          std::uint32_t const most =
              largest_of_row(in + row_of(r) * pitch, pitch, threadIdx.x - 32, loader_threads);
          if (lane == 0) kept[warp * Tokens + r] = most;
        }
        named_barrier(1, loader_threads);
#pragma unroll
        for (int n = 0; n < rounds; ++n) {
          std::uint32_t const* const parts = kept + own_row[n];
          std::uint32_t const most = max(parts[0], max(parts[Tokens], parts[2 * Tokens]));
          row_scale[n] = is_given ? given : group_scale<Type>(most);
        }
      }

      uint4 values[rounds][2];
      float weight = 0;
      auto const read = [&](int kt) {
#pragma unroll
        for (int n = 0; n < rounds; ++n) {
          values[n][0] = values[n][1] = {0, 0, 0, 0};
          int const k = (kt * Tile::depth + sub[n]) * scale_k + piece * 16;
          if (sub[n] < Tile::depth && k < product.k) {
            uint4 const* const at = in + from[n] + kt * (Tile::depth * scale_k / 8);
            values[n][0] = __ldcg(at);
            values[n][1] = __ldcg(at + 1);
          }
        }
        if (weights != nullptr) {
          int const block = kt * Tile::depth;
          weight = block + lane / 2 / Tile::groups < blocks ? __ldg(weights + block) : 0.0F;
        }
      };
      int const tiles = this->k_tiles(task.product);
      int const mine = (warp - turn + warps) % warps;
      // All of a row at once: the rounds wait for what is near.
      if (task.product == 0) {
        for (int kt = mine + warps; kt < tiles; kt += warps) {
          int const k = (kt * Tile::depth + sub[0]) * scale_k;
          if (piece % 4 == 0 && sub[0] < Tile::depth && k + piece * 16 < product.k) {
            prefetch_l2(in + from[0] + kt * (Tile::depth * scale_k / 8));
          }
        }
      }
      if (mine < tiles) read(mine);
      for (int kt = 0; kt < tiles; ++kt) {
        if (kt % warps == mine) {
          barrier_wait(this->empty(ring.stage), ring.phase ^ 1);
#pragma unroll
          for (int n = 0; n < rounds; ++n) {
            if (4 * n >= Tile::depth * task.count) break;
            float scale;
            uint4 codes;
            if constexpr (Tile::per_row) {
              scale = row_scale[n];
              codes = encode_sixteen<Type>(values[n][0], values[n][1], scale, is_given);
            } else {
              codes = encode_group<Type>(values[n][0], values[n][1], scale);
            }
            if (sub[n] < Tile::depth) {
              int const row = own_row[n];
              int const at = ring.stage * Tile::stage_bytes + Tile::weight_bytes +
                             (sub[n] * Tokens + row) * row_bytes + ((piece ^ (row & 7)) << 4);
              *reinterpret_cast<uint4*>(this->memory + at) = codes;
              if (piece == 0) scales_at(ring.stage, sub[n])[row] = scale;
            }
          }
          if (weights != nullptr) {
            int const which = lane % (2 * Tile::groups);
            scales_at(ring.stage, lane / 2 / Tile::groups)[Tokens + which] = weight;
          }
          proxy_fence();
          __syncwarp();
          if (lane == 0) barrier_arrive(this->full(ring.stage));
          if (kt + warps < tiles) read(kt + warps);  // the fence would wait for it
        }
        ring.next();
      }
      turn = (turn + tiles) % warps;
    }
  }
  __device__ float* scales_at(int stage, int sub) const {
    return reinterpret_cast<float*>(this->memory + place_of_scales(stage, sub));
  }
  /// sums = 128 of k of a stage for the 64 features of a part; not waited for.
  template <int N, int Size>
  __device__ __forceinline__ void multiply_block(float (&sums)[Size], int stage, int sub,
                                                 int part) const {
    std::uint32_t const at = this->stage(stage);
    auto const left =
        matrix_descriptor(at + sub * Tile::features * row_bytes + part * Tile::part_bytes);
    auto const right = matrix_descriptor(at + Tile::weight_bytes + sub * Tokens * row_bytes);
    wgmma_begin();
#pragma unroll
    for (int inner = 0; inner < scale_k / 32; ++inner) {
      wgmma<Operand::e4m3, N>(sums, left + 2 * inner, right + 2 * inner, inner != 0);
    }
    wgmma_commit();
  }
  /// d += sums times the scales, if those are of blocks, when no more than Pending products are
  /// under way. The first scales are read before.
  template <int N, int Pending, int Size, int Columns>
  __device__ __forceinline__ void add_block(float (&d)[Columns], float (&sums)[Size], int stage,
                                            int sub, int group) const {
    if constexpr (Tile::per_row) {
      wgmma_wait<Pending>();
#pragma unroll
      for (int i = 0; i < N / 2; ++i) {
        asm volatile("" : "+f"(sums[i])::"memory");
        d[i] += sums[i];
      }
      return;
    }
    constexpr int batch = N < 32 ? N / 8 : 4, batches = (N / 8 + batch - 1) / batch;
    std::uint32_t const scale = this->base + place_of_scales(stage, sub);
    float2 const weight = load_shared(scale + 4 * (Tokens + 2 * group));
    float2 token[2][batch];
    auto const read = [&](int n) {
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        int const j = n * batch + i;
        if (j < N / 8) token[n % 2][i] = load_shared(scale + 32 * j + 8 * (threadIdx.x % 4));
      }
    };
    read(0);
    wgmma_wait<Pending>();
#pragma unroll
    for (int i = 0; i < N / 2; ++i) asm volatile("" : "+f"(sums[i])::"memory");
#pragma unroll
    for (int n = 0; n < batches; ++n) {
      if (n + 1 < batches) read(n + 1);
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        int const j = n * batch + i;
        if (j >= N / 8) break;
        float2 const t = token[n % 2][i];
        d[4 * j] = fmaf(sums[4 * j], t.x * weight.x, d[4 * j]);
        d[4 * j + 1] = fmaf(sums[4 * j + 1], t.y * weight.x, d[4 * j + 1]);
        d[4 * j + 2] = fmaf(sums[4 * j + 2], t.x * weight.y, d[4 * j + 2]);
        d[4 * j + 3] = fmaf(sums[4 * j + 3], t.y * weight.y, d[4 * j + 3]);
      }
    }
  }

  /// The sums of one tile for N tokens.
  template <int N>
  __device__ __forceinline__ void multiply_columns(Sums& acc, Ring<Stages>& ring, int group,
                                                   bool signals, Task const& task) const {
    constexpr int parts = Tile::parts;
    int const tiles = this->k_tiles(task.product), blocks = scales[task.product].blocks;
    // Registers for two blocks: one is added while the next is multiplied. Else the other group
    // multiplies meanwhile.
    constexpr bool both = parts == 2 && Tile::depth == 1 && N <= 64;
    float sums[both ? 2 : 1][N / 2];
#pragma unroll
    for (int part = 0; part < parts; ++part) {
#pragma unroll
      for (int i = 0; i < N / 2; ++i) acc[part][i] = 0.0F;
    }
    float2 token = {};
    for (int kt = 0; kt < tiles; ++kt) {
      barrier_wait(this->full(ring.stage), ring.phase);
      proxy_fence();
      if constexpr (Tile::per_row && Tile::codes) {
        if (kt == 0) bring_token_scales(task, group);
      } else if constexpr (Tile::per_row) {
        token = load_shared(this->base + place_of_scales(ring.stage, 0) + 8 * (threadIdx.x % 4));
      }
      if constexpr (both) {
        multiply_block<N>(sums[0], ring.stage, 0, group * parts);
        multiply_block<N>(sums[1], ring.stage, 0, group * parts + 1);
        add_block<N, 1>(acc[0], sums[0], ring.stage, 0, group);
        add_block<N, 0>(acc[1], sums[1], ring.stage, 0, group);
      } else {
#pragma unroll
        for (int sub = 0; sub < Tile::depth; ++sub) {
          if (kt * Tile::depth + sub >= blocks) break;
#pragma unroll
          for (int part = 0; part < parts; ++part) {
            multiply_block<N>(sums[0], ring.stage, sub, group * parts + part);
            add_block<N, 0>(acc[part], sums[0], ring.stage, sub, group);
          }
        }
      }
      __syncwarp();
      if (signals) barrier_arrive(this->empty(ring.stage));
      ring.next();
    }
    if constexpr (Tile::per_row) scale_columns<N>(acc, group, token);
  }

  template <Operand>
  __device__ __forceinline__ void multiply_tile(Sums& acc, Ring<Stages>& ring, int group,
                                                bool signals, Task const& task) {
    if constexpr (Tile::per_row) bring_feature_scales(task, group);
#define KMOE_CASE(n)                                               \
  if constexpr (n <= Tokens) {                                     \
    if (task.count > n - (n <= 32 ? 8 : 16))                       \
      return multiply_columns<n>(acc, ring, group, signals, task); \
  }
    KMOE_CASE(128)
    KMOE_CASE(112)
    KMOE_CASE(96)
    KMOE_CASE(80)
    KMOE_CASE(64)
    KMOE_CASE(48)
    KMOE_CASE(32)
    KMOE_CASE(24)
    KMOE_CASE(16)
    multiply_columns<8>(acc, ring, group, signals, task);
#undef KMOE_CASE
  }

  __device__ __forceinline__ void read_bias(float (&bias)[Tile::parts][2], Task const& task,
                                            int group, int thread) const {
    Product const& product = this->launch.products[task.product];
    int const width = product.features / 2, warp = thread / 32, lane = thread % 32;
#pragma unroll
    for (int part = 0; part < Tile::parts; ++part) {
      bias[part][0] = bias[part][1] = 0.0F;
      int const feature =
          task.feature * scale_k + (group * Tile::parts + part) * 32 + 8 * warp + lane / 4;
      if (product.bias == nullptr || feature >= width) continue;
      bool const interleaved = product.halves == Halves::interleaved;
      float const* const b = product.bias + std::int64_t{task.group} * product.features +
                             (interleaved ? 2 * feature : feature);
      bias[part][0] = b[0];
      bias[part][1] = b[interleaved ? 1 : width];
    }
  }
  /// The codes of a row's 128 features, to memory: 16 features of the eight of each of a token's
  /// threads.
  template <Operand Type>
  __device__ __forceinline__ void store_codes(Task const& task, int token, int piece,
                                              uint4 const& first, uint4 const& second) const {
    Product const& product = this->launch.products[task.product];
    int const width = product.features / 2, begin = task.feature * scale_k;
    float scale;
    uint4 const codes = encode_group<Type>(first, second, scale);
    if (token >= task.count) return;
    std::int64_t const row = task.row + token;
    char* const to = static_cast<char*>(product.out) + row * width + begin + 8 * piece;
    if (begin + 8 * piece < width) *reinterpret_cast<uint2*>(to) = {codes.x, codes.y};
    if (begin + scale_k / 2 + 8 * piece < width) {
      *reinterpret_cast<uint2*>(to + scale_k / 2) = {codes.z, codes.w};
    }
    if (piece == 0) scales[1].out[row * scales[1].in_row + task.feature] = scale;
  }
  /// The activation of 128 features, quantized: both groups, 64 tokens at a time through shared
  /// memory. True where that is what the tile leaves.
  template <Operand Type>
  __device__ __forceinline__ bool finish_gated(Sums& acc, Task const& task, int group,
                                               int thread) const {
    if constexpr (!finishes_together) return false;
    static_assert(!finishes_together || Tile::features == 2 * scale_k);
    constexpr int chunk = Tokens < 64 ? Tokens : 64, threads = Tile::groups * group_threads;
    constexpr int barrier = 5, token_bytes = 2 * scale_k;
    static_assert(!finishes_together || chunk * token_bytes <= Tile::groups * Tile::staging_bytes);
    Product const& product = this->launch.products[task.product];
    int const warp = thread / 32, lane = thread % 32;
    int const own = group * group_threads + thread, token_of_own = own / 8, piece = own % 8;
    std::uint32_t const staging = this->base + Tile::staging;
    auto const* const staged = this->memory + Tile::staging;
    float bias[Tile::parts][2];
    read_bias(bias, task, group, thread);
    with_activation(product, [&](auto const& act) {
#pragma unroll
      for (int c = 0; c < Tile::sums; c += chunk) {
        if (c >= task.count) continue;
        named_barrier(barrier, threads);  // what was staged before is taken
#pragma unroll
        for (int part = 0; part < Tile::parts; ++part) {
          int const to = (group * Tile::parts + part) * 4 + warp;
#pragma unroll
          for (int j = c / 8; j < (c + chunk) / 8; j += 4) {
            if (8 * j < task.count) {
              std::uint32_t m[4];
#pragma unroll
              for (int n = 0; n < 4; ++n) {
                float const* const d = acc[part] + 4 * (j + n);
                m[n] = pack<Type>(act(d[0] + bias[part][0], d[2] + bias[part][1]),
                                  act(d[1] + bias[part][0], d[3] + bias[part][1]));
              }
              int const token = 8 * j - c + lane;
              store_transposed(staging + token * token_bytes + ((to ^ (token & 7)) << 4), m[0],
                               m[1], m[2], m[3]);
            }
          }
        }
        named_barrier(barrier, threads);
#pragma unroll
        for (int n = 0; n < chunk * 8 / threads; ++n) {
          int const token = token_of_own + n * (threads / 8);
          if (c + n * (threads / 8) >= task.count) break;
          auto const* const at = staged + token * token_bytes;
          int const swizzled = (piece ^ (token & 7)) << 4;
          store_codes<Type>(task, c + token, piece, *reinterpret_cast<uint4 const*>(at + swizzled),
                            *reinterpret_cast<uint4 const*>(at + scale_k + swizzled));
        }
      }
    });
    named_barrier(barrier, threads);
    return true;
  }
};

template <Operand Type, class Tile>
__global__ void __launch_bounds__(Tile::threads, 1)
    fp8_kernel(__grid_constant__ Fp8Launch const launch) {
  extern __shared__ char raw[];
  std::uint32_t const address = shared_address(raw), base = (address + 1023) / 1024 * 1024;
  Fp8Block<Tile> block{{launch, base, raw + (base - address), {}}, launch.scales};
  run_block<Type, Tile>(launch, block);
}

}  // namespace kmoe::device::sm90
