// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/permute/permutation.hpp>

#include <algorithm>
#include <limits>

#include <kmoe/core/error.hpp>

#include "instantiate.hpp"
#include "permute/check_permutation.hpp"
#include "permute/group_few.hpp"
#include "permute/group_slots.hpp"

namespace kmoe {
namespace {

/// Whether the kernels of group_slots.hpp exist for E.
template <class E>
inline constexpr bool has_warps = device::warp_size<E> > 1;

/// How the slots are cut into blocks, each counted and placed by one thread (with warps: team).
/// Block b has its own row of `stride` counts, so that threads share no cache line.
struct Blocks {
  offset_t num_blocks;
  offset_t tokens_per_block;
  offset_t stride;

  [[nodiscard]] offset_t scratch_size() const { return num_blocks * stride; }
};

/// Grows with each argument, so scratch for the largest call serves every smaller one. No more
/// blocks than leave each one at least G slots: the histograms never outweigh the slots.
template <class E>
Blocks make_blocks(offset_t num_tokens, offset_t slots_per_token, offset_t num_groups) {
  constexpr bool host =
      Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename E::memory_space>::accessible;
  constexpr offset_t min_slots = host ? 4096 : 64;
  constexpr offset_t max_blocks = host ? 128 : 512;
  offset_t const stride = (num_groups + 15) / 16 * 16;
  offset_t const wanted = num_tokens * slots_per_token / std::max(min_slots, stride);
  offset_t const blocks =
      std::clamp<offset_t>(wanted, 1, std::clamp<offset_t>(num_tokens, 1, max_blocks));
  return {blocks, (num_tokens + blocks - 1) / blocks, stride};
}

template <class E>
struct CountIds {
  Matrix<index_t const, E> ids;
  Vector<offset_t, E> counts;
  Blocks blocks;
  std::uint32_t num_groups;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t block) const {
    auto const num_tokens = static_cast<offset_t>(ids.extent(0));
    auto const k_end = static_cast<offset_t>(ids.extent(1));
    offset_t* const own = counts.data() + block * blocks.stride;
    for (std::uint32_t g = 0; g < num_groups; ++g) own[g] = 0;
    offset_t const begin = block * blocks.tokens_per_block;
    offset_t const end = Kokkos::min(begin + blocks.tokens_per_block, num_tokens);
    for (offset_t t = begin; t < end; ++t) {
      for (offset_t k = 0; k < k_end; ++k) {
        auto const g = static_cast<std::uint32_t>(ids(t, k));
        if (g < num_groups) ++own[g];
      }
    }
  }
};

/// Exclusive prefix sum of the counts by (group, block): where each block's slots of a group begin.
template <class E>
struct PlaceBlocks {
  Vector<offset_t, E> counts;
  Vector<offset_t, E> expert_offsets;
  Blocks blocks;
  offset_t num_groups;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t i, offset_t& row, bool final) const {
    offset_t const group = i / blocks.num_blocks;
    offset_t const block = i % blocks.num_blocks;
    if (final && block == 0) expert_offsets(group) = row;
    if (group == num_groups) return;  // the one index past the counts: the total
    offset_t& entry = counts(block * blocks.stride + group);
    offset_t const count = entry;
    if (final) entry = row;
    row += count;
  }
};

template <class E>
struct PlaceSlots {
  Matrix<index_t const, E> ids;
  Vector<offset_t, E> next_rows;
  Vector<index_t, E> slot_of_row;
  Matrix<index_t, E> row_of_slot;
  Blocks blocks;
  std::uint32_t num_groups;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t block) const {
    auto const num_tokens = static_cast<offset_t>(ids.extent(0));
    auto const k_end = static_cast<offset_t>(ids.extent(1));
    offset_t* const next = next_rows.data() + block * blocks.stride;
    offset_t const begin = block * blocks.tokens_per_block;
    offset_t const end = Kokkos::min(begin + blocks.tokens_per_block, num_tokens);
    for (offset_t t = begin; t < end; ++t) {
      for (offset_t k = 0; k < k_end; ++k) {
        auto const g = static_cast<std::uint32_t>(ids(t, k));
        index_t row = no_expert;
        if (g < num_groups) {
          row = static_cast<index_t>(next[g]++);
          slot_of_row(row) = static_cast<index_t>(t * k_end + k);
        }
        row_of_slot(t, k) = row;
      }
    }
  }
};

void expect_few_slots(std::string_view function, offset_t num_tokens, offset_t slots_per_token) {
  offset_t const slots = num_tokens * slots_per_token;
  detail::expect(slots <= std::numeric_limits<index_t>::max(), function, "T * K must be below 2^31",
                 slots);
}

/// The kernels of group_few.hpp: true if the sizes suit them.
template <class E>
bool group_few(E const& exec, grouping::Slots slots, Permutation<E> const& out,
               offset_t* rows_per_expert) {
  using Place = grouping::PlaceFew<E>;
  using Count = grouping::CountFew<E>;
  constexpr index_t groups = grouping::few_groups;
  auto* const counts = reinterpret_cast<grouping::Count*>(out.scratch.data());
  auto const aligned = [](void const* p) {
    return reinterpret_cast<std::uintptr_t>(p) % sizeof(device::Chunk) == 0;
  };
  // Two teams for each multiprocessor, and enough slots for each; scratch holds 64-bit counts.
  auto const most = static_cast<index_t>(
      std::min<offset_t>(exec.concurrency() / 1024, 2 * out.scratch.extent(0) / groups));
  if (slots.num_groups < 1 || slots.num_groups > groups || most < 4 ||
      Place::scratch(slots) > device::large_scratch(exec) || !aligned(slots.ids) ||
      !aligned(out.row_of_slot.data()) || !aligned(counts)) {
    return false;
  }
  auto const round_up = [](index_t n, index_t to) { return (n + to - 1) / to * to; };
  index_t const wanted = std::clamp<index_t>(slots.num_slots / 2048, 4, most / 4 * 4);
  slots.slots_per_block = round_up((slots.num_slots + wanted - 1) / wanted, 16);
  index_t const blocks =
      round_up((slots.num_slots + slots.slots_per_block - 1) / slots.slots_per_block, 4);
  device::team_for(exec, "kmoe::make_permutation::count", blocks, Count::scratch(slots),
                   Count{slots, counts, blocks}, true);
  device::team_for(exec, "kmoe::make_permutation::place", blocks, Place::scratch(slots),
                   Place{slots, counts, blocks, out.expert_offsets.data(), rows_per_expert,
                         out.slot_of_row.data(), out.row_of_slot.data()},
                   true);
  return true;
}

/// The kernels of group_slots.hpp: true if the sizes suit them.
template <class E>
bool group_by_warps(E const& exec, Matrix<index_t const, E> const& ids, grouping::Slots slots,
                    Permutation<E> const& out, Vector<offset_t, E> const& rows_per_expert) {
  using grouping::team_threads, grouping::tile_slots;
  auto const num_slots = static_cast<offset_t>(ids.size());
  if (!ids.span_is_contiguous() || num_slots > grouping::max_slots ||
      slots.num_groups > grouping::max_groups || slots.num_ids > grouping::max_ids) {
    return false;
  }
  slots.ids = ids.data();
  slots.num_slots = static_cast<index_t>(num_slots);
  slots.slots_per_block = slots.num_slots;
  offset_t* const rows = rows_per_expert.extent(0) > 0 ? rows_per_expert.data() : nullptr;
  bool const counted = num_slots > tile_slots;
  if constexpr (grouping::has_few<E>) {
    if (counted && group_few(exec, slots, out, rows)) return true;
  }
  auto* const counts = reinterpret_cast<grouping::Count*>(out.scratch.data());
  index_t num_blocks = 1;
  if (counted) {
    // A block reads the counts of all: as many of them as slots of its own are worth it. Scratch
    // holds 64-bit counts.
    auto const groups = std::max<offset_t>(slots.num_groups, 1);
    offset_t const most =
        std::min<offset_t>(2 * static_cast<offset_t>(out.scratch.extent(0)) / groups,
                           std::clamp<offset_t>(65536 / groups, 1, 512));
    offset_t const blocks = std::clamp<offset_t>(num_slots / 2048, 1, std::max<offset_t>(most, 1));
    auto const round_up = [](offset_t n, offset_t to) { return (n + to - 1) / to * to; };
    offset_t per_block = round_up((num_slots + blocks - 1) / blocks, team_threads);
    if (per_block > tile_slots) per_block = round_up(per_block, tile_slots);
    slots.slots_per_block = static_cast<index_t>(per_block);
    num_blocks = static_cast<index_t>((num_slots + per_block - 1) / per_block);
    device::team_for(exec, "kmoe::make_permutation::count", num_blocks,
                     grouping::CountSlots<E>::scratch(slots),
                     grouping::CountSlots<E>{slots, counts}, true);
  }
  device::team_for(exec, "kmoe::make_permutation::place", num_blocks,
                   grouping::PlaceSlots<E>::scratch(slots),
                   grouping::PlaceSlots<E>{slots, counted ? counts : nullptr, num_blocks,
                                           out.expert_offsets.data(), rows, out.slot_of_row.data(),
                                           out.row_of_slot.data()},
                   true);
  return true;
}

/// rows_per_expert += sizes of the groups
template <class E>
struct AddRows {
  Vector<offset_t const, E> expert_offsets;
  Vector<offset_t, E> rows_per_expert;

  KOKKOS_INLINE_FUNCTION void operator()(offset_t g) const {
    rows_per_expert(g) += expert_offsets(g + 1) - expert_offsets(g);
  }
};

constexpr std::string_view function = "kmoe::make_permutation";

/// Three kernels, where a thread is as good as a warp.
template <class E>
void group_by_threads(E const& exec, Matrix<index_t const, E> const& topk_ids,
                      Permutation<E> const& out, Vector<offset_t, E> const& rows_per_expert) {
  auto const groups = static_cast<offset_t>(out.expert_offsets.extent(0)) - 1;
  Blocks const blocks = make_blocks<E>(static_cast<offset_t>(topk_ids.extent(0)),
                                       static_cast<offset_t>(topk_ids.extent(1)), groups);
  using Range = Kokkos::RangePolicy<E, Kokkos::IndexType<offset_t>>;
  auto const num_groups = static_cast<std::uint32_t>(groups);
  Kokkos::parallel_for("kmoe::make_permutation::count", Range(exec, 0, blocks.num_blocks),
                       CountIds<E>{topk_ids, out.scratch, blocks, num_groups});
  Kokkos::parallel_scan("kmoe::make_permutation::scan",
                        Range(exec, 0, groups * blocks.num_blocks + 1),
                        PlaceBlocks<E>{out.scratch, out.expert_offsets, blocks, groups});
  Kokkos::parallel_for(
      "kmoe::make_permutation::place", Range(exec, 0, blocks.num_blocks),
      PlaceSlots<E>{topk_ids, out.scratch, out.slot_of_row, out.row_of_slot, blocks, num_groups});
  if (rows_per_expert.extent(0) > 0) {
    Kokkos::parallel_for("kmoe::make_permutation::add_rows", Range(exec, 0, groups),
                         AddRows<E>{out.expert_offsets, rows_per_expert});
  }
}

}  // namespace

template <ExecutionSpace E>
void detail::check_permutation(Matrix<index_t const, E> const& topk_ids, Permutation<E> const& out,
                               Vector<offset_t, E> const& rows_per_expert) {
  auto const num_tokens = static_cast<offset_t>(topk_ids.extent(0));
  auto const k = static_cast<offset_t>(topk_ids.extent(1));
  auto const groups = static_cast<offset_t>(out.expert_offsets.extent(0)) - 1;
  detail::expect(groups >= 0, function, "out.expert_offsets.extent(0) must be at least 1",
                 groups + 1);
  detail::expect_extent(function, "topk_ids.extent(1) must equal out.row_of_slot.extent(1) =",
                        static_cast<long long>(out.row_of_slot.extent(1)), k, topk_ids.label());
  expect_few_slots(function, num_tokens, k);
  auto const bound = static_cast<offset_t>(
      std::min(out.row_of_slot.extent(0) * out.row_of_slot.extent(1), out.slot_of_row.extent(0)));
  detail::expect(num_tokens * k <= bound, function,
                 "T * K must be at most what `out` is bound for, " + std::to_string(bound),
                 num_tokens * k);
  Blocks const blocks = make_blocks<E>(num_tokens, k, groups);
  detail::expect(blocks.scratch_size() <= static_cast<offset_t>(out.scratch.extent(0)), function,
                 "out.scratch.extent(0) must be at least " + std::to_string(blocks.scratch_size()),
                 static_cast<long long>(out.scratch.extent(0)));
  if (rows_per_expert.extent(0) != 0) {
    detail::expect_extent(function, "rows_per_expert.extent(0) must be 0 or equal G =", groups,
                          static_cast<long long>(rows_per_expert.extent(0)),
                          rows_per_expert.label());
  }
}

template <ExecutionSpace E>
void Permutation<E>::bind(Workspace<E>& ws, index_t max_tokens, index_t num_slots_per_token,
                          index_t num_groups) {
  constexpr std::string_view name = "kmoe::Permutation::bind";
  detail::expect(max_tokens >= 0, name, "max_tokens must be at least 0", max_tokens);
  detail::expect(num_slots_per_token >= 0, name, "num_slots_per_token must be at least 0",
                 num_slots_per_token);
  detail::expect(num_groups >= 0, name, "num_groups must be at least 0", num_groups);
  expect_few_slots(name, max_tokens, num_slots_per_token);
  auto const t = static_cast<std::size_t>(max_tokens);
  auto const k = static_cast<std::size_t>(num_slots_per_token);
  auto const g = static_cast<std::size_t>(num_groups);
  expert_offsets = ws.template vector<offset_t>(g + 1);
  slot_of_row = ws.template vector<index_t>(t * k);
  row_of_slot = ws.template matrix<index_t>(t, k);
  scratch = ws.template vector<offset_t>(static_cast<std::size_t>(
      make_blocks<E>(max_tokens, num_slots_per_token, num_groups).scratch_size()));
}

template <ExecutionSpace E>
void make_permutation(E const& exec, InMatrix<index_t, E> topk_ids, Permutation<E> const& out,
                      Vector<offset_t, E> const& rows_per_expert) {
  detail::check_permutation<E>(topk_ids, out, rows_per_expert);
  if constexpr (has_warps<E>) {
    grouping::Slots slots{};
    slots.num_groups = static_cast<index_t>(out.expert_offsets.extent(0)) - 1;
    if (group_by_warps<E>(exec, topk_ids, slots, out, rows_per_expert)) return;
  }
  group_by_threads<E>(exec, topk_ids, out, rows_per_expert);
}

template <ExecutionSpace E>
void make_permutation(E const& exec, InMatrix<index_t, E> topk_ids, ExpertMask<E> const& mask,
                      Vector<index_t, E> const& map, Permutation<E> const& out,
                      Vector<offset_t, E> const& rows_per_expert) {
  detail::check_permutation<E>(topk_ids, out, rows_per_expert);
  if constexpr (has_warps<E>) {
    grouping::Slots slots{};
    slots.num_groups = static_cast<index_t>(out.expert_offsets.extent(0)) - 1;
    slots.mask = mask.flags().data();
    slots.num_ids = mask.num_experts();
    if (group_by_warps<E>(exec, topk_ids, slots, out, rows_per_expert)) return;
  }
  auto const local = row_range(out.row_of_slot, 0, topk_ids.extent(0));
  remap_ids<E>(exec, make_expert_map<E>(exec, mask, map), topk_ids, local);
  group_by_threads<E>(exec, local, out, rows_per_expert);
}

#define KMOE_INSTANTIATE(SPACE)                                                                  \
  template void detail::check_permutation(Matrix<index_t const, SPACE> const&,                   \
                                          Permutation<SPACE> const&,                             \
                                          Vector<offset_t, SPACE> const&);                       \
  template KMOE_API void Permutation<SPACE>::bind(Workspace<SPACE>&, index_t, index_t, index_t); \
  template KMOE_API void make_permutation(SPACE const&, Matrix<index_t const, SPACE>,            \
                                          Permutation<SPACE> const&,                             \
                                          Vector<offset_t, SPACE> const&);                       \
  template KMOE_API void make_permutation(                                                       \
      SPACE const&, Matrix<index_t const, SPACE>, ExpertMask<SPACE> const&,                      \
      Vector<index_t, SPACE> const&, Permutation<SPACE> const&, Vector<offset_t, SPACE> const&);
KMOE_FOR_EACH_SPACE(KMOE_INSTANTIATE)

}  // namespace kmoe
