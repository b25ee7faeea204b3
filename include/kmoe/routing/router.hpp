// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Routing: tokens -> logits -> topk_ids, topk_weights.
///
/// Everything here works on one token at a time: the bits of a token's logits, ids and weights
/// depend on its row alone, never on the number of tokens, its position or the number of threads.

#include <concepts>

#include <kmoe/core/error.hpp>
#include <kmoe/core/options.hpp>
#include <kmoe/core/routing.hpp>
#include <kmoe/core/types.hpp>
#include <kmoe/core/weights.hpp>
#include <kmoe/core/workspace.hpp>

namespace kmoe KMOE_API {

/// Counts of data-dependent faults, added to (never reset) by route(): device memory.
template <ExecutionSpace E>
using RouterCounters = Vector<offset_t, E>;  ///< [num_router_counters]; extent 0 = do not count
enum RouterCounter : int {
  rows_with_nan,       ///< tokens with a NaN among their logits
  rows_with_inf,       ///< tokens with an infinity of either sign among their logits
  slots_out_of_range,  ///< slots of a user's router with an id that is neither valid nor -1
  num_router_counters
};

/// num_valid_tokens of route(): no token is padding.
inline constexpr index_t all_tokens = -1;

/// Groups that route() can rank (RouterOptions::num_groups); models have up to 8.
inline constexpr index_t max_router_groups = 256;

/// Scratch of router_logits(): fixed in size, whatever the number of tokens.
template <ExecutionSpace E, Element T>
struct RouterScratch {
  Vector<accumulate_t<T>, E> buffer;

  /// Takes the buffer from `ws` for logits of num_columns columns over hidden_size inputs. Where E
  /// runs on the host it holds one tile per thread of E (0.2 to 0.4 MB each) or, with Kokkos
  /// Kernels, for float and double, a block of 16 tokens and its logits. Allocates nothing.
  void bind(Workspace<E>& ws, index_t num_columns, index_t hidden_size);
};

/// Router logits of a batch of tokens.
///
///   logits[t, e] = sum_h x[t, h] * weight[e, h]  (+ bias[e])
///
/// Accumulated in accumulate_t<T>, the bias included, and rounded once to float. The order of the
/// sum is fixed: partial sums over 256 consecutive h, each added up in ascending order (fused where
/// the instruction set has it), are added in ascending order. With Kokkos Kernels, float and double
/// on a host space go through KokkosBlas::gemm in calls of fixed shape (16 tokens, missing ones
/// zero, 64 columns, 256 h), within which the order is the BLAS library's. Either way it depends
/// neither on T nor on a token's position nor on the number of threads; with a BLAS library that
/// rests on its kernels treating 16 consecutive entries alike, which the tests check (OpenBLAS
/// does). NaN and infinities propagate as in IEEE arithmetic; H = 0 gives the bias.
///
/// Asynchronous; does not allocate (a BLAS library may).
/// \param x [T, H] tokens
/// \param weights weight [C, H], bias [C] or extent 0; correction_bias is not used here
/// \param scratch bound for at least C columns and H inputs; in use until the call has completed
/// \param logits [T, C] out
/// \throws InvalidArgument if extents do not match or the scratch is too small
///
/// Cost: 2 T C H flops; hosts read x ceil(C / 64) and weight ceil(T / 64) times (with Kokkos
/// Kernels ceil(T / 16)). Tested against reference::router_logits (float64), and bitwise over T,
/// positions and workers.
template <ExecutionSpace E, Element T>
void router_logits(E const& exec, InMatrix<T, E> x, RouterWeights<E, T> const& weights,
                   RouterScratch<E, T> const& scratch, Matrix<float, E> const& logits);

/// Selects and weighs the experts of each token, by the seven steps of RouterOptions.
///
/// With l the logits of a token, s its scores, c its selection scores (all float):
///
///   softmax       s_e = exp(l_e - max l) / sum_j exp(l_j - max l)
///   sigmoid       s_e = 1 / (1 + exp(-l_e))
///   topk_softmax  s = l; w_k = exp(s_k - max) / sum over the K selected
///   topk_sigmoid  s = l; w_k = 1 / (1 + exp(-s_k))
///   sparse_mixer  r-th of at most two rounds: among the experts not yet selected id_r has the
///                 largest l, m; w_r = exp(0) / sum of exp(l_j - m) over those of them with
///                 not (m - l_j) / max(|l_j|, m) > 2 jitter_epsilon
///   c = s + correction_bias; groups by max c, or by the sum of their two largest c
///
/// Slots are ordered by descending c (after step 3), ties by ascending id; ids are distinct.
/// Columns of zero experts (ids >= E) are columns like any other. Sums are carried in double, in
/// ascending id or slot, and rounded to float.
///
/// NaN and infinities: the order of c is total, with +inf highest and NaN below -inf, so there are
/// always K distinct valid ids, and weights are always finite. A NaN logit has c = NaN and counts
/// as -inf otherwise. Experts at +inf share a softmax equally; a softmax over nothing but -inf is
/// uniform; a divisor of 0 in the renormalization gives 1/K each. Padding is not inspected.
///
/// Asynchronous; does not allocate.
/// \param logits [T, C], C = E + Z
/// \param options num_groups at most max_router_groups; sparse_mixer takes no groups and no bias
/// \param correction_bias [C], or extent 0 = none
/// \param out ids and weights [T, K + S], S = num_fused_shared_experts: columns K + i get id C + i
///        and weight 1
/// \param counters [num_router_counters] or extent 0
/// \param num_valid_tokens tokens from this one on are padding: ids -1, weights 0
/// \throws InvalidArgument if extents do not match, K is not in 1..C or options contradict
///
/// Cost: 4 T C bytes from memory; at most 3 T C exponentials; per token C compares and about
/// K^2 log(C / K) moves.
/// Tested against reference::route. Sources: the routers of Hugging Face transformers 5 and SGLang;
/// group-limited routing is DeepSeek-V2 and V3, the sparse mixer Phi-3.5-MoE.
template <ExecutionSpace E>
void route(E const& exec, InMatrix<float, E> logits, RouterOptions const& options,
           InVector<float, E> correction_bias, Routing<E> const& out,
           RouterCounters<E> const& counters = {}, index_t num_valid_tokens = all_tokens);

/// One token as a user's router sees it.
struct RouterRow {
  index_t token;        ///< index of the token
  float const* logits;  ///< [num_columns]
  index_t num_columns;  ///< C
  index_t* ids;         ///< [num_slots] to be written: 0..num_ids-1, or -1 = no expert
  float* weights;       ///< [num_slots] to be written
  index_t num_slots;    ///< K
};

/// A functor that routes one token, callable in a kernel: void operator()(RouterRow const&) const.
template <class F>
concept RouterFunctor = std::invocable<F const&, RouterRow const&>;

namespace detail {

/// Checks the extents that both forms of route() share; returns the number of valid tokens.
template <ExecutionSpace E>
index_t check_routing(InMatrix<float, E> const& logits, Routing<E> const& out,
                      RouterCounters<E> const& counters, index_t num_valid_tokens);

/// The contiguous row of a token; rows of a subview may be further apart than they are wide.
template <class V>
KOKKOS_INLINE_FUNCTION typename V::pointer_type row_of(V const& view, index_t t) {
  return view.data() + static_cast<offset_t>(t) * static_cast<offset_t>(view.stride(0));
}

template <class F, ExecutionSpace E>
struct RouteUser {
  F functor;
  Matrix<float const, E> logits;
  Routing<E> out;
  RouterCounters<E> counters;
  index_t num_ids;
  index_t num_valid_tokens;

  KOKKOS_FUNCTION void operator()(index_t t) const {
    auto const num_slots = static_cast<index_t>(out.topk_ids.extent(1));
    index_t* const ids = row_of(out.topk_ids, t);
    float* const weights = row_of(out.topk_weights, t);
    for (index_t k = 0; k < num_slots; ++k) {
      ids[k] = no_expert;
      weights[k] = 0.0F;
    }
    if (t >= num_valid_tokens) return;
    auto const num_columns = static_cast<index_t>(logits.extent(1));
    functor(RouterRow{t, row_of(logits, t), num_columns, ids, weights, num_slots});
    offset_t bad = 0;
    for (index_t k = 0; k < num_slots; ++k) {
      bool const valid = ids[k] >= 0 && ids[k] < num_ids;
      if (valid && Kokkos::isfinite(weights[k])) continue;
      weights[k] = 0.0F;
      if (valid || ids[k] == no_expert) continue;
      ids[k] = no_expert;
      ++bad;
    }
    if (bad > 0 && counters.extent(0) > 0) {
      Kokkos::atomic_add(&counters(slots_out_of_range), bad);
    }
  }
};

}  // namespace detail

/// Routes by a user's functor instead of RouterOptions: hash routing, static tables, anything.
///
///   functor({t, logits of t, C, ids of t, weights of t, K})  for each token t that is not padding
///
/// Slots that the functor leaves alone are -1 with weight 0. Afterwards ids outside 0..num_ids-1
/// become -1 (counted unless they were -1) and weights that belong to no id or are not finite
/// become 0. An id that occurs twice in a token is two slots, whose contributions add up. The
/// functor is copied into a kernel named kmoe::route_user; it may read device memory through Views
/// it holds.
///
/// Asynchronous; does not allocate.
/// \param logits [T, C]; C may be 0 if the functor needs none
/// \param out ids and weights [T, K]
/// \param counters [num_router_counters] or extent 0
/// \param num_ids size of the id space; -1 = C
/// \param num_valid_tokens tokens from this one on are padding: ids -1, weights 0
/// \throws InvalidArgument if extents do not match
///
/// Cost: that of the functor, plus 16 bytes per slot.
/// Tested in tests/unit/test_routing.cpp, which is also an example.
template <ExecutionSpace E, RouterFunctor F>
void route(E const& exec, InMatrix<float, E> logits, F const& functor, Routing<E> const& out,
           RouterCounters<E> const& counters = {}, index_t num_ids = -1,
           index_t num_valid_tokens = all_tokens) {
  index_t const valid = detail::check_routing<E>(logits, out, counters, num_valid_tokens);
  if (num_ids < 0) num_ids = static_cast<index_t>(logits.extent(1));
  Kokkos::parallel_for("kmoe::route_user",
                       Kokkos::RangePolicy<E, Kokkos::IndexType<index_t>>(
                           exec, 0, static_cast<index_t>(out.topk_ids.extent(0))),
                       detail::RouteUser<F, E>{functor, logits, out, counters, num_ids, valid});
}

}  // namespace KMOE_API
