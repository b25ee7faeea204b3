// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// bfloat16 by the tile multiply of AMX; the other types use AVX-512.

#include <immintrin.h>

#include "device/panel_kernel.hpp"

namespace kmoe::device {
namespace {

struct Simd {
  static constexpr int tile_rows = 32;
  using Floats = Vec<float, 16>;
  static Floats fma(Floats a, Floats b, Floats c) {
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  }
};

/// What the packing takes from a format: elements, K in one piece, padded to whole tiles.
struct TileFormat {
  using Element = bf16_bits;
  using Packed = bf16_bits;
  using Acc = Vec<float, 16>;
  // The rows of A lie an odd number of cache lines apart, so that a tile meets every cache set.
  static constexpr int k_step = 2, k_multiple = 32, k_block = 0, a_pad = 32;
};

struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

/// c[16 or 32][32] = A[16 or 32][k] . B[k][32]: tiles 0-3 are c, 4-5 A, 6-7 B.
template <bool Two>
inline void multiply_tiles(std::int64_t k, bf16_bits const* a, std::int64_t stride,
                           bf16_bits const* b, float* c) {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (Two) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::int64_t i = 0; i < k; i += 32) {
    _tile_loadd(6, b, 128);
    _tile_loadd(7, b + 32, 128);
    _tile_loadd(4, a, stride * 2);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (Two) {
      _tile_loadd(5, a + 16 * stride, stride * 2);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    a += 32;
    b += 32 * 32;
  }
  _tile_stored(0, c, 128);
  _tile_stored(1, c + 16, 128);
  if constexpr (Two) {
    _tile_stored(2, c + 16 * 32, 128);
    _tile_stored(3, c + 16 * 32 + 16, 128);
  }
}

void multiply_amx(Multiply const& m) {
  static constexpr TileConfig config;
  _tile_loadconfig(&config);
  std::int64_t const k = round_up(m.k, TileFormat::k_multiple);
  std::int64_t const stride = k + TileFormat::a_pad;
  auto const* const a = static_cast<bf16_bits const*>(m.a);
  auto const* b = static_cast<bf16_bits const*>(m.b);
  alignas(64) float c[32 * 32];
  for (std::int64_t panel = 0; panel < m.panels; ++panel) {
    for (std::int64_t row = 0; row < m.rows; row += 32) {
      std::int64_t const rows = m.rows - row < 32 ? m.rows - row : 32;
      if (rows > 16) {
        multiply_tiles<true>(k, a + row * stride, stride, b, c);
      } else {
        multiply_tiles<false>(k, a + row * stride, stride, b, c);
      }
      if (m.gated) {
        finish<Simd, bf16_bits, Vec<float, 16>, true>(m, panel, row, rows, c);
      } else {
        finish<Simd, bf16_bits, Vec<float, 16>, false>(m, panel, row, rows, c);
      }
    }
    b += k * 32;
  }
  _tile_release();
}

}  // namespace

constinit HostKernel const amx_bf16_kernel = make_kernel<Simd, TileFormat>(Isa::amx, &multiply_amx);

}  // namespace kmoe::device
