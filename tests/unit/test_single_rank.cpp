// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The group of one, in a program that has not initialized MPI, and in builds that have none.

#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <kmoe/comm/communicator.hpp>

namespace kmoe {
namespace {

using Counts = std::vector<offset_t>;

TEST(SingleRank, CollectivesCopy) {
  Communicator const comm;
  EXPECT_EQ(comm.rank(), 0);
  EXPECT_EQ(comm.size(), 1);
  EXPECT_FALSE(comm.gpu_aware());
  EXPECT_FALSE(comm.gpu_aware_reason().empty());
  comm.barrier();
  Counts values{3, -4};
  Counts other{0, 0};
  comm.all_reduce_max(values);
  comm.all_reduce_sum(values);
  EXPECT_EQ(values, (Counts{3, -4}));
  comm.all_gather(values, other);
  EXPECT_EQ(other, values);
  Counts count{0};
  comm.all_to_all(Counts{7}, count);
  EXPECT_EQ(count, Counts{7});
  std::string text = "text";
  comm.broadcast(text, 0);
  EXPECT_EQ(text, "text");

  std::vector<int> const send{1, 2, 3, 4};
  std::vector<int> recv(5, 9);
  comm.all_to_all_rows(send.data(), Counts{2}, Counts{1}, recv.data(), Counts{2}, Counts{3},
                       sizeof(int));
  EXPECT_EQ(recv, (std::vector<int>{9, 9, 9, 2, 3}));
  comm.all_gather_rows(send.data(), 2, recv.data(), Counts{2}, Counts{0}, sizeof(int));
  EXPECT_EQ(recv, (std::vector<int>{1, 2, 9, 2, 3}));
  EXPECT_THROW(comm.all_gather(values, count), InvalidArgument);
  EXPECT_THROW(comm.all_gather_rows(send.data(), 1, recv.data(), Counts{2}, Counts{0}, 4),
               InvalidArgument);
}

TEST(SingleRank, AgreeRethrowsWithoutARank) {
  Communicator const comm;
  EXPECT_NO_THROW(agree(comm, [] {}));
  EXPECT_NO_THROW(agree_equal(comm, "f", "a=1\n"));
  try {
    agree(comm, [] { throw Unsupported("no such thing"); });
    ADD_FAILURE() << "no error";
  } catch (Unsupported const& e) {
    EXPECT_STREQ(e.what(), "no such thing");
  }
  EXPECT_THROW(agree(comm, [] { throw std::out_of_range("m"); }), InvalidArgument);
  EXPECT_THROW(agree(comm, [] { throw std::runtime_error("m"); }), IoError);
}

#if KMOE_HAVE_MPI
TEST(SingleRank, RefusesToUseMpiBeforeItIsInitialized) {
  try {
    Communicator const comm(MPI_COMM_WORLD);
    ADD_FAILURE() << "no error";
  } catch (MpiError const& e) {
    EXPECT_STREQ(e.what(),
                 "kmoe::Communicator: MPI must be initialized and not finalized, found it not "
                 "initialized");
  }
}
#endif

}  // namespace
}  // namespace kmoe
