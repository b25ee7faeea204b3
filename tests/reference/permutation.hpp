// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Grouping slots by expert and summing the rows of a token: the specification in plain loops.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace reference {

struct Grouping {
  std::vector<std::int64_t> expert_offsets;  // [G + 1]
  std::vector<int> slot_of_row;              // [M]
  std::vector<int> row_of_slot;              // [T * K], -1 = none
};

/// Slots with ids 0..G-1, sorted by id, equal ids in slot order.
inline Grouping group_slots(std::vector<int> const& ids, int num_groups) {
  Grouping g;
  g.expert_offsets.assign(static_cast<std::size_t>(num_groups) + 1, 0);
  g.row_of_slot.assign(ids.size(), -1);
  for (std::size_t slot = 0; slot < ids.size(); ++slot) {
    if (ids[slot] < 0 || ids[slot] >= num_groups) continue;
    g.slot_of_row.push_back(static_cast<int>(slot));
    ++g.expert_offsets[static_cast<std::size_t>(ids[slot]) + 1];
  }
  std::partial_sum(g.expert_offsets.begin(), g.expert_offsets.end(), g.expert_offsets.begin());
  std::stable_sort(g.slot_of_row.begin(), g.slot_of_row.end(), [&](int a, int b) {
    return ids[static_cast<std::size_t>(a)] < ids[static_cast<std::size_t>(b)];
  });
  for (std::size_t row = 0; row < g.slot_of_row.size(); ++row) {
    g.row_of_slot[static_cast<std::size_t>(g.slot_of_row[row])] = static_cast<int>(row);
  }
  return g;
}

/// A sum of products, and the sum of their magnitudes for the error bound.
struct Sum {
  double value = 0;
  double magnitude = 0;

  void add(double a, double b = 1) {
    value += a * b;
    magnitude += std::abs(a * b);
  }
};

}  // namespace reference
