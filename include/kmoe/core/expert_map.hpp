// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// ExpertMap and ExpertMask: two types, so that a local index can not be passed for a 0/1 flag.
///
/// The mask is a pure function of the map and of the number of local experts, so whoever owns the
/// map (the dispatcher) owns the mask; the layer sees neither. (The separation is SGLang's
/// StandardDispatcher; the confusion it prevents cost other stacks their accuracy.)

#include <kmoe/core/expert_placement.hpp>
#include <kmoe/core/types.hpp>

namespace kmoe KMOE_API {

/// Global expert id -> local slot of one rank, -1 = not on this rank.
template <ExecutionSpace E>
class ExpertMap {
 public:
  ExpertMap() = default;
  ExpertMap(Vector<index_t const, E> local_slot, index_t num_local)
      : local_slot_(local_slot), num_local_(num_local) {}

  [[nodiscard]] index_t num_experts() const { return static_cast<index_t>(local_slot_.extent(0)); }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION index_t num_local_experts() const { return num_local_; }
  [[nodiscard]] Vector<index_t const, E> local_slots() const { return local_slot_; }

  /// Local slot of `id`, or -1 for an id outside 0..E-1 (a padded row's -1 included: it never
  /// reaches the table) and for an expert of another rank.
  KOKKOS_INLINE_FUNCTION index_t operator()(index_t id) const {
    auto const n = static_cast<std::uint32_t>(local_slot_.extent(0));
    return static_cast<std::uint32_t>(id) < n ? local_slot_(id) : no_expert;
  }

 private:
  Vector<index_t const, E> local_slot_;  // [E]
  index_t num_local_ = 0;
};

/// 1 for each global expert that this rank hosts, else 0.
template <ExecutionSpace E>
class ExpertMask {
 public:
  ExpertMask() = default;
  ExpertMask(Vector<index_t const, E> hosted, index_t num_local)
      : hosted_(hosted), num_local_(num_local) {}

  [[nodiscard]] index_t num_experts() const { return static_cast<index_t>(hosted_.extent(0)); }
  [[nodiscard]] index_t num_local_experts() const { return num_local_; }
  [[nodiscard]] Vector<index_t const, E> flags() const { return hosted_; }

 private:
  Vector<index_t const, E> hosted_;  // [E], 0 or 1
  index_t num_local_ = 0;
};

/// Builds the map of `rank` into `storage` [E + S]: map[e] = exclusive prefix sum of "rank hosts
/// e".
///
/// A functor over the placement's table, which is copied to the device first: the copy is waited
/// for, the kernel is asynchronous. Does not allocate on the device. Cost: 12 bytes per expert.
/// \param storage [E + S] that the map refers to from then on
/// \throws InvalidArgument if storage has another extent or rank is outside the placement
/// Tested against ExpertPlacement::experts_of.
template <ExecutionSpace E>
ExpertMap<E> make_expert_map(E const& exec, ExpertPlacement const& placement, index_t rank,
                             Vector<index_t, E> storage);

/// Builds the mask of a map into `storage` [E + S]: mask[e] = 0 <= map[e] < num_local.
/// Asynchronous; does not allocate. \throws InvalidArgument if storage has another extent
template <ExecutionSpace E>
ExpertMask<E> make_expert_mask(E const& exec, ExpertMap<E> const& map, Vector<index_t, E> storage);

/// The inverse direction of the AITER contract: the map that a mask implies, local slot = exclusive
/// prefix sum of the flags. `storage` may be the mask's own.
/// Asynchronous; does not allocate. \throws InvalidArgument if storage has another extent
template <ExecutionSpace E>
ExpertMap<E> make_expert_map(E const& exec, ExpertMask<E> const& mask, Vector<index_t, E> storage);

/// local_ids[t,k] = map(topk_ids[t,k]); -1 and out-of-range ids give -1. May be in place.
/// Asynchronous; does not allocate. Cost: 8 bytes per slot.
/// \throws InvalidArgument if the extents differ
template <ExecutionSpace E>
void remap_ids(E const& exec, ExpertMap<E> const& map, InMatrix<index_t, E> topk_ids,
               Matrix<index_t, E> const& local_ids);

}  // namespace KMOE_API
