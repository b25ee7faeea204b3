// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Integer dot products of AVX-512 VNNI. The instruction takes unsigned times signed bytes: the
// weights are raised by 128, which 128 times the sum of the activations takes back.

#include <immintrin.h>

#include "device/host_quant.hpp"

namespace kmoe::device {
namespace {

template <int Rows>
void dot_rows(QuantIntegers const& p, std::int64_t row) {
  std::int8_t const* const a = p.a + row * p.a_stride;
  __m512i sums[Rows][quant_columns];
  for (auto& of_row : sums) {
    for (auto& sum : of_row) sum = _mm512_setzero_si512();
  }
  __m512i const high = _mm512_set1_epi8(static_cast<char>(-128));
  std::uint8_t const* w[quant_columns];
  for (int n = 0; n < quant_columns; ++n) w[n] = p.w[n] == nullptr ? p.w[0] : p.w[n];
  auto const step = [&](std::int64_t k, __mmask64 valid) {
#pragma GCC unroll 4
    for (int n = 0; n < quant_columns; ++n) {
      // Beyond the row A is 0.
      __m512i const raised = _mm512_xor_si512(_mm512_maskz_loadu_epi8(valid, w[n] + k), high);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        sums[r][n] =
            _mm512_dpbusd_epi32(sums[r][n], raised, _mm512_loadu_si512(a + r * p.a_stride + k));
      }
    }
  };
  std::int64_t k = 0;
  for (; k + 64 <= p.k; k += 64) step(k, ~__mmask64{0});
  if (k < p.k) step(k, (__mmask64{1} << (p.k - k)) - 1);
  for (int r = 0; r < Rows; ++r) {
    for (int n = 0; n < quant_columns; ++n) {
      std::int32_t const sum = _mm512_reduce_add_epi32(sums[r][n]) - 128 * p.row_sums[row + r];
      p.sums[(row + r) * p.sums_stride + n] = p.w[n] == nullptr ? 0.0F : static_cast<float>(sum);
    }
  }
}

}  // namespace

void vnni_dot(QuantIntegers const& p) {
  if (p.w[0] == nullptr) {  // and so are those after it
    for (std::int64_t r = 0; r < p.rows; ++r) {
      for (int n = 0; n < quant_columns; ++n) p.sums[r * p.sums_stride + n] = 0;
    }
    return;
  }
  std::int64_t row = 0;
  for (; row + 4 <= p.rows; row += 4) dot_rows<4>(p, row);
  for (; row < p.rows; ++row) dot_rows<1>(p, row);
}

}  // namespace kmoe::device
