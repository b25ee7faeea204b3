// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Start and end, error texts, the table of handles, groups of ranks.

#include <algorithm>
#include <array>
#include <initializer_list>
#include <map>
#include <mutex>
#include <new>
#include <string_view>
#include <utility>

#include <Kokkos_Core.hpp>

#include <kmoe/core/types.hpp>

#include "c/handles.hpp"
#include "comm/node_rank.hpp"
#include "device/whereabouts.hpp"

namespace kmoe::c {
namespace {

thread_local std::array<char, 4096> last_error{};

void set_last_error(std::initializer_list<std::string_view> parts) noexcept {
  auto* out = last_error.data();
  for (auto const part : parts) {
    auto const left = static_cast<std::size_t>(last_error.data() + last_error.size() - 1 - out);
    out = std::copy_n(part.data(), std::min(part.size(), left), out);
  }
  *out = '\0';
}

struct Runtime {
  std::mutex mutex;
  int uses = 0;             // kmoe_initialize less kmoe_finalize
  bool own_kokkos = false;  // kmoe started it
  bool hooked = false;
};

struct Table {
  std::mutex mutex;
  std::map<std::uintptr_t, std::pair<handles::Kind, std::shared_ptr<void>>> objects;
  std::uintptr_t next = 1;
};

// Never destroyed: what is left in them at exit must not be freed after Kokkos and MPI have ended.
Runtime& runtime() {
  static auto& instance = *new Runtime;
  return instance;
}
Table& table() {
  static auto& instance = *new Table;
  return instance;
}

/// \param node_rank of this process on its node, or -1 to leave the choice of a device to Kokkos
void initialize(index_t node_rank, char const* function) {
  auto& state = runtime();
  std::scoped_lock const lock(state.mutex);
  if (!Kokkos::is_initialized()) {
    if (Kokkos::is_finalized()) {
      throw Unsupported(std::string(function) +
                        ": Kokkos has been finalized, and can not start a second time");
    }
    Kokkos::InitializationSettings settings;
    if (auto const id = device::choose_device(node_rank, Kokkos::num_devices())) {
      settings.set_device_id(*id);
    }
    Kokkos::initialize(settings);
    state.own_kokkos = true;
  }
  if (!state.hooked) {
    // A program that started Kokkos may end it before it calls kmoe_finalize.
    Kokkos::push_finalize_hook([] {
      handles::clear();
      runtime().uses = 0;
    });
    state.hooked = true;
  }
  ++state.uses;
}

#if KMOE_HAVE_MPI

int initialize_mpi(MPI_Comm mpi_comm, char const* function) {
  return guard_always(
      [&] {
        Communicator const comm(mpi_comm);
        auto const node_rank = detail::node_rank(comm);
        agree(comm, [&] { initialize(node_rank, function); });
      },
      function);
}

/// Without MPI there is nothing to convert: the null communicator leads to the error.
MPI_Comm from_fortran(MPI_Fint comm) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  return initialized != 0 ? MPI_Comm_f2c(comm) : MPI_COMM_NULL;
}

int create_comm(MPI_Comm mpi_comm, kmoe_comm* out, char const* function) {
  return guard_always(
      [&] {
        // Also a rank that makes a mistake takes part, or the others would wait for it.
        auto group = std::make_shared<Communicator>(mpi_comm);
        agree(*group, [&] {
          expect_initialized(function);
          expect_not_null(out, function, "comm");
        });
        *out = new_handle<kmoe_comm>(std::move(group));
      },
      function);
}

#endif

}  // namespace

int report_exception(char const* function) noexcept {
  try {
    throw;
  } catch (Error const& error) {
    set_last_error({error.what()});
    return static_cast<int>(error.kind());
  } catch (std::bad_alloc const&) {
    set_last_error({function, ": out of memory"});
    return KMOE_ERROR_OUT_OF_MEMORY;
  } catch (std::exception const& error) {
    set_last_error({function, ": ", error.what()});
    return KMOE_ERROR_INTERNAL;
  } catch (...) {
    set_last_error({function, ": unknown exception"});
    return KMOE_ERROR_INTERNAL;
  }
}

void expect_initialized(char const* function) {
  auto& state = runtime();
  std::scoped_lock const lock(state.mutex);
  if (state.uses == 0) {
    fail(KMOE_ERROR_NOT_INITIALIZED,
         std::string(function) + ": kmoe_initialize must be called before, kmoe_finalize after");
  }
}

namespace handles {
namespace {

auto find_iterator(Kind kind, std::uintptr_t id, char const* function) {
  static constexpr std::array names{"comm", "checkpoint", "layer"};
  auto& t = table();
  auto const found = t.objects.find(id);
  if (found != t.objects.end() && found->second.first == kind) return found;
  auto const* const name = names[static_cast<std::size_t>(kind)];
  auto const* const why = id == 0                    ? " is null"
                          : found != t.objects.end() ? " is a handle of another kind"
                          : id < t.next              ? " has been destroyed"
                                                     : " is not a handle of kmoe";
  fail(KMOE_ERROR_INVALID_HANDLE, std::string(function) + ": " + name + why);
}

}  // namespace

std::uintptr_t insert(Kind kind, std::shared_ptr<void> object) {
  auto& t = table();
  std::scoped_lock const lock(t.mutex);
  t.objects.emplace(t.next, std::pair(kind, std::move(object)));
  return t.next++;
}

std::shared_ptr<void> find(Kind kind, std::uintptr_t id, char const* function) {
  auto& t = table();
  std::scoped_lock const lock(t.mutex);
  return find_iterator(kind, id, function)->second.second;
}

std::shared_ptr<void> remove(Kind kind, std::uintptr_t id, char const* function) {
  auto& t = table();
  std::scoped_lock const lock(t.mutex);
  auto const found = find_iterator(kind, id, function);
  auto object = std::move(found->second.second);
  t.objects.erase(found);
  return object;
}

void clear() {
  decltype(Table::objects) objects;
  {
    auto& t = table();
    std::scoped_lock const lock(t.mutex);
    objects.swap(t.objects);
  }
  while (!objects.empty()) objects.erase(objects.begin());
}

}  // namespace handles
}  // namespace kmoe::c

using namespace kmoe;
using namespace kmoe::c;

char const* kmoe_strerror(int status) {
  switch (status) {
    case KMOE_SUCCESS:
      return "success";
    case KMOE_ERROR_INVALID_ARGUMENT:
      return "an argument breaks a rule of the function";
    case KMOE_ERROR_IO:
      return "a file is missing, truncated or inconsistent";
    case KMOE_ERROR_UNSUPPORTED:
      return "not supported by this build, or not implemented";
    case KMOE_ERROR_MPI:
      return "an MPI call failed";
    case KMOE_ERROR_NOT_INITIALIZED:
      return "kmoe is not initialized";
    case KMOE_ERROR_INVALID_HANDLE:
      return "a handle is null, destroyed or was never created";
    case KMOE_ERROR_CALLBACK:
      return "an expert function of the program failed";
    case KMOE_ERROR_OUT_OF_MEMORY:
      return "out of memory";
    case KMOE_ERROR_INTERNAL:
      return "internal error";
    default:
      return "not a status of kmoe";
  }
}

char const* kmoe_last_error(void) {
  return last_error.data();
}

int kmoe_version(void) {
  return KMOE_VERSION;
}

int kmoe_initialize(void) {
  return guard_always([] { initialize(-1, "kmoe_initialize"); }, "kmoe_initialize");
}

#if KMOE_HAVE_MPI
int kmoe_initialize_mpi(MPI_Comm comm) {
  return initialize_mpi(comm, "kmoe_initialize_mpi");
}

int kmoe_initialize_mpi_f(MPI_Fint comm) {
  return initialize_mpi(from_fortran(comm), "kmoe_initialize_mpi_f");
}
#endif

int kmoe_finalize(void) {
  return guard("kmoe_finalize", [] {
    auto& state = runtime();
    {
      std::scoped_lock const lock(state.mutex);
      if (--state.uses > 0) return;
    }
    handles::clear();
    if (std::exchange(state.own_kokkos, false)) Kokkos::finalize();
  });
}

int kmoe_is_initialized(int* initialized) {
  return guard_always(
      [&] {
        expect_not_null(initialized, "kmoe_is_initialized", "initialized");
        auto& state = runtime();
        std::scoped_lock const lock(state.mutex);
        *initialized = state.uses > 0 ? 1 : 0;
      },
      "kmoe_is_initialized");
}

int kmoe_comm_create_self(kmoe_comm* comm) {
  return guard("kmoe_comm_create_self", [&] {
    expect_not_null(comm, "kmoe_comm_create_self", "comm");
    *comm = new_handle<kmoe_comm>(std::make_shared<Communicator>());
  });
}

#if KMOE_HAVE_MPI
int kmoe_comm_create(MPI_Comm mpi_comm, kmoe_comm* comm) {
  return create_comm(mpi_comm, comm, "kmoe_comm_create");
}

int kmoe_comm_create_f(MPI_Fint mpi_comm, kmoe_comm* comm) {
  return create_comm(from_fortran(mpi_comm), comm, "kmoe_comm_create_f");
}
#endif

int kmoe_comm_rank(kmoe_comm comm, int32_t* rank) {
  return guard("kmoe_comm_rank", [&] {
    expect_not_null(rank, "kmoe_comm_rank", "rank");
    *rank = object_of(comm, "kmoe_comm_rank")->rank();
  });
}

int kmoe_comm_size(kmoe_comm comm, int32_t* size) {
  return guard("kmoe_comm_size", [&] {
    expect_not_null(size, "kmoe_comm_size", "size");
    *size = object_of(comm, "kmoe_comm_size")->size();
  });
}

int kmoe_comm_destroy(kmoe_comm comm) {
  return destroy(comm, "kmoe_comm_destroy");
}
