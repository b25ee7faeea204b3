// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "core/log.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>

#include <kmoe/core/error.hpp>

namespace kmoe::detail {

LogLevel log_level() {
  char const* const value = std::getenv("KMOE_LOG");
  std::string_view const text = value == nullptr ? "" : value;
  if (text.empty() || text == "off") return LogLevel::off;
  if (text == "info") return LogLevel::info;
  if (text == "debug") return LogLevel::debug;
  throw_invalid("kmoe::MoeLayer", "KMOE_LOG must be off, info or debug",
                "\"" + std::string(text) + "\"");
}

void log_line(index_t rank, std::string_view text) {
  std::string line = "kmoe: rank " + std::to_string(rank) + ": ";
  line.append(text).append("\n");
  std::fputs(line.c_str(), stderr);
}

}  // namespace kmoe::detail
