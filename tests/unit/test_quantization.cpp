// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Formats of quantized weights: every code, every rounding boundary, blocks and their scales.

#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include <kmoe/core/codes.hpp>
#include <kmoe/core/error.hpp>
#include <kmoe/core/quantization.hpp>
#include <kmoe/core/quantize_row.hpp>

#include "reference/quantization.hpp"
#include "support/random.hpp"

namespace {

using Host = Kokkos::DefaultHostExecutionSpace;
using kmoe::ActivationCode;
using kmoe::index_t;

constexpr float infinity = std::numeric_limits<float>::infinity();
float const nan_value = std::nanf("");

bool same(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

struct Codec {
  char const* name;
  reference::SmallFloat format;
  float (*decode)(std::uint8_t);
  std::uint8_t (*encode)(float);
};
Codec const codecs[] = {
    {"e4m3fn", reference::e4m3fn, &kmoe::decode_e4m3fn, &kmoe::encode_e4m3fn},
    {"e4m3fnuz", reference::e4m3fnuz, &kmoe::decode_e4m3fnuz, &kmoe::encode_e4m3fnuz},
    {"e2m1", reference::e2m1, &kmoe::decode_e2m1, &kmoe::encode_e2m1},
};

TEST(Codes, every_code_has_its_value_and_comes_back) {
  for (auto const& codec : codecs) {
    for (int code = 0; code < codec.format.num_codes(); ++code) {
      auto const c = static_cast<std::uint8_t>(code);
      float const value = codec.decode(c);
      EXPECT_TRUE(same(value, codec.format.value(code))) << codec.name << " " << code;
      if (!codec.format.is_nan(code)) {
        EXPECT_EQ(int(codec.encode(value)), code) << codec.name;
      }
    }
  }
}

// Between two neighbours, at the middle and one float to either side of it.
TEST(Codes, every_boundary_rounds_to_nearest_even) {
  for (auto const& codec : codecs) {
    int const half = codec.format.num_codes() / 2;
    for (int code = 0; code + 1 < half; ++code) {
      if (codec.format.is_nan(code + 1)) continue;
      auto const low = static_cast<float>(codec.format.value(code));
      auto const high = static_cast<float>(codec.format.value(code + 1));
      float const middle = low + (high - low) / 2;
      for (float const m : {middle, std::nextafter(middle, 0.0F), std::nextafter(middle, infinity),
                            std::nextafter(low, infinity), std::nextafter(high, 0.0F)}) {
        for (float const x : {m, -m}) {
          EXPECT_EQ(int(codec.encode(x)), codec.format.nearest(x)) << codec.name << " " << x;
        }
      }
    }
  }
}

TEST(Codes, saturation_nan_and_tiny_numbers) {
  for (auto const& codec : codecs) {
    double const most = codec.format.value(codec.format.nearest(1e9));
    EXPECT_EQ(codec.decode(codec.encode(infinity)), most) << codec.name;
    EXPECT_EQ(codec.decode(codec.encode(-infinity)), -most) << codec.name;
    EXPECT_EQ(codec.decode(codec.encode(float(most) * 1.04F)), most) << codec.name;
    EXPECT_EQ(codec.decode(codec.encode(1e-40F)), 0) << codec.name;
    if (!codec.format.nan.empty()) {
      EXPECT_TRUE(std::isnan(codec.decode(codec.encode(nan_value)))) << codec.name;
      EXPECT_TRUE(std::isnan(codec.decode(codec.encode(-nan_value)))) << codec.name;
    }
  }
  EXPECT_EQ(kmoe::encode_e4m3fnuz(-0.0F), 0);
  EXPECT_EQ(kmoe::encode_e4m3fnuz(-1e-9F), 0);
  EXPECT_EQ(kmoe::encode_e4m3fn(-0.0F), 0x80);
}

TEST(Codes, random_floats) {
  for (auto const& codec : codecs) {
    for (std::uint64_t i = 0; i < 3000; ++i) {
      auto const x = float(kmoe::test::random_value(1, i, kmoe::test::Values::wide) * 4);
      EXPECT_EQ(int(codec.encode(x)), codec.format.nearest(x)) << codec.name << " " << x;
    }
  }
}

// The same bits mean half as much, NaN stays NaN, and -0 does not become NaN.
TEST(Codes, fnuz_of_every_fn_code_is_half_its_value) {
  for (int code = 0; code < 256; ++code) {
    float const fn = kmoe::decode_e4m3fn(std::uint8_t(code));
    float const fnuz = kmoe::decode_e4m3fnuz(kmoe::e4m3fn_to_fnuz(std::uint8_t(code)));
    if (std::isnan(fn)) {
      EXPECT_TRUE(std::isnan(fnuz));
    } else {
      EXPECT_EQ(2 * fnuz, fn);
    }
  }
}

TEST(Codes, e8m0) {
  for (int code = 0; code < 255; ++code) {
    float const value = kmoe::decode_e8m0(std::uint8_t(code));
    EXPECT_EQ(value, std::ldexp(1.0, code - 127));
    EXPECT_EQ(double(value) * kmoe::reciprocal_e8m0(std::uint8_t(code)), 1.0);
    EXPECT_EQ(int(kmoe::encode_e8m0(value, 0)), code);
  }
  EXPECT_TRUE(std::isnan(kmoe::decode_e8m0(255)));
  EXPECT_EQ(kmoe::encode_e8m0(infinity, 2), 255);
  EXPECT_EQ(kmoe::encode_e8m0(nan_value, 2), 255);
  EXPECT_EQ(kmoe::encode_e8m0(0, 2), 0);
  for (std::uint64_t i = 0; i < 2000; ++i) {
    auto const x = float(std::exp2(250 * kmoe::test::random_unit(3, i) - 125));
    for (int const e : {2, 8}) {
      EXPECT_EQ(kmoe::decode_e8m0(kmoe::encode_e8m0(x, e)), reference::e8m0_scale(x, e)) << x;
    }
  }
}

TEST(Codes, integers_round_to_even_and_stop_at_the_ends) {
  EXPECT_EQ(kmoe::round_to_int(2.5F, -8, 7), 2);
  EXPECT_EQ(kmoe::round_to_int(3.5F, -8, 7), 4);
  EXPECT_EQ(kmoe::round_to_int(-2.5F, -8, 7), -2);
  EXPECT_EQ(kmoe::round_to_int(1e30F, -8, 7), 7);
  EXPECT_EQ(kmoe::round_to_int(-infinity, -8, 7), -8);
  EXPECT_EQ(kmoe::round_to_int(nan_value, -8, 7), 0);
}

// Activations against plain loops, for every rounding, odd lengths and special rows.
TEST(QuantizeRow, every_rounding_matches_plain_loops) {
  std::pair<ActivationCode, char const*> const roundings[] = {
      {ActivationCode::fp8_static, "fp8_static"}, {ActivationCode::fp8_token, "fp8_token"},
      {ActivationCode::fp8_group, "fp8_group"},   {ActivationCode::mxfp8, "mxfp8"},
      {ActivationCode::mxfp4, "mxfp4"},           {ActivationCode::nvfp4, "nvfp4"},
      {ActivationCode::int8_token, "int8_token"}};
  for (auto const& [code, name] : roundings) {
    for (bool const fnuz : {false, true}) {
      for (std::size_t const k : {1U, 7U, 31U, 33U, 128U, 300U}) {
        for (int kind = 0; kind < 5; ++kind) {
          std::vector<double> x(k);
          for (std::size_t i = 0; i < k; ++i) {
            double const v = kmoe::test::random_value(k + kind, i, kmoe::test::Values::wide);
            x[i] = kind == 1 ? 0.0 : kind == 2 ? float(v) * 1e-38 : float(v);
            x[i] = float(x[i]);
          }
          if (kind == 3) x[k / 2] = nan_value;
          if (kind == 4) x[k - 1] = infinity;
          float const given = k == 33 ? 0.0625F : 0.0F;
          kmoe::RowQuantizer const q{code, fnuz};
          std::uint32_t row_bits = 0;
          for (double const v : x) row_bits = std::max(row_bits, kmoe::magnitude_bits(float(v)));
          float const row = q.row_scale(row_bits, given);
          auto const expected = reference::quantize_row(name, fnuz, x, given);
          std::size_t const group = q.group() == 0 ? k : std::size_t(q.group());
          for (std::size_t begin = 0; begin < k; begin += group) {
            std::size_t const end = std::min(k, begin + group);
            std::uint32_t bits = 0;
            for (std::size_t i = begin; i < end; ++i) {
              bits = std::max(bits, kmoe::magnitude_bits(float(x[i])));
            }
            auto const g = q.group_scale(bits, row);
            for (std::size_t i = begin; i < end; ++i) {
              double const mine = double(q.folded(float(x[i]), g)) * g.scale;
              bool const close = (std::isnan(mine) && std::isnan(expected[i])) ||
                                 std::abs(mine - expected[i]) <= 1e-6 * std::abs(expected[i]);
              EXPECT_TRUE(close) << name << (fnuz ? " fnuz" : "") << " k " << k << " kind " << kind
                                 << " i " << i << ": " << x[i] << " -> " << mine << " not "
                                 << expected[i];
              float const folded = q.folded(float(x[i]), g);
              if (std::abs(folded) >= 0x1p-126F) {
                EXPECT_EQ(float(kmoe::bfloat16(folded)), folded) << "folded values fit bfloat16";
              }
            }
          }
        }
      }
    }
  }
}

kmoe::Tensor3<float, Host> random_weights(std::size_t e, std::size_t n, std::size_t k,
                                          std::uint64_t seed) {
  kmoe::Tensor3<float, Host> w("w", e, n, k);
  kmoe::test::set_entries(w, [&](float& x, std::size_t i) {
    x = float(kmoe::test::random_value(seed, i, kmoe::test::Values::normal));
  });
  return w;
}

/// Largest error of one code, relative to the largest magnitude of its block.
double step_of(kmoe::QuantScheme const& s) {
  switch (s.code) {
    case kmoe::WeightCode::int8:
      return 0.5 / 127 * 1.001;
    case kmoe::WeightCode::int4:
      return s.zero_points ? 1.01 / 15 : 0.5 / 7 * 1.001;
    case kmoe::WeightCode::e2m1:  // floor(log2): up to 8 is cut to 6
      return s.scale == kmoe::ScaleCode::e8m0 ? 0.25 : 1.0 / 6 + 0.07;
    default:  // up to 512 is cut to 448
      return s.scale == kmoe::ScaleCode::e8m0 ? 0.125 : 1.0 / 28;
  }
}

// Blocks cut by the end of a row or part, one and two parts; decoding what was encoded.
TEST(Quantize, error_stays_within_a_step_and_a_second_pass_changes_nothing) {
  for (auto const& format : kmoe::quant_formats()) {
    for (auto const [n, k, parts] :
         {std::array<int, 3>{6, 300, 2}, {1, 1, 1}, {258, 33, 2}, {130, 129, 1}, {7, 64, 1}}) {
      auto const w = random_weights(2, n, k, n + k);
      auto const q = kmoe::quantize(w, format.scheme, parts);
      kmoe::validate("test", "q", q);
      auto const d = kmoe::dequantize(q);
      for (int e = 0; e < 2; ++e) {
        for (int row = 0; row < n; ++row) {
          for (int c = 0; c < k; ++c) {
            double largest = 0;
            int const c0 = c / q.block_cols() * q.block_cols();
            int const part = row / q.part_rows() * q.part_rows();
            int const r0 = part + (row - part) / q.block_rows() * q.block_rows();
            for (int r = r0; r < std::min(r0 + q.block_rows(), part + q.part_rows()); ++r) {
              for (int j = c0; j < std::min(c0 + q.block_cols(), k); ++j) {
                largest = std::max(largest, double(std::abs(w(e, r, j))));
              }
            }
            double const error = std::abs(double(d(e, row, c)) - w(e, row, c));
            ASSERT_TRUE(error <=
                        step_of(format.scheme) * largest * (format.scheme.zero_points ? 2 : 1))
                << format.name << " " << row << "," << c << " of " << n << "x" << k << ": "
                << w(e, row, c) << " -> " << d(e, row, c) << " largest " << largest;
          }
        }
      }
      if (format.scheme.zero_points || format.scheme.scale == kmoe::ScaleCode::e4m3) continue;
      auto const again = kmoe::dequantize(kmoe::quantize(d, format.scheme, parts));
      double worst = 0;
      for (std::size_t i = 0; i < d.size(); ++i) {
        worst = std::max(worst, double(std::abs(again.data()[i] - d.data()[i])));
      }
      EXPECT_LE(worst, 1e-6) << format.name;
    }
  }
}

TEST(Quantize, fnuz_conversion_keeps_the_values) {
  auto const w = random_weights(1, 5, 140, 9);
  w(0, 0, 0) = -0.0F;
  w(0, 1, 3) = -1e-12F;
  for (char const* name : {"fp8_tensor", "fp8_channel", "fp8_block"}) {
    auto const q = kmoe::quantize(w, kmoe::quant_scheme(name));
    auto const z = kmoe::to_fnuz(q);
    EXPECT_EQ(kmoe::to_string(z.scheme), std::string(name) + "_fnuz");
    auto const a = kmoe::dequantize(q), b = kmoe::dequantize(z);
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a.data()[i], b.data()[i]);
  }
  EXPECT_THROW(kmoe::to_fnuz(kmoe::quantize(w, kmoe::quant_scheme("mxfp4"))),
               kmoe::InvalidArgument);
}

TEST(Quantize, packing_order_and_special_blocks) {
  kmoe::Tensor3<float, Host> w("w", 1, 1, 64);
  for (int k = 0; k < 64; ++k) w(0, 0, k) = k == 0 ? 4.0F : k == 1 ? -1.5F : 0.0F;
  w(0, 0, 40) = nan_value;
  auto const q = kmoe::quantize(w, kmoe::quant_scheme("mxfp4"));
  EXPECT_EQ(q.scale_codes(0, 0, 0), 127);  // 4 = 2^2
  EXPECT_EQ(q.scale_codes(0, 0, 1), 255);
  EXPECT_EQ(q.codes(0, 0, 0), 0xb6);  // -1.5 in the high half, 4 in the low
  EXPECT_EQ(q.codes.extent(2), 32U);
  auto const d = kmoe::dequantize(q);
  EXPECT_EQ(d(0, 0, 1), -1.5F);
  EXPECT_TRUE(std::isnan(d(0, 0, 33)));
}

TEST(Scheme, names_and_rules) {
  for (auto const& format : kmoe::quant_formats()) {
    EXPECT_EQ(kmoe::to_string(format.scheme), format.name);
    EXPECT_NO_THROW(kmoe::validate(format.scheme));
  }
  EXPECT_THROW(kmoe::quant_scheme("fp7"), kmoe::InvalidArgument);
  auto bad = kmoe::quant_scheme("int4");
  bad.block_cols = 24;
  EXPECT_THROW(kmoe::validate(bad), kmoe::InvalidArgument);
  bad = kmoe::quant_scheme("mxfp4");
  bad.activations = ActivationCode::nvfp4;
  EXPECT_THROW(kmoe::validate(bad), kmoe::InvalidArgument);
  auto q = kmoe::quantize(random_weights(1, 2, 40, 1), kmoe::quant_scheme("mxfp4"));
  q.columns = 70;
  try {
    kmoe::validate("kmoe::test", "down", q);
    FAIL() << "a row too short for its columns passed";
  } catch (kmoe::InvalidArgument const& error) {
    EXPECT_NE(std::string(error.what()).find("down.codes.extent(2)"), std::string::npos);
  }
}

}  // namespace
