// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A table of local slots can not stand where 0/1 flags are meant.
#include <kmoe/dispatch/dispatcher.hpp>

using Space = Kokkos::DefaultHostExecutionSpace;

#ifdef KMOE_MUST_NOT_COMPILE
using Table = kmoe::ExpertMap<Space>;
#else
using Table = kmoe::ExpertMask<Space>;
#endif

kmoe::MaskedExpertIds<Space> payload(kmoe::Matrix<kmoe::index_t const, Space> const& ids,
                                     Table const& table) {
  return {ids, table};
}
