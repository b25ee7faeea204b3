// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Kernels of AVX2, FMA and F16C.

#include <immintrin.h>

#include "device/panel_kernel.hpp"
#include "device/quant_kernel.hpp"

namespace kmoe::device {
namespace {

struct Simd {
  static constexpr int bytes = 32, tile_rows = 6;
  using Floats = Vec<float, 8>;
  using Doubles = Vec<double, 4>;
  static Floats fma(Floats a, Floats b, Floats c) {
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  }
  static Doubles fma(Doubles a, Doubles b, Doubles c) {
    return (Doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
  }
  static Floats widen(f16_bits const* p) { return (Floats)_mm256_cvtph_ps(load<__m128i>(p)); }
  static void narrow(Floats v, f16_bits* p) {
    store(p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

}  // namespace

constinit HostKernel const avx2_kernels[4] = {
    make_kernel<Simd, DirectFormat<Simd, double>>(Isa::avx2),
    make_kernel<Simd, DirectFormat<Simd, float>>(Isa::avx2),
    make_kernel<Simd, WideBfloat<Simd>>(Isa::avx2), make_kernel<Simd, WideHalf<Simd>>(Isa::avx2)};

constinit QuantKernel const avx2_quant_kernel = make_quant_kernel<Simd>(Isa::avx2);

}  // namespace kmoe::device
