// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The main function of test programs that run on several ranks. Rank 0 reports as usual, the other
// ranks only what failed on them; all ranks return the same exit code.

#include <mpi.h>

#include <gtest/gtest.h>
#include <Kokkos_Core.hpp>

#include <cstdio>
#include <string>

namespace {

class MpiGuard {
 public:
  MpiGuard(int& argc, char**& argv) {
    int provided = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  }
  ~MpiGuard() { MPI_Finalize(); }
  MpiGuard(MpiGuard const&) = delete;
  MpiGuard& operator=(MpiGuard const&) = delete;
};

/// Prints the failures of a rank other than 0, each in one write so that ranks do not mix.
class RankFailures final : public ::testing::EmptyTestEventListener {
 public:
  explicit RankFailures(int rank) : prefix_("[rank " + std::to_string(rank) + "] ") {}

  void OnTestStart(::testing::TestInfo const& info) override {
    test_ = std::string(info.test_suite_name()) + "." + info.name();
  }

  void OnTestPartResult(::testing::TestPartResult const& result) override {
    if (!result.failed()) return;
    char const* const file = result.file_name() == nullptr ? "unknown file" : result.file_name();
    std::string text = prefix_ + test_ + ": " + file + ":" + std::to_string(result.line_number()) +
                       ": Failure\n" + prefix_;
    for (char const* c = result.message(); *c != '\0'; ++c) {
      text += *c;
      if (*c == '\n') text += prefix_;
    }
    text += '\n';
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

 private:
  std::string prefix_;
  std::string test_ = "outside of a test";
};

int run_all(int& argc, char** argv) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  ::testing::InitGoogleTest(&argc, argv);
  if (rank != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    delete listeners.Release(listeners.default_xml_generator());
    listeners.Append(new RankFailures(rank));
  }
  int const own = RUN_ALL_TESTS();
  int agreed = own;
  MPI_Allreduce(&own, &agreed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  if (rank == 0 && own == 0 && agreed != 0) {
    std::puts("A test failed on another rank.");
    std::fflush(stdout);
  }
  return agreed;
}

}  // namespace

int main(int argc, char** argv) {
  MpiGuard const mpi(argc, argv);
  Kokkos::ScopeGuard const kokkos(argc, argv);
  return run_all(argc, argv);
}
