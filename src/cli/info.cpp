// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// kmoe info and --version: what this program is, where it runs and what steers it.

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <Kokkos_Core.hpp>
#include <kmoe/core/config.hpp>
#include <kmoe/core/error.hpp>
#include <nlohmann/json.hpp>

#include "cli/commands.hpp"
#include "cli/runtime.hpp"
#include "device/isa.hpp"
#include "device/whereabouts.hpp"
#include "kmoe_git_hash.hpp"

namespace kmoe::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Variable {
  char const* name;
  char const* meaning;
};

/// Every environment variable that kmoe reads, and those of others that matter most to it.
constexpr Variable variables[] = {
    {"KMOE_GPU_AWARE_MPI",
     "1: hand device pointers to MPI, 0: stage through the host; else ask MPI"},
    {"KMOE_ISA", "host kernels: portable, avx2, avx512, avx512_bf16 or amx; else the best here"},
    {"KMOE_LOG", "off, info or debug: lines on stderr about layers"},
    {"KMOE_SUMMARY", "file for a JSON summary of a process's layers; %r in it is the rank"},
    {"KOKKOS_NUM_THREADS", "threads per rank, read by Kokkos"},
    {"OMP_NUM_THREADS", "threads per rank, read by OpenMP"},
    {"OMP_PROC_BIND", "binding of threads, read by OpenMP; false where ranks share cores"},
    {"OMP_PLACES", "where threads may run, read by OpenMP"},
    {"KOKKOS_DEVICE_ID", "a rank's device; else node-local rank modulo the devices that it sees"},
    {"KOKKOS_MAP_DEVICE_ID_BY", "mpi_rank or random: Kokkos chooses a rank's device"},
    {"KOKKOS_TOOLS_LIBS", "profiling tool, loaded by Kokkos; kmoe's kernels begin with kmoe::"},
};

std::string kokkos_version() {
  return std::to_string(KOKKOS_VERSION / 10000) + "." + std::to_string(KOKKOS_VERSION / 100 % 100) +
         "." + std::to_string(KOKKOS_VERSION % 100);
}

std::string spaces() {
  std::string const device = Kokkos::DefaultExecutionSpace::name();
  std::string const host = Kokkos::DefaultHostExecutionSpace::name();
  return device == host ? device : device + ", " + host;
}

constexpr bool has_kokkos_kernels =
#ifdef KMOE_HAVE_KOKKOSKERNELS
    true;
#else
    false;
#endif

std::string instruction_set() {
  try {
    return std::string(device::to_string(device::host_isa()));
  } catch (Unsupported const& error) {
    return std::string("none: ") + error.what();
  }
}

/// Where each rank runs. Collective.
std::vector<std::string> devices_of(Communicator const& comm) {
  std::vector<std::string> all(static_cast<std::size_t>(comm.size()));
  for (index_t rank = 0; rank < comm.size(); ++rank) {
    auto& text = all[static_cast<std::size_t>(rank)];
    if (rank == comm.rank()) text = device::describe_device(Kokkos::DefaultExecutionSpace());
    comm.broadcast(text, rank);
  }
  return all;
}

Json describe(Communicator const& comm, std::vector<std::string> const& devices) {
  Json json;
  for (auto const& [name, version] : versions()) json["versions"][name] = version;
  auto& kokkos = json["kokkos"];
  kokkos["device_space"] = Kokkos::DefaultExecutionSpace::name();
  kokkos["device_concurrency"] = Kokkos::DefaultExecutionSpace().concurrency();
  kokkos["host_space"] = Kokkos::DefaultHostExecutionSpace::name();
  kokkos["host_concurrency"] = Kokkos::DefaultHostExecutionSpace().concurrency();
  kokkos["kokkos_kernels"] = has_kokkos_kernels;
  json["instruction_set"] = instruction_set();
  auto& mpi = json["mpi"];
  mpi["library"] = mpi_library();
  mpi["details"] = mpi_details();
  mpi["ranks"] = comm.size();
  mpi["devices"] = devices;
  mpi["gpu_aware"] = comm.gpu_aware();
  mpi["gpu_aware_reason"] = comm.gpu_aware_reason();
  for (auto const& [name, meaning] : variables) {
    char const* const value = std::getenv(name);
    json["environment"][name] = {{"value", value == nullptr ? Json() : Json(value)},
                                 {"meaning", meaning}};
  }
  return json;
}

void print_line(char const* name, std::string const& value) {
  std::printf("%-18s %s\n", name, value.c_str());
}

void print_text(Json const& json) {
  for (auto const& [name, version] : json["versions"].items()) {
    print_line(name.c_str(), version.get<std::string>());
  }
  auto const& kokkos = json["kokkos"];
  for (std::string const space : {"device", "host"}) {
    print_line((space + " space").c_str(), kokkos[space + "_space"].get<std::string>() +
                                               ", concurrency " +
                                               kokkos[space + "_concurrency"].dump());
  }
  print_line("Kokkos Kernels", kokkos["kokkos_kernels"].get<bool>() ? "yes" : "no");
  print_line("instruction set", json["instruction_set"].get<std::string>());
  auto const& mpi = json["mpi"];
  if (auto const details = mpi["details"].get<std::string>(); !details.empty()) {
    print_line("MPI", details);
  }
  print_line("ranks", mpi["ranks"].dump());
  for (index_t rank = 0; auto const& device : mpi["devices"]) {
    auto const name = "  rank " + std::to_string(rank++);
    if (device != "host") print_line(name.c_str(), device.get<std::string>());
  }
  print_line("GPU-aware MPI", std::string(mpi["gpu_aware"].get<bool>() ? "yes" : "no") + " (" +
                                  mpi["gpu_aware_reason"].get<std::string>() + ")");
  std::printf("\nenvironment variables\n");
  for (auto const& [name, entry] : json["environment"].items()) {
    std::printf(
        "  %s%s\n      %s\n", name.c_str(),
        entry["value"].is_null() ? " (not set)" : ("=" + entry["value"].get<std::string>()).c_str(),
        entry["meaning"].get<std::string>().c_str());
  }
}

}  // namespace

std::vector<std::pair<std::string, std::string>> versions() {
  std::string const hash = KMOE_GIT_HASH;
  return {{"kmoe", std::string(KMOE_VERSION_STRING) + (hash.empty() ? "" : " (git " + hash + ")")},
          {"Kokkos", kokkos_version() + " (" + spaces() + ")"},
          {"MPI library", mpi_library()}};
}

int info(Communicator const& comm, Options const& options) {
  auto const devices = devices_of(comm);
  if (comm.rank() != 0) return 0;
  Json const json = describe(comm, devices);
  if (options.json) {
    std::printf("%s\n", json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
  } else {
    print_text(json);
  }
  return 0;
}

}  // namespace kmoe::cli
