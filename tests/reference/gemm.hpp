// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Grouped GEMM in plain loops, float64.

#include <cmath>
#include <cstddef>
#include <vector>

namespace reference {

/// Sums and the sums of their terms' magnitudes, row-major.
struct Product {
  std::vector<double> value, magnitude;
};

/// c[m, n] = sum over k of a[m, k] * b[g, n, k] for offsets[g] <= m < offsets[g + 1]; 0 elsewhere.
inline Product grouped_gemm(std::vector<double> const& a, std::vector<double> const& b,
                            std::vector<long> const& offsets, std::size_t rows, std::size_t columns,
                            std::size_t depth) {
  Product c{std::vector<double>(rows * columns), std::vector<double>(rows * columns)};
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
    for (auto m = static_cast<std::size_t>(offsets[g]);
         m < static_cast<std::size_t>(offsets[g + 1]); ++m) {
      for (std::size_t n = 0; n < columns; ++n) {
        for (std::size_t k = 0; k < depth; ++k) {
          double const term = a[m * depth + k] * b[(g * columns + n) * depth + k];
          c.value[m * columns + n] += term;
          c.magnitude[m * columns + n] += std::abs(term);
        }
      }
    }
  }
  return c;
}

}  // namespace reference
