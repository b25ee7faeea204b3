// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Kernels on slots: which rank computes each, what it is called there, and its way as a message.

#include <kmoe/core/expert_map.hpp>
#include <kmoe/core/types.hpp>

namespace kmoe::detail {

template <class E>
using ForEach = Kokkos::RangePolicy<E, Kokkos::IndexType<offset_t>>;

/// What travels with a token for each of its K slots.
struct Slot {
  index_t id;
  float weight;
};

/// Which rank computes a slot.
template <ExecutionSpace E>
struct SlotOwner {
  Vector<index_t const, E> rank_of;  // [E]
  index_t num_shared;
  index_t self;

  KOKKOS_INLINE_FUNCTION bool routed(index_t id) const {
    return static_cast<std::uint32_t>(id) < rank_of.extent(0);
  }
  /// Rank that computes a slot with this id of a token at home on `home`, or -1.
  KOKKOS_INLINE_FUNCTION index_t operator()(index_t id, index_t home) const {
    if (routed(id)) return rank_of(id);
    auto const shared =
        static_cast<std::uint32_t>(id) - static_cast<std::uint32_t>(rank_of.extent(0));
    return shared < static_cast<std::uint32_t>(num_shared) ? home : no_expert;
  }
};

/// ranks[t, k] = the other rank that computes the slot, else -1; with `once` only at the first slot
/// of a token that goes there.
template <ExecutionSpace E>
struct MarkRemote {
  SlotOwner<E> owner;
  Matrix<index_t const, E> ids;
  Matrix<index_t, E> ranks;
  bool once;

  KOKKOS_INLINE_FUNCTION index_t remote(offset_t t, index_t k) const {
    index_t const rank = owner(ids(t, k), owner.self);
    return rank == owner.self ? no_expert : rank;
  }
  KOKKOS_INLINE_FUNCTION void operator()(offset_t t) const {
    for (index_t k = 0; k < static_cast<index_t>(ids.extent(1)); ++k) {
      index_t const rank = remote(t, k);
      bool seen = false;
      for (index_t j = 0; once && j < k; ++j) seen = seen || remote(t, j) == rank;
      ranks(t, k) = seen ? no_expert : rank;
    }
  }
};

/// slots[r, :] = ids and weights of a token: the one of row r, or token r without slot_of_row.
template <ExecutionSpace E>
struct PackSlots {
  Matrix<index_t const, E> ids;
  Matrix<float const, E> weights;
  Vector<index_t const, E> slot_of_row;
  Matrix<Slot, E> slots;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t r) const {
    auto const num_slots = static_cast<index_t>(ids.extent(1));
    offset_t const t = slot_of_row.extent(0) == 0 ? r : slot_of_row(r) / num_slots;
    for (index_t k = 0; k < num_slots; ++k) slots(r, k) = {ids(t, k), weights(t, k)};
  }
};

/// For each dispatched token: its ids in the id space of the experts, its weights, and for each
/// slot computed here the other rank that its row goes home to, else -1.
template <ExecutionSpace E>
struct ResolveSlots {
  SlotOwner<E> owner;
  ExpertMap<E> map;
  bool masked;
  Vector<offset_t const, E> home_offsets;  // [P + 1] first dispatched token of each home rank
  Matrix<index_t const, E> global_ids;     // [N, K], or extent 0 where `slots` were received
  Matrix<Slot const, E> slots;             // [N, K]
  Matrix<index_t, E> ids;                  // [N, K]
  Matrix<float, E> weights;                // [N, K], from slots
  Matrix<index_t, E> returns_to;           // [N, K]

  /// The last rank whose tokens begin at or before n: ranks without tokens are passed over.
  KOKKOS_INLINE_FUNCTION index_t home_of(offset_t n) const {
    index_t low = 0;
    auto high = static_cast<index_t>(home_offsets.extent(0)) - 1;
    while (high - low > 1) {
      index_t const middle = (low + high) / 2;
      (home_offsets(middle) <= n ? low : high) = middle;
    }
    return low;
  }
  KOKKOS_INLINE_FUNCTION void operator()(offset_t n) const {
    index_t const home = home_of(n);
    for (std::size_t k = 0; k < ids.extent(1); ++k) {
      index_t const id = slots.extent(0) != 0 ? slots(n, k).id : global_ids(n, k);
      bool const here = owner(id, home) == owner.self;
      if (masked) {
        ids(n, k) = here || owner.routed(id) ? id : no_expert;
      } else {
        ids(n, k) = here ? map(id) : no_expert;
      }
      if (slots.extent(0) != 0) weights(n, k) = slots(n, k).weight;
      returns_to(n, k) = here && home != owner.self ? home : no_expert;
    }
  }
};

}  // namespace kmoe::detail
