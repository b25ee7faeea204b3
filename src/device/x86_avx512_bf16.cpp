// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// bfloat16 by the dot product of AVX-512 BF16; the other types use AVX-512.

#include <immintrin.h>

#include "device/panel_kernel.hpp"

namespace kmoe::device {
namespace {

struct Simd {
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
  static Floats dot(Vec<std::int32_t, 16> a, Vec<std::int32_t, 16> b, Floats c) {
#if defined(__clang__) && __clang_major__ < 18  // crash in optimizing the casts to __m512bh
    asm("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
#else
    return (Floats)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#endif
  }
};

}  // namespace

constinit HostKernel const avx512_bf16_kernel =
    make_kernel<Simd, DotBfloat<Simd>>(Isa::avx512_bf16);

}  // namespace kmoe::device
