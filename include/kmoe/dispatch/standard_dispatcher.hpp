// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The dispatcher in which every rank sees every token and computes the slots of its own experts.

#include <memory>

#include <kmoe/dispatch/dispatcher.hpp>

namespace kmoe KMOE_API {

namespace detail {
template <ExecutionSpace E, Element T>
class Exchange;
}

/// Replicated tokens: dispatch() moves nothing. Each token has an owner (balanced contiguous blocks
/// of T over P); combine() sends the rows of its slots there, adds them, and gathers y on all
/// ranks.
///
/// Data-parallel tokens: dispatch() gathers the tokens of all ranks on every rank; combine() sends
/// the rows of a token's slots to its home rank and adds them there.
///
/// Messages per rank, in bytes, a = H * sizeof(T): replicated about T K a / P of rows to the owners
/// and T a for gathering y; data-parallel (P-1) T (a + 8 K) out and at most T K a coming home.
/// Workspace in rows of a, B = max_tokens: replicated B K + B/P; data-parallel P B (1 + K); one
/// rank none. Beside them some 30 bytes per slot for ids, weights and permutations.
/// Tested against a float64 reference and bitwise against one rank. The idea of the mapping and of
/// the mask's ownership is SGLang's StandardDispatcher.
template <ExecutionSpace E, Element T>
class StandardDispatcher final : public BaseDispatcher<E, T> {
 public:
  /// Not collective; shape and placement must be equal on all ranks of `comm`.
  StandardDispatcher(Communicator comm, ExpertPlacement const& placement,
                     DispatchShape const& shape);
  ~StandardDispatcher() override;

  /// Takes from `ws` what bind() takes, without a communicator: tells the bytes beforehand.
  static void bind_shape(Workspace<E>& ws, DispatchShape const& shape);

 private:
  void do_bind(E const& exec, Workspace<E>& ws) override;
  DispatchOutput<E, T> do_dispatch(E const& exec, DispatchInput<E, T> const& input) override;
  void do_combine(E const& exec, CombineInput<E, T> const& input, InMatrix<T, E> addend,
                  Matrix<T, E> const& y) override;

  std::unique_ptr<detail::Exchange<E, T>> exchange_;
};

}  // namespace KMOE_API
