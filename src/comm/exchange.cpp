// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "comm/exchange.hpp"

#include <algorithm>

namespace kmoe::detail {
namespace {

constexpr int tag = 0;  // the duplicate carries nothing else point to point

/// Calls post(begin, count) for each piece of rank p's block.
template <class Blocks, class Post>
void for_each_piece(Blocks const& blocks, int p, std::size_t row_bytes, std::size_t piece_bytes,
                    Post&& post) {
  std::size_t const bytes = blocks.bytes(p, row_bytes);
  for (std::size_t done = 0; done < bytes; done += piece_bytes) {
    post(blocks.begin(p, row_bytes) + done, static_cast<int>(std::min(piece_bytes, bytes - done)));
  }
}

}  // namespace

void exchange(MPI_Comm comm, SendBlocks const& send, RecvBlocks const& recv, std::size_t row_bytes,
              bool copy_own, std::vector<MPI_Request>& requests, std::size_t piece_bytes) {
  int rank = 0;
  int size = 0;
  check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm, &size), "MPI_Comm_size");
  requests.clear();
  // Neighbours first: not every rank calls on rank 0 at once.
  for (int i = copy_own ? 1 : 0; i < size; ++i) {
    int const p = (rank - i + size) % size;
    for_each_piece(recv, p, row_bytes, piece_bytes, [&](std::byte* begin, int count) {
      check_mpi(
          MPI_Irecv(begin, count, MPI_BYTE, p, tag, comm, &requests.emplace_back(MPI_REQUEST_NULL)),
          "MPI_Irecv");
    });
  }
  for (int i = copy_own ? 1 : 0; i < size; ++i) {
    int const p = (rank + i) % size;
    for_each_piece(send, p, row_bytes, piece_bytes, [&](std::byte const* begin, int count) {
      check_mpi(
          MPI_Isend(begin, count, MPI_BYTE, p, tag, comm, &requests.emplace_back(MPI_REQUEST_NULL)),
          "MPI_Isend");
    });
  }
  if (copy_own) copy_own_block(send, recv, rank, row_bytes);
  // One by one, for the error class itself; all of them, so that none still uses the arrays.
  int first_error = MPI_SUCCESS;
  for (MPI_Request& request : requests) {
    int const code = MPI_Wait(&request, MPI_STATUS_IGNORE);
    if (first_error == MPI_SUCCESS) first_error = code;
  }
  check_mpi(first_error, "MPI_Wait");
}

}  // namespace kmoe::detail
