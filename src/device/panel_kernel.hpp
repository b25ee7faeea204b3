// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The algorithm of the host kernels, written once: packing, the register tile, the epilogue.
/// `S` is the instruction set (see lanes.hpp), `F` the format of the operands, which says what lies
/// in A and B and what one multiply-add takes. Internal linkage, as lanes.hpp.

#include <cstdint>

#include "device/lanes.hpp"

namespace kmoe::device {
namespace {  // NOLINT(cert-dcl59-cpp)

// Formats. Every format has two vectors of columns in a panel: with tile_rows rows they fill the
// register file, and in a gated panel they are the gates and the ups.

/// float and double: A and B hold elements.
template <class S, class X>
struct DirectFormat {
  using Element = X;
  using Packed = X;
  using Acc = Vec<X, S::bytes / sizeof(X)>;
  static constexpr int k_step = 1, k_multiple = 1, sub_steps = 1, k_block = 256, a_pad = 16;
  static Acc load_b(X const* b, int vector, int) {
    return load<Acc>(b + vector * (S::bytes / int(sizeof(X))));
  }
  static Acc multiply_add(X const* a, Acc b, Acc c) { return S::fma(splat<Acc>(*a), b, c); }
};

/// half: A is widened to float when it is packed, B when it is loaded.
template <class S>
struct WideHalf {
  using Element = f16_bits;
  using Packed = float;
  using Acc = Vec<float, S::bytes / 4>;
  static constexpr int k_step = 1, k_multiple = 1, sub_steps = 1, k_block = 256, a_pad = 16;
  static Acc load_b(f16_bits const* b, int vector, int) {
    return S::widen(b + vector * (S::bytes / 4));
  }
  static Acc multiply_add(float const* a, Acc b, Acc c) { return S::fma(splat<Acc>(*a), b, c); }
};

/// bfloat16 without a dot product: as half, but pairs of k lie side by side, so that widening is
/// one shift or one mask.
template <class S>
struct WideBfloat {
  using Element = bf16_bits;
  using Packed = float;
  using Acc = Vec<float, S::bytes / 4>;
  static constexpr int k_step = 2, k_multiple = 2, sub_steps = 2, k_block = 256, a_pad = 16;
  static Acc load_b(bf16_bits const* b, int vector, int sub) {
    using U = Vec<std::uint32_t, S::bytes / 4>;
    U const pairs = load<U>(b + vector * (S::bytes / 2));
    return (Acc)(sub == 0 ? pairs << 16 : pairs & 0xffff0000U);
  }
  static Acc multiply_add(float const* a, Acc b, Acc c) { return S::fma(splat<Acc>(*a), b, c); }
};

/// bfloat16 with a dot product of pairs: A and B hold elements.
template <class S>
struct DotBfloat {
  using Element = bf16_bits;
  using Packed = bf16_bits;
  using Acc = Vec<float, S::bytes / 4>;
  using Pairs = Vec<std::int32_t, S::bytes / 4>;
  static constexpr int k_step = 2, k_multiple = 2, sub_steps = 1, k_block = 512, a_pad = 32;
  static Pairs load_b(bf16_bits const* b, int vector, int) {
    return load<Pairs>(b + vector * (S::bytes / 2));
  }
  static Acc multiply_add(bf16_bits const* a, Pairs b, Acc c) {
    std::int32_t pair;
    __builtin_memcpy(&pair, a, 4);
    return S::dot(splat<Pairs>(pair), b, c);
  }
};

template <class F>
inline constexpr int acc_lanes = sizeof(typename F::Acc) / sizeof(typename F::Acc{}[0]);
template <class F>
inline constexpr int panel_columns = 2 * acc_lanes<F>;

inline std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Packing.

/// One vector of row elements: times the weight, rounded to the element type.
template <class S, class F>
inline void pack_lanes(typename F::Element const* in, float const* weight,
                       typename F::Packed* out) {
  using V = typename F::Acc;
  auto v = widen<S>(in, V{});
  typename F::Element rounded[acc_lanes<F>];
  if (weight != nullptr) {
    v = v * static_cast<typename Traits<V>::Scalar>(*weight);
    narrow<S>(v, rounded);
    in = rounded;
    v = widen<S>(in, V{});
  }
  if constexpr (sizeof(typename F::Packed) == sizeof(typename F::Element)) {
    __builtin_memcpy(out, in, sizeof(rounded));
  } else {
    store(out, v);
  }
}

template <class S, class F>
void pack_a(PackA const& p) {
  using Element = typename F::Element;
  using Packed = typename F::Packed;
  constexpr int lanes = acc_lanes<F>;
  std::int64_t const padded_k = round_up(p.k, F::k_multiple);
  std::int64_t const cut = F::k_block == 0 ? padded_k : F::k_block;
  std::int64_t const stride = cut + F::a_pad;
  std::int64_t const rows = round_up(p.rows, S::tile_rows);
  for (std::int64_t r = 0; r < p.rows; ++r) {
    std::int64_t const source = p.slots == nullptr ? r : p.slots[r] / p.slots_per_row;
    auto const* const x = static_cast<Element const*>(p.x) + source * p.stride;
    float const* const weight = p.weights == nullptr ? nullptr
                                : p.slots == nullptr ? p.weights + r
                                                     : p.weights + p.slots[r];
    for (std::int64_t first = 0; first < padded_k; first += cut) {
      Packed* const out = static_cast<Packed*>(p.out) + first / cut * rows * stride + r * stride;
      std::int64_t const valid = (p.k - first < cut ? p.k - first : cut) / lanes * lanes;
      std::int64_t const end = padded_k - first < cut ? padded_k - first : cut;
      std::int64_t k = 0;
      for (; k < valid; k += lanes) pack_lanes<S, F>(x + first + k, weight, out + k);
      for (; k < end; k += lanes) {
        Element tail[lanes] = {};
        for (std::int64_t i = first + k; i < p.k; ++i) tail[i - first - k] = x[i];
        pack_lanes<S, F>(tail, weight, out + k);
      }
    }
  }
}

/// Transposes squares of words: one float or double, or two 16-bit elements of consecutive k.
template <class S, class F>
void pack_b(PackB const& p) {
  using Element = typename F::Element;
  using Word = typename Traits<typename F::Acc>::Word;
  constexpr int lanes = acc_lanes<F>, columns = panel_columns<F>, step = F::k_step;
  constexpr int per_word = sizeof(Word) / sizeof(Element);
  std::int64_t const padded_k = round_up(p.k, F::k_multiple);
  std::int64_t const whole = p.k / (lanes * per_word) * (lanes * per_word);
  auto* const out = static_cast<Element*>(p.out);
  for (int first = 0; first < columns; first += lanes) {
    for (std::int64_t k = 0; k < whole; k += lanes * per_word) {
      Vec<Word, lanes> words[lanes];
#pragma GCC unroll 16
      for (int n = 0; n < lanes; ++n) {
        auto const* const column = static_cast<Element const*>(p.columns[first + n]);
        words[n] = column == nullptr ? Vec<Word, lanes>{} : load<Vec<Word, lanes>>(column + k);
      }
      transpose(words);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) {
        Element* const row = out + (k + i * per_word) * columns + first * step;
        if constexpr (step == per_word) {
          store(row, words[i]);
        } else {  // two k in a word that belong into two rows
          store(row, __builtin_convertvector(words[i], Vec<std::int16_t, lanes>));
          store(row + columns, __builtin_convertvector(words[i] >> 16, Vec<std::int16_t, lanes>));
        }
      }
    }
  }
  for (int n = 0; n < columns; ++n) {
    auto const* const column = static_cast<Element const*>(p.columns[n]);
    for (std::int64_t k = whole; k < padded_k; ++k) {
      out[k / step * (columns * step) + n * step + k % step] =
          column != nullptr && k < p.k ? column[k] : Element{};
    }
  }
}

// The register tile.

/// acc[Rows][panel_columns] (+)= A[Rows][k] . B[k][panel_columns]
template <class S, class F, int Rows>
inline void multiply_tile(std::int64_t k, typename F::Packed const* a, std::int64_t stride,
                          typename F::Element const* b,
                          typename Traits<typename F::Acc>::Scalar* acc, bool resume) {
  using V = typename F::Acc;
  constexpr int lanes = acc_lanes<F>;
  V c[Rows][2];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    c[r][0] = resume ? load<V>(acc + r * 2 * lanes) : V{};
    c[r][1] = resume ? load<V>(acc + r * 2 * lanes + lanes) : V{};
  }
  for (std::int64_t i = 0; i < k; i += F::k_step) {
#pragma GCC unroll 2
    for (int sub = 0; sub < F::sub_steps; ++sub) {
      auto const b0 = F::load_b(b, 0, sub);
      auto const b1 = F::load_b(b, 1, sub);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        c[r][0] = F::multiply_add(a + r * stride + sub, b0, c[r][0]);
        c[r][1] = F::multiply_add(a + r * stride + sub, b1, c[r][1]);
      }
    }
    a += F::k_step;
    b += 2 * lanes * F::k_step;
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    store(acc + r * 2 * lanes, c[r][0]);
    store(acc + r * 2 * lanes + lanes, c[r][1]);
  }
}

/// multiply_tile with `rows` as a constant.
template <class S, class F, int Rows = S::tile_rows>
inline void multiply_rows(std::int64_t rows, std::int64_t k, typename F::Packed const* a,
                          typename F::Element const* b,
                          typename Traits<typename F::Acc>::Scalar* acc, bool resume) {
  if (rows == Rows) {
    multiply_tile<S, F, Rows>(k, a, F::k_block + F::a_pad, b, acc, resume);
  } else if constexpr (Rows > 1) {
    multiply_rows<S, F, Rows - 1>(rows, k, a, b, acc, resume);
  }
}

// The epilogue.

template <class S, class X, class V>
inline void store_columns(V v, X* out, std::int64_t columns) {
  constexpr int lanes = sizeof(V) / sizeof(v[0]);
  if (columns >= lanes) {
    narrow<S>(v, out);
  } else if constexpr (sizeof(X) == sizeof(v[0])) {
    // Not through an array: with its fake stack GCC does not keep the 64-byte alignment of one.
    for (std::int64_t i = 0; i < columns; ++i) out[i] = v[i];
  } else {
    X whole[lanes];
    narrow<S>(v, whole);
    for (std::int64_t i = 0; i < columns; ++i) out[i] = whole[i];
  }
}

/// Rows first .. first + rows - 1 of panel `panel`, their accumulators at acc.
template <class S, class X, class V, Epilogue F, bool Gated>
void finish(Multiply const& m, std::int64_t panel, std::int64_t first, std::int64_t rows,
            typename Traits<V>::Scalar const* acc) {
  using Scalar = typename Traits<V>::Scalar;
  constexpr int lanes = sizeof(V) / sizeof(Scalar);
  V bias0{}, bias1{};
  if (m.bias != nullptr) {
    auto const* const bias = static_cast<Scalar const*>(m.bias) + panel * 2 * lanes;
    bias0 = load<V>(bias);
    bias1 = load<V>(bias + lanes);
  }
  std::int64_t const column = panel * (Gated ? lanes : 2 * lanes);
  std::int64_t const columns = m.out_columns - column;
  auto* const out = static_cast<X*>(m.out) + column;
  V const alpha = splat<V>(static_cast<Scalar>(m.alpha));
  V const limit = splat<V>(static_cast<Scalar>(m.limit));
  for (std::int64_t r = 0; r < rows; ++r) {
    V const x0 = load<V>(acc + r * 2 * lanes) + bias0;
    V const x1 = load<V>(acc + r * 2 * lanes + lanes) + bias1;
    X* const row = out + (first + r) * m.out_stride;
    auto const scaled = [&](V v) {
      return m.row_weights == nullptr ? v : v * static_cast<Scalar>(m.row_weights[first + r]);
    };
    if constexpr (Gated) {
      store_columns<S>(scaled(activate<S, F>(x0, x1, alpha, limit)), row, columns);
    } else {
      store_columns<S>(scaled(activate<S, F>(x0)), row, columns);
      if (columns > lanes)
        store_columns<S>(scaled(activate<S, F>(x1)), row + lanes, columns - lanes);
    }
  }
}

template <class S, class X, class V, bool Gated, class... Args>
inline void finish(Multiply const& m, Args... args) {
  switch (m.epilogue) {
    case Epilogue::identity:
      return finish<S, X, V, Epilogue::identity, Gated>(m, args...);
    case Epilogue::silu:
      return finish<S, X, V, Epilogue::silu, Gated>(m, args...);
    case Epilogue::gelu_erf:
      return finish<S, X, V, Epilogue::gelu_erf, Gated>(m, args...);
    case Epilogue::gelu_tanh:
      return finish<S, X, V, Epilogue::gelu_tanh, Gated>(m, args...);
    case Epilogue::relu:
      return finish<S, X, V, Epilogue::relu, Gated>(m, args...);
    case Epilogue::relu2:
      return finish<S, X, V, Epilogue::relu2, Gated>(m, args...);
    case Epilogue::swiglu_oai:
      return finish<S, X, V, Epilogue::swiglu_oai, Gated>(m, args...);
  }
}

// The block.

template <class S, class F>
void multiply(Multiply const& m) {
  using Scalar = typename Traits<typename F::Acc>::Scalar;
  std::int64_t const k = round_up(m.k, F::k_multiple);
  std::int64_t const stride = F::k_block + F::a_pad;
  std::int64_t const block = round_up(m.rows, S::tile_rows) * stride;
  // Tiles of nearly equal height: a short last tile would leave the multipliers idle.
  std::int64_t const tiles = (m.rows + S::tile_rows - 1) / S::tile_rows;
  auto const* b = static_cast<typename F::Element const*>(m.b);
  auto* const acc = static_cast<Scalar*>(m.accumulators);
  for (std::int64_t panel = 0; panel < m.panels; ++panel) {
    auto const* a = static_cast<typename F::Packed const*>(m.a);
    for (std::int64_t first = 0; first < k; first += F::k_block) {
      bool const last = k - first <= F::k_block;
      std::int64_t const length = last ? k - first : F::k_block;
      for (std::int64_t tile = 0; tile < tiles; ++tile) {
        std::int64_t const row = m.rows * tile / tiles;
        std::int64_t const rows = m.rows * (tile + 1) / tiles - row;
        Scalar* const c = acc + row * panel_columns<F>;
        multiply_rows<S, F>(rows, length, a + row * stride, b, c, first > 0);
        if (!last) continue;
        if (m.gated) {
          finish<S, typename F::Element, typename F::Acc, true>(m, panel, row, rows, c);
        } else {
          finish<S, typename F::Element, typename F::Acc, false>(m, panel, row, rows, c);
        }
      }
      a += block;
      b += length * panel_columns<F>;
    }
  }
}

template <class S, class F>
constexpr HostKernel make_kernel(Isa isa, void (*multiply)(Multiply const&)) {
  return {isa,
          sizeof(typename F::Element),
          sizeof(typename Traits<typename F::Acc>::Scalar),
          panel_columns<F>,
          S::tile_rows,
          F::k_multiple,
          F::k_block,
          sizeof(typename F::Packed),
          F::a_pad,
          &pack_a<S, F>,
          &pack_b<S, F>,
          multiply};
}
template <class S, class F>
constexpr HostKernel make_kernel(Isa isa) {
  return make_kernel<S, F>(isa, &multiply<S, F>);
}

}  // namespace
}  // namespace kmoe::device
