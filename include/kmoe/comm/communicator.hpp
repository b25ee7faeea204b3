// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The group of ranks a layer works in, and the few collectives it needs.

#include <kmoe/core/config.hpp>

#if KMOE_HAVE_MPI
#include <mpi.h>
#endif

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include <kmoe/core/error.hpp>
#include <kmoe/core/types.hpp>

namespace kmoe KMOE_API {

namespace detail {
class RankGroup;
}

/// An owning duplicate of the caller's communicator; copies share it. Its messages can not meet
/// the caller's. MPI errors on it are returned and thrown as MpiError, not fatal.
///
/// The library never calls MPI_Init and never uses MPI_COMM_WORLD on its own; MPI_THREAD_FUNNELED
/// suffices. The last copy frees the duplicate unless MPI has been finalized already.
///
/// Collectives here are blocking, move bytes and reduce integers only (so no result depends on an
/// order of arrival), and every rank of the group must enter them. They check their arguments on
/// the calling rank alone, before they communicate; where ranks may disagree about an error, check
/// inside agree() first. One call at a time per group: copies may not be used concurrently.
class Communicator {
 public:
  /// A group of one rank that needs no MPI.
  Communicator();
#if KMOE_HAVE_MPI
  /// Duplicates `comm`. Collective over `comm`.
  /// \throws MpiError if MPI is not initialized or already finalized, or the duplication fails
  /// \throws InvalidArgument if comm is MPI_COMM_NULL or an intercommunicator
  explicit Communicator(MPI_Comm comm);
  /// The duplicate; MPI_COMM_NULL for a group of one that was made without MPI.
  [[nodiscard]] MPI_Comm mpi_comm() const;
#endif
  /// This process in the group, 0..size()-1.
  [[nodiscard]] index_t rank() const;
  /// P, the number of processes in the group.
  [[nodiscard]] index_t size() const;

  /// Whether this MPI takes device pointers: KMOE_GPU_AWARE_MPI=0/1 decides if set, then the MPI
  /// library's own query; unknown means no (data is staged through the host). Looked up once, when
  /// the group is made; ranks may differ.
  [[nodiscard]] bool gpu_aware() const;
  /// One line that says what decided gpu_aware().
  [[nodiscard]] std::string gpu_aware_reason() const;

  /// Returns after every rank has entered it. Collective.
  void barrier() const;

  /// values[i] = max over the ranks of values[i], in place. Collective.
  /// \param values [n], n the same on every rank
  /// \throws MpiError
  void all_reduce_max(std::span<offset_t> values) const;

  /// values[i] = sum over the ranks of values[i], in place. Collective.
  /// \param values [n], n the same on every rank
  /// \throws MpiError
  void all_reduce_sum(std::span<offset_t> values) const;

  /// recv[p * n + i] = values[i] of rank p. Collective.
  /// \param values [n], n the same on every rank
  /// \param recv [P * n]
  /// \throws InvalidArgument if recv.size() is not P * n; MpiError
  void all_gather(std::span<offset_t const> values, std::span<offset_t> recv) const;

  /// One count to each rank: recv[p] = what rank p put in send[this rank]. Collective.
  /// \param send, recv [P]
  /// \throws InvalidArgument if a size is not P; MpiError
  void all_to_all(std::span<offset_t const> send, std::span<offset_t> recv) const;

  /// Sends rows to every rank: rows send_offsets[p] .. + send_rows[p] - 1 of `send` arrive at rank
  /// p, there from row recv_offsets[q] on, q this rank. Collective. Allocates nothing.
  ///
  /// Point-to-point messages of at most 2^30 bytes, none for a pair of ranks without rows: sizes
  /// have no limit and no rank needs to know another pair's counts. Pointers are host memory
  /// unless gpu_aware(), and may be null where no byte is moved.
  /// \param send_rows, send_offsets, recv_rows, recv_offsets [P] in rows; recv_rows[p] here must
  ///        equal send_rows[this rank] on rank p (all_to_all tells it)
  /// \param row_bytes bytes in a row, the same on every rank; 0 moves nothing
  /// \throws InvalidArgument for a size other than P, a negative count or offset, a null pointer
  ///         with rows, or send_rows and recv_rows that differ for this rank itself; MpiError
  void all_to_all_rows(void const* send, std::span<offset_t const> send_rows,
                       std::span<offset_t const> send_offsets, void* recv,
                       std::span<offset_t const> recv_rows, std::span<offset_t const> recv_offsets,
                       std::size_t row_bytes) const;

  /// Every rank contributes send_rows rows; rank p's rows land at row recv_offsets[p] of `recv`,
  /// on every rank. Collective. Allocates nothing. Messages and pointers as all_to_all_rows.
  /// \param recv_rows, recv_offsets [P] in rows; recv_rows[p] must equal send_rows on rank p
  /// \throws as all_to_all_rows
  void all_gather_rows(void const* send, offset_t send_rows, void* recv,
                       std::span<offset_t const> recv_rows, std::span<offset_t const> recv_offsets,
                       std::size_t row_bytes) const;

  /// text = text of rank `root`, of any length. Collective.
  /// \throws InvalidArgument if root is outside 0..P-1; MpiError
  void broadcast(std::string& text, index_t root) const;

 private:
  std::shared_ptr<detail::RankGroup const> group_;
};

/// Runs `check` on every rank; if it throws on any, every rank throws the error of the lowest
/// failing rank, its message led by "rank r: " when P > 1. Nothing hangs as long as every rank
/// calls it, and `check` itself does not communicate.
/// Collective. Cost: one all-reduce of 8 bytes on the good path, then one broadcast.
/// \throws the class of the error that was found. Exceptions that are not kmoe::Error count as
///         ErrorKind::invalid_argument if they derive from std::logic_error, else as ErrorKind::io.
void agree(Communicator const& comm, std::function<void()> const& check);

/// Checks that all ranks pass the same text, one "name=value" line per field. The lowest rank that
/// differs from rank 0 is reported, with the first line that differs.
/// Collective. Cost: one all-reduce of a hash (16 bytes) on the good path, then broadcasts.
/// \throws InvalidArgument on every rank, the same message:
///         "<function>: ranks disagree: rank 0 has top_k=2, rank 3 has top_k=4"
void agree_equal(Communicator const& comm, std::string_view function, std::string const& text);

}  // namespace KMOE_API
