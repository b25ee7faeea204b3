// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <algorithm>
#include <limits>
#include <utility>

#include <kmoe/core/error.hpp>
#include <kmoe/core/expert_placement.hpp>

namespace kmoe {
namespace {

constexpr std::string_view this_class = "kmoe::ExpertPlacement";

void check_counts(long long num_experts, index_t num_ranks, index_t num_shared) {
  detail::expect(num_experts >= 1, this_class, "num_experts must be at least 1", num_experts);
  detail::expect(num_ranks >= 1, this_class, "num_ranks must be at least 1", num_ranks);
  detail::expect(num_shared >= 0, this_class, "num_shared must be at least 0", num_shared);
  long long const placed = num_experts + num_shared;
  detail::expect(placed <= std::numeric_limits<index_t>::max(), this_class,
                 "num_experts + num_shared must be below 2^31", placed);
}

}  // namespace

ExpertPlacement::ExpertPlacement(std::vector<index_t> rank_of, index_t num_ranks,
                                 index_t num_shared)
    : rank_of_(std::move(rank_of)), num_ranks_(num_ranks), num_shared_(num_shared) {}

ExpertPlacement ExpertPlacement::contiguous(index_t num_experts, index_t num_ranks,
                                            index_t num_shared) {
  check_counts(num_experts, num_ranks, num_shared);
  std::vector<index_t> rank_of;
  rank_of.reserve(static_cast<std::size_t>(num_experts));
  for (index_t rank = 0; rank < std::min(num_ranks, num_experts); ++rank) {
    index_t const count = num_experts / num_ranks + (rank < num_experts % num_ranks ? 1 : 0);
    rank_of.insert(rank_of.end(), static_cast<std::size_t>(count), rank);
  }
  return {std::move(rank_of), num_ranks, num_shared};
}

ExpertPlacement ExpertPlacement::round_robin(index_t num_experts, index_t num_ranks,
                                             index_t num_shared) {
  check_counts(num_experts, num_ranks, num_shared);
  std::vector<index_t> rank_of(static_cast<std::size_t>(num_experts));
  for (index_t e = 0; e < num_experts; ++e) rank_of[static_cast<std::size_t>(e)] = e % num_ranks;
  return {std::move(rank_of), num_ranks, num_shared};
}

ExpertPlacement ExpertPlacement::custom(std::vector<index_t> rank_of_expert, index_t num_ranks,
                                        index_t num_shared) {
  check_counts(static_cast<long long>(rank_of_expert.size()), num_ranks, num_shared);
  for (std::size_t e = 0; e < rank_of_expert.size(); ++e) {
    if (rank_of_expert[e] < 0 || rank_of_expert[e] >= num_ranks) {
      detail::throw_invalid(this_class,
                            "rank_of_expert[" + std::to_string(e) +
                                "] must be in 0..num_ranks-1 = " + std::to_string(num_ranks - 1),
                            std::to_string(rank_of_expert[e]));
    }
  }
  return {std::move(rank_of_expert), num_ranks, num_shared};
}

std::vector<index_t> ExpertPlacement::experts_of(index_t rank) const {
  detail::expect(rank >= 0 && rank < num_ranks_, "kmoe::ExpertPlacement::experts_of",
                 "rank must be in 0..num_ranks-1 = " + std::to_string(num_ranks_ - 1), rank);
  std::vector<index_t> experts;
  for (index_t e = 0; e < num_placed(); ++e) {
    if (e >= num_experts() || rank_of_[static_cast<std::size_t>(e)] == rank) experts.push_back(e);
  }
  return experts;
}

index_t ExpertPlacement::num_local(index_t rank) const {
  return static_cast<index_t>(std::count(rank_of_.begin(), rank_of_.end(), rank)) + num_shared_;
}

std::string to_string(ExpertPlacement const& placement) {
  std::string text = "placement.num_ranks=" + std::to_string(placement.num_ranks()) +
                     "\nplacement.num_shared=" + std::to_string(placement.num_shared()) +
                     "\nplacement.num_experts=" + std::to_string(placement.num_experts()) + "\n";
  for (index_t e = 0; e < placement.num_experts(); ++e) {
    text += "placement.rank_of_expert[" + std::to_string(e) +
            "]=" + std::to_string(placement.rank_of_expert()[static_cast<std::size_t>(e)]) + "\n";
  }
  return text;
}

}  // namespace kmoe
