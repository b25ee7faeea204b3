// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "dispatch/exchange.hpp"

#include <algorithm>

#include "device/launch.hpp"
#include "dispatch/row_kernels.hpp"
#include "instantiate.hpp"

namespace kmoe::detail {
namespace {

/// Worst cases of one dispatch, in tokens and rows.
struct Sizes {
  index_t sent = 0;  // tokens
  offset_t rows_sent = 0;
  offset_t rows_received = 0;
  index_t home_y = 0;  // tokens

  explicit Sizes(DispatchShape const& shape) {
    if (shape.num_ranks == 1) return;
    index_t const slots = shape.config.slots_per_token();
    index_t const tokens = shape.max_tokens;
    if (shape.config.token_layout == TokenLayout::replicated) {
      home_y = (tokens + shape.num_ranks - 1) / shape.num_ranks;
      rows_sent = offset_t{tokens - tokens / shape.num_ranks} * slots;
      rows_received = offset_t{home_y} * slots;
      return;
    }
    bool const packs = shape.config.dispatcher == DispatcherKind::all_to_all;
    sent = packs ? tokens * std::min(slots, shape.num_ranks - 1) : tokens;
    rows_sent = offset_t{tokens} * (shape.num_ranks - 1) * slots;
    rows_received = offset_t{tokens} * slots;
  }
};

template <class E>
auto rows_of(Permutation<E> const& permutation, index_t tokens) {
  return row_range(permutation.row_of_slot, 0, static_cast<std::size_t>(tokens));
}

}  // namespace

template <ExecutionSpace E, Element T>
void Exchange<E, T>::bind(Workspace<E>& ws, DispatchShape const& shape) {
  shape_ = shape;
  Sizes const sizes(shape);
  auto const dispatched = static_cast<std::size_t>(shape.max_dispatched_tokens());
  auto const slots = static_cast<std::size_t>(num_slots());
  auto const width = static_cast<std::size_t>(hidden());
  rank_of_ = ws.template vector<index_t>(static_cast<std::size_t>(shape.config.num_experts));
  home_offsets_ = ws.template vector<offset_t>(static_cast<std::size_t>(shape.num_ranks) + 1);
  tokens_at_.bind(ws, shape.num_ranks);
  bool const moving = several() && !replicated();
  if (quantizes()) {
    auto const words = static_cast<std::size_t>(payload().words());
    own_messages_ = ws.template matrix<Word>(static_cast<std::size_t>(shape.max_tokens), words);
    bool const packs = moving && shape.config.dispatcher == DispatcherKind::all_to_all;
    token_messages_out_ =
        ws.template matrix<Word>(packs ? static_cast<std::size_t>(sizes.sent) : 0, words);
    token_messages_in_ = ws.template matrix<Word>(moving ? dispatched : 0, words);
  }
  if (quantizes() || moving) tokens_ = ws.template matrix<T>(dispatched, width);
  if (!several()) return;

  ids_ = ws.template matrix<index_t>(dispatched, slots);
  outgoing_.bind(ws, shape.max_dispatched_tokens(), num_slots(), shape.num_ranks);
  incoming_.bind(ws, replicated() ? sizes.home_y : shape.max_tokens, num_slots(), shape.num_ranks);
  message_out_ = ws.template matrix<T>(static_cast<std::size_t>(sizes.rows_sent), width);
  message_in_ = ws.template matrix<T>(static_cast<std::size_t>(sizes.rows_received), width);
  rows_sent_.bind(ws, shape.num_ranks);
  rows_received_.bind(ws, shape.num_ranks);
  // Not from size(): that of a null View, which a counting workspace hands out, is 0.
  if (narrows()) {
    narrow_out_ = ws.template matrix<bfloat16>(static_cast<std::size_t>(sizes.rows_sent), width);
    narrow_in_ = ws.template matrix<bfloat16>(static_cast<std::size_t>(sizes.rows_received), width);
  }
  std::size_t send_bytes = static_cast<std::size_t>(sizes.rows_sent) * row_bytes();
  std::size_t recv_bytes = static_cast<std::size_t>(sizes.rows_received) * row_bytes();
  if (replicated()) {
    auto const home = static_cast<std::size_t>(sizes.home_y);
    auto const rows_per_token = static_cast<std::size_t>(y_rows());
    home_y_ = ws.template matrix<T>(home * rows_per_token, width);
    std::size_t const y_bytes = width * sizeof(T);
    send_bytes = std::max(send_bytes, home * rows_per_token * y_bytes);
    recv_bytes = std::max(recv_bytes, dispatched * rows_per_token * y_bytes);
  } else {
    auto const sent = static_cast<std::size_t>(sizes.sent);
    std::size_t const largest = std::max(token_bytes(), slots * sizeof(Slot));
    weights_ = ws.template matrix<float>(dispatched, slots);
    slots_out_ = ws.template matrix<Slot>(sent, slots);
    slots_in_ = ws.template matrix<Slot>(dispatched, slots);
    if (shape.config.dispatcher == DispatcherKind::all_to_all) {
      destinations_.bind(ws, shape.max_tokens, num_slots(), shape.num_ranks);
      tokens_sent_.bind(ws, shape.num_ranks);
    }
    send_bytes = std::max(send_bytes, sent * largest);
    recv_bytes = std::max(recv_bytes, dispatched * largest);
  }
  wire_.bind(ws, shape.stage_through_host, send_bytes, recv_bytes);
}

template <ExecutionSpace E, Element T>
void Exchange<E, T>::load(E const& exec, Communicator const& comm, ExpertPlacement const& placement,
                          ExpertMap<E> const& map) {
  comm_ = comm;
  map_ = map;
  if (comm.gpu_aware()) wire_.send_directly();
  owner_ = {rank_of_, placement.num_shared(), comm.rank()};
  auto const table = placement.rank_of_expert();
  Kokkos::deep_copy(exec, rank_of_,
                    Kokkos::View<index_t const*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged>(
                        table.data(), table.size()));
  exec.fence("kmoe::dispatch: the placement may go away");
}

template <ExecutionSpace E, Element T>
auto Exchange<E, T>::keep(E const& exec, DispatchInput<E, T> const& input) -> Dispatched {
  auto const tokens = static_cast<index_t>(input.x.extent(0));
  auto const& at = tokens_at_;
  for (index_t p = 0; p <= shape_.num_ranks; ++p)
    at.offsets(p) = shape_.first_home_token(p, tokens);
  at.difference_offsets();
  auto const begin = static_cast<index_t>(at.offsets(owner_.self));
  set_home(exec, input, begin, static_cast<index_t>(at.counts(owner_.self)), begin);
  auto x = input.x;
  if (quantizes()) {
    decode(exec, encode(exec, x), x.extent(0));
    x = row_range(tokens_, 0, x.extent(0));
  }
  // A rank that hosts everything numbers the experts by their ids.
  if (!several()) return {x, input.routing.topk_ids, input.routing.topk_weights};
  auto dispatched = resolve(exec, x);
  dispatched.weights = input.routing.topk_weights;
  return dispatched;
}

template <ExecutionSpace E, Element T>
auto Exchange<E, T>::gather(E const& exec, DispatchInput<E, T> const& input,
                            DispatchStatistics& statistics) -> Dispatched {
  auto const tokens = static_cast<offset_t>(input.x.extent(0));
  comm_.all_gather({&tokens, 1}, tokens_at_.count_span());
  tokens_at_.sum_counts();
  set_home(exec, input, 0, static_cast<index_t>(tokens),
           static_cast<index_t>(tokens_at_.offsets(owner_.self)));

  Kokkos::parallel_for(
      "kmoe::dispatch::pack_slots", ForEach<E>(exec, 0, tokens),
      PackSlots<E>{input.routing.topk_ids, input.routing.topk_weights, {}, slots_out_});
  if (quantizes()) {
    auto const own = encode(exec, input.x);
    wire_.all_gather(exec, comm_, own.data(), token_messages_in_.data(), tokens_at_, own.extent(1));
    decode(exec, token_messages_in_, static_cast<std::size_t>(tokens_at_.total()));
  } else {
    wire_.all_gather(exec, comm_, input.x.data(), tokens_.data(), tokens_at_, hidden());
  }
  wire_.all_gather(exec, comm_, slots_out_.data(), slots_in_.data(), tokens_at_, num_slots());

  statistics.tokens_sent = tokens * (shape_.num_ranks - 1);
  statistics.tokens_received = tokens_at_.total() - tokens;
  return resolve(exec, tokens_);
}

template <ExecutionSpace E, Element T>
auto Exchange<E, T>::scatter(E const& exec, DispatchInput<E, T> const& input,
                             DispatchStatistics& statistics) -> Dispatched {
  auto const tokens = static_cast<index_t>(input.x.extent(0));
  auto const& ids = input.routing.topk_ids;
  auto const& weights = input.routing.topk_weights;
  auto const once = rows_of(destinations_, tokens);
  Kokkos::parallel_for("kmoe::dispatch::mark_destinations", ForEach<E>(exec, 0, tokens),
                       MarkRemote<E>{owner_, ids, once, true});
  make_permutation<E>(exec, once, destinations_);
  Kokkos::deep_copy(exec, tokens_sent_.offsets, destinations_.expert_offsets);
  exec.fence("kmoe::dispatch: counts on the host");
  tokens_sent_.difference_offsets();
  comm_.all_to_all(tokens_sent_.count_span(), tokens_at_.count_span());
  offset_t& own = tokens_at_.counts(owner_.self);
  own = tokens;
  tokens_at_.sum_counts();
  offset_t const first = tokens_at_.offsets(owner_.self);
  set_home(exec, input, 0, tokens, static_cast<index_t>(first));

  // Nothing travels from a rank to itself: its place among the received tokens is left free.
  auto const sent = static_cast<std::size_t>(tokens_sent_.total());
  auto const end = static_cast<std::size_t>(first + tokens);
  Kokkos::parallel_for("kmoe::dispatch::pack_slots", ForEach<E>(exec, 0, tokens_sent_.total()),
                       PackSlots<E>{ids, weights, destinations_.slot_of_row, slots_out_});
  own = 0;
  if (quantizes()) {
    auto const messages = encode(exec, input.x);
    auto const packed = row_range(token_messages_out_, 0, sent);
    permute<E, Word>(exec, messages, destinations_, packed);
    wire_.all_to_all(exec, comm_, packed.data(), tokens_sent_, token_messages_in_.data(),
                     tokens_at_, messages.extent(1));
    Kokkos::deep_copy(exec, row_range(token_messages_in_, static_cast<std::size_t>(first), end),
                      messages);
    decode(exec, token_messages_in_, static_cast<std::size_t>(tokens_at_.total()));
  } else {
    auto const packed = row_range(message_out_, 0, sent);
    permute<E, T>(exec, input.x, destinations_, packed);
    wire_.all_to_all(exec, comm_, packed.data(), tokens_sent_, tokens_.data(), tokens_at_,
                     hidden());
    Kokkos::deep_copy(exec, row_range(tokens_, static_cast<std::size_t>(first), end), input.x);
  }
  wire_.all_to_all(exec, comm_, slots_out_.data(), tokens_sent_, slots_in_.data(), tokens_at_,
                   num_slots());
  own = tokens;
  Kokkos::parallel_for(
      "kmoe::dispatch::pack_slots", ForEach<E>(exec, 0, tokens),
      PackSlots<E>{ids, weights, {}, row_range(slots_in_, static_cast<std::size_t>(first), end)});

  statistics.tokens_sent = tokens_sent_.total();
  statistics.tokens_received = tokens_at_.total() - tokens;
  return resolve(exec, tokens_);
}

template <ExecutionSpace E, Element T>
Matrix<Word, E> Exchange<E, T>::encode(E const& exec, Matrix<T const, E> const& x) {
  auto const messages = row_range(own_messages_, 0, x.extent(0));
  using Encode = EncodeTokens<E, T>;
  if (x.extent(0) != 0) {
    constexpr int threads = on_host<E> ? 1 : 128;
    Kokkos::parallel_for("kmoe::dispatch::encode_tokens",
                         typename Encode::Policy(exec, static_cast<int>(x.extent(0)), threads),
                         Encode{payload(), x, messages});
  }
  return messages;
}

template <ExecutionSpace E, Element T>
void Exchange<E, T>::decode(E const& exec, Matrix<Word const, E> const& messages,
                            std::size_t count) {
  using Decode = DecodeTokens<E, T>;
  auto const items = static_cast<offset_t>(count) * Decode::steps(hidden());
  Kokkos::parallel_for("kmoe::dispatch::decode_tokens", ForEach<E>(exec, 0, items),
                       Decode{payload(), messages, tokens_});
}

template <ExecutionSpace E, Element T>
void Exchange<E, T>::set_home(E const& exec, DispatchInput<E, T> const& input, index_t begin,
                              index_t count, index_t first) {
  input_ = input;
  home_begin_ = begin;
  home_count_ = count;
  home_first_ = first;
  if (!several()) return;
  auto const ids = row_range(input.routing.topk_ids, static_cast<std::size_t>(begin),
                             static_cast<std::size_t>(begin + count));
  auto const ranks = rows_of(incoming_, count);
  Kokkos::parallel_for("kmoe::dispatch::mark_incoming", ForEach<E>(exec, 0, count),
                       MarkRemote<E>{owner_, ids, ranks, false});
  make_permutation<E>(exec, ranks, incoming_);
  Kokkos::deep_copy(exec, rows_received_.offsets, incoming_.expert_offsets);
}

template <ExecutionSpace E, Element T>
auto Exchange<E, T>::resolve(E const& exec, Matrix<T const, E> const& x) -> Dispatched {
  auto const num_tokens = static_cast<index_t>(tokens_at_.total());
  auto const n = static_cast<std::size_t>(num_tokens);
  Kokkos::deep_copy(exec, home_offsets_, tokens_at_.offsets);
  auto const returns_to = rows_of(outgoing_, num_tokens);
  Kokkos::parallel_for(
      "kmoe::dispatch::resolve_slots", ForEach<E>(exec, 0, num_tokens),
      ResolveSlots<E>{owner_, map_, shape_.config.id_space == IdSpace::masked, home_offsets_,
                      input_.routing.topk_ids, slots_in_, ids_, weights_, returns_to});
  make_permutation<E>(exec, returns_to, outgoing_);
  Kokkos::deep_copy(exec, rows_sent_.offsets, outgoing_.expert_offsets);
  return {row_range(x, 0, n), row_range(ids_, 0, n),
          moves() ? row_range(weights_, 0, n) : Matrix<float, E>()};
}

template <ExecutionSpace E, Element T>
void Exchange<E, T>::combine(E const& exec, CombineInput<E, T> const& input, InMatrix<T, E> addend,
                             Matrix<T, E> const& y, DispatchStatistics& statistics) {
  auto const bytes = [](std::size_t n) { return static_cast<offset_t>(n); };
  statistics.bytes_sent =
      statistics.tokens_sent * (bytes(token_bytes()) + num_slots() * bytes(sizeof(Slot)));
  if (several()) {
    return_rows(exec, input);
    statistics.bytes_sent += rows_sent_.total() * bytes(row_bytes());
  }
  offset_t const begin = offset_t{home_begin_} * hidden();
  T const* const home_addend = addend.extent(0) == 0 ? nullptr : addend.data() + begin;
  if (!several() || !replicated()) {
    add_at_home(exec, input, home_addend, y.data());
    return;
  }
  add_at_home(exec, input, home_addend, home_y_.data());
  wire_.all_gather(exec, comm_, home_y_.data(), y.data(), tokens_at_,
                   static_cast<std::size_t>(hidden()) * static_cast<std::size_t>(y_rows()));
  statistics.bytes_sent +=
      home_count_ * (shape_.num_ranks - 1) * y_rows() * hidden() * bytes(sizeof(T));
}

template <ExecutionSpace E, Element T>
void Exchange<E, T>::return_rows(E const& exec, CombineInput<E, T> const& input) {
  exec.fence("kmoe::combine: counts on the host");
  rows_sent_.difference_offsets();
  rows_received_.difference_offsets();
  auto const from = rows_of(input.rows);
  auto const to = rows_of(message_out_);
  auto const gather = [&]<int Width>(std::integral_constant<int, Width>) {
    Tiles<Width> const tiles(hidden());
    Kokkos::parallel_for(
        "kmoe::combine::gather_rows", ForEach<E>(exec, 0, rows_sent_.total() * tiles.per_row),
        GatherRows<E, T, Width>{outgoing_.slot_of_row.data(), input.permutation.row_of_slot.data(),
                                from, to, tiles});
  };
  with_tile_width<E>(hidden(), gather, from, to);
  if (!narrows()) {
    wire_.all_to_all(exec, comm_, message_out_.data(), rows_sent_, message_in_.data(),
                     rows_received_, hidden());
    return;
  }
  Kokkos::parallel_for("kmoe::combine::narrow", ForEach<E>(exec, 0, rows_sent_.total() * hidden()),
                       ConvertElements<E, T, bfloat16>{message_out_.data(), narrow_out_.data()});
  wire_.all_to_all(exec, comm_, narrow_out_.data(), rows_sent_, narrow_in_.data(), rows_received_,
                   hidden());
  Kokkos::parallel_for("kmoe::combine::widen",
                       ForEach<E>(exec, 0, rows_received_.total() * hidden()),
                       ConvertElements<E, bfloat16, T>{narrow_in_.data(), message_in_.data()});
}

template <ExecutionSpace E, Element T>
void Exchange<E, T>::add_at_home(E const& exec, CombineInput<E, T> const& input, T const* addend,
                                 T* y) const {
  offset_t const slot = offset_t{home_begin_} * num_slots();
  MoeConfig const& config = shape_.config;
  offset_t const stride = hidden();
  HomeRows<E, T> const source{
      several() ? incoming_.row_of_slot.data() : nullptr,
      input.permutation.row_of_slot.data() + offset_t{home_first_} * num_slots(),
      input_.routing.topk_ids.data() + slot,
      rows_of(message_in_),
      rows_of(input.rows),
      {input_.x.data() + offset_t{home_begin_} * stride, stride},
      config.num_experts,
      config.num_zero_experts};
  Rows<T const> const added{addend, stride};
  Rows<T> const sums{y, stride};
  float const* const weights = input_.routing.topk_weights.data() + slot;
  auto const launch = [&]<int Width>(std::integral_constant<int, Width>) {
    Tiles<Width> const tiles(hidden());
    offset_t const items = home_count_ * offset_t{tiles.per_row};
    if (config.no_combine) {
      device::dependent_for(exec, "kmoe::combine::place_rows", items * num_slots(),
                            PlaceRows<E, T, Width>{source, num_slots(), sums, tiles});
    } else {
      device::dependent_for(
          exec, "kmoe::combine::add_rows", items,
          AddRows<E, T, Width>{source, num_slots(), weights, added, sums, narrows(), tiles});
    }
  };
  with_tile_width<E>(hidden(), launch, source.arrived, source.rows, source.x, added, sums);
}

#define KMOE_INSTANTIATE(SPACE, ELEMENT) template class Exchange<SPACE, ELEMENT>;
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE

}  // namespace kmoe::detail
