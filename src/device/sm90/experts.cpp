// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "device/sm90/experts.hpp"

#include <algorithm>

#include "device/sm90/kernel.hpp"
#include "device/sm90/launch.hpp"
#include "device/sm90/machine.hpp"
#include "device/sm90/run_block.hpp"

namespace kmoe::device::sm90 {
namespace {

/// The tiles there are.
enum class Choice { one_row, one_token, stream, narrow, wide, large, pair, fused };
using OneRowTile = Tile<32, 8, 10, 1, 4>;
using OneTokenTile = Tile<64, 8, 11, 1, 2>;  // narrow, so that all multiprocessors are busy
using StreamTile = Tile<128, 32, 5, 2, 2>;   // few rows: 256 bytes of each row of weights at once
using NarrowTile = Tile<128, 128, 6, 2>;     // few tiles
using WideTile = Tile<256, 128, 4, 2>;
using LargeTile = Tile<256, 176, 4, 2>;       // many rows of an expert; no memory left to group in
using PairTile = Tile<256, 176, 4, 2, 1, 2>;  // two of them

/// Sizes decide, never the routing, which is not known here: any choice is right for any routing
/// and gives the same bits.
Choice choose(Work const& work) {
  int const blocks = machine().multiprocessors;
  std::int64_t const rows = work.rows, groups = work.groups;
  std::int64_t const features = work.products[0].features;
  if (fused_takes(work) && 5 * (ceil_div(rows, 128) + groups / 2) >= 2 * blocks) {
    return Choice::fused;
  }
  auto const active = std::min(rows, groups);
  bool const few_tiles = 4 * active * ceil_div(features, 128) < 3 * blocks;
  // Narrow tiles cost a hand-out each, which long ones hide.
  bool const long_tiles = work.products[0].k + work.products[1].k >= 8192;
  if (work.tokens == 1 || (work.tokens <= 8 && (few_tiles || long_tiles))) {
    return active * ceil_div(features, 64) < blocks ? Choice::one_row : Choice::one_token;
  }
  if (rows <= 16 * groups) return Choice::stream;
  if ((ceil_div(rows, 128) + groups) * ceil_div(features, 256) < 4 * blocks) return Choice::narrow;
  if (rows < 96 * groups || PairTile::bytes(work.groups, false) > shared_limit) return Choice::wide;
  return rows < 192 * groups ? Choice::large : Choice::pair;
}

template <Operand Type>
void launch_of(cudaStream_t stream, Launch& what, Work const& work) {
  int const blocks = machine().multiprocessors;
  auto const with = [&](auto tile) {
    using T = decltype(tile);
    for (int p = 0; p < what.count; ++p) what.widths[p] = T::features;
    // A second product of few tiles: half of them leave more multiprocessors without work.
    auto const tiles =
        (ceil_div(work.rows, T::tokens) + std::min<std::int64_t>(work.rows, work.groups)) *
        ceil_div(work.products[1].features, T::features);
    if (what.count == 2 && T::groups == 2 && 2 * tiles <= blocks) what.widths[1] /= 2;
    // Blocks that run at the same time share few weights and few rows: 8 tiles of tokens were best
    // of 1 to 32, 4 where an expert has one, 2 for one token.
    set_order(what, T::tokens <= 8 ? 2 : T::tokens == 128 ? 8 : 4, blocks / T::pair);
    encode_maps(what, Type, T::pair, T::depth);
    launch_kernel<experts_kernel<Type, T>, T>(stream, what, blocks);
  };
  switch (choose(work)) {
    case Choice::one_row:
      return with(OneRowTile{});
    case Choice::one_token:
      return with(OneTokenTile{});
    case Choice::stream:
      return with(StreamTile{});
    case Choice::narrow:
      return with(NarrowTile{});
    case Choice::wide:
      return with(WideTile{});
    case Choice::large:
      return with(LargeTile{});
    case Choice::pair:
      return with(PairTile{});
    case Choice::fused:
      break;
  }
  launch_fused(Type, stream, what, blocks);
}

bool fits(Product const& product) {
  int const step = product.halves == Halves::none ? 8 : 16;
  return product.k > 0 && product.k % 8 == 0 && product.features > 0 &&
         product.features % step == 0 && aligned(product.b) && aligned(product.in) &&
         aligned(product.out);
}

}  // namespace

bool available() {
  return machine().hopper;
}

bool takes(Work const& work) {
  constexpr std::int64_t pieces = std::int64_t{1} << 32;  // of 16 bytes, in a 32-bit number
  auto const rows = std::max(work.rows, work.tokens);
  std::int64_t features = 0;
  for (int p = 0; p < work.count; ++p) {
    if (!fits(work.products[p]) || rows * (work.products[p].k / 8) >= pieces) return false;
    features += ceil_div(work.products[p].features, 64);
  }
  // The tiles are numbered in 32 bits, with room for draws past the last; no tile is smaller.
  if ((rows / 32 + max_groups) * features >= std::int64_t{1} << 30) return false;
  bool const groups_here = work.ids != nullptr;
  if (groups_here && (work.num_slots > max_grouped || work.groups > max_grouped_groups ||
                      choose(work) == Choice::large || choose(work) == Choice::pair)) {
    return false;
  }
  if (work.y != nullptr) {
    // More pieces of 16 bytes are better added by a kernel of their own.
    constexpr std::int64_t most = std::int64_t{1} << 17;
    bool const few = work.num_slots / work.slots_per_row * (work.products[1].features / 8) <= most;
    if (!aligned(work.y) || !(work.slots_per_row == 1 || (groups_here && few))) return false;
  }
  return available() && work.groups >= 1 && work.groups <= max_groups &&
         work.rows < (std::int64_t{1} << 31);
}

std::size_t num_counters(std::int64_t rows) {
  constexpr int fewest = 8;  // rows of a tile
  return 3 + static_cast<std::size_t>(rows / fewest + max_groups);
}

void launch(void* stream, Operand operand, Work const& work) {
  Launch what{};
  describe(work, what);
  auto const queue = static_cast<cudaStream_t>(stream);
  if (operand == Operand::bf16) {
    launch_of<Operand::bf16>(queue, what, work);
  } else {
    launch_of<Operand::f16>(queue, what, work);
  }
}

}  // namespace kmoe::device::sm90
