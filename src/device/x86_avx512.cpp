// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Kernels of AVX-512 F, BW, VL and DQ.

#include <immintrin.h>

#include "device/panel_kernel.hpp"
#include "device/quant_kernel.hpp"
#include "device/x86_mxfp4.hpp"

namespace kmoe::device {
namespace {

struct Simd : Mxfp4Avx512 {
  static constexpr int bytes = 64, tile_rows = 14;
  using Floats = Vec<float, 16>;
  using Doubles = Vec<double, 8>;
  static Floats fma(Floats a, Floats b, Floats c) {
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  }
  static Doubles fma(Doubles a, Doubles b, Doubles c) {
    return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
  }
  static Floats widen(f16_bits const* p) { return (Floats)_mm512_cvtph_ps(load<__m256i>(p)); }
  static void narrow(Floats v, f16_bits* p) {
    store(p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

}  // namespace

constinit HostKernel const avx512_kernels[4] = {
    make_kernel<Simd, DirectFormat<Simd, double>>(Isa::avx512),
    make_kernel<Simd, DirectFormat<Simd, float>>(Isa::avx512),
    make_kernel<Simd, WideBfloat<Simd>>(Isa::avx512),
    make_kernel<Simd, WideHalf<Simd>>(Isa::avx512)};

constinit QuantKernel const avx512_quant_kernel = make_quant_kernel<Simd>(Isa::avx512);

}  // namespace kmoe::device
