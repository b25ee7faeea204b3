// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What a piece of code launches, as a profiling tool sees it.

#include <cstdint>
#include <string>
#include <vector>

#include <Kokkos_Core.hpp>

namespace kmoe::test {

struct Launch {
  std::string label;
  std::uint32_t device;  ///< compare with Kokkos::Tools::Experimental::device_id(exec)
};

/// Records the kernels and the allocations made while it lives. One at a time.
class LaunchRecorder {
 public:
  LaunchRecorder() {
    launches().clear();
    allocations() = 0;
    using namespace Kokkos::Tools::Experimental;
    set_begin_parallel_for_callback(&record);
    set_begin_parallel_reduce_callback(&record);
    set_begin_parallel_scan_callback(&record);
    set_allocate_data_callback(
        [](Kokkos::Tools::SpaceHandle space, char const* label, void const*, std::uint64_t bytes) {
          if (bytes == 0) return;  // Kokkos tells of the scratch that a team does not ask for
          ++allocations();
          last_allocation() = std::string(label) + " in " + space.name;
        });
  }
  ~LaunchRecorder() {
    using namespace Kokkos::Tools::Experimental;
    set_begin_parallel_for_callback(nullptr);
    set_begin_parallel_reduce_callback(nullptr);
    set_begin_parallel_scan_callback(nullptr);
    set_allocate_data_callback(nullptr);
  }
  LaunchRecorder(LaunchRecorder const&) = delete;
  LaunchRecorder& operator=(LaunchRecorder const&) = delete;

  static std::vector<Launch>& launches() {
    static std::vector<Launch> all;
    return all;
  }
  static int& allocations() {
    static int count = 0;
    return count;
  }
  static std::string& last_allocation() {
    static std::string label;
    return label;
  }

 private:
  static void record(char const* label, std::uint32_t device, std::uint64_t* id) {
    *id = launches().size();
    launches().push_back({label, device});
  }
};

}  // namespace kmoe::test
