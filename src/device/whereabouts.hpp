// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// On which of a node's devices a process runs: the choice, and how to tell.

#include <array>
#include <cstdlib>
#include <optional>
#include <string>
#include <type_traits>

#include <Kokkos_Core.hpp>

#include <kmoe/core/types.hpp>

namespace kmoe::device {

/// The device for a process: node_rank modulo `visible`. Nothing where Kokkos is to choose: without
/// devices, without a rank, or where the environment tells Kokkos which one.
/// \param node_rank of the process among those of its node, -1 if unknown
/// \param visible devices that the process sees: what CUDA_VISIBLE_DEVICES and its like, a batch
///        system or KOKKOS_VISIBLE_DEVICES leave of the node's, one if each rank is shown its own
/// \param variable the environment: a value, or null
inline std::optional<int> choose_device(
    index_t node_rank, int visible,
    char const* (*variable)(char const*) = [](char const* name) -> char const* {
      return std::getenv(name);
    }) {
  if (node_rank < 0 || visible < 1) return std::nullopt;
  for (auto const* name :
       {"KOKKOS_DEVICE_ID", "KOKKOS_MAP_DEVICE_ID_BY", "CTEST_KOKKOS_DEVICE_TYPE"}) {
    if (variable(name) != nullptr) return std::nullopt;
  }
  return node_rank % visible;
}

/// Where an instance runs: "host", or like "device 1 at PCI 0000:41:00.0 (4 visible)". The address
/// tells devices apart that are number 0 to each rank that sees no other.
template <ExecutionSpace E>
std::string describe_device([[maybe_unused]] E const& exec) {
#if defined(KOKKOS_ENABLE_CUDA) || defined(KOKKOS_ENABLE_HIP)
  if constexpr (std::is_same_v<E, Kokkos::DefaultExecutionSpace>) {
    std::array<char, 32> address{"unknown"};
#ifdef KOKKOS_ENABLE_CUDA
    int const id = exec.cuda_device();
    static_cast<void>(cudaDeviceGetPCIBusId(address.data(), address.size(), id));
#else
    int const id = exec.hip_device();
    static_cast<void>(hipDeviceGetPCIBusId(address.data(), address.size(), id));
#endif
    return "device " + std::to_string(id) + " at PCI " + address.data() + " (" +
           std::to_string(Kokkos::num_devices()) + " visible)";
  }
#endif
  return "host";
}

}  // namespace kmoe::device
