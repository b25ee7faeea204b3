// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Which rank hosts which expert: host data, the same on every rank.

#include <span>
#include <string>
#include <vector>

#include <kmoe/core/types.hpp>

namespace kmoe KMOE_API {

/// Assignment of E routed experts (each on exactly one rank) and S fused shared experts (each on
/// every rank) to P ranks.
///
/// Local slots follow the global ids in ascending order, so a local slot is the exclusive prefix
/// sum of the expert mask (the AITER contract) and shared experts, which have the last global ids,
/// have the last local slots. Ranks may host any number of experts, also none.
class ExpertPlacement {
 public:
  /// Contiguous blocks; the first E mod P ranks get one expert more.
  /// \throws InvalidArgument unless num_experts >= 1, num_ranks >= 1 and num_shared >= 0
  static ExpertPlacement contiguous(index_t num_experts, index_t num_ranks, index_t num_shared = 0);
  /// Expert e on rank e mod P. \throws as contiguous()
  static ExpertPlacement round_robin(index_t num_experts, index_t num_ranks,
                                     index_t num_shared = 0);
  /// Any assignment: rank_of_expert[e] is the rank of expert e.
  /// \throws as contiguous(), and InvalidArgument if a rank is outside 0..num_ranks-1
  static ExpertPlacement custom(std::vector<index_t> rank_of_expert, index_t num_ranks,
                                index_t num_shared = 0);

  [[nodiscard]] index_t num_experts() const { return static_cast<index_t>(rank_of_.size()); }
  [[nodiscard]] index_t num_shared() const { return num_shared_; }
  /// Size of the id space: routed plus shared.
  [[nodiscard]] index_t num_placed() const { return num_experts() + num_shared_; }
  [[nodiscard]] index_t num_ranks() const { return num_ranks_; }

  /// [E] rank of each routed expert.
  [[nodiscard]] std::span<index_t const> rank_of_expert() const { return rank_of_; }
  /// Global ids hosted by `rank`, ascending, the shared ones last. Cost: O(E).
  /// \throws InvalidArgument if rank is outside 0..num_ranks-1
  [[nodiscard]] std::vector<index_t> experts_of(index_t rank) const;
  /// Length of experts_of(rank): routed experts on `rank` plus the shared ones. Cost: O(E).
  [[nodiscard]] index_t num_local(index_t rank) const;

  bool operator==(ExpertPlacement const&) const = default;

 private:
  ExpertPlacement(std::vector<index_t> rank_of, index_t num_ranks, index_t num_shared);

  std::vector<index_t> rank_of_;
  index_t num_ranks_ = 1;
  index_t num_shared_ = 0;
};

/// One "name=value" line per number and per expert, in a fixed order: for comparing ranks.
std::string to_string(ExpertPlacement const& placement);

}  // namespace KMOE_API
