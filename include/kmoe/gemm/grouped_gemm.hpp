// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Grouped GEMM over contiguous expert segments: C_g = A_g . B_g^T for each group g of rows.
///
/// Reproducibility: the bits of c[m, n] are a function of row m of A, row n of B_g, the element
/// type and the instruction set (KMOE_ISA on hosts). They do not depend on M, on the position of
/// the row, on the offsets, on the other groups, on the number of threads, or on whether B was
/// packed beforehand.
///
/// Host spaces use the best instruction set that processor, operating system and build offer. The
/// environment variable KMOE_ISA (portable, avx2, avx512, avx512_bf16, amx), read once, forces a
/// lower one, so that machines of different kinds give the same bits; one that is not available is
/// an error.

#include <cstddef>

#include <kmoe/core/options.hpp>
#include <kmoe/core/quantization.hpp>
#include <kmoe/core/types.hpp>

namespace kmoe KMOE_API {

namespace detail {
/// What PackedWeights holds, for the kernels.
template <ExecutionSpace E, Element T>
struct PackedParts {
  index_t groups = 0;
  index_t columns = 0;  ///< N of c: half the rows of B where it is gated
  index_t k = 0;
  GateUpLayout layout = GateUpLayout::plain;
  void const* kernel = nullptr;           ///< host: the kernels it was packed for
  Vector<std::byte, E> panels;            ///< host
  Vector<accumulate_t<T>, E> panel_bias;  ///< host; extent 0 = none
  Tensor3<T const, E> b;                  ///< device: B as it was given
  Matrix<accumulate_t<T> const, E> bias;  ///< device; extent 0 = none
};
}  // namespace detail

/// The B matrices of a grouped GEMM, repacked once for the kernels of this machine.
///
/// Host spaces: panels of columns in the order in which the registers take them, padded with zeros,
/// in the element type; gate and up columns of the same output lie in one panel, so that the
/// activation is computed on the accumulators. Device spaces: B itself, shared and not copied.
template <ExecutionSpace E, Element T>
class PackedWeights {
 public:
  PackedWeights() = default;

  /// Packs b; allocates bytes(). Fences `exec`: b may be dropped or changed afterwards (host).
  /// \param b [G, N, K], row n of group g holds the K weights of output n
  /// \param layout anything but `plain`: N = 2I rows are gates and ups in that order
  /// \param bias [G, N], in the order of the rows of b; extent 0 = none
  /// \throws InvalidArgument for N or K < 1, an odd N of a gated b, or a bias of another shape;
  ///         Unsupported if KMOE_ISA names an unknown or unavailable instruction set
  PackedWeights(E const& exec, InTensor3<T, E> b, GateUpLayout layout = GateUpLayout::plain,
                InMatrix<accumulate_t<T>, E> bias = {});

  [[nodiscard]] index_t num_groups() const { return parts_.groups; }
  [[nodiscard]] index_t num_columns() const { return parts_.columns; }  ///< of c
  [[nodiscard]] index_t k() const { return parts_.k; }
  /// Bytes held here: panels and bias.
  [[nodiscard]] std::size_t bytes() const;

  [[nodiscard]] detail::PackedParts<E, T> const& parts() const { return parts_; }

 private:
  detail::PackedParts<E, T> parts_;
};

/// c[m, n] = sum over k of a[m, k] * b[g, n, k] (+ bias[g, n]) for every row m of group g, that is
/// expert_offsets[g] <= m < expert_offsets[g + 1].
///
/// Accumulated in accumulate_t<T> in ascending k, rounded once to T. Rows of c before
/// expert_offsets[0] and from expert_offsets[G] on are not written; empty groups are fine, also all
/// of them. c may not overlap a.
/// Asynchronous on device spaces. On host spaces it returns when c is complete, and it keeps
/// scratch in the calling thread (about 1 MiB for each thread of `exec`) that later calls reuse;
/// one that needs more allocates.
/// \param a [M, K]
/// \param b G groups of N columns over K, not gated
/// \param expert_offsets [G + 1], ascending, in 0..M (checked on host spaces)
/// \param c [M, N]
/// \throws InvalidArgument for shapes that do not fit, for a gated b
/// Cost: 2 M N K flops; reads G N K + M K elements, writes M N.
/// Tested against reference::grouped_gemm.
template <ExecutionSpace E, Element T>
void grouped_gemm(E const& exec, InMatrix<T, E> a,
                  PackedWeights<E, std::type_identity_t<T>> const& b,
                  InVector<offset_t, E> expert_offsets, Matrix<T, E> const& c);

/// The same, bit for bit, with b [G, N, K] as it lies in memory. On host spaces each panel of b is
/// packed into scratch when it is needed: for weights that are used again, PackedWeights is faster.
template <ExecutionSpace E, Element T>
void grouped_gemm(E const& exec, InMatrix<T, E> a, InTensor3<T, E> b,
                  InVector<offset_t, E> expert_offsets, Matrix<T, E> const& c);

/// The same with quantized weights, which are decoded as they are loaded; a is quantized where the
/// format says so, and sums are floats for double too. Allocates on device spaces if a is
/// quantized. \throws InvalidArgument for shapes that do not fit Tested against
/// reference::quantized_gemm.
template <ExecutionSpace E, Element T>
void grouped_gemm(E const& exec, InMatrix<T, E> a, QuantizedTensor<E> const& b,
                  InVector<offset_t, E> expert_offsets, Matrix<T, E> const& c);

}  // namespace KMOE_API
