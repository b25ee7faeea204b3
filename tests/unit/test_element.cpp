// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// bfloat16 and half, on all their 65536 bit patterns, in every execution space. What a pattern
// means is computed from the definition of the format, in double.

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include <kmoe/core/types.hpp>

#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "support/typed.hpp"

namespace kmoe {
namespace {

static_assert(sizeof(bfloat16) == 2 && std::is_trivially_copyable_v<bfloat16>);
static_assert(sizeof(half) == 2 && std::is_trivially_copyable_v<half>);
static_assert(std::is_same_v<accumulate_t<double>, double>);
static_assert(std::is_same_v<accumulate_t<bfloat16>, float>);
static_assert(!std::is_convertible_v<float, bfloat16> && !std::is_convertible_v<half, float>);

constexpr int num_patterns = 0x10000;

template <class T>
constexpr int fraction_bits = std::is_same_v<T, half> ? 10 : 7;
template <class T>
constexpr int largest_exponent = std::is_same_v<T, half> ? 0x1f : 0xff;
template <class T>
constexpr int infinity_pattern = largest_exponent<T> << fraction_bits<T>;

/// The value of a finite pattern; for the pattern of infinity, what the next finite number would
/// be, where rounding to infinity begins half a step below.
template <class T>
double meaning(int bits) {
  int const magnitude = bits & 0x7fff;
  int const exponent = magnitude >> fraction_bits<T>;
  int const fraction = magnitude & ((1 << fraction_bits<T>)-1);
  int const bias = largest_exponent<T> / 2;
  double const value = exponent == 0 ? std::ldexp(fraction, 1 - bias - fraction_bits<T>)
                                     : std::ldexp((1 << fraction_bits<T>)+fraction,
                                                  exponent - bias - fraction_bits<T>);
  return bits & 0x8000 ? -value : value;
}

/// Each of `in` as a To, converted in space E.
template <class To, class E, class From>
std::vector<To> converted(std::vector<From> const& in) {
  Vector<From, E> from("from", in.size());
  Vector<To, E> to("to", in.size());
  test::set_entries(from, [&](From& entry, std::size_t i) { entry = in[i]; });
  E const exec;
  Kokkos::parallel_for(
      "kmoe::test::convert", Kokkos::RangePolicy<E>(exec, 0, in.size()),
      KOKKOS_LAMBDA(std::size_t i) { to(i) = static_cast<To>(from(i)); });
  exec.fence();
  auto const host = test::to_host(to);
  return {host.data(), host.data() + host.size()};
}

template <class Case>
class Element16 : public ::testing::Test {};

using Cases16 = ::testing::Types<test::Case<Kokkos::DefaultExecutionSpace, bfloat16>,
                                 test::Case<Kokkos::DefaultExecutionSpace, half>>;
TYPED_TEST_SUITE(Element16, Cases16, test::TypeNames);

TYPED_TEST(Element16, WidensEveryPattern) {
  using T = typename TypeParam::T;
  std::vector<T> all(num_patterns);
  for (int bits = 0; bits < num_patterns; ++bits) {
    all[static_cast<std::size_t>(bits)].bits = static_cast<std::uint16_t>(bits);
  }
  auto const widened = converted<float, typename TypeParam::E>(all);
  auto const narrowed = converted<T, typename TypeParam::E>(widened);
  for (int bits = 0; bits < num_patterns; ++bits) {
    auto const i = static_cast<std::size_t>(bits);
    int const magnitude = bits & 0x7fff;
    bool const negative = (bits & 0x8000) != 0;
    if (magnitude > infinity_pattern<T>) {
      ASSERT_TRUE(std::isnan(widened[i])) << bits;
      ASSERT_TRUE(std::isnan(static_cast<float>(narrowed[i]))) << bits;
      continue;
    }
    double expected = meaning<T>(bits);
    if (magnitude == infinity_pattern<T>) {
      expected = std::copysign(std::numeric_limits<double>::infinity(), expected);
    }
    ASSERT_EQ(static_cast<double>(widened[i]), expected) << bits;
    ASSERT_EQ(std::signbit(widened[i]), negative) << bits;
    ASSERT_EQ(static_cast<double>(all[i]), expected) << bits;
    ASSERT_EQ(narrowed[i].bits, bits);
  }
}

// Between each two neighbours: just below the middle, the middle (to even), just above it.
TYPED_TEST(Element16, RoundsToNearestEven) {
  using T = typename TypeParam::T;
  std::vector<float> values;
  std::vector<int> expected;
  for (int bits = 0; bits < infinity_pattern<T>; ++bits) {
    double const exact = (meaning<T>(bits) + meaning<T>(bits + 1)) / 2;
    auto const middle = static_cast<float>(exact);
    ASSERT_EQ(static_cast<double>(middle), exact);
    float const huge = std::numeric_limits<float>::infinity();
    for (int const sign : {0, 0x8000}) {
      for (auto const& [value, rounded] : {std::pair{std::nextafter(middle, 0.0F), bits},
                                           std::pair{middle, bits % 2 == 0 ? bits : bits + 1},
                                           std::pair{std::nextafter(middle, huge), bits + 1}}) {
        values.push_back(sign == 0 ? value : -value);
        expected.push_back(rounded | sign);
      }
    }
  }
  auto const rounded = converted<T, typename TypeParam::E>(values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(rounded[i].bits, expected[i]) << values[i];
  }
}

TYPED_TEST(Element16, RandomFloatsGoToTheNearestNeighbour) {
  using T = typename TypeParam::T;
  std::vector<float> values(1 << 20);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = std::bit_cast<float>(static_cast<std::uint32_t>(test::random_bits(11, i)));
  }
  auto const rounded = converted<T, typename TypeParam::E>(values);
  double const limit = meaning<T>(infinity_pattern<T>);
  int finite = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    int const bits = rounded[i].bits;
    int const magnitude = bits & 0x7fff;
    if (std::isnan(values[i])) {
      ASSERT_GT(magnitude, infinity_pattern<T>);
      continue;
    }
    double const exact = std::min(std::abs(static_cast<double>(values[i])), limit);
    ASSERT_EQ((bits & 0x8000) != 0, std::signbit(values[i]));
    ASSERT_LE(magnitude, infinity_pattern<T>) << values[i];
    double const error = std::abs(meaning<T>(magnitude) - exact);
    if (magnitude > 0) {
      ASSERT_LE(error, std::abs(meaning<T>(magnitude - 1) - exact)) << values[i];
    }
    if (magnitude < infinity_pattern<T>) {
      ASSERT_LE(error, std::abs(meaning<T>(magnitude + 1) - exact)) << values[i];
      ASSERT_LE(error, test::unit_roundoff<T> * exact + test::underflow_unit<T>) << values[i];
      ++finite;
    }
  }
  EXPECT_GT(finite, 1000);
}

TYPED_TEST(Element16, KeepsInfinityAndNanAndOverflows) {
  using T = typename TypeParam::T;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  auto const out = converted<T, typename TypeParam::E>(std::vector<float>{
      infinity, -infinity, std::numeric_limits<float>::max(), -std::numeric_limits<float>::max(),
      std::bit_cast<float>(0x7f800001U), std::bit_cast<float>(0xffffffffU), -0.0F,
      std::numeric_limits<float>::denorm_min()});
  EXPECT_EQ(out[0].bits, infinity_pattern<T>);
  EXPECT_EQ(out[1].bits, infinity_pattern<T> | 0x8000);
  EXPECT_EQ(out[2].bits, infinity_pattern<T>);
  EXPECT_EQ(out[3].bits, infinity_pattern<T> | 0x8000);
  int const quiet = infinity_pattern<T> | (1 << (fraction_bits<T> - 1));
  EXPECT_EQ(out[4].bits & quiet, quiet);  // a signalling NaN whose payload would be cut off
  EXPECT_EQ(out[5].bits & quiet, quiet);
  EXPECT_EQ(out[6].bits, 0x8000);
  EXPECT_EQ(out[7].bits, 0);
}

}  // namespace
}  // namespace kmoe
