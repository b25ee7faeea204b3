// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The engine of the dispatchers: three ways to bring tokens to experts, one way to bring rows
/// back.
///
/// Every token has one home rank, where its rows are added. What a rank computes for others is
/// ordered by (home rank, token, k); a home rank orders what it expects by (computing rank, token,
/// k). Both orders are stable groupings of slots by rank, so make_permutation yields them, and the
/// counts on both sides agree without being exchanged.

#include <kmoe/dispatch/dispatcher.hpp>

#include "dispatch/payload.hpp"
#include "dispatch/slot_kernels.hpp"
#include "dispatch/wire.hpp"

namespace kmoe::detail {

template <ExecutionSpace E, Element T>
class Exchange {
 public:
  /// Takes all buffers; shape.config.dispatcher says for which dispatcher.
  void bind(Workspace<E>& ws, DispatchShape const& shape);
  /// Fills the table of the placement. Fences.
  void load(E const& exec, Communicator const& comm, ExpertPlacement const& placement,
            ExpertMap<E> const& map);

  /// Tokens and ids as the experts get them.
  struct Dispatched {
    Matrix<T const, E> x;            // [N, H]
    Matrix<index_t const, E> ids;    // [N, K]
    Matrix<float const, E> weights;  // [N, K]
  };

  /// Every rank keeps the tokens it has: replicated ones, or the only rank.
  Dispatched keep(E const& exec, DispatchInput<E, T> const& input);
  /// Every rank gets the tokens of all ranks.
  Dispatched gather(E const& exec, DispatchInput<E, T> const& input,
                    DispatchStatistics& statistics);
  /// Every other rank gets the tokens that it has experts for.
  Dispatched scatter(E const& exec, DispatchInput<E, T> const& input,
                     DispatchStatistics& statistics);
  /// Rows to their homes, where they are added (or placed) in y.
  void combine(E const& exec, CombineInput<E, T> const& input, InMatrix<T, E> addend,
               Matrix<T, E> const& y, DispatchStatistics& statistics);

  /// Tokens change their rank in dispatch().
  [[nodiscard]] bool moves() const { return several() && !replicated(); }

 private:
  [[nodiscard]] bool several() const { return shape_.num_ranks > 1; }
  [[nodiscard]] bool replicated() const {
    return shape_.config.token_layout == TokenLayout::replicated;
  }
  /// Tokens are rounded on their way.
  [[nodiscard]] bool quantizes() const {
    return shape_.config.dispatch_payload != PayloadCode::element;
  }
  [[nodiscard]] Payload payload() const {
    return {shape_.config.dispatch_payload, shape_.config.hidden_size};
  }
  /// The experts' rows travel as bfloat16.
  [[nodiscard]] bool narrows() const {
    return sizeof(T) > 2 && shape_.config.combine_payload == CombineCode::bf16;
  }
  /// Bytes of a token and of a row in messages.
  [[nodiscard]] std::size_t token_bytes() const {
    return quantizes() ? static_cast<std::size_t>(payload().words()) * sizeof(Word)
                       : static_cast<std::size_t>(hidden()) * sizeof(T);
  }
  [[nodiscard]] std::size_t row_bytes() const {
    return static_cast<std::size_t>(hidden()) * (narrows() ? sizeof(bfloat16) : sizeof(T));
  }
  [[nodiscard]] index_t num_slots() const { return shape_.config.slots_per_token(); }
  [[nodiscard]] index_t hidden() const { return shape_.config.hidden_size; }
  /// Rows of y per token.
  [[nodiscard]] index_t y_rows() const { return shape_.config.no_combine ? num_slots() : 1; }

  /// `begin .. begin + count - 1` of the input's tokens are at home here, dispatched as `first` on.
  void set_home(E const& exec, DispatchInput<E, T> const& input, index_t begin, index_t count,
                index_t first);
  /// With several ranks.
  Dispatched resolve(E const& exec, Matrix<T const, E> const& x);
  /// own_messages_ = x
  Matrix<Word, E> encode(E const& exec, Matrix<T const, E> const& x);
  /// tokens_[0 .. count) = messages
  void decode(E const& exec, Matrix<Word const, E> const& messages, std::size_t count);
  void return_rows(E const& exec, CombineInput<E, T> const& input);
  void add_at_home(E const& exec, CombineInput<E, T> const& input, T const* addend, T* y) const;

  DispatchShape shape_;
  Communicator comm_;
  SlotOwner<E> owner_;
  ExpertMap<E> map_;

  Vector<index_t, E> rank_of_;        // [E]
  Vector<offset_t, E> home_offsets_;  // [P + 1]
  // Data-parallel tokens on several ranks.
  Matrix<T, E> tokens_;          // [N, H]; quantized ones also of one rank
  Matrix<float, E> weights_;     // [N, K]
  Matrix<Slot, E> slots_out_;    // [tokens sent, K]
  Matrix<Slot, E> slots_in_;     // [N, K]
  Permutation<E> destinations_;  // all-to-all: tokens sent, by rank
  // Several ranks.
  Matrix<index_t, E> ids_;    // [N, K] in the experts' id space
  Permutation<E> outgoing_;   // dispatched slots whose rows go to another rank, by that rank
  Permutation<E> incoming_;   // slots at home whose rows come from another rank, by that rank
  Matrix<T, E> message_out_;  // rows going home; before that, all-to-all: tokens going out
  Matrix<T, E> message_in_;   // rows coming home
  // Quantized tokens: of this rank, by the rank they go to (all-to-all), and what came.
  Matrix<Word, E> own_messages_, token_messages_out_, token_messages_in_;
  Matrix<bfloat16, E> narrow_out_, narrow_in_;  // narrow rows
  Matrix<T, E> home_y_;                         // replicated: y of the tokens at home
  RankRows<E> tokens_sent_, tokens_at_, rows_sent_, rows_received_;
  Wire<E> wire_;

  // Of the dispatch in flight.
  DispatchInput<E, T> input_;
  index_t home_begin_ = 0, home_count_ = 0, home_first_ = 0;
};

}  // namespace kmoe::detail
