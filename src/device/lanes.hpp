// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Vectors of the compiler's own kind (GCC, Clang), their loads and stores by element type, and the
/// activations on them. Included by the sources of one instruction set each: all of it has internal
/// linkage, because it is compiled with different flags in each.
///
/// A policy `S` names the vector width and the few instructions that the compiler does not find:
///   bytes; tile_rows; fma(a, b, c) for float and double vectors; widen(half*), narrow(float,
///   half*)
///
/// Whole vectors only, also at the ends of rows, and no contraction of a * b + c by the compiler:
/// the bits of an element do not depend on its position.

#include <cstdint>

#include "device/host_kernel.hpp"

namespace kmoe::device {
namespace {  // NOLINT(cert-dcl59-cpp)

template <class X, int N>
struct VecOf {
  typedef X type __attribute__((vector_size(N * sizeof(X))));
};
template <class X, int N>
using Vec = typename VecOf<X, N>::type;

/// Element types as they lie in memory.
struct bf16_bits {
  std::uint16_t bits;
};
struct f16_bits {
  std::uint16_t bits;
};

template <class V>
inline V load(void const* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
template <class V>
inline void store(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

/// All lanes x. Subtracting zero changes nothing, so that compilers see a broadcast; adding zero
/// would change -0.
template <class V, class X>
inline V splat(X x) {
  return x - V{};
}

/// The integer vector of the same shape and its constants.
template <class V>
struct Traits;
template <int N>
struct FloatTraits {
  using Scalar = float;
  using Word = std::int32_t;
  using Int = Vec<Word, N>;
  static constexpr float magic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr int magic_bits = 0x4B400000, bias = 127, fraction = 23, terms = 7;
  static constexpr float log2e = 1.44269504F, ln2_hi = 0.693359375F, ln2_lo = -2.12194440e-4F;
  static constexpr float exp_min = -104.0F, exp_max = 89.0F;
};
template <int N>
struct DoubleTraits {
  using Scalar = double;
  using Word = std::int64_t;
  using Int = Vec<Word, N>;
  static constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr std::int64_t magic_bits = 0x4338000000000000, bias = 1023, fraction = 52;
  static constexpr int terms = 13;
  static constexpr double log2e = 1.4426950408889634, ln2_hi = 0.693147180369123816490,
                          ln2_lo = 1.90821492927058770002e-10;
  static constexpr double exp_min = -746.0, exp_max = 710.0;
};
template <>
struct Traits<Vec<float, 4>> : FloatTraits<4> {};
template <>
struct Traits<Vec<float, 8>> : FloatTraits<8> {};
template <>
struct Traits<Vec<float, 16>> : FloatTraits<16> {};
template <>
struct Traits<Vec<double, 2>> : DoubleTraits<2> {};
template <>
struct Traits<Vec<double, 4>> : DoubleTraits<4> {};
template <>
struct Traits<Vec<double, 8>> : DoubleTraits<8> {};

/// e^x: x = n ln 2 + r with |r| <= ln 2 / 2, Taylor series of e^r, then 2^n in two factors so that
/// subnormal results and overflow come out right. Within 2 ulp; NaN stays NaN.
template <class S, class V>
inline V exp(V x) {
  using C = Traits<V>;
  using Int = typename C::Int;
  x = x > C::exp_max ? splat<V>(C::exp_max) : x;
  x = x < C::exp_min ? splat<V>(C::exp_min) : x;
  V const shifted = S::fma(x, splat<V>(C::log2e), splat<V>(C::magic));
  V const n = shifted - C::magic;
  V r = S::fma(n, splat<V>(-C::ln2_hi), x);
  r = S::fma(n, splat<V>(-C::ln2_lo), r);
  double factorial = 1;
  for (int i = 2; i <= C::terms; ++i) factorial *= i;
  using Scalar = typename C::Scalar;
  V p = splat<V>(static_cast<Scalar>(1 / factorial));
#pragma GCC unroll 16
  for (int i = C::terms; i > 0; --i) {
    factorial /= i;
    p = S::fma(p, r, splat<V>(static_cast<Scalar>(1 / factorial)));
  }
  Int const exponent = (Int)shifted - C::magic_bits;
  Int const half_exponent = exponent >> 1;
  V const first = (V)((half_exponent + C::bias) << C::fraction);
  V const second = (V)((exponent - half_exponent + C::bias) << C::fraction);
  return p * first * second;
}

/// x * Phi(x). Float: with z = |x| / sqrt 2, erfc(z) = t q(t) e^(-z^2), t = 1 / (1 + 0.4 z), where
/// q is a Chebyshev fit with a relative error below 3e-8. Double: the C library's erfc.
template <class S, class V>
inline V gelu_erf(V x) {
  if constexpr (sizeof(x[0]) == 8) {
    for (unsigned i = 0; i < sizeof(V) / 8; ++i) {
      x[i] = 0.5 * x[i] * __builtin_erfc(x[i] * -0.70710678118654752440);
    }
    return x;
  } else {
    V magnitude = x < 0.0F ? -x : x;
    magnitude = magnitude > 20.0F ? splat<V>(20.0F) : magnitude;  // Phi is 0 or 1 there
    V const t = 1.0F / S::fma(magnitude, splat<V>(0.28284271247F), splat<V>(1.0F));
    V q = splat<V>(-0.028735833333013F);
    constexpr float terms[] = {0.13804340511521F,   -0.23036018634584F, 0.13132334181357F,
                               -0.042238695183706F, 0.081683033814475F, 0.11970213716238F,
                               0.17160188271426F,   0.20763026774254F,  0.22567477868856F,
                               0.22567586312728F};
#pragma GCC unroll 16
    for (float const term : terms) q = S::fma(q, t, splat<V>(term));
    // The rounding error of x * x, which the exponential would magnify, is put back.
    V const square = magnitude * magnitude;
    V const lost = S::fma(magnitude, magnitude, -square);
    V const e = exp<S>(-0.5F * square);
    V const tail = 0.5F * t * q * S::fma(e, -0.5F * lost, e);
    return x * (x < 0.0F ? tail : 1.0F - tail);
  }
}

/// x * sigmoid(s)
template <class S, class V>
inline V times_sigmoid(V x, V s) {
  return x / (1.0F + exp<S>(-s));
}

/// The activation of one input. 0.5 (1 + tanh u) is sigmoid(2 u), so the tanh form of GELU needs no
/// tanh and loses nothing near zero.
template <class S, Epilogue F, class V>
inline V activate(V x) {
  if constexpr (F == Epilogue::silu) {
    return times_sigmoid<S>(x, x);
  } else if constexpr (F == Epilogue::gelu_erf) {
    return gelu_erf<S>(x);
  } else if constexpr (F == Epilogue::gelu_tanh) {
    using X = typename Traits<V>::Scalar;
    V const u = static_cast<X>(1.5957691216057308) * x *
                S::fma(static_cast<X>(0.044715) * x, x, splat<V>(X(1)));
    return times_sigmoid<S>(x, u);
  } else if constexpr (F == Epilogue::relu) {
    return x < 0.0F ? V{} : x;
  } else if constexpr (F == Epilogue::relu2) {
    V const y = x < 0.0F ? V{} : x;
    return y * y;
  } else {
    return x;
  }
}

/// The activation of a gate and an up.
template <class S, Epilogue F, class V>
inline V activate(V gate, V up, V alpha, V limit) {
  if constexpr (F == Epilogue::swiglu_oai) {
    V const g = gate > limit ? limit : gate;
    V u = up > limit ? limit : up;
    u = u < -limit ? -limit : u;
    return times_sigmoid<S>(g, alpha * g) * (u + 1.0F);
  } else {
    return activate<S, F>(gate) * up;
  }
}

// Transposition of N x N words by log2 N rounds of interleaving.

template <int... I>
struct Indices {};
template <int N, int... I>
struct CountTo : CountTo<N - 1, N - 1, I...> {};
template <int... I>
struct CountTo<0, I...> {
  using type = Indices<I...>;
};

/// a[First], b[First], a[First + 1], b[First + 1], ...
template <int First, class V, int... I>
inline V interleave(V a, V b, Indices<I...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, (First + I / 2 + I % 2 * int(sizeof...(I)))...);
#else
  return V{(I % 2 == 0 ? a : b)[First + I / 2]...};
#endif
}

template <int N, class V>
inline void transpose(V (&rows)[N]) {
  using Lanes = typename CountTo<N>::type;
#pragma GCC unroll 4
  for (int round = 1; round < N; round *= 2) {
    V next[N];
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; ++i) {
      next[2 * i] = interleave<0>(rows[i], rows[i + N / 2], Lanes{});
      next[2 * i + 1] = interleave<N / 2>(rows[i], rows[i + N / 2], Lanes{});
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) rows[i] = next[i];
  }
}

// Elements <-> accumulator vectors.

template <class S, class V>
inline V widen(float const* p, V) {
  return load<V>(p);
}
template <class S, class V>
inline V widen(double const* p, V) {
  return load<V>(p);
}
template <class S, class V>
inline V widen(bf16_bits const* p, V) {
  constexpr int n = sizeof(V) / 4;
  return (V)(__builtin_convertvector(load<Vec<std::uint16_t, n>>(p), Vec<std::uint32_t, n>) << 16);
}
template <class S, class V>
inline V widen(f16_bits const* p, V) {
  return S::widen(p);
}

template <class S, class V>
inline void narrow(V v, float* p) {
  store(p, v);
}
template <class S, class V>
inline void narrow(V v, double* p) {
  store(p, v);
}
/// To nearest even, subnormals kept, NaN stays NaN: as the element type itself rounds.
template <class S, class V>
inline void narrow(V v, bf16_bits* p) {
  constexpr int n = sizeof(V) / 4;
  using U = Vec<std::uint32_t, n>;
  U const u = (U)v;
  U const rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
  U const quiet = (u >> 16) | 0x40U;
  U const result = (u & 0x7fffffffU) > 0x7f800000U ? quiet : rounded;
  store(p, __builtin_convertvector(result, Vec<std::uint16_t, n>));
}
template <class S, class V>
inline void narrow(V v, f16_bits* p) {
  S::narrow(v, p);
}

}  // namespace
}  // namespace kmoe::device
