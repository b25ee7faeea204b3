// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Tokens are rows: a column-major matrix is refused.
#include <kmoe/permute/permutation.hpp>

using Space = Kokkos::DefaultHostExecutionSpace;

#ifdef KMOE_MUST_NOT_COMPILE
using Layout = Kokkos::LayoutLeft;
#else
using Layout = Kokkos::LayoutRight;
#endif

void tokens_are_rows(Kokkos::View<float**, Layout, Space::memory_space> const& x,
                     kmoe::Permutation<Space> const& permutation,
                     kmoe::Matrix<float, Space> const& rows) {
  kmoe::permute(Space(), x, permutation, rows);
}
