// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Kernels without intrinsics, for processors that have no kernels of their own.

#include "device/panel_kernel.hpp"
#include "device/quant_kernel.hpp"

namespace kmoe::device {
namespace {

struct Simd {
  static constexpr int bytes = 16, tile_rows = 6;
  template <class V>
  static V fma(V a, V b, V c) {
    return a * b + c;
  }
  using Floats = Vec<float, 4>;
  using Words = Vec<std::uint32_t, 4>;
  static Floats widen(f16_bits const* p) {
    Words const h = __builtin_convertvector(load<Vec<std::uint16_t, 4>>(p), Words);
    // The exponent is rebiased by a multiplication, which also normalizes subnormals.
    Floats const magnitude = (Floats)((h & 0x7fffU) << 13) * 0x1p112F;
    Words const special = magnitude >= 65536.0F ? Words{} + 0x7f800000U : Words{};
    return (Floats)((Words)magnitude | special | ((h & 0x8000U) << 16));
  }
  static void narrow(Floats v, f16_bits* p) {
    Words const u = (Words)v;
    Words const magnitude = u & 0x7fffffffU;
    // Adding 0.5 aligns a subnormal result at the bottom of the fraction and rounds it.
    Words const subnormal = (Words)((Floats)magnitude + 0.5F) & 0x7ffU;
    Words const normal = (magnitude - 0x38000000U + 0xfffU + ((magnitude >> 13) & 1U)) >> 13;
    Words h = magnitude < 0x38800000U ? subnormal : normal;
    h = magnitude >= 0x477ff000U ? Words{} + 0x7c00U : h;
    h = magnitude > 0x7f800000U ? Words{} + 0x7e00U : h;
    store(p, __builtin_convertvector(h | ((u >> 16) & 0x8000U), Vec<std::uint16_t, 4>));
  }
};

}  // namespace

constinit HostKernel const portable_kernels[4] = {
    make_kernel<Simd, DirectFormat<Simd, double>>(Isa::portable),
    make_kernel<Simd, DirectFormat<Simd, float>>(Isa::portable),
    make_kernel<Simd, WideBfloat<Simd>>(Isa::portable),
    make_kernel<Simd, WideHalf<Simd>>(Isa::portable)};

constinit QuantKernel const portable_quant_kernel = make_quant_kernel<Simd>(Isa::portable);

}  // namespace kmoe::device
