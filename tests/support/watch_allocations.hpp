// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Counts allocations while an object of WatchAllocations lives. Link watch_allocations.cpp, which
/// replaces operator new for the whole program. One object at a time.

#include <cstddef>

namespace kmoe::test {

class WatchAllocations {
 public:
  /// Blocks from operator new of this size or more count; a kernel's label is smaller.
  static constexpr std::size_t large = 1024;

  WatchAllocations();
  ~WatchAllocations();
  WatchAllocations(WatchAllocations const&) = delete;
  WatchAllocations& operator=(WatchAllocations const&) = delete;

  [[nodiscard]] std::size_t kokkos_allocations() const;  ///< Views and Kokkos' own scratch
  [[nodiscard]] std::size_t kokkos_bytes() const;
  [[nodiscard]] std::size_t large_blocks() const;
};

}  // namespace kmoe::test
