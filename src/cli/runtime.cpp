// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cli/runtime.hpp"

#include <array>
#include <chrono>
#include <cstdlib>
#include <thread>

namespace kmoe::cli {

#if KMOE_HAVE_MPI

MpiScope::MpiScope(int& argc, char**& argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
}

MpiScope::~MpiScope() {
  MPI_Finalize();
}

Communicator world() {
  return Communicator(MPI_COMM_WORLD);
}

std::string mpi_library() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  std::string const version(text.data(), static_cast<std::size_t>(length));
  return version.substr(0, version.find_first_of(",\n\r"));
}

std::string mpi_details() {
  int version = 0;
  int subversion = 0;
  int level = MPI_THREAD_SINGLE;
  MPI_Get_version(&version, &subversion);
  MPI_Query_thread(&level);
  auto const* const name = level >= MPI_THREAD_MULTIPLE     ? "multiple"
                           : level >= MPI_THREAD_SERIALIZED ? "serialized"
                           : level >= MPI_THREAD_FUNNELED   ? "funneled"
                                                            : "single";
  return "standard " + std::to_string(version) + "." + std::to_string(subversion) +
         ", thread level " + name;
}

std::optional<int> agreed_exit_code(int code, double seconds) {
  // The world communicator itself: the library only ever uses duplicates of it.
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  // Static: an operation that never ends keeps its addresses.
  static int mine = 0;
  static int largest = 0;
  mine = code;
  MPI_Request request = MPI_REQUEST_NULL;
  if (MPI_Iallreduce(&mine, &largest, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD, &request) !=
      MPI_SUCCESS) {
    return std::nullopt;
  }
  using clock = std::chrono::steady_clock;
  auto const end = clock::now() + std::chrono::duration<double>(seconds);
  int done = 0;
  while (MPI_Test(&request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && done == 0 &&
         clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return done != 0 ? std::optional(largest) : std::nullopt;
}

void abort_job(int code) {
  MPI_Abort(MPI_COMM_WORLD, code);
  std::abort();
}

#else

MpiScope::MpiScope(int&, char**&) {}
MpiScope::~MpiScope() = default;
Communicator world() {
  return {};
}
std::string mpi_library() {
  return "none (single rank)";
}
std::string mpi_details() {
  return {};
}
std::optional<int> agreed_exit_code(int code, double) {
  return code;
}
void abort_job(int code) {
  std::exit(code);
}

#endif

}  // namespace kmoe::cli
