// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// A random layer that every rank can make a part of: each number is a pure function of what it
/// stands for (expert, row, column, token), so ranks need not talk to agree on a model.

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <kmoe/core/options.hpp>
#include <kmoe/core/weights.hpp>

namespace kmoe::test {

/// Uniform in [-1, 1), a pure function of its arguments.
KOKKOS_INLINE_FUNCTION double uniform(std::uint64_t stream, std::uint64_t index) {
  std::uint64_t z = stream * 0x9e3779b97f4a7c15ULL + index + 0x632be59bd9b4e019ULL;
  for (int round = 0; round < 2; ++round) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
  }
  return static_cast<double>(z >> 11) * 0x1p-52 - 1.0;
}

struct LayerModel {
  MoeConfig config;
  GateUpLayout layout = GateUpLayout::gate_first;
  bool biases = false;
  bool correction_bias = false;
  QuantScheme quantization = {};  ///< of the routed experts
  std::uint64_t seed = 1;

  // Streams of numbers, one per tensor and expert.
  enum Tensor : std::uint64_t {
    router,
    router_bias,
    correction,
    gate_up,
    gate_up_bias,
    down,
    down_bias,
    shared_gate,
    x
  };
  [[nodiscard]] std::uint64_t stream(Tensor tensor, std::uint64_t expert = 0) const {
    return (seed * 16 + tensor) * 4096 + expert;
  }
  /// Width of the numbers of a tensor: keeps activations of order one at any size.
  [[nodiscard]] double scale(Tensor tensor) const {
    switch (tensor) {
      case router:
        return 3.0 / std::sqrt(double(config.hidden_size));
      case gate_up:
        return 2.0 / std::sqrt(double(config.hidden_size));
      case down:
        return 2.0 / std::sqrt(double(config.intermediate_size));
      default:
        return 0.5;
    }
  }

  /// Weights of the experts with these global ids (fused shared ones included), rounded to T.
  template <ExecutionSpace E, Element T>
  [[nodiscard]] LayerWeights<E, T> weights(std::span<index_t const> experts) const {
    std::size_t const hidden = config.hidden_size;
    LayerWeights<E, T> out;
    std::size_t const columns = config.num_router_columns();
    out.router.weight = make<Matrix<T, E>>(router, {0}, columns, hidden);
    if (biases) out.router.bias = make<Vector<float, E>>(router_bias, {0}, columns);
    if (correction_bias)
      out.router.correction_bias = make<Vector<float, E>>(correction, {0}, columns);
    if (quantization.quantized()) {
      out.experts = quantized<E, T>(group<Host, float>(experts, config.intermediate_size));
    } else {
      out.experts = group<E, T>(experts, config.intermediate_size);
    }
    if (config.shared_intermediate_size > 0) {
      std::vector<index_t> const one{4000};
      out.shared = group<E, T>(one, config.shared_intermediate_size);
    }
    if (config.shared_expert_gate)
      out.shared_gate = make<Matrix<T, E>>(shared_gate, {0}, 1, hidden);
    return out;
  }

  /// Tokens begin .. begin + count - 1 of the endless stream of tokens.
  template <ExecutionSpace E, Element T>
  [[nodiscard]] Matrix<T, E> tokens(std::size_t begin, std::size_t count) const {
    std::size_t const hidden = config.hidden_size;
    Matrix<T, E> view("tokens", count, hidden);
    auto const host = Kokkos::create_mirror_view(view);
    for (std::size_t t = 0; t < count; ++t) {
      for (std::size_t h = 0; h < hidden; ++h) {
        host(t, h) = T(uniform(stream(x), (begin + t) * hidden + h));
      }
    }
    Kokkos::deep_copy(view, host);
    return view;
  }

 private:
  using Host = Kokkos::DefaultHostExecutionSpace;

  template <ExecutionSpace E, Element T>
  ExpertWeights<E, T> quantized(ExpertWeights<Host, float> const& dense) const {
    bool const two = layout == GateUpLayout::gate_first || layout == GateUpLayout::up_first;
    E const exec;
    ExpertWeights<E, T> out;
    out.layout = layout;
    out.quantized_gate_up = copy_to(exec, quantize(dense.gate_up, quantization, two ? 2 : 1));
    out.quantized_down = copy_to(exec, quantize(dense.down, quantization));
    using B = accumulate_t<T>;
    auto const convert = [&](auto const& from) {
      Matrix<B, E> const to("bias", from.extent(0), from.extent(1));
      auto const host = Kokkos::create_mirror_view(to);
      for (std::size_t i = 0; i < from.size(); ++i) host.data()[i] = B(from.data()[i]);
      Kokkos::deep_copy(to, host);
      return to;
    };
    out.gate_up_bias = convert(dense.gate_up_bias);
    out.down_bias = convert(dense.down_bias);
    return out;
  }

  template <ExecutionSpace E, Element T>
  ExpertWeights<E, T> group(std::span<index_t const> experts, index_t intermediate) const {
    std::size_t const hidden = config.hidden_size;
    std::size_t const rows = layout == GateUpLayout::plain ? intermediate : 2 * intermediate;
    std::vector<std::uint64_t> const ids(experts.begin(), experts.end());
    ExpertWeights<E, T> out;
    out.layout = layout;
    out.gate_up = make<Tensor3<T, E>>(gate_up, ids, ids.size(), rows, hidden);
    out.down = make<Tensor3<T, E>>(down, ids, ids.size(), hidden, std::size_t(intermediate));
    if (biases) {
      using B = accumulate_t<T>;
      out.gate_up_bias = make<Matrix<B, E>>(gate_up_bias, ids, ids.size(), rows);
      out.down_bias = make<Matrix<B, E>>(down_bias, ids, ids.size(), hidden);
    }
    return out;
  }

  /// A view of these extents whose i-th part (i-th expert) is filled from that expert's stream.
  template <class V, class... Extents>
  V make(Tensor tensor, std::vector<std::uint64_t> const& parts, Extents... extents) const {
    V view(std::string("model"), extents...);
    auto const host = Kokkos::create_mirror_view(view);
    std::size_t const size = parts.empty() ? 0 : view.size() / parts.size();
    for (std::size_t part = 0; part < parts.size(); ++part) {
      for (std::size_t i = 0; i < size; ++i) {
        host.data()[part * size + i] = typename V::non_const_value_type(
            scale(tensor) * uniform(stream(tensor, parts[part]), i));
      }
    }
    Kokkos::deep_copy(view, host);
    return view;
  }
};

}  // namespace kmoe::test
