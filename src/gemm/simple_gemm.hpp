// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The grouped multiplication of execution spaces that have no kernels of their own yet: one thread
/// per output element, in Kokkos alone. Its bits obey the same contract.

#include <kmoe/core/options.hpp>
#include <kmoe/core/types.hpp>

namespace kmoe::detail {

/// x * sigmoid(s)
template <class A>
KOKKOS_INLINE_FUNCTION A times_sigmoid(A x, A s) {
  return x / (A(1) + Kokkos::exp(-s));
}

/// The activation of plain experts, and of the gate of gated ones (all but swiglu_oai).
template <class A>
KOKKOS_INLINE_FUNCTION A activate(Activation activation, A x) {
  switch (activation) {
    case Activation::silu:
      return times_sigmoid(x, x);
    case Activation::gelu_erf:
      return A(0.5) * x * Kokkos::erfc(x * A(-0.70710678118654752440));
    case Activation::gelu_tanh:
      return times_sigmoid(x, A(1.5957691216057308) * x * (A(1) + A(0.044715) * x * x));
    case Activation::relu:
      return x < A(0) ? A(0) : x;
    case Activation::relu2:
      return x < A(0) ? A(0) : x * x;
    case Activation::swiglu_oai:
      break;
  }
  return x;
}

template <class A>
KOKKOS_INLINE_FUNCTION A activate(ExpertOptions const& options, A gate, A up) {
  if (options.activation != Activation::swiglu_oai) return activate(options.activation, gate) * up;
  A const limit = options.swiglu_limit;
  A const g = gate > limit ? limit : gate;
  A u = up > limit ? limit : up;
  u = u < -limit ? -limit : u;
  return times_sigmoid(g, A(options.swiglu_alpha) * g) * (u + A(1));
}

/// Fields as those of HostGemm.
template <ExecutionSpace E, Element T>
struct SimpleGemm {
  Vector<offset_t const, E> offsets;
  offset_t row_begin = 0, row_end = 0;

  Vector<index_t const, E> slots;
  Matrix<T const, E> x;
  index_t slots_per_row = 0;
  offset_t x_first = 0;
  Vector<float const, E> input_weights;  // extent 0: 1

  Tensor3<T const, E> b;
  Matrix<accumulate_t<T> const, E> bias;
  GateUpLayout layout = GateUpLayout::plain;
  bool activated = false;
  ExpertOptions options;
  Vector<float const, E> output_weights;
  Matrix<T, E> out;
  offset_t out_first = 0;

  KOKKOS_INLINE_FUNCTION offset_t slot(offset_t row) const {
    return slots.extent(0) == 0 ? row : slots(row);
  }

  /// x' . b[group, n, :] + bias
  KOKKOS_INLINE_FUNCTION accumulate_t<T> dot(offset_t row, offset_t group, offset_t n) const {
    using A = accumulate_t<T>;
    offset_t const source = slots_per_row == 0 ? row - x_first : slot(row) / slots_per_row;
    bool const weighted = input_weights.extent(0) != 0;
    A const weight = weighted ? A(input_weights(slot(row))) : A(1);
    A sum = 0;
    for (std::size_t k = 0; k < x.extent(1); ++k) {
      A value = static_cast<A>(x(source, k));
      if (weighted) value = static_cast<A>(T(value * weight));
      sum += value * static_cast<A>(b(group, n, k));
    }
    return bias.extent(0) == 0 ? sum : sum + bias(group, n);
  }

  KOKKOS_INLINE_FUNCTION void operator()(offset_t i, offset_t n) const {
    using A = accumulate_t<T>;
    offset_t const row = row_begin + i;
    auto const groups = static_cast<offset_t>(offsets.extent(0)) - 1;
    if (row < offsets(0) || row >= offsets(groups)) return;
    offset_t low = 0, high = groups;  // offsets(low) <= row < offsets(high)
    while (high - low > 1) {
      offset_t const middle = (low + high) / 2;
      (offsets(middle) <= row ? low : high) = middle;
    }
    auto const columns = static_cast<offset_t>(out.extent(1));
    A value;
    if (layout == GateUpLayout::plain) {
      value = dot(row, low, n);
      if (activated) value = activate(options.activation, value);
    } else {
      bool const pairs = layout == GateUpLayout::interleaved;
      offset_t const gate = pairs ? 2 * n : layout == GateUpLayout::gate_first ? n : columns + n;
      offset_t const up = pairs ? 2 * n + 1 : layout == GateUpLayout::gate_first ? columns + n : n;
      value = activate(options, dot(row, low, gate), dot(row, low, up));
    }
    if (output_weights.extent(0) != 0) value *= A(output_weights(slot(row)));
    out(row - out_first, n) = T(value);
  }
};

/// Asynchronous.
template <ExecutionSpace E, Element T>
void run(E const& exec, char const* label, SimpleGemm<E, T> const& gemm) {
  using Policy = Kokkos::MDRangePolicy<E, Kokkos::Rank<2>, Kokkos::IndexType<offset_t>>;
  auto const columns = static_cast<offset_t>(gemm.out.extent(1));
  if (gemm.row_end <= gemm.row_begin || columns == 0 || gemm.offsets.extent(0) < 2) return;
  Kokkos::parallel_for(label, Policy(exec, {0, 0}, {gemm.row_end - gemm.row_begin, columns}), gemm);
}

}  // namespace kmoe::detail
