// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <algorithm>
#include <array>
#include <limits>

#include <kmoe/comm/communicator.hpp>

#include "comm/exchange.hpp"
#include "comm/gpu_aware.hpp"

namespace kmoe {
namespace detail {

void check_mpi(int code, char const* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw MpiError(std::string("kmoe::Communicator: ") + call +
                 " failed: " + std::string(text.data(), static_cast<std::size_t>(length)));
}

namespace {

int to_count(std::size_t n) {
  expect(n <= static_cast<std::size_t>(std::numeric_limits<int>::max()), "kmoe::Communicator",
         "the number of values must be below 2^31", static_cast<long long>(n));
  return static_cast<int>(n);
}

class MpiGroup final : public RankGroup {
 public:
  explicit MpiGroup(MPI_Comm caller) {
    check_mpi(MPI_Comm_dup(caller, &comm), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(comm, &size), "MPI_Comm_size");
    requests_.reserve(2 * static_cast<std::size_t>(size));
    auto const found = query_gpu_aware_mpi();
    gpu_aware = found.yes;
    gpu_aware_reason = found.reason;
  }

  ~MpiGroup() override {
    int finalized = 0;
    if (MPI_Finalized(&finalized) == MPI_SUCCESS && finalized == 0) MPI_Comm_free(&comm);
  }

  void barrier() const override { check_mpi(MPI_Barrier(comm), "MPI_Barrier"); }

  void all_reduce(std::span<offset_t> values, Reduction reduction) const override {
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, values.data(), to_count(values.size()), MPI_INT64_T,
                            reduction == Reduction::max ? MPI_MAX : MPI_SUM, comm),
              "MPI_Allreduce");
  }

  void all_gather(std::span<offset_t const> values, std::span<offset_t> recv) const override {
    int const n = to_count(values.size());
    check_mpi(MPI_Allgather(values.data(), n, MPI_INT64_T, recv.data(), n, MPI_INT64_T, comm),
              "MPI_Allgather");
  }

  void all_to_all(std::span<offset_t const> send, std::span<offset_t> recv) const override {
    check_mpi(MPI_Alltoall(send.data(), 1, MPI_INT64_T, recv.data(), 1, MPI_INT64_T, comm),
              "MPI_Alltoall");
  }

  void exchange(SendBlocks const& send, RecvBlocks const& recv,
                std::size_t row_bytes) const override {
    detail::exchange(comm, send, recv, row_bytes, !gpu_aware, requests_);
  }

  void broadcast(std::string& text, index_t root) const override {
    auto length = static_cast<offset_t>(text.size());
    check_mpi(MPI_Bcast(&length, 1, MPI_INT64_T, root, comm), "MPI_Bcast");
    text.resize(static_cast<std::size_t>(length));
    for (std::size_t done = 0; done < text.size(); done += max_piece_bytes) {
      auto const count = static_cast<int>(std::min(max_piece_bytes, text.size() - done));
      check_mpi(MPI_Bcast(text.data() + done, count, MPI_CHAR, root, comm), "MPI_Bcast");
    }
  }

  MPI_Comm comm = MPI_COMM_NULL;

 private:
  mutable std::vector<MPI_Request> requests_;
};

/// The caller's communicator, checked.
MPI_Comm usable(MPI_Comm comm) {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (initialized == 0 || finalized != 0) {
    throw MpiError("kmoe::Communicator: MPI must be initialized and not finalized, found it " +
                   std::string(finalized != 0 ? "finalized" : "not initialized"));
  }
  if (comm == MPI_COMM_NULL) {
    throw_invalid("kmoe::Communicator", "comm must be a communicator", "MPI_COMM_NULL");
  }
  int inter = 0;
  check_mpi(MPI_Comm_test_inter(comm, &inter), "MPI_Comm_test_inter");
  if (inter != 0) {
    throw_invalid("kmoe::Communicator", "comm must be an intracommunicator",
                  "an intercommunicator");
  }
  return comm;
}

}  // namespace
}  // namespace detail

Communicator::Communicator(MPI_Comm comm)
    : group_(std::make_shared<detail::MpiGroup>(detail::usable(comm))) {}

MPI_Comm Communicator::mpi_comm() const {
  auto const* const group = dynamic_cast<detail::MpiGroup const*>(group_.get());
  return group == nullptr ? MPI_COMM_NULL : group->comm;
}

}  // namespace kmoe
