// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The interface of token dispatchers and the payloads that pass through them.
///
/// A dispatcher owns the expert map, the expert mask and the number of local experts. dispatch()
/// brings tokens to the ranks of their experts, combine() brings the experts' rows home and adds
/// the K contributions of each token in ascending k, in accumulate_t<T>, rounded once: bit for bit
/// the same y for any number of ranks, placement, dispatcher, id space and split of the tokens.
///
/// For that, combine() sends one row per slot, rounded to T, and no partial sums: a sum over the
/// experts of one rank would depend on which experts share a rank. It costs at most K rows per
/// token where partial sums would cost one per rank that the token visits.

#include <cstddef>
#include <variant>

#include <kmoe/comm/communicator.hpp>
#include <kmoe/core/expert_map.hpp>
#include <kmoe/core/options.hpp>
#include <kmoe/core/routing.hpp>
#include <kmoe/core/workspace.hpp>
#include <kmoe/dispatch/hooks.hpp>
#include <kmoe/permute/permutation.hpp>

namespace kmoe KMOE_API {

/// Ids of a payload for experts that take local slots: 0..num_local_experts-1; all others (of
/// several ranks -1) are not here.
template <ExecutionSpace E>
struct LocalExpertIds {
  Matrix<index_t const, E> ids;  ///< [N, K]
  index_t num_local_experts = 0;
};

/// Ids of a payload for experts that take global ids and a mask (the AITER contract): a slot is
/// computed here if its id is valid and its flag is 1. Slots that another rank computes in spite of
/// the mask (fused shared experts) are -1.
template <ExecutionSpace E>
struct MaskedExpertIds {
  Matrix<index_t const, E> ids;  ///< [N, K]
  ExpertMask<E> mask;
};

/// The id space is part of the payload's type: code that takes one can not be handed the other.
template <ExecutionSpace E>
using ExpertIds = std::variant<LocalExpertIds<E>, MaskedExpertIds<E>>;

/// What dispatch() is given.
template <ExecutionSpace E, Element T>
struct DispatchInput {
  Matrix<T const, E> x;  ///< [T, H]
  Routing<E> routing;    ///< [T, K] each
};

/// What dispatch() hands to the experts. Views into the dispatcher's workspace (or the caller's x
/// and weights), valid until the next dispatch().
template <ExecutionSpace E, Element T>
struct DispatchOutput {
  DispatcherKind format = DispatcherKind::standard;
  Matrix<T const, E> hidden_states;     ///< [N, H], N <= max_dispatched_tokens()
  ExpertIds<E> expert_ids;              ///< [N, K]
  Matrix<float const, E> topk_weights;  ///< [N, K]
};

/// What the experts hand to combine(): rows grouped by expert and where each came from.
template <ExecutionSpace E, Element T>
struct CombineInput {
  DispatcherKind format = DispatcherKind::standard;
  /// [>= M, H], already multiplied by the router weight (no_combine: not multiplied)
  Matrix<T const, E> rows;
  Permutation<E> permutation;  ///< of the N x K slots of the dispatch output
  /// y is what combine() would make of this (ExpertMlp::forward_combined), where
  /// combines_by_itself() allows it: combine() adds nothing.
  bool combined = false;
};

/// Counters of one dispatch/combine pair on this rank, for reports.
struct DispatchStatistics {
  offset_t tokens_sent = 0;      ///< copies of tokens that went to another rank
  offset_t tokens_received = 0;  ///< copies of tokens that came from another rank
  offset_t bytes_sent = 0;       ///< payload bytes this rank sent to others, both directions
};

/// What the sizes of a dispatcher's buffers follow from: the same on every rank.
struct DispatchShape {
  /// Used: hidden_size, num_experts, num_zero_experts, top_k, router.num_fused_shared_experts,
  /// id_space, token_layout, no_combine.
  MoeConfig config;
  index_t num_ranks = 1;   ///< P
  index_t max_tokens = 0;  ///< the largest T of one dispatch() on any rank
  /// Reserve host buffers for messages where E's memory is not the host's. They are needed unless
  /// the communicator is gpu_aware(), which is not known beforehand.
  bool stage_through_host = true;

  /// Tokens that the experts of one rank can be handed, whatever the routing: max_tokens where
  /// tokens do not move, else P * max_tokens (every token of every rank meets here).
  [[nodiscard]] index_t max_dispatched_tokens() const {
    return config.token_layout == TokenLayout::replicated ? max_tokens : num_ranks * max_tokens;
  }
  /// Rows that they can have to compute: all slots of all those tokens. Below 2^31.
  [[nodiscard]] index_t max_dispatched_rows() const {
    return max_dispatched_tokens() * config.slots_per_token();
  }
  /// Replicated tokens: first of T tokens that `rank` adds up in combine(), in balanced contiguous
  /// blocks; rank P gives T.
  [[nodiscard]] index_t first_home_token(index_t rank, index_t tokens) const {
    return static_cast<index_t>(offset_t{tokens} * rank / num_ranks);
  }
};

/// Groups the slots of a payload by local expert, whichever id space it is in; `out` is bound for
/// num_local_experts groups. `mask_map` is scratch [E + S] for masked payloads; `rows_per_expert`
/// is as in make_permutation(). Asynchronous; does not allocate.
template <ExecutionSpace E>
void group_by_expert(E const& exec, ExpertIds<E> const& ids, Vector<index_t, E> const& mask_map,
                     Permutation<E> const& out, Vector<offset_t, E> const& rows_per_expert = {});

/// Base of all dispatchers. The public functions check, keep the order of calls and run the hooks
/// around the protected ones, which a dispatcher implements.
///
/// Ids: 0..E-1 are routed experts, each on one rank. E..E+S-1 are fused shared experts, which every
/// rank hosts; such a slot is computed once, on the token's home rank (replicated tokens: the rank
/// that owns the token in the reduction). E..E+Z-1 are zero experts (S and Z exclude each other):
/// no rank computes them, combine() adds weight * x, rounded to T, at the slot's place in the sum.
/// Every other id, -1 among them, is a slot without expert. Ids may repeat within a token.
template <ExecutionSpace E, Element T>
class BaseDispatcher {
 public:
  using PreDispatchHook = HookList<BaseDispatcher&, E const&, DispatchInput<E, T>&>;
  using PostDispatchHook = HookList<BaseDispatcher&, E const&, DispatchOutput<E, T>&>;
  using PreCombineHook = HookList<BaseDispatcher&, E const&, CombineInput<E, T>&>;
  using PostCombineHook = HookList<BaseDispatcher&, E const&, Matrix<T, E> const&>;

  virtual ~BaseDispatcher() = default;
  BaseDispatcher(BaseDispatcher const&) = delete;
  BaseDispatcher& operator=(BaseDispatcher const&) = delete;

  /// Takes every buffer from `ws` and, unless it only counts, builds the map and the mask, once.
  /// Nothing else in this class allocates. Not collective; fences `exec`.
  void bind(E const& exec, Workspace<E>& ws);
  /// Binds to a workspace that the dispatcher allocates and owns, for use without a layer.
  void allocate(E const& exec);

  /// Brings the tokens x [T, H] to the ranks of their experts.
  ///
  /// x and the routing must stay unchanged until combine() has finished: it reads zero experts'
  /// tokens and weights from them. A dispatch() without combine() is forgotten by the next one.
  /// Collective, also with T = 0. The result is ready on `exec`; messages make it wait for `exec`.
  /// Does not allocate.
  /// \param x [T, H], T <= max_tokens; replicated tokens: the same on every rank
  /// \param routing topk_ids, topk_weights [T, K + S]
  /// \throws InvalidArgument for extents, before any communication: agree on that beforehand, as
  ///         MoeLayer does, or the other ranks wait for ever
  DispatchOutput<E, T> dispatch(E const& exec, InMatrix<T, E> x, Routing<E> const& routing);

  /// y[t, :] = sum over k ascending of the row of slot (t, k) + addend[t, :]
  ///
  /// Summed in accumulate_t<T>, rounded once; slots without expert are skipped, a token without
  /// any gives 0 (+ addend). With no_combine y[t * K + k, :] is the row itself, x[t, :] for a zero
  /// expert and 0 for a slot without expert. Slots that were dispatched but have no row in
  /// `input.permutation` count as rows of zeros.
  /// Collective; asynchronous after the messages. Does not allocate.
  /// \param addend [T, H] (a shared expert's output), or extent 0 = none; of replicated tokens only
  ///        the rows of this rank's block are read, see DispatchShape::first_home_token
  /// \param y [T, H], with no_combine [T * K, H]; may alias neither x nor addend
  /// \throws InvalidArgument for extents, the format tag, or without a dispatch() before it
  void combine(E const& exec, CombineInput<E, T> const& input, InMatrix<T, E> addend,
               Matrix<T, E> const& y);

  /// Whether combine() without an addend is unpermute(): one rank, no zero experts, not no_combine,
  /// rows in the element type, and no hook that wants them before.
  [[nodiscard]] bool combines_by_itself() const {
    return shape_.num_ranks == 1 && shape_.config.num_zero_experts == 0 &&
           !shape_.config.no_combine && shape_.config.combine_payload == CombineCode::element &&
           pre_combine_.empty();
  }

  /// \name Hooks
  /// Run in the order of registration, on the execution space instance of the call; each gets the
  /// current value and may replace it. The value's Views must then live as long as the caller's
  /// would. Replacing may change T, but only within max_tokens and as combine()'s y expects.
  /// Post-combine hooks may change the contents of y.
  /// @{
  HookHandle register_pre_dispatch_hook(typename PreDispatchHook::Hook hook);
  HookHandle register_post_dispatch_hook(typename PostDispatchHook::Hook hook);
  HookHandle register_pre_combine_hook(typename PreCombineHook::Hook hook);
  HookHandle register_post_combine_hook(typename PostCombineHook::Hook hook);
  /// @}

  /// Which local slot a global id has, [E + S]; valid after bind().
  [[nodiscard]] ExpertMap<E> const& expert_map() const { return map_; }
  /// Which global ids are hosted here, [E + S]; valid after bind().
  [[nodiscard]] ExpertMask<E> const& expert_mask() const { return mask_; }
  [[nodiscard]] index_t num_local_experts() const { return placement_.num_local(comm_.rank()); }
  [[nodiscard]] index_t max_dispatched_tokens() const { return shape_.max_dispatched_tokens(); }
  [[nodiscard]] index_t max_dispatched_rows() const { return shape_.max_dispatched_rows(); }
  /// Of the latest dispatch() and, once it has run, its combine().
  [[nodiscard]] DispatchStatistics const& statistics() const { return statistics_; }
  [[nodiscard]] DispatcherKind kind() const { return shape_.config.dispatcher; }
  [[nodiscard]] DispatchShape const& shape() const { return shape_; }
  [[nodiscard]] ExpertPlacement const& placement() const { return placement_; }
  [[nodiscard]] Communicator const& communicator() const { return comm_; }

 protected:
  /// Communicates nothing. \throws InvalidArgument if shape, placement and comm do not fit
  /// together, or if the slots of one dispatch could reach 2^31.
  BaseDispatcher(Communicator comm, ExpertPlacement const& placement, DispatchShape const& shape,
                 DispatcherKind kind);

  virtual void do_bind(E const& exec, Workspace<E>& ws) = 0;
  virtual DispatchOutput<E, T> do_dispatch(E const& exec, DispatchInput<E, T> const& input) = 0;
  virtual void do_combine(E const& exec, CombineInput<E, T> const& input, InMatrix<T, E> addend,
                          Matrix<T, E> const& y) = 0;

  struct Tables {
    Vector<index_t, E> map, mask;  // [E + S]
  };
  /// The part of the workspace that every dispatcher has.
  static Tables bind_tables(Workspace<E>& ws, DispatchShape const& shape);
  /// `ids` [N, K] in the id space of the shape.
  [[nodiscard]] ExpertIds<E> tag_ids(Matrix<index_t const, E> const& ids) const;

  DispatchStatistics statistics_;

 private:
  void check_dispatch(DispatchInput<E, T> const& input) const;
  void check_combine(CombineInput<E, T> const& input, InMatrix<T, E> addend,
                     Matrix<T, E> const& y) const;

  Communicator comm_;
  ExpertPlacement placement_;
  DispatchShape shape_;
  Workspace<E> own_workspace_;
  ExpertMap<E> map_;
  ExpertMask<E> mask_;
  bool bound_ = false;
  bool dispatched_ = false;
  index_t num_tokens_ = 0;
  index_t num_dispatched_ = 0;

  PreDispatchHook pre_dispatch_;
  PostDispatchHook post_dispatch_;
  PreCombineHook pre_combine_;
  PostCombineHook post_combine_;
};

}  // namespace KMOE_API
