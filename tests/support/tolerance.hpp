// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Error bounds of the tests, derived once from the number format and the length of the sum.
///
/// The rounding errors of a sum of n products are n independent, unbiased terms of at most
/// u * |a||b| each, so their sum grows as sqrt(n) (the worst case grows as n and never occurs with
/// random data). `safety` covers the tail of that distribution over all the outputs of a test.

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include <kmoe/core/element.hpp>

namespace kmoe::test {

/// Unit roundoff: rounding to T changes a normal number by at most unit_roundoff<T> times itself.
template <Element T>
inline constexpr double unit_roundoff = std::is_same_v<T, double>     ? 0x1p-53
                                        : std::is_same_v<T, float>    ? 0x1p-24
                                        : std::is_same_v<T, bfloat16> ? 0x1p-8
                                                                      : 0x1p-11;

/// Half the distance between subnormal numbers of T: the absolute error of rounding near zero.
template <Element T>
inline constexpr double underflow_unit = std::is_same_v<T, double>
                                             ? std::numeric_limits<double>::denorm_min()
                                         : std::is_same_v<T, float> ? 0x1p-150
                                         : std::is_same_v<T, half>  ? 0x1p-25
                                                                    : 0x1p-134;

inline constexpr double safety = 4;

/// Bound for sums whose n terms carry a rounding to T each (an input or an intermediate rounded to
/// T): safety * sqrt(n) * u(T) * sum |a||b|.
template <Element T>
double tolerance(double num_terms, double sum_abs) {
  return safety * std::sqrt(std::max(num_terms, 1.0)) * unit_roundoff<T> * sum_abs +
         underflow_unit<T>;
}

/// The tighter bound for sums of exact inputs, accumulated in accumulate_t<T> and rounded once to
/// T: u(T) |value| + safety * sqrt(n) * u(accumulate_t) * sum |a||b|.
template <Element T>
double sum_tolerance(double num_terms, double sum_abs, double value) {
  return (1 + unit_roundoff<T>)*unit_roundoff<T> * std::abs(value) + underflow_unit<T> +
         tolerance<accumulate_t<T>>(num_terms, sum_abs);
}

}  // namespace kmoe::test
