// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// MPI as the program sees it: the only part of the CLI that differs in a build without MPI.

#include <optional>
#include <string>

#include <kmoe/comm/communicator.hpp>

namespace kmoe::cli {

/// MPI for as long as the program runs; nothing in a build without MPI.
class MpiScope {
 public:
  MpiScope(int& argc, char**& argv);
  ~MpiScope();
  MpiScope(MpiScope const&) = delete;
  MpiScope& operator=(MpiScope const&) = delete;
};

/// All ranks of the job. Collective.
Communicator world();

/// First line of the MPI library's own version string, or "none (single rank)".
std::string mpi_library();

/// Version of the MPI standard, thread level and such, one line; empty without MPI.
std::string mpi_details();

/// The largest exit code, if every rank of the job calls this within `seconds`: ranks that fail
/// together may then return it from main. A rank that fails alone gets nothing, because the others
/// wait elsewhere.
std::optional<int> agreed_exit_code(int code, double seconds);

/// Ends the whole job with this exit code.
[[noreturn]] void abort_job(int code);

}  // namespace kmoe::cli
