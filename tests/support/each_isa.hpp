// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Tests on every host instruction set that this machine offers.

#include <optional>
#include <string>

#include <gtest/gtest.h>
#include <Kokkos_Core.hpp>

#include "device/isa.hpp"

namespace kmoe::test {

/// Whether the host kernels serve E.
template <class E>
inline constexpr bool on_host = Kokkos::SpaceAccessibility<E, Kokkos::HostSpace>::accessible;

/// Runs `body` with each instruction set that serves E.
template <class E, class Body>
void for_each_isa(Body&& body) {
  if constexpr (!on_host<E>) {
    body();
  } else {
    for (auto const isa : kmoe::device::all_isas) {
      if (!kmoe::device::isa_available(isa)) continue;
      SCOPED_TRACE(std::string(kmoe::device::to_string(isa)));
      kmoe::device::override_host_isa(isa);
      body();
    }
    kmoe::device::override_host_isa(std::nullopt);
  }
}

}  // namespace kmoe::test
