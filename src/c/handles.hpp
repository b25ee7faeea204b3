// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What every function of the C interface needs: the guard that turns exceptions into codes, and
/// the table that turns handles into objects.

#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>

#include <kmoe/kmoe.h>
#include <kmoe/comm/communicator.hpp>
#include <kmoe/core/error.hpp>
#include <kmoe/io/checkpoint.hpp>

namespace kmoe::c {

class AnyLayer;

/// Statuses travel as error kinds, so that ranks can agree on them.
[[noreturn]] inline void fail(kmoe_status status, std::string const& message) {
  throw Error(static_cast<ErrorKind>(status), message);
}

inline void expect_not_null(void const* pointer, char const* function, char const* name) {
  if (pointer == nullptr) {
    throw InvalidArgument(std::string(function) + ": " + name + " must not be null");
  }
}

/// Stores the text of the exception in flight and returns its status.
int report_exception(char const* function) noexcept;
/// \throws KMOE_ERROR_NOT_INITIALIZED
void expect_initialized(char const* function);

/// Runs a body that may be called at any time.
template <class F>
int guard_always(F const& body, char const* function) noexcept {
  try {
    body();
    return KMOE_SUCCESS;
  } catch (...) {
    return report_exception(function);
  }
}

/// Runs the body of a function of the interface between kmoe_initialize and kmoe_finalize.
template <class F>
int guard(char const* function, F const& body) noexcept {
  return guard_always(
      [&] {
        expect_initialized(function);
        body();
      },
      function);
}

/// Objects by number. A number is used once, so that a handle never comes alive again, and handles
/// are not pointers, so that a dead one can be looked up.
namespace handles {

enum class Kind { comm, checkpoint, layer };

/// Takes the object in and returns its number.
std::uintptr_t insert(Kind kind, std::shared_ptr<void> object);
/// \throws KMOE_ERROR_INVALID_HANDLE if there is no such object of this kind
std::shared_ptr<void> find(Kind kind, std::uintptr_t id, char const* function);
/// Takes the object out. \throws as find()
std::shared_ptr<void> remove(Kind kind, std::uintptr_t id, char const* function);
/// Takes all objects out and frees them, the oldest first: the same order on every rank.
void clear();

}  // namespace handles

template <class Handle>
struct HandleOf;
template <>
struct HandleOf<kmoe_comm> {
  static constexpr auto kind = handles::Kind::comm;
  using Object = Communicator;
};
template <>
struct HandleOf<kmoe_checkpoint> {
  static constexpr auto kind = handles::Kind::checkpoint;
  using Object = io::Checkpoint;
};
template <>
struct HandleOf<kmoe_layer> {
  static constexpr auto kind = handles::Kind::layer;
  using Object = AnyLayer;
};

/// The object of a handle; the caller's share keeps it alive during the call.
template <class Handle>
std::shared_ptr<typename HandleOf<Handle>::Object> object_of(Handle handle, char const* function) {
  using Of = HandleOf<Handle>;
  return std::static_pointer_cast<typename Of::Object>(
      handles::find(Of::kind, reinterpret_cast<std::uintptr_t>(handle), function));
}

template <class Handle>
Handle new_handle(std::shared_ptr<typename HandleOf<Handle>::Object> object) {
  return reinterpret_cast<Handle>(handles::insert(HandleOf<Handle>::kind, std::move(object)));
}

template <class Handle>
int destroy(Handle handle, char const* function) noexcept {
  return guard(function, [&] {
    auto const last =
        handles::remove(HandleOf<Handle>::kind, reinterpret_cast<std::uintptr_t>(handle), function);
  });
}

}  // namespace kmoe::c
