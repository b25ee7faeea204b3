// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <mpi.h>

#include <cstddef>
#include <vector>

#include "comm/rank_group.hpp"

namespace kmoe::detail {

/// Throws MpiError with the name of the call and MPI's own text unless `code` is MPI_SUCCESS.
void check_mpi(int code, char const* call);

/// A message must stay below 2^31 bytes, the reach of MPI's int counts.
inline constexpr std::size_t max_piece_bytes = std::size_t{1} << 30;

/// Sends block p of `send` to rank p and fills block p of `recv` from rank p, in messages of at
/// most piece_bytes bytes. Both ends of a pair know its size, so they cut it alike; pairs without
/// bytes exchange nothing. The own block is copied on the host if copy_own, else sent like others.
/// `requests` is scratch that keeps its capacity.
void exchange(MPI_Comm comm, SendBlocks const& send, RecvBlocks const& recv, std::size_t row_bytes,
              bool copy_own, std::vector<MPI_Request>& requests,
              std::size_t piece_bytes = max_piece_bytes);

}  // namespace kmoe::detail
