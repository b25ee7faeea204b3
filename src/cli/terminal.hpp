// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What standard output is connected to.

#include <cstddef>
#include <cstdlib>
#include <string_view>

#include <sys/ioctl.h>
#include <unistd.h>

namespace kmoe::cli {

/// Columns of the terminal, 100 where there is none.
inline std::size_t terminal_width() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40) return size.ws_col;
  return 100;
}

/// Whether colours are welcome: a terminal that is not dumb, and no NO_COLOR. Under a launcher
/// nobody knows: Open MPI gives ranks a terminal of its own even where its output goes to a file.
inline bool terminal_has_color() {
  for (char const* launcher : {"PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"}) {
    if (std::getenv(launcher) != nullptr) return false;
  }
  char const* const term = std::getenv("TERM");
  return isatty(STDOUT_FILENO) != 0 && term != nullptr && std::string_view(term) != "dumb" &&
         std::getenv("NO_COLOR") == nullptr;
}

}  // namespace kmoe::cli
