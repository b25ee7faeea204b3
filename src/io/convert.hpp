// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// From the elements of a mapped file to an array of T, in parallel on the host.

#include <cstddef>
#include <vector>

#include <kmoe/core/types.hpp>

namespace kmoe::io::detail {

/// A matrix in a file and where its rows go.
struct Block {
  std::byte const* data = nullptr;  ///< first element
  DataType dtype = DataType::f32;   ///< of the elements
  bool transposed = false;          ///< stored as [cols, rows]
  offset_t rows = 0;                ///< of the result
  offset_t cols = 0;                ///< of the result
  offset_t out = 0;                 ///< element of the result at which row 0 begins
};

/// out[block.out + r * block.cols + c] = element (r, c) of each block. Rounds to nearest even; f64
/// goes through float to the 16-bit types. Fences `host`.
template <Element T>
void convert(Kokkos::DefaultHostExecutionSpace const& host, std::vector<Block> const& blocks,
             T* out);

}  // namespace kmoe::io::detail
