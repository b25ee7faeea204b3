// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/comm/communicator.hpp>

#include "comm/node_rank.hpp"
#include "comm/rank_group.hpp"

namespace kmoe {
namespace {

void expect_size(std::string_view function, std::string_view argument, std::size_t expected,
                 std::size_t found) {
  detail::expect_extent(function, std::string(argument) + ".size() must equal",
                        static_cast<long long>(expected), static_cast<long long>(found), {});
}

/// Checks one side of an exchange over `size` ranks.
void expect_blocks(std::string_view function, std::string_view side, void const* base,
                   std::span<offset_t const> rows, std::span<offset_t const> offsets,
                   index_t size) {
  std::string const name(side);
  expect_size(function, name + "_rows", static_cast<std::size_t>(size), rows.size());
  expect_size(function, name + "_offsets", static_cast<std::size_t>(size), offsets.size());
  for (std::size_t p = 0; p < rows.size(); ++p) {
    if (rows[p] == 0) continue;
    std::string const index = "[" + std::to_string(p) + "]";
    detail::expect(rows[p] > 0, function, name + "_rows" + index + " must not be negative",
                   rows[p]);
    detail::expect(offsets[p] >= 0, function, name + "_offsets" + index + " must not be negative",
                   offsets[p]);
    if (base == nullptr) {
      detail::throw_invalid(function, name + " must not be null with " + name + "_rows" + index,
                            std::to_string(rows[p]) + " rows");
    }
  }
}

}  // namespace

Communicator::Communicator() : group_(std::make_shared<detail::RankGroup>()) {}

index_t Communicator::rank() const {
  return group_->rank;
}
index_t Communicator::size() const {
  return group_->size;
}
bool Communicator::gpu_aware() const {
  return group_->gpu_aware;
}
std::string Communicator::gpu_aware_reason() const {
  return group_->gpu_aware_reason;
}

void Communicator::barrier() const {
  group_->barrier();
}

void Communicator::all_reduce_max(std::span<offset_t> values) const {
  group_->all_reduce(values, detail::Reduction::max);
}

void Communicator::all_reduce_sum(std::span<offset_t> values) const {
  group_->all_reduce(values, detail::Reduction::sum);
}

void Communicator::all_gather(std::span<offset_t const> values, std::span<offset_t> recv) const {
  expect_size("kmoe::Communicator::all_gather", "recv",
              values.size() * static_cast<std::size_t>(size()), recv.size());
  group_->all_gather(values, recv);
}

void Communicator::all_to_all(std::span<offset_t const> send, std::span<offset_t> recv) const {
  expect_size("kmoe::Communicator::all_to_all", "send", static_cast<std::size_t>(size()),
              send.size());
  expect_size("kmoe::Communicator::all_to_all", "recv", static_cast<std::size_t>(size()),
              recv.size());
  group_->all_to_all(send, recv);
}

void Communicator::all_to_all_rows(void const* send, std::span<offset_t const> send_rows,
                                   std::span<offset_t const> send_offsets, void* recv,
                                   std::span<offset_t const> recv_rows,
                                   std::span<offset_t const> recv_offsets,
                                   std::size_t row_bytes) const {
  constexpr std::string_view function = "kmoe::Communicator::all_to_all_rows";
  if (row_bytes == 0) return;
  expect_blocks(function, "send", send, send_rows, send_offsets, size());
  expect_blocks(function, "recv", recv, recv_rows, recv_offsets, size());
  auto const self = static_cast<std::size_t>(rank());
  detail::expect(
      send_rows[self] == recv_rows[self], function,
      "recv_rows of this rank must equal its send_rows = " + std::to_string(send_rows[self]),
      recv_rows[self]);
  group_->exchange({send, send_rows.data(), send_offsets.data()},
                   {recv, recv_rows.data(), recv_offsets.data()}, row_bytes);
}

void Communicator::all_gather_rows(void const* send, offset_t send_rows, void* recv,
                                   std::span<offset_t const> recv_rows,
                                   std::span<offset_t const> recv_offsets,
                                   std::size_t row_bytes) const {
  constexpr std::string_view function = "kmoe::Communicator::all_gather_rows";
  if (row_bytes == 0) return;
  offset_t const send_offset = 0;
  expect_blocks(function, "recv", recv, recv_rows, recv_offsets, size());
  detail::expect(recv_rows[static_cast<std::size_t>(rank())] == send_rows, function,
                 "recv_rows of this rank must equal send_rows = " + std::to_string(send_rows),
                 recv_rows[static_cast<std::size_t>(rank())]);
  if (send_rows > 0 && send == nullptr) {
    detail::throw_invalid(function, "send must not be null with rows to send",
                          std::to_string(send_rows) + " rows");
  }
  group_->exchange({send, &send_rows, &send_offset, 0},
                   {recv, recv_rows.data(), recv_offsets.data()}, row_bytes);
}

void Communicator::broadcast(std::string& text, index_t root) const {
  detail::expect(root >= 0 && root < size(), "kmoe::Communicator::broadcast",
                 "root must be in 0..size-1 = " + std::to_string(size() - 1), root);
  group_->broadcast(text, root);
}

index_t detail::node_rank([[maybe_unused]] Communicator const& comm) {
#if KMOE_HAVE_MPI
  MPI_Comm node = MPI_COMM_NULL;
  int rank = -1;
  if (comm.mpi_comm() == MPI_COMM_NULL ||
      MPI_Comm_split_type(comm.mpi_comm(), MPI_COMM_TYPE_SHARED, comm.rank(), MPI_INFO_NULL,
                          &node) != MPI_SUCCESS) {
    return -1;
  }
  MPI_Comm_rank(node, &rank);
  MPI_Comm_free(&node);
  return rank;
#else
  return -1;
#endif
}

}  // namespace kmoe
