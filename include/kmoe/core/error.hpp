// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The exceptions of the library and the helpers that raise them.
///
/// Host preconditions are always checked, before any communication. A message names the function,
/// the rule, what was expected, what was found and, for a View, its label:
/// `kmoe::grouped_gemm: a.extent(1) must equal hidden_size 4096, found 4095 (View "x")`.

#include <stdexcept>
#include <string>
#include <string_view>

#include <kmoe/core/config.hpp>

namespace kmoe KMOE_API {

/// What kind of failure an Error is. The values are the exit codes of the `kmoe` program.
enum class ErrorKind : int {
  invalid_argument = 2,  ///< a precondition that the caller broke
  io = 3,                ///< a file that is missing, truncated or inconsistent
  unsupported = 4,       ///< known, but not in this build or not implemented for this input
  mpi = 5,               ///< an MPI call failed, or ranks disagree
};

/// Base of everything the library throws on purpose.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string const& message) : std::runtime_error(message), kind_(kind) {}
  [[nodiscard]] ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

/// An argument, option or shape breaks a rule; names function, rule, expected and found.
class InvalidArgument : public Error {
 public:
  explicit InvalidArgument(std::string const& message)
      : Error(ErrorKind::invalid_argument, message) {}
};

/// Names the option, build switch or model type that is missing.
class Unsupported : public Error {
 public:
  explicit Unsupported(std::string const& message) : Error(ErrorKind::unsupported, message) {}
};

/// A call of MPI failed; names it and what MPI says.
class MpiError : public Error {
 public:
  explicit MpiError(std::string const& message) : Error(ErrorKind::mpi, message) {}
};

/// Names the path and, where there is one, the tensor and the byte offset.
class IoError : public Error {
 public:
  explicit IoError(std::string const& message) : Error(ErrorKind::io, message) {}
};

/// Throws the class that belongs to `kind`; used to raise on every rank what one rank found.
[[noreturn]] void throw_error(ErrorKind kind, std::string const& message);

namespace detail {

/// Throws InvalidArgument "<function>: <rule>, found <found> (View "<label>")"; the label part is
/// left out when empty. Out of line, so that a check costs a compare on the good path.
[[noreturn]] void throw_invalid(std::string_view function, std::string_view rule, std::string found,
                                std::string_view label = {});

/// Checks one extent against what it must equal; `rule` reads "x.extent(1) must equal hidden_size".
inline void expect_extent(std::string_view function, std::string_view rule, long long expected,
                          long long found, std::string const& label) {
  if (expected != found) {
    throw_invalid(function, std::string(rule) + " " + std::to_string(expected),
                  std::to_string(found), label);
  }
}

/// Checks a rule on a number; `rule` reads "top_k must be at least 1".
inline void expect(bool holds, std::string_view function, std::string_view rule, long long found) {
  if (!holds) throw_invalid(function, rule, std::to_string(found));
}

}  // namespace detail
}  // namespace KMOE_API
