// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>

#include <kmoe/core/types.hpp>

namespace kmoe::detail {

/// One block of rows per rank: rows offset(p) .. + rows(p) - 1 of the array at `base`. `stride` 0
/// gives every rank the same block.
template <class Void>
struct RowBlocks {
  Void* base;
  offset_t const* rows;
  offset_t const* offsets;
  std::size_t stride = 1;

  [[nodiscard]] std::size_t bytes(index_t p, std::size_t row_bytes) const {
    return static_cast<std::size_t>(rows[static_cast<std::size_t>(p) * stride]) * row_bytes;
  }
  [[nodiscard]] auto* begin(index_t p, std::size_t row_bytes) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, std::byte const, std::byte>;
    auto const offset = static_cast<std::size_t>(offsets[static_cast<std::size_t>(p) * stride]);
    return static_cast<Byte*>(base) + offset * row_bytes;
  }
};
using SendBlocks = RowBlocks<void const>;
using RecvBlocks = RowBlocks<void>;

/// Copies rank p's block to itself, in host memory.
inline void copy_own_block(SendBlocks const& send, RecvBlocks const& recv, index_t p,
                           std::size_t row_bytes) {
  if (std::size_t const n = send.bytes(p, row_bytes); n > 0) {
    std::memmove(recv.begin(p, row_bytes), send.begin(p, row_bytes), n);
  }
}

enum class Reduction : bool { max, sum };

/// What a Communicator shares between its copies. This base is the group of one that needs no MPI;
/// arguments have been checked.
class RankGroup {
 public:
  RankGroup() = default;
  RankGroup(RankGroup const&) = delete;
  RankGroup& operator=(RankGroup const&) = delete;
  virtual ~RankGroup() = default;

  virtual void barrier() const {}
  virtual void all_reduce(std::span<offset_t>, Reduction) const {}
  virtual void all_gather(std::span<offset_t const> values, std::span<offset_t> recv) const {
    std::copy(values.begin(), values.end(), recv.begin());
  }
  virtual void all_to_all(std::span<offset_t const> send, std::span<offset_t> recv) const {
    recv[0] = send[0];
  }
  virtual void exchange(SendBlocks const& send, RecvBlocks const& recv,
                        std::size_t row_bytes) const {
    copy_own_block(send, recv, 0, row_bytes);
  }
  virtual void broadcast(std::string&, index_t) const {}

  index_t rank = 0;
  index_t size = 1;
  bool gpu_aware = false;
  std::string gpu_aware_reason = "this group of one rank does without MPI";
};

}  // namespace kmoe::detail
