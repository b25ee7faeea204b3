// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The test programs themselves: several ranks talk to each other.

#include <mpi.h>

#include <gtest/gtest.h>
#include <Kokkos_Core.hpp>

namespace {

TEST(SupportMpi, RanksReduce) {
  int rank = 0, ranks = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  Kokkos::View<int[1], Kokkos::HostSpace> const own("own"), sum("sum");
  own(0) = rank;
  MPI_Allreduce(own.data(), sum.data(), 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  EXPECT_EQ(sum(0), ranks * (ranks - 1) / 2);
}

}  // namespace
