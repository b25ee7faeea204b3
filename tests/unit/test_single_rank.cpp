// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The group of one, in a program that has not initialized MPI, and in builds that have none; the
// choice of a device.

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include <kmoe/comm/communicator.hpp>

#include "comm/node_rank.hpp"
#include "device/whereabouts.hpp"

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

TEST(SingleRank, HasNoRankOnItsNode) {
  EXPECT_EQ(detail::node_rank(Communicator()), -1);
}

TEST(Device, IsTheNodeRankModuloWhatTheProcessSees) {
  auto const unset = [](char const*) -> char const* { return nullptr; };
  // Four devices for all, and more ranks than these.
  for (index_t rank = 0; rank < 9; ++rank) {
    EXPECT_EQ(device::choose_device(rank, 4, unset), rank % 4) << rank;
  }
  // A batch system shows each rank a device of its own, or two.
  EXPECT_EQ(device::choose_device(0, 1, unset), 0);
  EXPECT_EQ(device::choose_device(3, 1, unset), 0);
  EXPECT_EQ(device::choose_device(3, 2, unset), 1);
  // Host builds (Kokkos says -1), no device, and no MPI: Kokkos' own business.
  EXPECT_EQ(device::choose_device(0, -1, unset), std::nullopt);
  EXPECT_EQ(device::choose_device(0, 0, unset), std::nullopt);
  EXPECT_EQ(device::choose_device(-1, 4, unset), std::nullopt);
}

TEST(Device, IsWhatKokkosIsTold) {
  static char const* told = nullptr;
  auto const variable = [](char const* name) -> char const* {
    return std::string_view(name) == told ? "1" : nullptr;
  };
  for (auto const* name :
       {"KOKKOS_DEVICE_ID", "KOKKOS_MAP_DEVICE_ID_BY", "CTEST_KOKKOS_DEVICE_TYPE"}) {
    told = name;
    EXPECT_EQ(device::choose_device(1, 4, variable), std::nullopt) << name;
  }
  // These change what the process sees, and so the number that Kokkos counts, not the rule.
  for (auto const* name :
       {"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "KOKKOS_VISIBLE_DEVICES"}) {
    told = name;
    EXPECT_EQ(device::choose_device(3, 2, variable), 1) << name;
  }
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
