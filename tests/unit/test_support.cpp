// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The test programs themselves: Kokkos runs, the configuration is consistent.

#include <kmoe/core/config.hpp>

#include <gtest/gtest.h>
#include <Kokkos_Core.hpp>

#include <string>

namespace {

int sum_below(int n) {
  int sum = 0;
  Kokkos::parallel_reduce(
      "kmoe::test::sum", n, KOKKOS_LAMBDA(int i, int& s) { s += i; }, sum);
  return sum;
}

TEST(Support, KokkosRuns) {
  EXPECT_EQ(sum_below(100), 4950);
}

TEST(Support, VersionStringMatchesNumbers) {
  EXPECT_EQ(std::string(KMOE_VERSION_STRING), std::to_string(KMOE_VERSION_MAJOR) + "." +
                                                  std::to_string(KMOE_VERSION_MINOR) + "." +
                                                  std::to_string(KMOE_VERSION_PATCH));
}

}  // namespace
