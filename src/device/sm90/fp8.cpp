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

Scales row_scales_of(Fp8Work const& all, int p) {
  Product const& product = all.work.products[p];
  bool const of_rows = all.kind == Fp8Scales::rows;
  Scales s{};
  s.weights = all.weights[p].scales;
  s.rows = of_rows ? product.features : all.weights[p].parts;
  s.blocks = ceil_div(product.k, scale_k);
  s.second = of_rows ? 0 : product.features / all.weights[p].parts;
  s.given = all.weights[p].in;
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
  for (int p = 0; p < what.count; ++p) what.widths[p] = T::features;
  set_order(what, T::tokens <= 8 ? 2 : work.tokens <= 64 ? 4 : 8, blocks);
  encode_maps(what, Operand::e4m3, 1, T::depth);
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

// As launch_of() of experts.cpp: sizes decide, and any choice gives the same bits.

/// Whether a launch does it all.
bool is_small(Fp8Work const& all) {
  Work const& work = all.work;
  auto const active = std::min<std::int64_t>(work.rows, work.groups);
  return all.input_weights == nullptr && work.tokens <= 8 &&
         active * ceil_div(work.products[0].features, 128) < 4 * machine().multiprocessors;
}
/// Whether an expert has no more rows than so many, if all have some.
bool has_rows(Work const& work, int most) {
  return work.rows <= most * std::int64_t{work.groups};
}
/// Whether a launch has both products, with scales of rows: the group that makes codes of the
/// intermediate takes long where rows are many.
bool is_one_launch(Work const& work) {
  return has_rows(work, 24);
}
template <Operand Type, bool PerRow>
void launch_small(cudaStream_t stream, Fp8Launch& what, Work const& work) {
  using T = Fp8Tile<64, 8, 10, 1, 2, false, PerRow>;
  launch_tile<fp8_kernel<Type, T>, T>(stream, what, work);
}
template <Operand Type, bool PerRow>
void launch_codes(cudaStream_t stream, Fp8Launch& what, Work const& work) {
  if (has_rows(work, 64)) {
    using T = Fp8Tile<256, 64, 4, 2, 1, true, PerRow>;
    return launch_tile<fp8_kernel<Type, T>, T>(stream, what, work);
  }
  using T = Fp8WideTile<4, PerRow>;
  launch_tile<fp8_wide_kernel<Type, T>, T>(stream, what, work);
}

/// Codes [rows, k] and scales [rows].
struct RowCodes {
  RowCodes(void* from, std::int64_t rows, std::int64_t k)
      : codes(static_cast<char*>(from)),
        scales(reinterpret_cast<float*>(codes + round_up(rows * k))),
        end(codes + round_up(rows * k) + round_up(4 * rows)) {}
  char* codes;
  float* scales;
  char* end;
};

/// Codes of x are made once for all rows of a token, if they are the same for them and have room.
bool is_by_row(Fp8Work const& all, int p) {
  return p == 1 || all.weights[p].in != nullptr || all.input_weights != nullptr ||
         all.work.tokens > all.work.rows;
}

/// Makes codes of what comes into product p, and tells `product` and `scales` of them.
template <Operand Type>
RowCodes quantize_rows(cudaStream_t stream, Fp8Work const& all, int p, Product& product,
                       Scales& scales) {
  Work const& work = all.work;
  bool const by_row = is_by_row(all, p);
  std::int64_t const count = by_row ? work.rows : work.tokens;
  RowCodes const to(all.scratch, count, product.k);
  RowsToCodes rows{};
  rows.in = product.in;
  rows.k = product.k;
  rows.rows = count;
  rows.codes = to.codes;
  product.in = to.codes;
  scales.in = rows.scales = to.scales;
  if (by_row) {
    rows.offsets = work.offsets;
    rows.groups = work.groups;
    rows.slots = product.gather ? work.slots : nullptr;
    rows.slots_per_row = work.slots_per_row;
    rows.weights = p == 0 ? all.input_weights : nullptr;
    rows.given = all.weights[p].in;
    product.gather = false;
  }
  launch_before(stream, 8 * machine().multiprocessors, 32 * count, quantize_rows_kernel<Type>,
                rows);
  return to;
}

/// Scales of rows, but for few tokens.
template <Operand Type>
void launch_rows(cudaStream_t stream, Fp8Launch& what, Fp8Work const& all) {
  Work const& work = all.work;
  auto& [up, down] = what.products;
  RowCodes const x = quantize_rows<Type>(stream, all, 0, up, what.scales[0]);
  if (is_one_launch(work)) {
    RowCodes const between(x.end, work.rows, down.k);
    what.scales[1].codes = between.codes;
    down.in = between.codes;
    what.scales[1].in = what.scales[1].out = between.scales;
    return launch_codes<Type, true>(stream, what, work);
  }
  what.count = 1;
  launch_codes<Type, true>(stream, what, work);
  up = down;
  what.scales[0] = what.scales[1];
  quantize_rows<Type>(stream, all, 1, up, what.scales[0]);
  launch_codes<Type, true>(stream, what, work);
}

template <Operand Type>
void launch_of(cudaStream_t stream, Fp8Work const& all) {
  bool const per_row = all.kind != Fp8Scales::blocks;
  Fp8Launch what{};
  describe(all.work, what);
  for (int p = 0; p < 2; ++p) {
    what.scales[p] =
        per_row ? row_scales_of(all, p) : scales_of(all.work.products[p], all.weights[p]);
  }
  if (is_small(all)) {
    return per_row ? launch_small<Type, true>(stream, what, all.work)
                   : launch_small<Type, false>(stream, what, all.work);
  }
  if (per_row) return launch_rows<Type>(stream, what, all);
  quantize_first<Type>(stream, what, all);
  launch_codes<Type, false>(stream, what, all.work);
}

/// Of codes and scales.
std::size_t scratch_bytes(Fp8Work const& what) {
  Work const& work = what.work;
  auto const k = [&](int p) { return std::int64_t{work.products[p].k}; };
  if (what.kind == Fp8Scales::blocks) {
    return round_up(work.tokens * k(0)) +
           round_up(work.tokens * scale_pitch(ceil_div(k(0), scale_k)) * 4);
  }
  std::int64_t const both = is_one_launch(work) ? k(0) + k(1) : std::max(k(0), k(1));
  return round_up(work.rows * both) + 2 * round_up(work.rows * 4);
}

}  // namespace

bool takes_fp8(Fp8Work const& what) {
  Work const& work = what.work;
  if (work.count != 2 || work.products[0].halves == Halves::none ||
      work.products[1].act != Act::identity || what.kind == Fp8Scales::other || !takes(work) ||
      !aligned(what.scratch) || scratch_bytes(what) > what.scratch_bytes) {
    return false;
  }
  if (what.kind != Fp8Scales::blocks) {
    bool const alone = work.ids == nullptr && work.y == nullptr;
    bool const at_once = is_small(what) || (is_one_launch(work) && !is_by_row(what, 0));
    return (alone || at_once) && work.products[0].k % 16 == 0 && work.products[1].k % 16 == 0;
  }
  if (what.input_weights != nullptr) return false;
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
  return true;
}

void launch_fp8(void* stream, Operand operand, Fp8Work const& all) {
  auto const queue = static_cast<cudaStream_t>(stream);
  if (operand == Operand::bf16) {
    launch_of<Operand::bf16>(queue, all);
  } else {
    launch_of<Operand::f16>(queue, all);
  }
}

}  // namespace kmoe::device::sm90
