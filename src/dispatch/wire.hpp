// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Messages of whole rows between ranks: counts and places per rank, and the one decision whether
/// they go through the host.

#include <cstddef>
#include <span>

#include <kmoe/comm/communicator.hpp>
#include <kmoe/core/workspace.hpp>

namespace kmoe::detail {

/// Rows to or from each rank: host data.
template <ExecutionSpace E>
struct RankRows {
  using Host = typename Workspace<E>::host_space;
  Vector<offset_t, Host> counts;   // [P]
  Vector<offset_t, Host> offsets;  // [P + 1], the sums of the counts before

  void bind(Workspace<E>& ws, index_t num_ranks) {
    auto const n = static_cast<std::size_t>(num_ranks);
    counts = ws.template host_vector<offset_t>(n);
    offsets = ws.template host_vector<offset_t>(n + 1);
  }
  [[nodiscard]] std::size_t num_ranks() const { return counts.extent(0); }
  [[nodiscard]] offset_t total() const { return offsets(num_ranks()); }
  [[nodiscard]] std::span<offset_t> count_span() const { return {counts.data(), num_ranks()}; }
  [[nodiscard]] std::span<offset_t> offset_span() const { return {offsets.data(), num_ranks()}; }

  void sum_counts() const {
    offsets(0) = 0;
    for (std::size_t p = 0; p < num_ranks(); ++p) offsets(p + 1) = offsets(p) + counts(p);
  }
  void difference_offsets() const {
    for (std::size_t p = 0; p < num_ranks(); ++p) counts(p) = offsets(p + 1) - offsets(p);
  }
};

/// Moves rows between ranks. Memory that MPI can not reach is staged through the host.
template <ExecutionSpace E>
class Wire {
 public:
  static constexpr bool host_accessible =
      Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename E::memory_space>::accessible;

  /// The host buffers must hold the largest message in each direction.
  void bind(Workspace<E>& ws, bool stage, std::size_t send_bytes, std::size_t recv_bytes) {
    staged_ = stage && !host_accessible;
    send_ = ws.template host_vector<std::byte>(staged_ ? send_bytes : 0);
    recv_ = ws.template host_vector<std::byte>(staged_ ? recv_bytes : 0);
  }

  /// This MPI takes device pointers: the host buffers stay unused.
  void send_directly() { staged_ = false; }

  /// recv rows [offsets of recv_rows] = what the ranks sent. Waits for `exec` first.
  template <class T>
  void all_to_all(E const& exec, Communicator const& comm, T const* send,
                  RankRows<E> const& send_rows, T* recv, RankRows<E> const& recv_rows,
                  std::size_t width) const {
    std::size_t const row_bytes = width * sizeof(T);
    comm.all_to_all_rows(outgoing(exec, send, row_bytes * send_rows.total()),
                         send_rows.count_span(), send_rows.offset_span(), landing(recv),
                         recv_rows.count_span(), recv_rows.offset_span(), row_bytes);
    arrived(exec, recv, row_bytes * recv_rows.total());
  }

  /// recv = the rows of all ranks in the order of the ranks. Waits for `exec` first.
  template <class T>
  void all_gather(E const& exec, Communicator const& comm, T const* send, T* recv,
                  RankRows<E> const& rows, std::size_t width) const {
    std::size_t const row_bytes = width * sizeof(T);
    offset_t const own = rows.counts(comm.rank());
    comm.all_gather_rows(outgoing(exec, send, row_bytes * own), own, landing(recv),
                         rows.count_span(), rows.offset_span(), row_bytes);
    arrived(exec, recv, row_bytes * rows.total());
  }

 private:
  using Host = typename Workspace<E>::host_space;

  void const* outgoing(E const& exec, void const* data, std::size_t bytes) const {
    if (!staged_) {
      exec.fence("kmoe::dispatch: the message is complete");
      return data;
    }
    Kokkos::deep_copy(exec, Vector<std::byte, Host>(send_.data(), bytes),
                      Vector<std::byte const, E>(static_cast<std::byte const*>(data), bytes));
    exec.fence("kmoe::dispatch: the message is on the host");
    return send_.data();
  }
  void* landing(void* data) const { return staged_ ? recv_.data() : data; }
  void arrived(E const& exec, void* data, std::size_t bytes) const {
    if (!staged_) return;
    Kokkos::deep_copy(exec, Vector<std::byte, E>(static_cast<std::byte*>(data), bytes),
                      Vector<std::byte, Host>(recv_.data(), bytes));
  }

  bool staged_ = false;
  Vector<std::byte, Host> send_;
  Vector<std::byte, Host> recv_;
};

}  // namespace kmoe::detail
