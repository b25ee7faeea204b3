// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Portable kernels for the router logits. All add in the order that router_logits() documents.

#include <kmoe/routing/router.hpp>

#include "device/isa.hpp"
#include "device/warp.hpp"

namespace kmoe::routing {

/// Consecutive h that are added up before they join the total: bounds the rounding error of a long
/// sum, and a tile of this depth stays in the L2 cache.
inline constexpr index_t slice = 256;

/// Eight tokens per team, a column per lane, a slice per warp: for devices with warps. The sums of
/// the slices meet in scratch memory, where they are added in their order. `Width` consecutive h
/// are loaded at once.
template <ExecutionSpace E, Element T, int Width>
struct LogitTeams {
  using A = accumulate_t<T>;
  static constexpr int threads = 256;
  static constexpr int lanes = device::warp_size<E>;
  static constexpr int num_warps = threads / lanes;
  static constexpr int tokens = 8;
  using Policy = Kokkos::TeamPolicy<E, Kokkos::LaunchBounds<threads>>;
  struct alignas(Width * sizeof(T)) Pack {
    T at[Width];
  };

  // Pointers: Kokkos sends large functors to the device through memory that it has to wait for.
  T const* x;
  T const* weight;
  float const* bias;  // or null
  float* logits;
  offset_t x_stride, weight_stride, logits_stride;
  index_t num_tokens, num_columns, hidden, column_tiles;

  static bool suits(Matrix<T const, E> const& x, Matrix<T const, E> const& weight) {
    auto const aligned = [](auto const& m) {
      return reinterpret_cast<std::uintptr_t>(m.data()) % sizeof(Pack) == 0 &&
             m.stride(0) % Width == 0;
    };
    return x.extent(1) % Width == 0 && aligned(x) && aligned(weight);
  }
  static void launch(E const& exec, Matrix<T const, E> const& x, RouterWeights<E, T> const& weights,
                     Matrix<float, E> const& logits) {
    auto const token_tiles = (static_cast<index_t>(x.extent(0)) + tokens - 1) / tokens;
    auto const column_tiles = (static_cast<index_t>(logits.extent(1)) + lanes - 1) / lanes;
    auto const stride = [](auto const& view) { return static_cast<offset_t>(view.stride(0)); };
    Kokkos::parallel_for(
        "kmoe::router_logits",
        Policy(exec, token_tiles * column_tiles, threads)
            .set_scratch_size(0, Kokkos::PerTeam(static_cast<int>(threads * tokens * sizeof(A)))),
        LogitTeams{x.data(), weights.weight.data(),
                   weights.bias.extent(0) > 0 ? weights.bias.data() : nullptr, logits.data(),
                   stride(x), stride(weights.weight), stride(logits),
                   static_cast<index_t>(x.extent(0)), static_cast<index_t>(logits.extent(1)),
                   static_cast<index_t>(x.extent(1)), column_tiles});
  }

  KOKKOS_FUNCTION void operator()(typename Policy::member_type const& team) const {
    auto* const sums = static_cast<A*>(
        team.team_scratch(0).get_shmem(static_cast<std::size_t>(threads * tokens) * sizeof(A)));
    int const lane = team.team_rank() % lanes;
    int const warp = team.team_rank() / lanes;
    index_t const token = team.league_rank() / column_tiles * tokens;
    index_t const column = team.league_rank() % column_tiles * lanes + lane;
    T const* const w = weight + (column < num_columns ? column : 0) * weight_stride;
    T const* rows[tokens];
    KMOE_UNROLL
    for (int t = 0; t < tokens; ++t) {
      rows[t] = x + (token + t < num_tokens ? token + t : 0) * x_stride;
    }

    A total[tokens / num_warps] = {};
    for (index_t round = 0; round < hidden; round += num_warps * slice) {
      index_t const begin = round + warp * slice;
      index_t const end = hidden - begin < slice ? hidden : begin + slice;
      A sum[tokens] = {};
      for (index_t h = begin; h < end; h += Width) {
        Pack const b = *reinterpret_cast<Pack const*>(w + h);
        KMOE_UNROLL
        for (int t = 0; t < tokens; ++t) {
          Pack const a = *reinterpret_cast<Pack const*>(rows[t] + h);
          for (int i = 0; i < Width; ++i) {
            sum[t] += static_cast<A>(a.at[i]) * static_cast<A>(b.at[i]);
          }
        }
      }
      for (int t = 0; t < tokens; ++t) sums[(warp * tokens + t) * lanes + lane] = sum[t];
      team.team_barrier();
      for (int i = 0; i < tokens / num_warps; ++i) {
        int const t = i * num_warps + warp;
        for (int other = 0; other < num_warps && round + other * slice < hidden; ++other) {
          total[i] += sums[(other * tokens + t) * lanes + lane];
        }
      }
      team.team_barrier();
    }
    for (int i = 0; i < tokens / num_warps; ++i) {
      index_t const t = token + i * num_warps + warp;
      if (t >= num_tokens || column >= num_columns) continue;
      if (bias != nullptr) total[i] += static_cast<A>(bias[column]);
      logits[t * logits_stride + column] = static_cast<float>(total[i]);
    }
  }
};

/// One thread per logit: for devices without warps.
template <ExecutionSpace E, Element T>
struct LogitPerThread {
  Matrix<T const, E> x;
  RouterWeights<E, T> weights;
  Matrix<float, E> logits;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    using A = accumulate_t<T>;
    auto const num_columns = static_cast<offset_t>(logits.extent(1));
    auto const t = static_cast<index_t>(i / num_columns);
    auto const e = static_cast<index_t>(i % num_columns);
    auto const hidden = static_cast<index_t>(x.extent(1));
    T const* const a = detail::row_of(x, t);
    T const* const b = detail::row_of(weights.weight, e);
    A total = 0;
    for (index_t begin = 0; begin < hidden; begin += slice) {
      index_t const end = hidden - begin < slice ? hidden : begin + slice;
      A sum = 0;
      for (index_t h = begin; h < end; ++h) sum += static_cast<A>(a[h]) * static_cast<A>(b[h]);
      total += sum;
    }
    if (weights.bias.extent(0) > 0) total += static_cast<A>(weights.bias(e));
    logits(t, e) = static_cast<float>(total);
  }
};

/// A tile of 64 tokens x 64 columns at a time, for hosts: a worker packs a slice of x and of the
/// weights, converted to A, into its own scratch, multiplies them with the kernels of the
/// processor's instruction set, and adds the product to the tile's totals.
template <ExecutionSpace E, Element T>
struct LogitTiles {
  using A = accumulate_t<T>;
  static constexpr index_t tile = 64;

  Matrix<T const, E> x;
  RouterWeights<E, T> weights;
  Matrix<float, E> logits;
  Vector<A, E> scratch;
  index_t num_workers;
  device::HostKernel const* kernel = &host_kernel();

  static device::HostKernel const& host_kernel() {
    return device::host_kernel(device::host_isa(), std::is_same_v<A, double>
                                                       ? device::HostElement::f64
                                                       : device::HostElement::f32);
  }

  // Parts of a worker's scratch, in numbers of A.
  struct Layout {
    offset_t packed_x, packed_w, converted, product, totals, accumulators, size;
  };
  static Layout layout(device::HostKernel const& k) {
    Layout l{};
    auto const take = [&l](offset_t n) {
      offset_t const begin = l.size;
      l.size += (n + 15) / 16 * 16;
      return begin;
    };
    offset_t const rows = (tile + k.tile_rows - 1) / k.tile_rows * k.tile_rows;
    offset_t const cuts = (slice + k.k_block - 1) / k.k_block;
    l.packed_x = take(rows * cuts * (k.k_block + k.a_pad));
    l.packed_w = take(tile * slice);
    l.converted = take(std::is_same_v<T, A> ? 0 : tile * slice);
    l.product = take(tile * tile);
    l.totals = take(tile * tile);
    l.accumulators = take(rows * k.panel_columns);
    return l;
  }
  static offset_t scratch_size() { return layout(host_kernel()).size; }

  void operator()(index_t worker) const {
    Layout const at = layout(*kernel);
    A* const memory = scratch.data() + worker * at.size;
    A* const totals = memory + at.totals;
    auto const tokens = static_cast<index_t>(logits.extent(0));
    auto const columns = static_cast<index_t>(logits.extent(1));
    auto const hidden = static_cast<index_t>(x.extent(1));
    index_t const column_tiles = (columns - 1) / tile + 1;
    offset_t const num_tiles = static_cast<offset_t>((tokens - 1) / tile + 1) * column_tiles;
    for (offset_t i = worker; i < num_tiles; i += num_workers) {
      auto const t = static_cast<index_t>(i / column_tiles) * tile;
      auto const e = static_cast<index_t>(i % column_tiles) * tile;
      index_t const num_t = Kokkos::min(tile, tokens - t);
      index_t const num_e = Kokkos::min(tile, columns - e);
      for (index_t j = 0; j < num_t * tile; ++j) totals[j] = 0;
      for (index_t h = 0; h < hidden; h += slice) {
        index_t const depth = Kokkos::min(slice, hidden - h);
        pack_x(t, num_t, h, depth, memory, at);
        pack_w(e, num_e, h, depth, memory, at);
        multiply(num_t, num_e, depth, memory, at);
        A const* const product = memory + at.product;
        for (index_t m = 0; m < num_t; ++m) {
          for (index_t n = 0; n < num_e; ++n) totals[m * tile + n] += product[m * tile + n];
        }
      }
      for (index_t m = 0; m < num_t; ++m) {
        float* const out = detail::row_of(logits, t + m) + e;
        for (index_t n = 0; n < num_e; ++n) {
          A total = totals[m * tile + n];
          if (weights.bias.extent(0) > 0) total += static_cast<A>(weights.bias(e + n));
          out[n] = static_cast<float>(total);
        }
      }
    }
  }

 private:
  /// Rows `row` + 0 .. num_rows - 1 from column h on, as numbers of A: in place, or converted.
  struct Rows {
    A const* data;
    offset_t stride;
  };
  static Rows rows_of(Matrix<T const, E> const& from, index_t row, index_t num_rows, index_t h,
                      index_t depth, A* converted) {
    if constexpr (std::is_same_v<T, A>) {
      return {detail::row_of(from, row) + h, static_cast<offset_t>(from.stride(0))};
    } else {
      for (index_t r = 0; r < num_rows; ++r) {
        T const* const source = detail::row_of(from, row + r) + h;
        for (index_t k = 0; k < depth; ++k) converted[r * slice + k] = static_cast<A>(source[k]);
      }
      return {converted, slice};
    }
  }

  void pack_x(index_t t, index_t num_t, index_t h, index_t depth, A* memory,
              Layout const& at) const {
    Rows const rows = rows_of(x, t, num_t, h, depth, memory + at.converted);
    device::PackA pack{};
    pack.x = rows.data;
    pack.stride = rows.stride;
    pack.rows = num_t;
    pack.k = depth;
    pack.out = memory + at.packed_x;
    kernel->pack_a(pack);
  }

  void pack_w(index_t e, index_t num_e, index_t h, index_t depth, A* memory,
              Layout const& at) const {
    Rows const rows = rows_of(weights.weight, e, num_e, h, depth, memory + at.converted);
    void const* addresses[tile];
    for (index_t n = 0; n < tile; ++n) {
      addresses[n] = n < num_e ? rows.data + n * rows.stride : nullptr;
    }
    for (index_t n = 0; n < num_e; n += kernel->panel_columns) {
      kernel->pack_b({addresses + n, depth, memory + at.packed_w + n * depth});
    }
  }

  void multiply(index_t num_t, index_t num_e, index_t depth, A* memory, Layout const& at) const {
    device::Multiply m{};
    m.a = memory + at.packed_x;
    m.rows = num_t;
    m.k = depth;
    m.b = memory + at.packed_w;
    m.panels = (num_e - 1) / kernel->panel_columns + 1;
    m.out = memory + at.product;
    m.out_stride = tile;
    m.out_columns = num_e;
    m.accumulators = memory + at.accumulators;
    m.epilogue = device::Epilogue::identity;
    kernel->multiply(m);
  }
};

}  // namespace kmoe::routing
