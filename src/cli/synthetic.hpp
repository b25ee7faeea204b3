// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Random numbers that are a function of their index: gigabytes of weights are made where they are
/// used, and any one of them can be made again.

#include <cstddef>
#include <cstdint>

#include <kmoe/core/types.hpp>

namespace kmoe::cli {

/// Value i of a stream: about normal (a sum of four uniform 16-bit numbers), mean 0, standard
/// deviation `scale`, bounded by 3.47 of it.
struct Noise {
  std::uint64_t seed = 0;
  float scale = 1.0F;

  KOKKOS_INLINE_FUNCTION float operator()(std::uint64_t i) const {
    // The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
    std::uint64_t z = i + (seed + 1) * 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
    auto const sum = static_cast<std::int32_t>((z & 0xffff) + ((z >> 16) & 0xffff) +
                                               ((z >> 32) & 0xffff) + (z >> 48));
    constexpr float deviation = 37837.2F;  // sqrt(4 (65536^2 - 1) / 12)
    return static_cast<float>(sum - 131070) * (scale / deviation);
  }
};

/// view[i] = T(noise(first + i)) over all elements in memory order. Asynchronous.
template <ExecutionSpace E, class V>
void fill(E const& exec, V const& view, Noise noise, std::uint64_t first = 0) {
  using T = typename V::non_const_value_type;
  T* const data = view.data();
  Kokkos::parallel_for(
      "kmoe::synthetic::fill",
      Kokkos::RangePolicy<E, Kokkos::IndexType<std::size_t>>(exec, 0, view.size()),
      KOKKOS_LAMBDA(std::size_t i) { data[i] = T(noise(first + i)); });
}

}  // namespace kmoe::cli
