// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The host kernels of quantized weights, written once; `S` is the instruction set (lanes.hpp), `O`
/// the operand. Internal linkage, as panel_kernel.hpp.

#include <cstdint>
#include <type_traits>

#include "device/host_quant.hpp"
#include "device/panel_kernel.hpp"

namespace kmoe::device {
namespace {  // NOLINT(cert-dcl59-cpp)

// Values of codes, as kmoe/core/codes.hpp defines them.

struct FloatTable {
  float values[256];
};
/// Bias 7: e4m3fn, 8: e4m3fnuz.
constexpr FloatTable make_e4m3(int bias) {
  FloatTable table{};
  for (int code = 0; code < 256; ++code) {
    int const exponent = code >> 3 & 15, fraction = code & 7;
    float value = static_cast<float>(exponent == 0 ? fraction : 8 + fraction);
    for (int e = exponent == 0 ? 1 : exponent; e < bias + 3; ++e) value /= 2;
    for (int e = bias + 3; e < exponent; ++e) value *= 2;
    bool const nan = bias == 7 ? (code & 0x7f) == 0x7f : code == 0x80;
    table.values[code] = nan ? __builtin_nanf("") : code >= 128 ? -value : value;
  }
  return table;
}
constexpr FloatTable e4m3fn_table = make_e4m3(7);
constexpr FloatTable e4m3fnuz_table = make_e4m3(8);
constexpr float e2m1_table[16] = {0.0F,  0.5F,  1.0F,  1.5F,  2.0F,  3.0F,  4.0F,  6.0F,
                                  -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F};

inline float e8m0_value(std::uint8_t code) {
  std::uint32_t const bits = code == 255 ? 0x7fc00000U : code == 0 ? 0x00400000U : code * 0x800000U;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

/// A vector of them.
template <class V>
inline V e8m0_values(std::uint8_t const* codes) {
  constexpr int n = sizeof(V) / 4;
  using Words = Vec<std::uint32_t, n>;
  Words const code = __builtin_convertvector(load<Vec<std::uint8_t, n>>(codes), Words);
  Words bits = code << 23;
  bits = code == 0U ? Words{} + 0x00400000U : bits;
  bits = code == 255U ? Words{} + 0x7fc00000U : bits;
  return (V)bits;
}

// Operands.

/// Floats in the order of k.
template <class S>
struct QuantFloats {
  using Packed = float;
  using V = typename S::Floats;
  static constexpr int unit = 32, lanes = sizeof(V) / 4;
  static constexpr int place(int k, bool) { return k; }
  static float pack(float x) { return x; }
  static V dot(float const* a, float const* b, V c) {
#pragma GCC unroll 8
    for (int i = 0; i < unit; i += lanes) c = S::fma(load<V>(a + i), load<V>(b + i), c);
    return c;
  }
  static V scale(float const* s) {
    return splat<V>(*s);
  }
};

/// bfloat16 of 64 k: the first and the second 32 k meet in the lower and the upper lanes. Codes of
/// 4 bits come as even and odd k.
template <class S>
struct QuantBfloats {
  using Packed = bf16_bits;
  using V = typename S::Floats;
  using Pairs = Vec<std::int32_t, 16>;
  static constexpr int unit = 64, lanes = 16;
  static constexpr int place(int k, bool pairs) {
    if (pairs) return k % 2 * 32 + k / 2;
    return k / 16 % 2 * 32 + k / 32 * 16 + k % 16;
  }
  static bf16_bits pack(float x) {  // exact
    std::uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return {static_cast<std::uint16_t>(bits >> 16)};
  }
  static V dot(bf16_bits const* a, bf16_bits const* b, V c) {
    c = S::dot(load<Pairs>(a), load<Pairs>(b), c);
    return S::dot(load<Pairs>(a + 32), load<Pairs>(b + 32), c);
  }
  static V scale(float const* s) { return S::halves(s); }
};

/// Floats of codes of 4 bits, in vectors of 16: a lane has the eight codes of one 32-bit word of
/// 128, one after the other.
template <class S>
struct QuantWords {
  using Packed = float;
  using V = typename S::Floats;
  static constexpr int unit = 128;
  static constexpr int place(int k, bool) { return k % 8 * 16 + k / 8; }
  static float pack(float x) { return x; }
  static V dot(float const* a, float const* b, V c) {
#pragma GCC unroll 8
    for (int i = 0; i < unit; i += 16) c = S::fma(load<V>(a + i), load<V>(b + i), c);
    return c;
  }
  static V scale(float const* s) {
    return S::quarters(s);
  }
};

template <class O>
void quant_pack(QuantPack const& p) {
  auto* const out = static_cast<typename O::Packed*>(p.out);
  for (std::int64_t first = 0; first < p.k; first += O::unit) {
    for (int i = 0; i < O::unit; ++i) {
      out[first + O::place(i, p.pairs)] = O::pack(first + i < p.k ? p.values[first + i] : 0.0F);
    }
  }
}
/// Floats, of codes of 4 bits as QuantWords where the instruction set has them.
template <class S>
void quant_pack_floats(QuantPack const& p) {
  if constexpr (requires(float const* s) { S::quarters(s); }) {
    if (p.pairs) return quant_pack<QuantWords<S>>(p);
  }
  quant_pack<QuantFloats<S>>(p);
}
inline void quant_pack_bytes(QuantPack const& p) {
  auto* const out = static_cast<std::int8_t*>(p.out);
  for (std::int64_t k = 0; k < p.k; ++k) out[k] = static_cast<std::int8_t>(p.values[k]);
  for (std::int64_t k = p.k; k < round_up(p.k, quant_unit); ++k) out[k] = 0;
}

// Decoding a row.

inline float block_scale(QuantScale scale, void const* scales, std::int64_t block) {
  if (scale == QuantScale::f32) return static_cast<float const*>(scales)[block];
  std::uint8_t const code = static_cast<std::uint8_t const*>(scales)[block];
  return scale == QuantScale::e8m0 ? e8m0_value(code) : e4m3fn_table.values[code];
}

/// The value of element k of column c, times an e4m3 scale.
inline float quant_value(QuantMultiply const& m, int c, std::int64_t k) {
  std::uint8_t const* const codes = m.codes[c];
  switch (m.code) {
    case QuantCode::e4m3fn:
      return e4m3fn_table.values[codes[k]];
    case QuantCode::e4m3fnuz:
      return e4m3fnuz_table.values[codes[k]];
    case QuantCode::int8:
      return static_cast<float>(static_cast<std::int8_t>(codes[k]));
    default:
      break;
  }
  int const code = k % 2 == 0 ? codes[k / 2] & 15 : codes[k / 2] >> 4;
  if (m.code == QuantCode::int4) {
    int const zero = m.zeros == nullptr ? 8 : m.zeros[c][m.block == 0 ? 0 : k / m.block] & 15;
    return static_cast<float>(code - zero);
  }
  float const value = e2m1_table[code];
  return m.scale == QuantScale::e4m3 ? value * block_scale(m.scale, m.scales[c], k / 16) : value;
}

/// The scales per 32 of column c, which exists.
template <class S, class O>
void decode_scales(QuantMultiply const& m, int c, float* scales) {
  std::int64_t const padded = round_up(m.k, quant_unit);
  if (m.block != 0 && m.scale != QuantScale::e4m3) {
    if (m.scale == QuantScale::e8m0) {
      auto const* const codes = static_cast<std::uint8_t const*>(m.scales[c]);
      std::int64_t const count = (m.k + 31) / 32;
      std::int64_t i = 0;
      constexpr int lanes = sizeof(typename O::V) / 4;
      if constexpr (requires { S::decode_e8m0(codes, count, scales); }) {
        S::decode_e8m0(codes, count, scales);
        i = count;
      }
      for (; i + lanes <= count; i += lanes) {
        store(scales + i, e8m0_values<typename O::V>(codes + i));
      }
      for (; i < count; ++i) scales[i] = e8m0_value(codes[i]);
      for (; i < padded / 32; ++i) scales[i] = 0;
    } else {
      auto const* block = static_cast<float const*>(m.scales[c]);
      std::int64_t i = 0;
      for (std::int64_t begin = 0; begin < m.k; begin += m.block, ++block) {
        std::int64_t const end = begin + m.block < m.k ? begin + m.block : m.k;
        for (; i * 32 < end; ++i) scales[i] = *block;
      }
      for (; i < padded / 32; ++i) scales[i] = 0;
    }
  }
}

/// Values of column c in the operand's order, and its scales per 32.
template <class S, class O>
void decode_row(QuantMultiply const& m, int c, typename O::Packed* out, float* scales) {
  std::int64_t const padded = round_up(m.k, quant_unit);
  if (m.codes[c] == nullptr) {
    __builtin_memset(out, 0, static_cast<std::size_t>(padded) * sizeof(*out));
    __builtin_memset(scales, 0, static_cast<std::size_t>(padded / quant_scaled) * sizeof(float));
    return;
  }
  decode_scales<S, O>(m, c, scales);
  bool const pairs = m.code == QuantCode::e2m1 || m.code == QuantCode::int4;
  // The rows after the next ones: while this row is multiplied no load of theirs is in flight.
  std::int64_t const bytes = pairs ? m.k / 2 : m.k;
  for (std::int64_t i = 0; i < bytes; i += 64) {
    __builtin_prefetch(m.codes[c] + i + 2 * quant_columns * bytes, 0, 2);
  }
  std::int64_t first = 0;
  if constexpr (requires { S::decode(m, c, out); }) first = S::decode(m, c, out);
  for (; first < m.k; first += O::unit) {
    for (int i = 0; i < O::unit; ++i) {
      out[first + O::place(i, pairs)] =
          O::pack(first + i < m.k ? quant_value(m, c, first + i) : 0.0F);
    }
  }
}

// The tile.

/// All lanes, added in halves.
template <class V>
inline float add_lanes(V v) {
  constexpr int n = sizeof(V) / 4;
  if constexpr (n == 4) {
    return (v[0] + v[2]) + (v[1] + v[3]);
  } else {
    using Half = Vec<float, n / 2>;
    Half low, high;
    __builtin_memcpy(&low, &v, sizeof(Half));
    __builtin_memcpy(&high, reinterpret_cast<char const*>(&v) + sizeof(Half), sizeof(Half));
    return add_lanes(low + high);
  }
}

enum class Scaling { none, weights, both };

template <class S, class O, Scaling How, int M, int N>
inline void quant_tile(QuantMultiply const& m, std::int64_t row, typename O::Packed const* b,
                       float const* scales, float* acc, std::int64_t acc_stride) {
  using V = typename O::V;
  std::int64_t const padded = round_up(m.k, quant_unit);
  std::int64_t const scale_stride = padded / quant_scaled;
  auto const* const a = static_cast<typename O::Packed const*>(m.a) + row * m.a_stride;
  V c[M][N];
#pragma GCC unroll 16
  for (int i = 0; i < M * N; ++i) c[i / N][i % N] = V{};
  for (std::int64_t k = 0; k < m.k; k += O::unit) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      V s{};
      if constexpr (How != Scaling::none) {
        s = O::scale(scales + n * scale_stride + k / quant_scaled);
      }
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) {
        auto const* const x = a + i * m.a_stride + k;
        if constexpr (How == Scaling::none) {
          c[i][n] = O::dot(x, b + n * padded + k, c[i][n]);
        } else if constexpr (How == Scaling::weights) {
          c[i][n] = S::fma(O::dot(x, b + n * padded + k, V{}), s, c[i][n]);
        } else {
          float const mine = m.a_scales[(row + i) * m.a_scale_stride + k / quant_group];
          c[i][n] = S::fma(O::dot(x, b + n * padded + k, V{}), s * mine, c[i][n]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M * N; ++i) acc[i / N * acc_stride + i % N] = add_lanes(c[i / N][i % N]);
}

template <class S, class O, Scaling How>
void quant_block(QuantMultiply const& m, typename O::Packed const* b, float const* scales,
                 float* acc, std::int64_t acc_stride) {
  constexpr int tile = sizeof(typename O::V) == 64 ? 4 : 2;
  std::int64_t row = 0;
  for (; row + tile <= m.rows; row += tile) {
    quant_tile<S, O, How, tile, 4>(m, row, b, scales, acc + row * acc_stride, acc_stride);
  }
  for (; row < m.rows; ++row) {
    quant_tile<S, O, How, 1, 4>(m, row, b, scales, acc + row * acc_stride, acc_stride);
  }
}

/// Scales, bias, activation and weights, and the rounding to the output's elements.
template <class S, class X>
void quant_finish(QuantMultiply const& m) {
  using V = typename S::Floats;
  constexpr int lanes = sizeof(V) / 4, columns = 2 * lanes;
  auto* const acc = static_cast<float*>(m.finish.accumulators);
  V const low = load<V>(m.column_scales), high = load<V>(m.column_scales + lanes);
  for (std::int64_t r = 0; r < m.rows; ++r) {
    float* const row = acc + r * columns;
    store(row, load<V>(row) * (low * m.row_scales[r]));
    store(row + lanes, load<V>(row + lanes) * (high * m.row_scales[r]));
  }
  Multiply finish_of = m.finish;
  // Double outputs take the floats' way: sums are floats.
  constexpr bool wide = sizeof(X) == 8;
  float whole[columns];
  for (std::int64_t r = 0; r < m.rows; r += wide ? 1 : m.rows) {
    using Out = std::conditional_t<wide, float, X>;
    if (wide) {
      finish_of.out = whole;
      if (m.finish.row_weights != nullptr) finish_of.row_weights = m.finish.row_weights + r;
    }
    std::int64_t const rows = wide ? 1 : m.rows;
    if (m.finish.gated) {
      finish<S, Out, V, true>(finish_of, std::int64_t{0}, std::int64_t{0}, rows,
                              static_cast<float const*>(acc + r * columns));
    } else {
      finish<S, Out, V, false>(finish_of, std::int64_t{0}, std::int64_t{0}, rows,
                               static_cast<float const*>(acc + r * columns));
    }
    if constexpr (wide) {
      std::int64_t const most = m.finish.gated ? lanes : columns;
      std::int64_t const valid = m.finish.out_columns < most ? m.finish.out_columns : most;
      X* const out = static_cast<X*>(m.finish.out) + r * m.finish.out_stride;
      for (std::int64_t n = 0; n < valid; ++n) out[n] = whole[n];
    }
  }
}

template <class S, class O, class X>
void quant_multiply_as(QuantMultiply const& m) {
  constexpr int columns = 2 * sizeof(typename S::Floats) / 4;
  std::int64_t const padded = round_up(m.k, quant_unit);
  auto* const decoded = static_cast<typename O::Packed*>(m.decoded);
  auto* const scales = reinterpret_cast<float*>(decoded + quant_columns * padded);
  auto* const acc = static_cast<float*>(m.finish.accumulators);
  if constexpr (requires { S::mxfp4_rows(decoded); }) {
    // No detour through the buffer, the same sums: one row, or several for one look-up.
    constexpr std::int64_t most = S::mxfp4_rows(static_cast<typename O::Packed*>(nullptr));
    if ((m.rows == 1 || most > 1) && m.code == QuantCode::e2m1 && m.scale == QuantScale::e8m0 &&
        m.k % quant_scaled == 0) {
      for (std::int64_t row = 0; row < m.rows; row += most) {
        std::int64_t const rows = m.rows - row < most ? m.rows - row : most;
        for (int c = 0; c < columns; ++c) {
          float* const sums = acc + row * columns + c;
          if (m.codes[c] != nullptr &&
              S::dot_mxfp4(m, c, row, rows, decoded, scales, sums, columns)) {
            continue;
          }
          decode_row<S, O>(m, c, decoded, scales);
          for (std::int64_t r = 0; r < rows; ++r) {
            quant_tile<S, O, Scaling::weights, 1, 1>(m, row + r, decoded, scales,
                                                     sums + r * columns, columns);
          }
        }
      }
      return quant_finish<S, X>(m);
    }
  }
  for (int first = 0; first < columns; first += quant_columns) {
    for (int c = 0; c < quant_columns; ++c) {
      decode_row<S, O>(m, first + c, decoded + c * padded, scales + c * (padded / quant_scaled));
    }
    if (m.block == 0 || m.scale == QuantScale::e4m3) {
      quant_block<S, O, Scaling::none>(m, decoded, scales, acc + first, columns);
    } else if (m.a_scales == nullptr) {
      quant_block<S, O, Scaling::weights>(m, decoded, scales, acc + first, columns);
    } else {
      quant_block<S, O, Scaling::both>(m, decoded, scales, acc + first, columns);
    }
  }
  quant_finish<S, X>(m);
}

template <class S, class O, class X>
void quant_multiply(QuantMultiply const& m) {
  if (m.rows == 0) return;
  if constexpr (std::is_same_v<O, QuantFloats<S>> && requires(float const* s) { S::quarters(s); }) {
    if (m.code == QuantCode::e2m1 || m.code == QuantCode::int4) {
      return quant_multiply_as<S, QuantWords<S>, X>(m);
    }
  }
  quant_multiply_as<S, O, X>(m);
}

inline void quant_integer_dot(QuantIntegers const& p) {
  for (int n = 0; n < quant_columns; ++n) {
    auto const* const w = reinterpret_cast<std::int8_t const*>(p.w[n]);
    for (std::int64_t r = 0; r < p.rows; ++r) {
      std::int32_t sum = 0;
      std::int8_t const* const a = p.a + r * p.a_stride;
      if (w != nullptr) {
        for (std::int64_t k = 0; k < p.k; ++k) sum += std::int32_t{a[k]} * w[k];
      }
      p.sums[r * p.sums_stride + n] = static_cast<float>(sum);
    }
  }
}

template <class S, class X>
void quant_multiply_bytes(QuantMultiply const& m) {
  if (m.rows == 0) return;
  constexpr int columns = 2 * sizeof(typename S::Floats) / 4;
  for (int first = 0; first < columns; first += quant_columns) {
    m.integer_dot({static_cast<std::int8_t const*>(m.a), m.a_stride, m.rows, m.k, m.row_sums,
                   m.codes + first, static_cast<float*>(m.finish.accumulators) + first, columns});
  }
  quant_finish<S, X>(m);
}

#define KMOE_QUANT_OUTPUTS(FUNCTION, ...)                                   \
  {                                                                         \
    &FUNCTION<__VA_ARGS__, double>, &FUNCTION<__VA_ARGS__, float>,          \
        &FUNCTION<__VA_ARGS__, bf16_bits>, &FUNCTION<__VA_ARGS__, f16_bits> \
  }

template <class S>
constexpr QuantKernel make_quant_kernel(Isa isa) {
  QuantKernel kernel{};
  kernel.isa = isa;
  kernel.panel_columns = 2 * sizeof(typename S::Floats) / 4;
  kernel.real = QuantOperand::f32;
  kernel.pack[0] = &quant_pack_floats<S>;
  kernel.pack[2] = &quant_pack_bytes;
  using F = QuantFloats<S>;
  void (*floats[4])(QuantMultiply const&) = KMOE_QUANT_OUTPUTS(quant_multiply, S, F);
  void (*bytes[4])(QuantMultiply const&) = KMOE_QUANT_OUTPUTS(quant_multiply_bytes, S);
  for (int i = 0; i < 4; ++i) {
    kernel.multiply[0][i] = floats[i];
    kernel.multiply[2][i] = bytes[i];
  }
  if constexpr (requires(float const* s) { S::halves(s); }) {
    using B = QuantBfloats<S>;
    kernel.real = QuantOperand::bf16;
    kernel.pack[1] = &quant_pack<B>;
    void (*bfloats[4])(QuantMultiply const&) = KMOE_QUANT_OUTPUTS(quant_multiply, S, B);
    for (int i = 0; i < 4; ++i) kernel.multiply[1][i] = bfloats[i];
  }
  kernel.mxfp4 = kernel.real;
  kernel.integer_dot = &quant_integer_dot;
  return kernel;
}
#undef KMOE_QUANT_OUTPUTS

}  // namespace
}  // namespace kmoe::device
