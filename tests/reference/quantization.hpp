// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Quantized numbers in plain loops, float64: small floats by their definition, rounding by search
/// among all values.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace reference {

/// Sign, exponent and fraction bits; `nan(code)` and the codes that count as numbers.
struct SmallFloat {
  int exponent_bits, fraction_bits, bias;
  std::string nan;  // "fn": all ones; "fnuz": minus zero; "": none

  int num_codes() const { return 1 << (1 + exponent_bits + fraction_bits); }
  bool is_nan(int code) const {
    int const sign = num_codes() / 2;
    return (nan == "fn" && code % sign == sign - 1) || (nan == "fnuz" && code == sign);
  }
  double value(int code) const {
    if (is_nan(code)) return std::nan("");
    int const sign = num_codes() / 2, fractions = 1 << fraction_bits;
    int const exponent = code % sign / fractions, fraction = code % fractions;
    double const m =
        exponent == 0 ? double(fraction) / fractions : 1 + double(fraction) / fractions;
    double const v = std::ldexp(m, std::max(exponent, 1) - bias);
    return code >= sign ? -v : v;
  }
  /// The nearest value's code, of two the one with an even last bit; saturates.
  int nearest(double x) const {
    if (std::isnan(x)) {
      for (int code = 0; code < num_codes(); ++code) {
        if (is_nan(code) && (nan == "fnuz" || (code >= num_codes() / 2) == std::signbit(x))) {
          return code;
        }
      }
    }
    int const first = std::signbit(x) ? num_codes() / 2 : 0;
    int best = -1;
    for (int code = first; code < first + num_codes() / 2; ++code) {
      if (is_nan(code)) continue;
      double const now = std::abs(value(code) - x);
      double const before = best < 0 ? 0 : std::abs(value(best) - x);
      if (std::isinf(x) ? true : best < 0 || now < before || (now == before && code % 2 == 0)) {
        best = code;
      }
    }
    if (nan == "fnuz" && (best < 0 || value(best) == 0)) return 0;
    // fnuz has no -0: the negative numbers begin with 0 itself.
    if (nan == "fnuz" && std::signbit(x) && 0.5 * std::abs(value(first + 1)) >= std::abs(x))
      return 0;
    return best;
  }
};

inline SmallFloat const e4m3fn{4, 3, 7, "fn"}, e4m3fnuz{4, 3, 8, "fnuz"}, e2m1{2, 1, 1, ""};

/// 2^(floor(log2 largest) - element exponent) within 2^-127 .. 2^127.
inline double e8m0_scale(double largest, int element_exponent) {
  if (!std::isfinite(largest)) return std::nan("");
  int const e = largest == 0 ? -1000 : int(std::floor(std::log2(largest)));
  int exact = e;  // log2 may round up to an integer
  if (largest > 0 && std::ldexp(1.0, exact) > largest) --exact;
  return std::ldexp(1.0, std::clamp(exact - element_exponent, -127, 127));
}

/// Activations of one row through a rounding of this name (kmoe's ActivationCode): what they
/// become. Divisions and scales are rounded to float, as the definition has it.
inline std::vector<double> quantize_row(std::string const& name, bool fnuz,
                                        std::vector<double> const& x, double given) {
  if (name == "none") return x;
  std::size_t const group = name == "fp8_group"                  ? 128
                            : name == "mxfp8" || name == "mxfp4" ? 32
                            : name == "nvfp4"                    ? 16
                                                                 : x.size();
  SmallFloat const& fp8 = fnuz && name != "mxfp8" ? e4m3fnuz : e4m3fn;
  double const most = name == "int8_token" ? 127 : fnuz ? 240 : 448;
  auto const largest = [&](std::size_t begin, std::size_t end) {
    double m = 0;
    for (std::size_t i = begin; i < end; ++i) {
      m = std::isfinite(x[i]) ? std::max(m, std::abs(x[i])) : std::nan("");
      if (std::isnan(m)) break;
    }
    return m;
  };
  auto const rounded = [](double v) { return double(float(v)); };
  auto const scale_of = [&](double m, double by) {
    return std::isnan(m) ? m : std::max(rounded(m / by), 0x1p-126);
  };
  bool const takes = (name == "fp8_static" || name == "nvfp4") && given != 0;
  double const row = takes ? given : scale_of(largest(0, x.size()), name == "nvfp4" ? 2688 : most);
  std::vector<double> out(x.size());
  for (std::size_t begin = 0; begin < x.size(); begin += group) {
    std::size_t const end = std::min(x.size(), begin + group);
    double const m = largest(begin, end);
    double scale = row;
    if (name == "fp8_group") scale = scale_of(m, most);
    if (name == "mxfp8") scale = e8m0_scale(m, 8);
    if (name == "mxfp4") scale = e8m0_scale(m, 2);
    if (name == "nvfp4") {
      double const wanted = rounded(rounded(m / 6) / row);
      scale = rounded((std::isnan(m) ? m : e4m3fn.value(e4m3fn.nearest(wanted))) * row);
    }
    for (std::size_t i = begin; i < end; ++i) {
      double const q = rounded(x[i] / scale);
      if (name == "int8_token") {
        out[i] = std::clamp(std::nearbyint(q), -127.0, 127.0) * scale;
      } else if (name == "mxfp4" || name == "nvfp4") {
        out[i] = scale == 0 ? 0 : e2m1.value(e2m1.nearest(q)) * scale;
      } else {
        out[i] = fp8.value(fp8.nearest(q)) * scale;
      }
    }
  }
  return out;
}

}  // namespace reference
