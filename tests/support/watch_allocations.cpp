// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "support/watch_allocations.hpp"

#include <atomic>
#include <cstdlib>
#include <new>

#include <Kokkos_Core.hpp>

#ifdef __CUDACC__
#pragma nv_diag_suppress 20011  // nvcc takes operator new for a function of the device as well
#endif

namespace {
std::atomic<bool> watching{false};
std::atomic<std::size_t> allocations{0}, bytes_of_kokkos{0}, blocks{0};

// Apart from operator new, which nvcc compiles for the device too: there it could not throw.
void* allocate(std::size_t size) {
  if (watching && size >= kmoe::test::WatchAllocations::large) ++blocks;
  if (void* const memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
}  // namespace

void* operator new(std::size_t size) {
  return allocate(size);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace kmoe::test {

WatchAllocations::WatchAllocations() {
  allocations = bytes_of_kokkos = blocks = 0;
  Kokkos::Tools::Experimental::set_allocate_data_callback(
      [](Kokkos_Profiling_SpaceHandle, char const*, void const*, std::uint64_t bytes) {
        if (bytes == 0) return;  // Kokkos tells of the scratch that a team does not ask for
        ++allocations;
        bytes_of_kokkos += bytes;
      });
  watching = true;
}

WatchAllocations::~WatchAllocations() {
  watching = false;
  Kokkos::Tools::Experimental::set_allocate_data_callback(nullptr);
}

std::size_t WatchAllocations::kokkos_allocations() const {
  return allocations;
}
std::size_t WatchAllocations::kokkos_bytes() const {
  return bytes_of_kokkos;
}
std::size_t WatchAllocations::large_blocks() const {
  return blocks;
}

}  // namespace kmoe::test
