// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Quantized weights for tests, and products with them by plain loops.

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <kmoe/core/quantization.hpp>

#include "reference/quantization.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace kmoe::test {

using HostExec = Kokkos::DefaultHostExecutionSpace;

inline constexpr char const* activation_names[] = {
    "none", "fp8_static", "fp8_token", "fp8_group", "mxfp8", "mxfp4", "nvfp4", "int8_token"};

inline Tensor3<float, HostExec> random_weights(std::size_t e, std::size_t n, std::size_t k,
                                               std::uint64_t seed, double scale) {
  Tensor3<float, HostExec> w("w", e, n, k);
  set_entries(w, [&](float& x, std::size_t i) {
    x = float(scale * random_value(seed, i, Values::normal));
  });
  return w;
}

/// Weights [e, n, k] in a format; `given`: with input scales, where it has some; `wild`: with sizes
/// from one end of floats to the other, and NaN.
inline QuantizedHostTensor quantized(QuantScheme const& scheme, std::size_t e, std::size_t n,
                                     std::size_t k, std::uint64_t seed, int parts, bool given,
                                     bool wild = false) {
  auto const w = random_weights(e, n, k, seed, 1 / std::sqrt(double(k)));
  if (wild) {
    // Rows of very large and very small weights among others, one with NaN.
    for (std::size_t j = 0; j < n; ++j) {
      for (std::size_t i = 0; i < k; ++i) {
        if (j % 5 == 1) w(0, j, i) *= 0x1p50F;
        if (j % 5 == 3) w(0, j, i) *= 0x1p-60F;
      }
    }
    w(0, 2, k / 2) = std::nanf("");
  }
  auto q = quantize(w, scheme, parts);
  if (wild && scheme.scale == ScaleCode::e8m0) {  // both ends: 2^-127 and NaN
    Tensor3<std::uint8_t, HostExec> const codes("scale_codes", e, n, q.blocks());
    Kokkos::deep_copy(codes, q.scale_codes);
    codes(0, 5, 1) = 0;
    codes(0, 7, 1) = 255;
    q.scale_codes = codes;
  }
  bool const takes = scheme.activations == ActivationCode::fp8_static ||
                     scheme.activations == ActivationCode::nvfp4;
  if (given && takes) {
    Vector<float, HostExec> const scales("input_scales", e);
    for (std::size_t i = 0; i < e; ++i) scales(i) = 0.001F * float(i + 1);
    q.input_scales = scales;
  }
  return q;
}

/// What the kernels make of a row of x in the expert's format.
inline std::vector<double> rounded_row(QuantizedHostTensor const& q, std::size_t expert,
                                       std::vector<double> const& x) {
  std::vector<double> floats(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) floats[i] = float(x[i]);
  double const given = q.input_scales.extent(0) == 0 ? 0 : q.input_scales(expert);
  return reference::quantize_row(activation_names[int(q.scheme.activations)], q.scheme.fnuz(),
                                 floats, given);
}

/// Ten rows of c, four of expert 0 and six of expert 2, against plain loops.
template <class T, class X, class W, class C>
void expect_products(QuantizedHostTensor const& q, W const& w, X const& x, C const& c,
                     std::string const& what, bool wild = false) {
  std::size_t const n = c.extent(1), k = x.extent(1);
  for (std::size_t r = 0; r < 10; ++r) {
    std::size_t const e = r < 4 ? 0 : 2;
    std::vector<double> row(k);
    for (std::size_t i = 0; i < k; ++i) row[i] = double(x(r, i));
    auto const a = rounded_row(q, e, row);
    for (std::size_t j = 0; j < n; ++j) {
      double value = 0, sum = 0;
      for (std::size_t i = 0; i < k; ++i) {
        value += a[i] * w(e, j, i);
        sum += std::abs(a[i] * w(e, j, i));
      }
      // Scales are rounded products too: a few more terms than k.
      double const bound = sum_tolerance<T>(1, 0, value) + tolerance<float>(double(k) + 4, sum);
      bool const nan = wild && std::isnan(value) && std::isnan(double(c(r, j)));
      ASSERT_TRUE(nan || std::abs(double(c(r, j)) - value) <= bound)
          << what << " n " << n << " k " << k << " row " << r << " column " << j << ": "
          << double(c(r, j)) << " not " << value << " +- " << bound;
    }
  }
}

}  // namespace kmoe::test
