// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/permute/permutation.hpp>

#include <algorithm>
#include <limits>

#include <kmoe/core/error.hpp>

#include "instantiate.hpp"

namespace kmoe {
namespace {

/// How the slots are cut into blocks, each counted and placed by one thread. Block b has its own
/// row of `stride` counts, so that threads share no cache line.
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
  constexpr offset_t max_blocks = host ? 128 : 1024;
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

}  // namespace

template <ExecutionSpace E>
void Permutation<E>::bind(Workspace<E>& ws, index_t max_tokens, index_t num_slots_per_token,
                          index_t num_groups) {
  constexpr std::string_view function = "kmoe::Permutation::bind";
  detail::expect(max_tokens >= 0, function, "max_tokens must be at least 0", max_tokens);
  detail::expect(num_slots_per_token >= 0, function, "num_slots_per_token must be at least 0",
                 num_slots_per_token);
  detail::expect(num_groups >= 0, function, "num_groups must be at least 0", num_groups);
  expect_few_slots(function, max_tokens, num_slots_per_token);
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
void make_permutation(E const& exec, InMatrix<index_t, E> topk_ids, Permutation<E> const& out) {
  constexpr std::string_view function = "kmoe::make_permutation";
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
}

#define KMOE_INSTANTIATE(SPACE)                                                         \
  template void Permutation<SPACE>::bind(Workspace<SPACE>&, index_t, index_t, index_t); \
  template void make_permutation(SPACE const&, Matrix<index_t const, SPACE>,            \
                                 Permutation<SPACE> const&);
KMOE_FOR_EACH_SPACE(KMOE_INSTANTIATE)

}  // namespace kmoe
