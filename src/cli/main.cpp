// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The program `kmoe`: start and end of MPI and Kokkos, and what becomes of errors.

#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <Kokkos_Core.hpp>
#include <kmoe/comm/communicator.hpp>
#include <kmoe/core/error.hpp>

#include "cli/commands.hpp"
#include "cli/runtime.hpp"
#include "comm/node_rank.hpp"
#include "device/whereabouts.hpp"

namespace kmoe::cli {
namespace {

constexpr int internal_error = 70;
/// How long a failing rank waits for the others to fail too before it ends the job.
constexpr double patience_seconds = 5;

/// Kokkos for a scope. The program's own arguments are kept from it: it would answer --help.
class KokkosScope {
 public:
  /// \param node_rank by which this process gets its device, unless an argument chooses
  KokkosScope(std::vector<char*>& arguments, index_t node_rank) {
    std::string chosen;
    auto const id = device::choose_device(node_rank, Kokkos::num_devices());
    if (id && std::ranges::none_of(arguments, [](std::string_view argument) {
          return argument.find("device-id") != std::string_view::npos;
        })) {
      chosen = "--kokkos-device-id=" + std::to_string(*id);
      arguments.push_back(chosen.data());
    }
    int count = static_cast<int>(arguments.size());
    arguments.push_back(nullptr);
    try {
      Kokkos::initialize(count, arguments.data());
    } catch (std::exception const& error) {
      throw InvalidArgument(std::string("Kokkos: ") + error.what());
    }
  }
  ~KokkosScope() {
    if (Kokkos::is_initialized()) Kokkos::finalize();
  }
  KokkosScope(KokkosScope const&) = delete;
  KokkosScope& operator=(KokkosScope const&) = delete;
};

int execute(Communicator const& comm, std::vector<char*> const& own, std::vector<char*>& kokkos) {
  Options options;
  agree(comm, [&] { options = parse_options(static_cast<int>(own.size()), own.data()); });
  agree_equal(comm, "kmoe", to_string(options));
  if (options.command == Command::print) {
    if (comm.rank() == 0) std::fputs(options.text.c_str(), stdout);
    return 0;
  }
  std::unique_ptr<KokkosScope> scope;
  auto const node_rank = detail::node_rank(comm);
  agree(comm, [&] { scope = std::make_unique<KokkosScope>(kokkos, node_rank); });
  switch (options.command) {
    case Command::verify:
      return verify(comm, options);
    case Command::run:
      return run(comm, options);
    case Command::replay:
      return replay(comm, options);
    case Command::quantize:
      return quantize(comm, options);
    case Command::bench:
      return bench(comm, options);
    default:
      return info(comm, options);
  }
}

/// An error that all ranks share is told once, by rank 0. One that this rank has alone is told here
/// and ends the job, because the other ranks wait for this one.
int fail(index_t rank, Error const& error) {
  std::string_view message = error.what();
  if (message.starts_with("rank 0: ")) message.remove_prefix(8);
  auto const agreed = agreed_exit_code(static_cast<int>(error.kind()), patience_seconds);
  if (agreed && rank != 0) return *agreed;
  std::string text = "kmoe: error: ";
  if (!agreed) text += "rank " + std::to_string(rank) + " alone: ";
  text.append(message).append("\n");
  std::fputs(text.c_str(), stderr);
  if (!agreed) abort_job(static_cast<int>(error.kind()));
  return *agreed;
}

int program(int argc, char** argv) {
  index_t rank = 0;
  try {
    std::vector<char*> own(argv, argv + argc);
    std::vector<char*> kokkos(argv, argv + 1);
    std::erase_if(own, [&](char* argument) {
      bool const is_kokkos = std::string_view(argument).starts_with("--kokkos-");
      if (is_kokkos) kokkos.push_back(argument);
      return is_kokkos;
    });
    Communicator const comm = world();
    rank = comm.rank();
    static char quiet[] = "--kokkos-disable-warnings";  // those of rank 0 will do
    if (rank != 0) kokkos.push_back(quiet);
    return execute(comm, own, kokkos);
  } catch (Error const& error) {
    return fail(rank, error);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "kmoe: internal error on rank %d: %s\n", static_cast<int>(rank),
                 error.what());
    abort_job(internal_error);
  }
}

}  // namespace
}  // namespace kmoe::cli

int main(int argc, char** argv) {
  kmoe::cli::MpiScope const mpi(argc, argv);
  int const code = kmoe::cli::program(argc, argv);
  std::fflush(stdout);
  return code;
}
