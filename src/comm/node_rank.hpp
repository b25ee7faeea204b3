// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <kmoe/comm/communicator.hpp>

namespace kmoe::detail {

/// This process among those of `comm` on the same node, in the order of their ranks; -1 for a group
/// that does without MPI. Collective.
KMOE_API index_t node_rank(Communicator const& comm);

}  // namespace kmoe::detail
