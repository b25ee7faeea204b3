// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Random numbers that are a function of their index: gigabytes of weights are made where they are
/// used, and any one of them can be made again.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <kmoe/core/options.hpp>
#include <kmoe/core/types.hpp>
#include <kmoe/core/weights.hpp>

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

/// A view that is not filled.
template <class V, class... Extents>
V allocate(char const* label, Extents... extents) {
  return V(Kokkos::view_alloc(std::string("kmoe::cli::") + label, Kokkos::WithoutInitializing),
           static_cast<std::size_t>(extents)...);
}

/// The weights of a rank: those of an expert are the same wherever it lives.
template <ExecutionSpace Space, Element T>
LayerWeights<Space, T> make_weights(Space const& exec, MoeConfig const& config,
                                    std::vector<index_t> const& experts) {
  auto const h = config.hidden_size;
  auto const i = config.intermediate_size;
  auto const router = allocate<Matrix<T, Space>>("router", config.num_experts, h);
  auto const gate_up = allocate<Tensor3<T, Space>>("gate_up", experts.size(), 2 * i, h);
  auto const down = allocate<Tensor3<T, Space>>("down", experts.size(), h, i);
  float const to_one = 1 / std::sqrt(static_cast<float>(h));
  fill(exec, router, {.seed = 1, .scale = to_one});
  auto const of_expert = [](auto const& tensor, std::size_t slot) {
    auto const size = tensor.extent(1) * tensor.extent(2);
    return Vector<T, Space>(tensor.data() + slot * size, size);
  };
  for (std::size_t slot = 0; slot < experts.size(); ++slot) {
    auto const seed = 10 + 2 * static_cast<std::uint64_t>(experts[slot]);
    fill(exec, of_expert(gate_up, slot), {.seed = seed, .scale = to_one});
    fill(exec, of_expert(down, slot),
         {.seed = seed + 1, .scale = 1.7F / std::sqrt(static_cast<float>(i))});
  }
  exec.fence("kmoe::cli::make_weights");
  LayerWeights<Space, T> weights;
  weights.router.weight = router;
  weights.experts.gate_up = gate_up;
  weights.experts.down = down;
  return weights;
}

}  // namespace kmoe::cli
