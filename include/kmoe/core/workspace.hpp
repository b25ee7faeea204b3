// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Scratch memory with a size that is known before it is allocated.
///
/// A component lists its buffers once, in a struct with `bind(Workspace<E>&, Shape const&)`. Run
/// on a counting workspace that list gives the exact number of bytes; run on an allocated one it
/// hands out the Views. The two can not disagree, because they are the same code.

#include <cstddef>
#include <string>

#include <kmoe/core/types.hpp>

namespace kmoe KMOE_API {

/// A bump allocator over one device block and one host block (the host block stages MPI data and
/// holds per-rank counts; where E runs on the host both blocks are host memory).
///
/// Views handed out are unmanaged and live as long as the Workspace or a copy of it. Each begins a
/// multiple of `alignment` bytes after its block, which Kokkos aligns to 64 bytes or more;
/// `device_bytes` and `host_bytes` include that padding.
template <ExecutionSpace E>
class Workspace {
 public:
  static constexpr std::size_t alignment = 128;
  using host_space = Kokkos::DefaultHostExecutionSpace;

  /// A counting workspace: hands out null Views and adds up their sizes. Allocates nothing.
  Workspace() = default;

  /// An allocated workspace of exactly that many bytes. Allocates one View per non-empty block.
  Workspace(std::size_t device_bytes, std::size_t host_bytes)
      : device_(allocate<block_t>("kmoe::workspace", device_bytes)),
        host_(allocate<host_block_t>("kmoe::workspace_host", host_bytes)),
        counting_(false) {}

  /// The caller's memory, aligned to `alignment` bytes, which must outlive all uses: `device` in
  /// E's memory space, `host` on the host. Allocates nothing.
  Workspace(void* device, std::size_t device_bytes, void* host, std::size_t host_bytes)
      : device_(static_cast<std::byte*>(device), device_bytes),
        host_(static_cast<std::byte*>(host), host_bytes),
        counting_(false) {}

  template <class T>
  Vector<T, E> vector(std::size_t n) {
    return Vector<T, E>(take<T>(device_, device_used_, n), n);
  }
  template <class T>
  Matrix<T, E> matrix(std::size_t rows, std::size_t cols) {
    return Matrix<T, E>(take<T>(device_, device_used_, rows * cols), rows, cols);
  }
  template <class T>
  Vector<T, host_space> host_vector(std::size_t n) {
    return Vector<T, host_space>(take<T>(host_, host_used_, n), n);
  }
  template <class T>
  Matrix<T, host_space> host_matrix(std::size_t rows, std::size_t cols) {
    return Matrix<T, host_space>(take<T>(host_, host_used_, rows * cols), rows, cols);
  }

  [[nodiscard]] bool counting() const { return counting_; }
  [[nodiscard]] std::size_t device_bytes() const { return device_used_; }
  [[nodiscard]] std::size_t host_bytes() const { return host_used_; }
  [[nodiscard]] std::size_t bytes() const { return device_used_ + host_used_; }

 private:
  using block_t = Kokkos::View<std::byte*, typename E::memory_space>;
  using host_block_t = Kokkos::View<std::byte*, typename host_space::memory_space>;

  template <class Block>
  static Block allocate(std::string const& label, std::size_t bytes) {
    if (bytes == 0) return {};
    return Block(Kokkos::view_alloc(label, Kokkos::WithoutInitializing), bytes);
  }

  template <class T, class Block>
  T* take(Block const& block, std::size_t& used, std::size_t n) {
    std::size_t const begin = used;
    used += (n * sizeof(T) + alignment - 1) / alignment * alignment;
    if (counting_ || n == 0) return nullptr;
    if (used > block.extent(0)) {
      detail_exhausted(used, block.extent(0));
    }
    return reinterpret_cast<T*>(block.data() + begin);
  }
  [[noreturn]] static void detail_exhausted(std::size_t needed, std::size_t available);

  block_t device_;
  host_block_t host_;
  std::size_t device_used_ = 0;
  std::size_t host_used_ = 0;
  bool counting_ = true;
};

/// Allocates the workspace that `bind` asks for and binds it; `bind` is called twice, first with a
/// counting workspace. The result must outlive the Views that `bind` took.
template <ExecutionSpace E, class Bind>
Workspace<E> make_workspace(Bind&& bind) {
  Workspace<E> counted;
  bind(counted);
  Workspace<E> allocated(counted.device_bytes(), counted.host_bytes());
  bind(allocated);
  return allocated;
}

template <ExecutionSpace E>
void Workspace<E>::detail_exhausted(std::size_t needed, std::size_t available) {
  Kokkos::abort(("kmoe::Workspace: the binding asks for " + std::to_string(needed) +
                 " bytes after " + std::to_string(available) + " were counted")
                    .c_str());
}

}  // namespace KMOE_API
