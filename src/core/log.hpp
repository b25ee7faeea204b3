// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Lines on stderr, for who asks for them: KMOE_LOG=info or debug. By default the library is mute.

#include <string_view>

#include <kmoe/core/types.hpp>

namespace kmoe::detail {

enum class LogLevel { off, info, debug };

/// What KMOE_LOG says now. \throws InvalidArgument if it is none of off, info, debug
LogLevel log_level();

/// One line, "kmoe: rank R: TEXT", in one write so that ranks do not mix within a line.
void log_line(index_t rank, std::string_view text);

}  // namespace kmoe::detail
