// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/core/error.hpp>
#include <kmoe/core/expert_map.hpp>

#include "instantiate.hpp"

namespace kmoe {
namespace {

/// Hosted by `rank` according to the placement's table; the shared experts behind it always are.
template <class E>
struct HostedByRank {
  Vector<index_t const, E> rank_of;
  index_t num_routed;
  index_t rank;
  KOKKOS_INLINE_FUNCTION bool operator()(index_t e) const {
    return e >= num_routed || rank_of(e) == rank;
  }
};

template <class E>
struct HostedByMask {
  Vector<index_t const, E> flags;
  KOKKOS_INLINE_FUNCTION bool operator()(index_t e) const { return flags(e) != 0; }
};

/// Numbers the hosted experts in ascending id order. The map may overwrite what `hosted` reads:
/// entry e is read by its own iteration only, and written by that iteration's final pass.
template <class E, class Hosted>
struct NumberHosted {
  Hosted hosted;
  Vector<index_t, E> map;
  KOKKOS_INLINE_FUNCTION void operator()(index_t e, index_t& slot, bool final) const {
    bool const here = hosted(e);
    if (final) map(e) = here ? slot : no_expert;
    slot += here ? 1 : 0;
  }
};

template <class E>
struct FlagHosted {
  ExpertMap<E> map;
  Vector<index_t, E> mask;
  KOKKOS_INLINE_FUNCTION void operator()(index_t e) const {
    index_t const slot = map(e);
    mask(e) = slot >= 0 && slot < map.num_local_experts() ? 1 : 0;
  }
};

template <class E>
struct RemapIds {
  ExpertMap<E> map;
  Matrix<index_t const, E> ids;
  Matrix<index_t, E> local;
  KOKKOS_INLINE_FUNCTION void operator()(offset_t slot) const {
    auto const k = static_cast<offset_t>(ids.extent(1));
    local(slot / k, slot % k) = map(ids(slot / k, slot % k));
  }
};

template <class E, class Hosted>
void number_hosted(E const& exec, Hosted const& hosted, Vector<index_t, E> const& map) {
  Kokkos::RangePolicy<E, Kokkos::IndexType<index_t>> const experts(
      exec, 0, static_cast<index_t>(map.extent(0)));
  Kokkos::parallel_scan("kmoe::make_expert_map", experts, NumberHosted<E, Hosted>{hosted, map});
}

}  // namespace

template <ExecutionSpace E>
ExpertMap<E> make_expert_map(E const& exec, ExpertPlacement const& placement, index_t rank,
                             Vector<index_t, E> storage) {
  constexpr std::string_view function = "kmoe::make_expert_map";
  detail::expect_extent(
      function, "storage.extent(0) must equal placement.num_placed() =", placement.num_placed(),
      static_cast<long long>(storage.extent(0)), storage.label());
  detail::expect(rank >= 0 && rank < placement.num_ranks(), function,
                 "rank must be in 0..num_ranks-1 = " + std::to_string(placement.num_ranks() - 1),
                 rank);
  auto const table = placement.rank_of_expert();
  Kokkos::View<index_t const*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged> const host(table.data(),
                                                                                      table.size());
  Kokkos::deep_copy(
      exec, Kokkos::subview(storage, std::pair<std::size_t, std::size_t>(0, table.size())), host);
  exec.fence("kmoe::make_expert_map: the placement may go away");
  number_hosted(exec, HostedByRank<E>{storage, placement.num_experts(), rank}, storage);
  return {storage, placement.num_local(rank)};
}

template <ExecutionSpace E>
ExpertMask<E> make_expert_mask(E const& exec, ExpertMap<E> const& map, Vector<index_t, E> storage) {
  detail::expect_extent("kmoe::make_expert_mask",
                        "storage.extent(0) must equal map.num_experts() =", map.num_experts(),
                        static_cast<long long>(storage.extent(0)), storage.label());
  Kokkos::parallel_for(
      "kmoe::make_expert_mask",
      Kokkos::RangePolicy<E, Kokkos::IndexType<index_t>>(exec, 0, map.num_experts()),
      FlagHosted<E>{map, storage});
  return {storage, map.num_local_experts()};
}

template <ExecutionSpace E>
ExpertMap<E> make_expert_map(E const& exec, ExpertMask<E> const& mask, Vector<index_t, E> storage) {
  detail::expect_extent("kmoe::make_expert_map",
                        "storage.extent(0) must equal mask.num_experts() =", mask.num_experts(),
                        static_cast<long long>(storage.extent(0)), storage.label());
  number_hosted(exec, HostedByMask<E>{mask.flags()}, storage);
  return {storage, mask.num_local_experts()};
}

template <ExecutionSpace E>
void remap_ids(E const& exec, ExpertMap<E> const& map, InMatrix<index_t, E> topk_ids,
               Matrix<index_t, E> const& local_ids) {
  constexpr std::string_view function = "kmoe::remap_ids";
  detail::expect_extent(function, "local_ids.extent(0) must equal topk_ids.extent(0) =",
                        static_cast<long long>(topk_ids.extent(0)),
                        static_cast<long long>(local_ids.extent(0)), local_ids.label());
  detail::expect_extent(function, "local_ids.extent(1) must equal topk_ids.extent(1) =",
                        static_cast<long long>(topk_ids.extent(1)),
                        static_cast<long long>(local_ids.extent(1)), local_ids.label());
  auto const slots = static_cast<offset_t>(topk_ids.extent(0) * topk_ids.extent(1));
  Kokkos::parallel_for("kmoe::remap_ids",
                       Kokkos::RangePolicy<E, Kokkos::IndexType<offset_t>>(exec, 0, slots),
                       RemapIds<E>{map, topk_ids, local_ids});
}

#define KMOE_INSTANTIATE(SPACE)                                                               \
  template KMOE_API ExpertMap<SPACE> make_expert_map(SPACE const&, ExpertPlacement const&,    \
                                                     index_t, Vector<index_t, SPACE>);        \
  template KMOE_API ExpertMask<SPACE> make_expert_mask(SPACE const&, ExpertMap<SPACE> const&, \
                                                       Vector<index_t, SPACE>);               \
  template KMOE_API ExpertMap<SPACE> make_expert_map(SPACE const&, ExpertMask<SPACE> const&,  \
                                                     Vector<index_t, SPACE>);                 \
  template KMOE_API void remap_ids(SPACE const&, ExpertMap<SPACE> const&,                     \
                                   Matrix<index_t const, SPACE>, Matrix<index_t, SPACE> const&);
KMOE_FOR_EACH_SPACE(KMOE_INSTANTIATE)

}  // namespace kmoe
