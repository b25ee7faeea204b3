// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The activations of one element, in Kokkos' functions.

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

}  // namespace kmoe::detail
