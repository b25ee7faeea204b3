// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/core/error.hpp>

namespace kmoe {

void throw_error(ErrorKind kind, std::string const& message) {
  switch (kind) {
    case ErrorKind::invalid_argument:
      throw InvalidArgument(message);
    case ErrorKind::io:
      throw IoError(message);
    case ErrorKind::unsupported:
      throw Unsupported(message);
    case ErrorKind::mpi:
      throw MpiError(message);
  }
  throw Error(kind, message);
}

void detail::throw_invalid(std::string_view function, std::string_view rule, std::string found,
                           std::string_view label) {
  std::string message(function);
  message.append(": ").append(rule).append(", found ").append(found);
  if (!label.empty()) message.append(" (View \"").append(label).append("\")");
  throw InvalidArgument(message);
}

}  // namespace kmoe
