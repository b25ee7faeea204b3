// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The commands of the program. Each is collective, returns its exit code and throws kmoe::Error on
/// all ranks alike.

#include <string>
#include <utility>
#include <vector>

#include <kmoe/comm/communicator.hpp>

#include "cli/options.hpp"

namespace kmoe::cli {

int verify(Communicator const& comm, Options const& options);
int run(Communicator const& comm, Options const& options);
int replay(Communicator const& comm, Options const& options);
int bench(Communicator const& comm, Options const& options);
int quantize(Communicator const& comm, Options const& options);
int info(Communicator const& comm, Options const& options);

/// Names and versions of kmoe, Kokkos and MPI.
std::vector<std::pair<std::string, std::string>> versions();

}  // namespace kmoe::cli
