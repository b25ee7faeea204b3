// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Test data: counter-based, so that entry i of a seed is the same whatever the shape, the number
/// of ranks or the order of generation. Plus poison for outputs and copies between spaces.

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include <kmoe/core/types.hpp>

namespace kmoe::test {

/// 64 random bits of (seed, index): two rounds of the splitmix64 finalizer.
inline std::uint64_t random_bits(std::uint64_t seed, std::uint64_t index) {
  auto const mix = [](std::uint64_t z) {
    z += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  };
  return mix(mix(seed) ^ index);
}

/// Uniform in (0, 1), never 0 or 1.
inline double random_unit(std::uint64_t seed, std::uint64_t index) {
  return (static_cast<double>(random_bits(seed, index) >> 12) + 0.5) * 0x1p-52;
}

enum class Values {
  uniform,   ///< (-1, 1)
  normal,    ///< mean 0, variance 1
  wide,      ///< either sign, magnitudes log-uniform in 2^-8 .. 2^8
  integers,  ///< -4 .. 4: exact in every element type, sums exact in any order
};

inline double random_value(std::uint64_t seed, std::uint64_t index, Values values) {
  double const u = random_unit(seed, index);
  switch (values) {
    case Values::normal:
      return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * random_unit(~seed, index));
    case Values::wide:
      return std::copysign(std::exp2(16 * random_unit(~seed, index) - 8), u - 0.5);
    case Values::integers:
      return std::floor(9 * u) - 4;
    case Values::uniform:
      break;
  }
  return 2 * u - 1;
}

/// Calls set(entry, flat index) on every entry of a View of any memory space, row-major.
template <class V, class Set>
void set_entries(V const& view, Set&& set) {
  auto const host = Kokkos::create_mirror_view(view);
  for (std::size_t i = 0; i < host.size(); ++i) set(host.data()[i], i);
  Kokkos::deep_copy(view, host);
}

template <class V>
void fill_random(V const& view, std::uint64_t seed, Values values = Values::uniform) {
  using T = typename V::non_const_value_type;
  set_entries(view, [&](T& entry, std::size_t i) {
    entry = static_cast<T>(random_value(seed, i, values));
  });
}

/// Ids uniform in lo .. hi - 1, repetitions allowed.
template <class V>
void fill_ids(V const& view, std::uint64_t seed, index_t lo, index_t hi) {
  set_entries(view, [&](index_t& entry, std::size_t i) {
    entry = lo + static_cast<index_t>(random_unit(seed, i) * (hi - lo));
  });
}

/// Fills with NaN, or with a huge negative integer: what nothing wrote can not pass for a result.
template <class V>
void poison(V const& view) {
  using T = typename V::non_const_value_type;
  set_entries(view, [](T& entry, std::size_t) {
    if constexpr (std::is_integral_v<T>) {
      entry = static_cast<T>(std::numeric_limits<T>::min() / 2);
    } else {
      entry = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
    }
  });
}

/// A copy on the host, of the View's own type where it is already there.
template <class V>
auto to_host(V const& view) {
  return Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, view);
}

template <class T, class E>
Matrix<T, E> random_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed,
                           Values values = Values::uniform, std::string const& label = "random") {
  Matrix<T, E> m(Kokkos::view_alloc(label, Kokkos::WithoutInitializing), rows, cols);
  fill_random(m, seed, values);
  return m;
}

template <class T, class E>
Matrix<T, E> poisoned_matrix(std::size_t rows, std::size_t cols,
                             std::string const& label = "poisoned") {
  Matrix<T, E> m(Kokkos::view_alloc(label, Kokkos::WithoutInitializing), rows, cols);
  poison(m);
  return m;
}

}  // namespace kmoe::test
