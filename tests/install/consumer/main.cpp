// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/core/config.hpp>

#include <Kokkos_Core.hpp>

#include <cstdio>

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  std::printf("kmoe %s on %s\n", KMOE_VERSION_STRING, Kokkos::DefaultExecutionSpace::name());
  return KMOE_VERSION >= 100 ? 0 : 1;
}
