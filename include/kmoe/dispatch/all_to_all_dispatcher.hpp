// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The dispatcher in which a token travels only to the ranks that host one of its experts.

#include <memory>

#include <kmoe/dispatch/dispatcher.hpp>

namespace kmoe KMOE_API {

namespace detail {
template <ExecutionSpace E, Element T>
class Exchange;
}

/// Data-parallel tokens. dispatch() exchanges counts, then sends each token once to every other
/// rank that hosts at least one of its experts, with all its ids and weights.
/// Dispatched tokens are ordered by (home rank, token); a rank's own tokens are all among them and
/// pass through no message. combine() sends one row per slot home and adds there; both sides know
/// how many from the routing alone.
///
/// Messages per rank, in bytes, a = H * sizeof(T): T * min(K, P-1) * (a + 8 K) out at most, T K a
/// coming home at most. Workspace in rows of a, B = max_tokens: P B (1 + K), enough for all tokens
/// of all ranks meeting on one; plus some 30 bytes per slot for ids, weights and permutations.
/// Tested against a float64 reference and bitwise against one rank.
template <ExecutionSpace E, Element T>
class AllToAllDispatcher final : public BaseDispatcher<E, T> {
 public:
  /// Not collective; shape and placement must be equal on all ranks of `comm`.
  /// \throws Unsupported for replicated tokens: StandardDispatcher takes those
  AllToAllDispatcher(Communicator comm, ExpertPlacement const& placement,
                     DispatchShape const& shape);
  ~AllToAllDispatcher() override;

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
