// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The grouped multiplication in tiles on the matrix instructions of a space (device/mma.hpp).
///
/// A team finds its tile (group, rows, columns) from the offsets on the device, moves slabs of x
/// and b through scratch memory while it multiplies the slabs before, and applies bias, activation
/// and weights to the sums. Of gated experts, tiles of gates and of their ups alternate in b's
/// slab, so that a warp holds both. Every sum goes through the slabs in ascending k from zero, with
/// zeros beyond k: its bits do not depend on the tile.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "device/async_copy.hpp"
#include "device/mma.hpp"
#include "device/team.hpp"
#include "gemm/activation.hpp"
#include "gemm/device_gemm.hpp"

namespace kmoe::detail {

/// Of x's rows by b's, and the grid of warps that share it.
struct TileShape {
  int rows, columns, warp_rows, warp_columns;
};

/// `few`: for groups of few rows; `whole`: as of TileGemm.
template <ExecutionSpace E, device::Operand T>
constexpr TileShape tile_shape(bool few, bool whole) {
  constexpr int lanes = device::Mma<E, T>::lanes, warps = 256 / lanes;
  if (Kokkos::SpaceAccessibility<E, Kokkos::HostSpace>::accessible && lanes == 1) {
    return {few ? 8 : 32, 32, 1, 1};
  }
  if (lanes == 1) return {few ? 16 : 64, 128, few ? 4 : 16, few ? 32 : 16};
  if (few) return {16, 128, 1, warps};
  // Four warps, also where eight would do: two thirds of the scratch reads.
  if (whole) return {128, std::is_same_v<T, double> ? 64 : 128, 2, 2};
  if (std::is_same_v<T, double>) return {128, 64, warps / 2, 2};
  return {128, 128, 2, warps / 2};
}

/// Whole: rows of x and b are whole, aligned chunks, and there are no input weights.
/// G: DeviceGemm<T>, or one that decodes x and b to T and stores what it likes.
template <ExecutionSpace E, device::Operand T, bool Few, bool Whole, class G = DeviceGemm<T>>
class TileGemm {
 public:
  static constexpr TileShape shape = tile_shape<E, T>(Few, Whole);
  static constexpr int threads = shape.warp_rows * shape.warp_columns * device::Mma<E, T>::lanes;
  using Bounds =
      Kokkos::LaunchBounds<threads, !Whole                             ? 1
                                    : Few && device::has_async_copy<E> ? 3
                                                                       : 2>;  // teams at a time
  using Member = device::Team<E>;

  explicit TileGemm(G const& g) : g_(g) {
    offset_t const rows = g.row_end - g.row_begin;
    offset_t const groups = std::min<offset_t>(g.groups, rows);
    row_tiles_ = static_cast<int>((rows + groups * (shape.rows - 1)) / shape.rows);
    column_tiles_ = static_cast<int>((g.rows_of_b() + shape.columns - 1) / shape.columns);
    auto const aligned = [](void const* p, std::size_t bytes) {
      return reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
    };
    aligned_ = !G::decodes && g.k % vector == 0 && aligned(g.x, device::chunk_bytes) &&
               aligned(g.b, device::chunk_bytes);
    small_ =
        std::max(g.x_rows, g.groups * g.rows_of_b()) < (offset_t{1} << 32) / (g.k / vector + 1);
    wide_ = g.columns % outputs == 0 && aligned(g.out, outputs * sizeof(T));
  }

  [[nodiscard]] bool whole() const { return aligned_ && small_ && g_.input_weights == nullptr; }

  void run(E const& exec, char const* label) const {
    device::team_for(exec, label, row_tiles_ * column_tiles_, scratch_bytes, *this);
  }

  KOKKOS_FUNCTION void operator()(Member const& team) const {
    std::byte* const scratch = device::scratch_of(team, scratch_bytes);
    // Bands of columns: teams that run at the same time share rows of x and of b.
    int const band = team.league_rank() / (row_tiles_ * band_tiles);
    int const place = team.league_rank() - band * row_tiles_ * band_tiles;
    int const width = Kokkos::min(int{band_tiles}, column_tiles_ - band * band_tiles);
    find(team, scratch, place / width, band * band_tiles + place % width);
    if (tile_in(scratch).rows > 0) multiply(team, scratch);
  }

 private:
  using A = device::sum_t<T>;
  using Mma = device::Mma<E, T>;
  using Chunk = device::Chunk;

  static constexpr int m_tiles = shape.rows / shape.warp_rows / Mma::m;
  static constexpr int n_tiles = shape.columns / shape.warp_columns / Mma::n;
  static_assert(n_tiles % 2 == 0, "gates and ups of a column belong to one warp");
  static constexpr int vector = device::chunk_bytes / sizeof(T);   // elements of a chunk
  static constexpr int outputs = device::chunk_bytes / sizeof(A);  // of a lane at a time
  static constexpr int slab_columns = device::slab_bytes / sizeof(T);
  static_assert(G::block_k % slab_columns == 0);
  static constexpr int slab_rows = shape.rows + shape.columns;
  static constexpr int stage_bytes = slab_rows * device::slab_bytes;
  static constexpr int loads = (slab_rows * device::slab_chunks + threads - 1) / threads;
  static constexpr bool async = Whole && device::has_async_copy<E>;
  static constexpr int stages = async ? Few ? 4 : 3 : 2;
  // Where the multiplication needs the registers, the threads' sources lie in scratch memory.
  static constexpr bool parked =
      async && Mma::steps > 1 &&
      m_tiles* n_tiles * sizeof(typename Mma::C) == 256 && threads == 256;
  static constexpr int pitch = n_tiles * Mma::n + 8;  // of sums in scratch memory: all banks
  static constexpr int sum_bytes =
      shape.warp_rows * shape.warp_columns * Mma::m * pitch * sizeof(A);
  static constexpr int tile_bytes = device::scratch_align;
  static constexpr int slab_end = tile_bytes + std::max(stages * stage_bytes, sum_bytes);
  static constexpr int scratch_bytes = slab_end + (parked ? threads * device::chunk_bytes : 0);
  // What every device has for a team; CUDA's chips with asynchronous copies 99 KB, for two of them.
  static_assert(scratch_bytes + device::scratch_align < (async ? 49 : 46) * 1024);
  static constexpr int band_tiles = 16;

  struct Tile {
    offset_t row;     // the first
    offset_t column;  // the first, of b's slab
    index_t group;
    int rows;  // 0: there is no such tile
  };

  /// The chunks of each slab that a thread moves: number rank % slab_chunks of some rows of x or b.
  struct Source {
    // Where the row begins: in chunks from the beginning of x or b (half the registers), or
    // elements.
    std::conditional_t<Whole, std::uint32_t, offset_t> rows[Whole && loads < 4 ? 4 : loads];
  };

  KOKKOS_FUNCTION static Tile& tile_in(std::byte* scratch) {
    return *static_cast<Tile*>(static_cast<void*>(scratch));
  }

  KOKKOS_FUNCTION offset_t group_begin(index_t group) const {
    return Kokkos::max(g_.row_begin, Kokkos::min(g_.row_end, g_.offsets[group]));
  }

  /// Writes row tile `index` of all groups' row tiles to scratch; its rows are 0 if there are
  /// fewer.
  KOKKOS_FUNCTION void find(Member const& team, std::byte* scratch, int index, int column) const {
    int const share = (g_.groups + threads - 1) / threads;
    int const begin = Kokkos::min(team.team_rank() * share, int{g_.groups});
    int const end = Kokkos::min(begin + share, int{g_.groups});
    int count = 0;
    for (int g = begin; g < end; ++g) count += tiles_of(g);
    if (team.team_rank() == 0) tile_in(scratch).rows = 0;
    auto* const sums = static_cast<std::uint32_t*>(static_cast<void*>(scratch + tile_bytes));
    auto before = static_cast<int>(
        device::sum_before<E, threads>(team, static_cast<std::uint32_t>(count), sums));
    if (index >= before && index < before + count) {
      int g = begin;
      while (index >= before + tiles_of(g)) before += tiles_of(g++);
      offset_t const row = group_begin(g) + offset_t{index - before} * shape.rows;
      auto const rows = Kokkos::min(offset_t{shape.rows}, group_begin(g + 1) - row);
      tile_in(scratch) = {row, offset_t{column} * shape.columns, g, static_cast<int>(rows)};
    }
    team.team_barrier();
  }
  KOKKOS_FUNCTION int tiles_of(index_t group) const {
    return static_cast<int>((group_begin(group + 1) - group_begin(group) + shape.rows - 1) /
                            shape.rows);
  }

  /// Column of out and half of b that row `row` of b's part of the slab stands for.
  KOKKOS_FUNCTION offset_t column_of(Tile const& tile, int row) const {
    if (!g_.gated()) return tile.column + row;
    return tile.column / 2 + row / (2 * Mma::n) * Mma::n + row % Mma::n;
  }
  KOKKOS_FUNCTION bool is_up(int row) const { return g_.gated() && row / Mma::n % 2 != 0; }

  /// Row and chunk of the slab, rows of x first. The compiler is told what it can not know of rank.
  KOKKOS_FUNCTION static int slab_row(int rank, int load) {
    return static_cast<int>(static_cast<unsigned>(rank + load * threads) / device::slab_chunks);
  }
  KOKKOS_FUNCTION static bool exists(int rank, int load) {
    return (load + 1) * threads <= slab_rows * device::slab_chunks ||
           slab_row(rank, load) < slab_rows;
  }
  KOKKOS_FUNCTION static bool is_x(int rank, int load) {
    return (load + 1) * threads <= shape.rows * device::slab_chunks ||
           (load * threads < shape.rows * device::slab_chunks && slab_row(rank, load) < shape.rows);
  }
  KOKKOS_FUNCTION static int slab_chunk(int rank, int load) {
    bool const same = threads % device::slab_chunks == 0;
    return static_cast<int>(static_cast<unsigned>(same ? rank : rank + load * threads) %
                            device::slab_chunks);
  }
  KOKKOS_FUNCTION static int slab_place(int rank, int load) {
    constexpr int rows = threads / device::slab_chunks;
    if constexpr (rows > 0 && rows % 8 == 0) {
      return device::slab_offset(slab_row(rank, 0), slab_chunk(rank, 0)) +
             load * rows * device::slab_bytes;
    }
    return device::slab_offset(slab_row(rank, load), slab_chunk(rank, load));
  }

  /// Rows beyond the tile repeat the last one; nothing of them is written.
  KOKKOS_FUNCTION Source source(int rank, Tile const& tile) const {
    Source source{};
    offset_t const row_size = Whole ? g_.k / vector : G::decodes ? 1 : g_.k;
    KMOE_UNROLL
    for (int i = 0; i < loads; ++i) {
      offset_t row = 0;
      if (is_x(rank, i)) {
        offset_t const r = tile.row + Kokkos::min(slab_row(rank, i), tile.rows - 1);
        row = g_.row_of_x(r);
      } else if (exists(rank, i)) {
        int const b_row = slab_row(rank, i) - shape.rows;
        offset_t const n = Kokkos::min(column_of(tile, b_row), g_.columns - 1);
        row = tile.group * g_.rows_of_b() + g_.row_of_b(n, is_up(b_row));
      }
      source.rows[i] = static_cast<std::decay_t<decltype(source.rows[i])>>(row * row_size);
    }
    return source;
  }

  KOKKOS_FUNCTION float input_weight(int rank, int i, Tile const& tile) const {
    if (g_.input_weights == nullptr || !is_x(rank, i)) return 1;
    return g_.input_weights[g_.slot(tile.row + Kokkos::min(slab_row(rank, i), tile.rows - 1))];
  }

  KOKKOS_FUNCTION T const* address(Source const& source, int i, int rank, int column) const {
    T const* const base = is_x(rank, i) ? g_.x : g_.b;
    if constexpr (Whole) {
      auto const chunk = source.rows[i] + static_cast<std::uint32_t>(column) / vector;
      return base + std::uint64_t{chunk} * vector;
    }
    return base + source.rows[i] + column;
  }

  /// The chunk of load i at column `column`.
  KOKKOS_FUNCTION Chunk read(Source const& source, int i, int rank, int column,
                             float weight) const {
    int const end = static_cast<int>(g_.k) - column;
    if constexpr (G::decodes) {
      Elements elements{};
      if (is_x(rank, i)) {
        g_.read_x(source.rows[i], column, Kokkos::min(end, int{vector}), weight, elements.values);
      } else {
        g_.read_b(source.rows[i], column, Kokkos::min(end, int{vector}), elements.values);
      }
      return Kokkos::bit_cast<Chunk>(elements);
    } else {
      return read_elements(source, i, rank, column, end, weight);
    }
  }
  KOKKOS_FUNCTION Chunk read_elements(Source const& source, int i, int rank, int column, int end,
                                      float weight) const {
    T const* const from = address(source, i, rank, column);
    bool const weighted = !Whole && is_x(rank, i) && g_.input_weights != nullptr;
    if constexpr (!Whole) {
      if (!aligned_) {
        Elements elements;
        KMOE_UNROLL
        for (int k = 0; k < vector; ++k) elements.values[k] = k < end ? from[k] : T(A(0));
        if (!weighted) return Kokkos::bit_cast<Chunk>(elements);
        return weigh(elements, weight);
      }
    }
    Chunk chunk{};
    if (end > 0) chunk = device::read_chunk(from);
    if (!weighted) return chunk;
    return weigh(Kokkos::bit_cast<Elements>(chunk), weight);
  }
  struct alignas(device::chunk_bytes) Elements {
    T values[vector];
  };
  KOKKOS_FUNCTION static Chunk weigh(Elements elements, float weight) {
    KMOE_UNROLL
    for (T& value : elements.values) value = T(static_cast<A>(value) * A(weight));
    return Kokkos::bit_cast<Chunk>(elements);
  }

  KOKKOS_FUNCTION void multiply(Member const& team, std::byte* scratch) const {
    std::byte* const slabs = scratch + tile_bytes;
    int const rank = team.team_rank(), warp = rank / Mma::lanes, lane = rank % Mma::lanes;
    int const warp_row = warp / shape.warp_columns * (m_tiles * Mma::m);
    int const warp_column = warp % shape.warp_columns * (n_tiles * Mma::n);
    bool const works = warp_row < tile_in(scratch).rows;
    Source const sources = source(rank, tile_in(scratch));
    std::byte* const parking = scratch + slab_end + rank * device::chunk_bytes;
    if constexpr (parked) device::store_chunk(parking, Kokkos::bit_cast<Chunk>(sources));
    Mma const mma(lane);
    constexpr bool scaled = G::block_k != 0;
    typename Mma::C sums[m_tiles][n_tiles], totals[scaled ? m_tiles : 1][scaled ? n_tiles : 1];
    KMOE_UNROLL
    for (int i = 0; i < m_tiles * n_tiles; ++i) {
      Mma::clear(sums[i / n_tiles][i % n_tiles]);
      if constexpr (scaled) Mma::clear(totals[i / n_tiles][i % n_tiles]);
    }

    auto const k = static_cast<int>(g_.k);
    Chunk chunks[loads];
    float weights[loads];
    KMOE_UNROLL
    for (int i = 0; i < loads; ++i)
      weights[i] = Whole ? 1 : input_weight(rank, i, tile_in(scratch));
    auto const start = [&](int first_column, int stage) {
      Source from = sources;
      if constexpr (parked) from = device::load_chunk<Source>(parking);
      KMOE_UNROLL
      for (int i = 0; i < loads; ++i) {
        if (!exists(rank, i)) continue;
        int const column = first_column + slab_chunk(rank, i) * vector;
        if constexpr (async) {
          device::copy_async(slabs + stage + slab_place(rank, i), address(from, i, rank, column),
                             column < k);
        } else if (first_column < k) {
          chunks[i] = read(from, i, rank, column, weights[i]);
        }
      }
      device::commit_async();
    };
    KMOE_UNROLL
    for (int s = 0; s < stages - 1; ++s) start(s * slab_columns, s * stage_bytes);
    int stage = 0, next = (stages - 1) * stage_bytes;
    KMOE_ROLL
    for (int column = 0; column < k; column += slab_columns) {
      if constexpr (async) {
        device::wait_async<stages - 2>();
      } else {
        KMOE_UNROLL
        for (int i = 0; i < loads; ++i) {
          if (exists(rank, i)) {
            device::store_chunk(slabs + stage + slab_place(rank, i), chunks[i]);
          }
        }
      }
      team.team_barrier();
      start(column + (stages - 1) * slab_columns, next);
      if (works) multiply_slab(mma, slabs + stage, warp_row, warp_column, sums);
      if constexpr (scaled) {
        int const end = column + slab_columns;
        if (works && (end % G::block_k == 0 || end >= k)) {
          add_block(mma, tile_in(scratch), column / G::block_k, warp_row, warp_column, sums,
                    totals);
        }
      }
      next = stage;
      stage = stage + stage_bytes == stages * stage_bytes ? 0 : stage + stage_bytes;
    }
    if constexpr (async) device::wait_async<0>();  // zeros from beyond k are still on their way
    team.team_barrier();
    Tile const tile = tile_in(scratch);
    if constexpr (scaled) {
      KMOE_UNROLL
      for (int i = 0; i < m_tiles * n_tiles; ++i) {
        sums[i / n_tiles][i % n_tiles] = totals[i / n_tiles][i % n_tiles];
      }
    }
    auto* const warp_sums = static_cast<A*>(static_cast<void*>(slabs)) + warp * Mma::m * pitch;
    KMOE_ROLL
    for (int i = 0; i < m_tiles; ++i) {
      if (warp_row + i * Mma::m >= tile.rows) break;
      KMOE_UNROLL
      for (int j = 0; j < m_tiles * n_tiles; ++j) {
        if (j / n_tiles != i) continue;
        mma.store(sums[j / n_tiles][j % n_tiles], warp_sums + j % n_tiles * Mma::n, pitch);
      }
      device::sync_warp();
      finish(tile, warp_row + i * Mma::m, warp_column, warp_sums, lane);
      device::sync_warp();
    }
  }

  KOKKOS_FUNCTION static void multiply_slab(Mma const& mma, std::byte const* stage, int warp_row,
                                            int warp_column,
                                            typename Mma::C (&sums)[m_tiles][n_tiles]) {
    KMOE_ROLL
    for (int step = 0; step < Mma::steps; ++step) {
      typename Mma::B b[n_tiles];
      KMOE_UNROLL
      for (int j = 0; j < n_tiles; ++j) {
        b[j] = mma.load_b(stage, shape.rows + warp_column + j * Mma::n, step);
      }
      KMOE_UNROLL
      for (int i = 0; i < m_tiles; ++i) {
        auto const a = mma.load_a(stage, warp_row + i * Mma::m, step);
        KMOE_UNROLL
        for (int j = 0; j < n_tiles; ++j) Mma::multiply(sums[i][j], a, b[j]);
      }
    }
  }

  /// A block's sums times its scales to the totals; they begin again from zero.
  template <class Sums>
  KOKKOS_FUNCTION void add_block(Mma const& mma, Tile const& tile, int block, int warp_row,
                                 int warp_column, Sums& sums, Sums& totals) const {
    float columns[n_tiles][Mma::own];
    KMOE_UNROLL
    for (int i = 0; i < n_tiles * Mma::own; ++i) {
      int const b_row = warp_column + i / Mma::own * Mma::n + mma.column_of(i % Mma::own);
      offset_t const n = Kokkos::min(column_of(tile, b_row), g_.columns - 1);
      columns[i / Mma::own][i % Mma::own] =
          g_.b_scale(tile.group * g_.rows_of_b() + g_.row_of_b(n, is_up(b_row)), block);
    }
    KMOE_UNROLL
    for (int i = 0; i < m_tiles; ++i) {
      KMOE_UNROLL
      for (int s = 0; s < Mma::own; ++s) {
        int const row = Kokkos::min(warp_row + i * Mma::m + mma.row_of(s), tile.rows - 1);
        float const scale = g_.x_scale(g_.row_of_x(tile.row + row), block);
        KMOE_UNROLL
        for (int j = 0; j < n_tiles; ++j) {
          totals[i][j][s] += sums[i][j][s] * (scale * columns[j][s]);
        }
      }
    }
    KMOE_UNROLL
    for (int i = 0; i < m_tiles * n_tiles; ++i) Mma::clear(sums[i / n_tiles][i % n_tiles]);
  }

  /// From the sums of Mma::m rows of a warp, in its part of the scratch memory, to out: a lane has
  /// `outputs` columns of some rows.
  KOKKOS_FUNCTION void finish(Tile const& tile, int first_row, int first_column, A const* sums,
                              int lane) const {
    struct alignas(device::chunk_bytes) Sums {
      A values[outputs];
    };
    struct alignas(outputs * sizeof(T)) Results {
      T values[outputs];
    };
    bool const gated = g_.gated(), biased = has_bias();
    constexpr int full = n_tiles * Mma::n / outputs;  // items of a row, half as many of pairs
    static_assert(Mma::n % outputs == 0 && (full & (full - 1)) == 0);
    int const width = gated ? full / 2 : full;
    int const own_row = gated ? lane / (full / 2) : lane / full;
    int const rows_at_once = Kokkos::max(1, gated ? Mma::lanes / (full / 2) : Mma::lanes / full);
    KMOE_ROLL
    for (int item = lane % width; item < width; item += Mma::lanes) {
      int const place = item * outputs;
      int const column = gated ? place / Mma::n * (2 * Mma::n) + place % Mma::n : place;
      offset_t const n = column_of(tile, first_column + column);
      if (n >= g_.columns) continue;
      auto const valid = static_cast<int>(Kokkos::min(offset_t{outputs}, g_.columns - n));
      Sums bias{}, up_bias{};
      KMOE_UNROLL
      for (int v = 0; v < outputs; ++v) {
        if (!biased || v >= valid) continue;
        bias.values[v] = read_bias(tile, n + v, false);
        if (gated) up_bias.values[v] = read_bias(tile, n + v, true);
      }
      auto const store = [&](int row, bool plain) {
        auto const read = [&](int from) {
          return *static_cast<Sums const*>(static_cast<void const*>(sums + row * pitch + from));
        };
        Sums sum = read(column);
        if (!plain) {
          Sums up = gated ? read(column + Mma::n) : sum;
          KMOE_UNROLL
          for (int v = 0; v < outputs; ++v) {
            if (biased) {
              sum.values[v] += bias.values[v];
              up.values[v] += up_bias.values[v];
            }
            if (gated) {
              sum.values[v] = activate(g_.options, sum.values[v], up.values[v]);
            } else if (g_.activated) {
              sum.values[v] = activate(g_.options.activation, sum.values[v]);
            }
          }
        }
        offset_t const out_row = tile.row + first_row + row;
        A const weight =
            g_.output_weights == nullptr ? A(1) : A(g_.output_weights[g_.slot(out_row)]);
        if constexpr (G::decodes) {
          KMOE_UNROLL
          for (int v = 0; v < outputs; ++v) {
            if (v < valid) g_.store(out_row - g_.out_first, n + v, sum.values[v] * weight);
          }
        } else {
          Results results;
          KMOE_UNROLL
          for (int v = 0; v < outputs; ++v) results.values[v] = T(sum.values[v] * weight);
          T* const out = g_.out + (out_row - g_.out_first) * g_.columns + n;
          if (wide_) {
            *static_cast<Results*>(static_cast<void*>(out)) = results;
          } else {
            KMOE_UNROLL
            for (int v = 0; v < outputs; ++v) {
              if (v < valid) out[v] = results.values[v];
            }
          }
        }
      };
      int const end = Kokkos::min(int{Mma::m}, tile.rows - first_row);
      if (gated || g_.activated || biased) {
        KMOE_ROLL
        for (int row = own_row; row < end; row += rows_at_once) store(row, false);
      } else {
        KMOE_UNROLL_4
        for (int row = own_row; row < end; row += rows_at_once) store(row, true);
      }
    }
  }

  KOKKOS_FUNCTION A read_bias(Tile const& tile, offset_t n, bool up) const {
    offset_t const row = tile.group * g_.rows_of_b() + g_.row_of_b(n, up);
    if constexpr (G::decodes) {
      return g_.read_bias(row);
    } else {
      return g_.bias[row];
    }
  }
  KOKKOS_FUNCTION bool has_bias() const {
    if constexpr (G::decodes) {
      return g_.bias_data != nullptr;
    } else {
      return g_.bias != nullptr;
    }
  }

  G g_;
  int row_tiles_, column_tiles_;
  bool aligned_;  // rows of x and b are whole, aligned chunks
  bool small_;    // x and b hold less than 2^32 chunks each
  bool wide_;     // out takes `outputs` elements at once
};

/// Asynchronous.
template <ExecutionSpace E, device::Operand T, class G>
void tile_gemm(E const& exec, char const* label, G g) {
  if (g.columns == 0 || g.groups == 0) return;
  auto const run = [&]<bool Few>() {
    if constexpr (!G::decodes) {
      TileGemm<E, T, Few, true> const gemm(g);
      if (gemm.whole()) return gemm.run(exec, label);
    }
    TileGemm<E, T, Few, false, G>(g).run(exec, label);
  };
  constexpr offset_t few_rows = 24;  // of a group
  constexpr offset_t most_teams = offset_t{1}
                                  << 23;  // of a launch; a tile has 8 x 32 elements or more
  offset_t const most_rows = std::max<offset_t>(1 << 16, most_teams * 256 / g.rows_of_b());
  for (offset_t const end = g.row_end; g.row_begin < end; g.row_begin = g.row_end) {
    g.row_end = std::min(end, g.row_begin + most_rows);
    if (g.row_end - g.row_begin <= few_rows * g.groups) {
      run.template operator()<true>();
    } else {
      run.template operator()<false>();
    }
  }
}

}  // namespace kmoe::detail
