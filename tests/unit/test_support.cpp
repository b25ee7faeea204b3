// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The test programs themselves: Kokkos runs, the configuration is consistent.

#include <kmoe/core/config.hpp>

#include <gtest/gtest.h>
#include <Kokkos_Core.hpp>

#include <string>

namespace {

TEST(Support, KokkosRuns) {
  int sum = 0;
  Kokkos::parallel_reduce(
      "kmoe::test::sum", 100, KOKKOS_LAMBDA(int i, int& s) { s += i; }, sum);
  EXPECT_EQ(sum, 4950);
}

TEST(Support, VersionStringMatchesNumbers) {
  EXPECT_EQ(std::string(KMOE_VERSION_STRING), std::to_string(KMOE_VERSION_MAJOR) + "." +
                                                  std::to_string(KMOE_VERSION_MINOR) + "." +
                                                  std::to_string(KMOE_VERSION_PATCH));
}

}  // namespace
