// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "device/sm90/fp8.hpp"

#include <algorithm>

#include "device/sm90/fp8_kernel.hpp"
#include "device/sm90/fp8_wide.hpp"
#include "device/sm90/launch.hpp"
#include "device/sm90/machine.hpp"

namespace kmoe::device::sm90 {
namespace {

/// Rows of a product's features that have scales of their own, and rows of scales of each.
int part_rows(Product const& product, Fp8Weights const& weights) {
  return product.features / weights.parts;
}
int part_scales(Product const& product, Fp8Weights const& weights) {
  return ceil_div(part_rows(product, weights), scale_k);
}

Scales scales_of(Product const& product, Fp8Weights const& weights) {
  Scales s{};
  s.weights = weights.scales;
  s.rows = weights.parts * part_scales(product, weights);
  s.blocks = ceil_div(product.k, scale_k);
  // Of a tile's features 8 of 16 are of the first half, whether halves lie apart or by turns.
  bool const apart = product.halves == Halves::gate_first || product.halves == Halves::up_first;
  s.shift = apart ? 8 : 7;
  s.second = apart ? product.features / 2 / scale_k : 0;
  if (weights.parts == 2) s.second = part_scales(product, weights);
  s.last = s.rows - s.second - 1;
  return s;
}

bool fits(Product const& product, Fp8Weights const& weights) {
  bool const apart = product.halves == Halves::gate_first || product.halves == Halves::up_first;
  bool const whole = weights.parts == (apart ? 2 : 1) ||
                     (weights.parts == 1 && product.features / 2 % scale_k == 0);
  return whole && product.k % 16 == 0;
}

std::size_t round_up(std::size_t bytes) {
  return (bytes + 15) / 16 * 16;
}

template <auto Kernel, class T>
void launch_tile(cudaStream_t stream, Fp8Launch& what, Work const& work) {
  int const blocks = machine().multiprocessors;
  what.band = work.tokens <= 64 ? 2 : 8;
  what.lag = ceil_div(3 * blocks, what.band * ceil_div(what.products[0].features, T::features));
  for (int p = 0; p < what.count; ++p) what.widths[p] = T::features;
  encode_maps(what, Operand::e4m3);
  launch_kernel<Kernel, T>(stream, what, blocks);
}

/// Makes x codes, and tells the kernel of them and of those of the intermediate.
template <Operand Type>
void quantize_first(cudaStream_t stream, Fp8Launch& what, Fp8Work const& all) {
  Work const& work = all.work;
  auto& [up, down] = what.products;
  std::int64_t const tokens = work.tokens;
  auto* const codes = static_cast<char*>(all.scratch);
  auto* const scales = reinterpret_cast<float*>(codes + round_up(tokens * up.k));
  std::int64_t const threads = tokens * what.scales[0].blocks * 8;
  launch_before(stream, 8 * machine().multiprocessors, threads, quantize_kernel<Type>, up.in,
                tokens, up.k, codes, scales);
  up.in = codes;
  what.scales[0].in = scales;
  what.scales[0].in_row = scale_pitch(what.scales[0].blocks);
  // The intermediate's memory has room for elements.
  auto* const between = static_cast<char*>(up.out);
  auto* const between_scales = reinterpret_cast<float*>(between + round_up(work.rows * down.k));
  down.in = up.out;
  what.scales[1].in = what.scales[1].out = between_scales;
  what.scales[1].in_row = scale_pitch(what.scales[1].blocks);
}

/// As launch_of() of experts.cpp: sizes decide, and any choice gives the same bits.
template <Operand Type>
void launch_of(cudaStream_t stream, Fp8Launch& what, Fp8Work const& all) {
  Work const& work = all.work;
  int const features = work.products[0].features;
  auto const active = std::min<std::int64_t>(work.rows, work.groups);
  if (work.tokens <= 8 && active * ceil_div(features, 128) < 4 * machine().multiprocessors) {
    using T = Fp8Tile<64, 8, 10, 1, 2, false>;
    return launch_tile<fp8_kernel<Type, T>, T>(stream, what, work);
  }
  quantize_first<Type>(stream, what, all);
  if (work.rows <= 64 * std::int64_t{work.groups}) {
    using T = Fp8Tile<256, 64, 4, 2, 1, true>;
    return launch_tile<fp8_kernel<Type, T>, T>(stream, what, work);
  }
  launch_tile<fp8_wide_kernel<Type, Fp8WideTile<4>>, Fp8WideTile<4>>(stream, what, work);
}

}  // namespace

std::size_t fp8_scratch_bytes(std::int64_t tokens, std::int64_t hidden_size) {
  return round_up(tokens * hidden_size) +
         round_up(tokens * scale_pitch(ceil_div(hidden_size, scale_k)) * 4);
}

bool takes_fp8(Fp8Work const& what) {
  Work const& work = what.work;
  if (work.count != 2 || work.products[0].halves == Halves::none ||
      work.products[1].act != Act::identity || !takes(work))
    return false;
  constexpr std::int64_t most = std::int64_t{1} << 31;  // scales, in 32-bit numbers
  for (int p = 0; p < 2; ++p) {
    if (!fits(work.products[p], what.weights[p])) return false;
    Scales const s = scales_of(work.products[p], what.weights[p]);
    std::int64_t const rows = std::max<std::int64_t>(std::max(work.rows, work.tokens),
                                                     std::int64_t{s.rows} * work.groups);
    if (rows * scale_pitch(s.blocks) >= most) return false;
  }
  // Codes and scales of the intermediate have room in the place of its elements, whatever the rows:
  // a row of 16 codes has 16 bytes of scales. Else the bits would depend on the number of rows.
  return aligned(what.scratch) &&
         fp8_scratch_bytes(work.tokens, work.products[0].k) <= what.scratch_bytes;
}

void launch_fp8(void* stream, Operand operand, Fp8Work const& all) {
  Fp8Launch what{};
  describe(all.work, what);
  for (int p = 0; p < 2; ++p) what.scales[p] = scales_of(all.work.products[p], all.weights[p]);
  auto const queue = static_cast<cudaStream_t>(stream);
  if (operand == Operand::bf16) {
    launch_of<Operand::bf16>(queue, what, all);
  } else {
    launch_of<Operand::f16>(queue, what, all);
  }
}

}  // namespace kmoe::device::sm90
