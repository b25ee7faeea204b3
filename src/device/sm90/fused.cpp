// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "device/sm90/fused.hpp"

#include "device/sm90/launch.hpp"
#include "device/sm90/machine.hpp"

namespace kmoe::device::sm90 {
namespace {

template <int Width>
void launch_width(Operand operand, cudaStream_t stream, Launch& what, int blocks) {
  using Tile = FusedTile<Width>;
  what.widths[0] = 2 * chunk;
  what.widths[1] = Width;
  what.order = order_of(1, 0, {1, 0});
  encode_maps(what, operand);
  if (operand == Operand::bf16) {
    launch_kernel<fused_kernel<Operand::bf16, Tile>, Tile>(stream, what, blocks);
  } else {
    launch_kernel<fused_kernel<Operand::f16, Tile>, Tile>(stream, what, blocks);
  }
}

}  // namespace

bool fused_takes(Work const& what) {
  Product const& up = what.products[0];
  Product const& down = what.products[1];
  return what.count == 2 && what.ids == nullptr && up.halves != Halves::none && up.k <= 256 &&
         down.features == up.k && down.halves == Halves::none && down.act == Act::identity &&
         (up.gather || what.slots == nullptr);
}

void launch_fused(Operand operand, cudaStream_t stream, Launch& what, int blocks) {
  int const width = what.products[0].k;
  if (width <= 64) return launch_width<64>(operand, stream, what, blocks);
  if (width <= 128) return launch_width<128>(operand, stream, what, blocks);
  if (width <= 192) return launch_width<192>(operand, stream, what, blocks);
  launch_width<256>(operand, stream, what, blocks);
}

}  // namespace kmoe::device::sm90
