// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// A batch of routed tokens that every rank can make a part of, experts that are cheap to compute,
/// and their way through a dispatcher.

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <kmoe/dispatch/all_to_all_dispatcher.hpp>
#include <kmoe/dispatch/standard_dispatcher.hpp>

#include "support/random.hpp"

namespace kmoe::test {

/// Kinds of routing.
enum class Ids { distinct, repeated, all_to_one, half_padded, all_padded, out_of_range };
inline constexpr std::array all_ids{Ids::distinct,    Ids::repeated,   Ids::all_to_one,
                                    Ids::half_padded, Ids::all_padded, Ids::out_of_range};

/// Tokens 0..tokens-1 with their routing; every number is a pure function of its token.
struct Batch {
  MoeConfig config;
  index_t tokens = 0;
  Ids kind = Ids::distinct;
  std::uint64_t seed = 1;

  [[nodiscard]] index_t slots() const { return config.slots_per_token(); }
  [[nodiscard]] std::uint64_t bits(std::uint64_t stream, index_t t, index_t k) const {
    return random_bits(seed * 16 + stream,
                       static_cast<std::uint64_t>(t) * 1000 + static_cast<std::uint64_t>(k));
  }

  [[nodiscard]] index_t id(index_t t, index_t k) const {
    index_t const routed = config.num_router_columns();
    if (k >= config.top_k) return config.num_experts + k - config.top_k;  // fused shared
    auto const any = static_cast<index_t>(bits(0, t, k) % static_cast<std::uint64_t>(routed));
    auto const start = static_cast<index_t>(bits(0, t, 0) % static_cast<std::uint64_t>(routed));
    constexpr auto largest = std::numeric_limits<index_t>::max();
    std::array<index_t, 8> const odd{-1,
                                     config.num_placed_experts() + config.num_zero_experts,
                                     config.num_placed_experts() + config.num_zero_experts + 1,
                                     any,
                                     largest,
                                     -largest - 1,
                                     any,
                                     -2};
    switch (kind) {
      case Ids::distinct:
        return (start + k) % routed;
      case Ids::repeated:
        return k % 3 == 2 ? any : start;
      case Ids::all_to_one:
        return routed - 1;
      case Ids::half_padded:
        return bits(1, t, k) % 2 == 0 || t % 3 == 0 ? no_expert : any;
      case Ids::all_padded:
        return no_expert;
      case Ids::out_of_range:
        return odd[bits(1, t, k) % odd.size()];
    }
    return no_expert;
  }
  [[nodiscard]] float weight(index_t t, index_t k) const {
    return k >= config.top_k ? 1.0F : static_cast<float>(random_unit(seed * 16 + 2, bits(2, t, k)));
  }
  /// x and addend: the same value in every element type after rounding to it.
  template <Element T>
  [[nodiscard]] T entry(std::uint64_t stream, index_t t, index_t h) const {
    return static_cast<T>(random_value(
        seed * 16 + 3 + stream,
        static_cast<std::uint64_t>(t) * 4096 + static_cast<std::uint64_t>(h), Values::uniform));
  }

  template <ExecutionSpace E, Element T>
  [[nodiscard]] Matrix<T, E> matrix(std::uint64_t stream, index_t begin, index_t end) const {
    Matrix<T, E> m("tokens", static_cast<std::size_t>(end - begin),
                   static_cast<std::size_t>(config.hidden_size));
    set_entries(m, [&](T& value, std::size_t i) {
      value = entry<T>(stream, begin + static_cast<index_t>(i / m.extent(1)),
                       static_cast<index_t>(i % m.extent(1)));
    });
    return m;
  }
  template <ExecutionSpace E>
  [[nodiscard]] Routing<E> routing(index_t begin, index_t end) const {
    auto const n = static_cast<std::size_t>(end - begin);
    auto const k = static_cast<std::size_t>(slots());
    Routing<E> out{Matrix<index_t, E>("topk_ids", n, k), Matrix<float, E>("topk_weights", n, k)};
    set_entries(out.topk_ids, [&](index_t& value, std::size_t i) {
      value = id(begin + static_cast<index_t>(i / k), static_cast<index_t>(i % k));
    });
    set_entries(out.topk_weights, [&](float& value, std::size_t i) {
      value = weight(begin + static_cast<index_t>(i / k), static_cast<index_t>(i % k));
    });
    return out;
  }
};

/// Expert e: a x[(h + e) mod H] + b. The rotation shows rows that went to another token or expert.
struct FakeExpert {
  index_t id;
  template <class A, class Row>
  [[nodiscard]] A operator()(Row const& x, index_t h, index_t hidden) const {
    auto const a = static_cast<A>(0.5 + 0.25 * (id % 7));
    auto const b = static_cast<A>(0.125 * (id % 11) - 0.5);
    return a * static_cast<A>(x((h + id) % hidden)) + b;
  }
};

enum class Placing { contiguous, round_robin, random };

inline ExpertPlacement make_placement(Placing placing, MoeConfig const& config, index_t ranks) {
  index_t const shared = config.router.num_fused_shared_experts;
  if (placing == Placing::contiguous) {
    return ExpertPlacement::contiguous(config.num_experts, ranks, shared);
  }
  if (placing == Placing::round_robin) {
    return ExpertPlacement::round_robin(config.num_experts, ranks, shared);
  }
  std::vector<index_t> rank_of(static_cast<std::size_t>(config.num_experts));
  for (std::size_t e = 0; e < rank_of.size(); ++e) {
    rank_of[e] = static_cast<index_t>(random_bits(99, e) % static_cast<std::uint64_t>(ranks));
  }
  return ExpertPlacement::custom(rank_of, ranks, shared);
}

enum class Split { even, ragged, all_on_first, all_on_last };

/// First token of each rank, and the total as the last entry.
inline std::vector<index_t> make_split(Split split, index_t tokens, index_t ranks) {
  std::vector<index_t> first(static_cast<std::size_t>(ranks) + 1, tokens);
  first[0] = 0;
  for (index_t p = 1; p < ranks; ++p) {
    index_t& begin = first[static_cast<std::size_t>(p)];
    switch (split) {
      case Split::even:
        begin = static_cast<index_t>(offset_t{tokens} * p / ranks);
        break;
      case Split::ragged:
        begin = p % 2 == 1 ? first[static_cast<std::size_t>(p) - 1] : tokens - tokens / (p + 1);
        break;
      case Split::all_on_first:
        begin = tokens;
        break;
      case Split::all_on_last:
        begin = 0;
        break;
    }
  }
  return first;
}

template <ExecutionSpace E, Element T>
std::unique_ptr<BaseDispatcher<E, T>> make_dispatcher(DispatcherKind kind, Communicator const& comm,
                                                      ExpertPlacement const& placement,
                                                      DispatchShape const& shape) {
  if (kind == DispatcherKind::standard) {
    return std::make_unique<StandardDispatcher<E, T>>(comm, placement, shape);
  }
  return std::make_unique<AllToAllDispatcher<E, T>>(comm, placement, shape);
}

/// Binds to a workspace whose bytes are all ones: NaN in every element type, -1 as an id or offset.
template <ExecutionSpace E, Element T>
Workspace<E> bind_poisoned(E const& exec, BaseDispatcher<E, T>& dispatcher) {
  Workspace<E> counted;
  dispatcher.bind(exec, counted);
  Workspace<E> ws(counted.device_bytes(), counted.host_bytes());
  auto paint = ws;
  Kokkos::deep_copy(paint.template vector<unsigned char>(counted.device_bytes()), 0xff);
  Kokkos::deep_copy(paint.template host_vector<unsigned char>(counted.host_bytes()), 0xff);
  dispatcher.bind(exec, ws);
  return ws;
}

/// Rows grouped by expert, with the scratch that grouping needs.
template <ExecutionSpace E>
struct Grouped {
  Workspace<E> workspace;
  Vector<index_t, E> mask_map;
  Permutation<E> permutation;

  template <Element T>
  explicit Grouped(BaseDispatcher<E, T> const& dispatcher) {
    workspace = make_workspace<E>([&](Workspace<E>& ws) {
      permutation.bind(ws, dispatcher.max_dispatched_tokens(),
                       dispatcher.shape().config.slots_per_token(), dispatcher.num_local_experts());
      mask_map = ws.template vector<index_t>(
          static_cast<std::size_t>(dispatcher.placement().num_placed()));
    });
  }
};

/// The experts' part: a row for each slot of the payload that belongs here.
template <ExecutionSpace E, Element T>
CombineInput<E, T> run_experts(BaseDispatcher<E, T> const& dispatcher,
                               DispatchOutput<E, T> const& payload, Grouped<E> const& grouped) {
  E const exec;
  group_by_expert<E>(exec, payload.expert_ids, grouped.mask_map, grouped.permutation);
  exec.fence();
  auto const x = to_host(payload.hidden_states);
  auto const weights = to_host(payload.topk_weights);
  auto const offsets = to_host(grouped.permutation.expert_offsets);
  auto const slot_of_row = to_host(grouped.permutation.slot_of_row);
  auto const experts = dispatcher.placement().experts_of(dispatcher.communicator().rank());
  MoeConfig const& config = dispatcher.shape().config;
  index_t const hidden = config.hidden_size;
  // One row more than there are: it stays NaN.
  auto const rows = poisoned_matrix<T, E>(static_cast<std::size_t>(offsets(experts.size()) + 1),
                                          static_cast<std::size_t>(hidden));
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), rows);
  using A = accumulate_t<T>;
  for (std::size_t e = 0; e < experts.size(); ++e) {
    for (offset_t r = offsets(e); r < offsets(e + 1); ++r) {
      index_t const slot = slot_of_row(r);
      index_t const n = slot / config.slots_per_token();
      A const w = config.no_combine ? A(1) : A(weights(n, slot % config.slots_per_token()));
      auto const token = [&](index_t h) { return x(n, h); };
      for (index_t h = 0; h < hidden; ++h) {
        host(r, h) = static_cast<T>(w * FakeExpert{experts[e]}.operator()<A>(token, h, hidden));
      }
    }
  }
  Kokkos::deep_copy(rows, host);
  return {payload.format, rows, grouped.permutation};
}

/// Tokens begin..end-1 of the batch through the dispatcher; y as a host array.
template <ExecutionSpace E, Element T>
std::vector<T> run_batch(BaseDispatcher<E, T>& dispatcher, Batch const& batch, index_t begin,
                         index_t end, bool with_addend) {
  E const exec;
  Grouped<E> const grouped(dispatcher);
  auto const x = batch.matrix<E, T>(0, begin, end);
  auto const routing = batch.routing<E>(begin, end);
  auto const payload = dispatcher.dispatch(exec, x, routing);
  auto const rows = run_experts(dispatcher, payload, grouped);
  auto const addend = with_addend ? batch.matrix<E, T>(1, begin, end) : Matrix<T, E>();
  if (dispatcher.shape().config.token_layout == TokenLayout::replicated) {
    // Only the rows of the tokens that are added up here may be read.
    index_t const rank = dispatcher.communicator().rank();
    auto const home = [&](index_t r) {
      return dispatcher.shape().first_home_token(r, end - begin);
    };
    set_entries(addend, [&, old = to_host(addend)](T& value, std::size_t i) {
      auto const t = static_cast<index_t>(i / addend.extent(1));
      bool const here = t >= home(rank) && t < home(rank + 1);
      value = here ? old.data()[i] : static_cast<T>(std::numeric_limits<float>::quiet_NaN());
    });
  }
  index_t const y_rows = (end - begin) * (batch.config.no_combine ? batch.slots() : 1);
  auto const y = poisoned_matrix<T, E>(static_cast<std::size_t>(y_rows), x.extent(1));
  dispatcher.combine(exec, rows, addend, y);
  exec.fence();
  auto const host = to_host(y);
  return {host.data(), host.data() + host.size()};
}

/// The whole batch on one rank, without MPI.
template <ExecutionSpace E, Element T>
std::vector<T> run_alone(Batch const& batch, bool with_addend) {
  auto config = batch.config;
  config.id_space = IdSpace::local;
  config.token_layout = TokenLayout::data_parallel;
  StandardDispatcher<E, T> dispatcher(
      Communicator(), make_placement(Placing::contiguous, config, 1), {config, 1, batch.tokens});
  auto const ws = bind_poisoned<E, T>(E(), dispatcher);
  return run_batch<E, T>(dispatcher, batch, 0, batch.tokens, with_addend);
}

}  // namespace kmoe::test
