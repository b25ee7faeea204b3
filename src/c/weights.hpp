// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// kmoe_layer_weights as Views: wrapped where they lie, or copied into the layer's order.

#include <array>
#include <cstddef>
#include <string>

#include <kmoe/core/weights.hpp>

#include "c/options.hpp"

namespace kmoe::c {

template <ExecutionSpace E>
inline constexpr bool on_host =
    Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename E::memory_space>::accessible;

/// out[e][r][c] = in[e][c][r]
template <ExecutionSpace E, class T>
void transpose(E const& exec, Tensor3<T const, E> const& in, Tensor3<T, E> const& out) {
  auto const rows = out.extent(1), cols = out.extent(2);
  Kokkos::parallel_for(
      "kmoe::transpose_weights", Kokkos::RangePolicy<E>(exec, 0, out.size()),
      KOKKOS_LAMBDA(std::size_t i) {
        auto const e = i / (rows * cols), r = i / cols % rows, c = i % cols;
        out(e, r, c) = in(e, c, r);
      });
}

/// Takes the caller's arrays, one by one.
template <ExecutionSpace E>
class ArrayReader {
 public:
  ArrayReader(E const& exec, kmoe_layer_weights const& given)
      : exec_(exec),
        copy_(given.copy != 0),
        from_host_(given.memory == KMOE_MEMORY_HOST && !on_host<E>) {}

  /// An array [n][rows][cols], stored as [n][cols][rows] if transposed. Null gives an empty View.
  template <class T>
  Tensor3<T const, E> tensor(void const* pointer, std::size_t n, std::size_t rows, std::size_t cols,
                             bool transposed = false) const {
    if (pointer == nullptr || n == 0) return {};
    auto const* const data = static_cast<T const*>(pointer);
    auto const stored_rows = transposed ? cols : rows, stored_cols = transposed ? rows : cols;
    Tensor3<T const, E> stored(data, n, stored_rows, stored_cols);
    if (from_host_ || (copy_ && !transposed)) {
      auto const mine = allocate<T>(n, stored_rows, stored_cols);
      using Source = Kokkos::View<T const***, Kokkos::LayoutRight, Kokkos::HostSpace,
                                  Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
      if (from_host_) {
        Kokkos::deep_copy(mine, Source(data, n, stored_rows, stored_cols));
      } else {
        Kokkos::deep_copy(exec_, mine, stored);
      }
      stored = mine;
    }
    if (!transposed) return stored;
    auto const mine = allocate<T>(n, rows, cols);
    transpose<E, T>(exec_, stored, mine);
    exec_.fence("kmoe::transpose_weights");
    return mine;
  }

  template <class T>
  Matrix<T const, E> matrix(void const* pointer, std::size_t rows, std::size_t cols,
                            bool transposed = false) const {
    auto const all = tensor<T>(pointer, 1, rows, cols, transposed);
    if (all.extent(0) == 0) return {};
    return Kokkos::subview(all, 0, Kokkos::ALL, Kokkos::ALL);
  }

  template <class T>
  Vector<T const, E> vector(void const* pointer, std::size_t n) const {
    auto const all = tensor<T>(pointer, 1, 1, n);
    if (all.extent(0) == 0) return {};
    return Kokkos::subview(all, 0, 0, Kokkos::ALL);
  }

 private:
  template <class T>
  static Tensor3<T, E> allocate(std::size_t n, std::size_t rows, std::size_t cols) {
    return Tensor3<T, E>(Kokkos::view_alloc("kmoe::weights", Kokkos::WithoutInitializing), n, rows,
                         cols);
  }

  E const& exec_;
  bool copy_;
  bool from_host_;
};

/// \param experts how many experts of this rank have weights
template <ExecutionSpace E, Element T>
LayerWeights<E, T> wrap_weights(E const& exec, LayerPlan const& plan, kmoe_layer_weights const& w,
                                std::size_t experts, char const* function) {
  using A = accumulate_t<T>;
  MoeConfig const& c = plan.config;
  for (auto const& [name, value] : {std::pair("memory", w.memory), std::pair("copy", w.copy),
                                    std::pair("router_transposed", w.router_transposed),
                                    std::pair("gate_up_transposed", w.gate_up_transposed),
                                    std::pair("down_transposed", w.down_transposed)}) {
    detail::expect(value == 0 || value == 1, function, std::string(name) + " must be 0 or 1",
                   value);
  }
  detail::expect(w.router_experts >= 0, function, "router_experts must not be negative",
                 w.router_experts);
  auto const hidden = static_cast<std::size_t>(c.hidden_size);
  std::size_t const columns = w.router_experts > 0 ? w.router_experts : c.num_router_columns();
  std::size_t const per_gate = plan.gated() ? 2 : 1;
  ArrayReader<E> const read(exec, w);

  LayerWeights<E, T> out;
  out.router.weight = read.template matrix<T>(w.router, columns, hidden, w.router_transposed != 0);
  out.router.bias = read.template vector<float>(w.router_bias, columns);
  out.router.correction_bias = read.template vector<float>(w.correction_bias, columns);
  auto const group = [&](std::size_t n, std::size_t intermediate, void const* gate_up,
                         void const* down, void const* gate_up_bias, void const* down_bias) {
    ExpertWeights<E, T> g;
    g.layout = plan.layout;
    auto const rows = per_gate * intermediate;
    g.gate_up = read.template tensor<T>(gate_up, n, rows, hidden, w.gate_up_transposed != 0);
    g.down = read.template tensor<T>(down, n, hidden, intermediate, w.down_transposed != 0);
    if (n > 0) {
      g.gate_up_bias = read.template matrix<A>(gate_up_bias, n, rows);
      g.down_bias = read.template matrix<A>(down_bias, n, hidden);
    }
    return g;
  };
  out.experts = group(experts, c.intermediate_size, w.gate_up, w.down, w.gate_up_bias, w.down_bias);
  if (c.shared_intermediate_size > 0) {
    out.shared = group(1, c.shared_intermediate_size, w.shared_gate_up, w.shared_down,
                       w.shared_gate_up_bias, w.shared_down_bias);
    if (c.shared_expert_gate) out.shared_gate = read.template matrix<T>(w.shared_gate, 1, hidden);
  }
  return out;
}

}  // namespace kmoe::c
