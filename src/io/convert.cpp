// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "io/convert.hpp"

#include <algorithm>
#include <cstring>

#include "io/mapped_file.hpp"

namespace kmoe::io::detail {
namespace {

constexpr offset_t tile = 64;  // rows of a task, and the side of a square when transposing

/// A task: up to `tile` rows of one block.
struct Task {
  Block const* block;
  offset_t first_row;
};

template <class T, class S>
T cast(S value) {
  if constexpr (std::is_same_v<T, S>) {
    return value;
  } else if constexpr (std::is_same_v<T, double>) {
    return static_cast<double>(value);
  } else {
    return static_cast<T>(static_cast<float>(value));
  }
}

template <class S, class T>
void convert_rows(Block const& block, offset_t first, offset_t last, T* out) {
  for (offset_t r = first; r < last; ++r) {
    std::byte const* row = block.data + r * block.cols * offset_t{sizeof(S)};
    T* to = out + r * block.cols;
    if constexpr (std::is_same_v<S, T>) {
      std::memcpy(to, row, static_cast<std::size_t>(block.cols) * sizeof(T));
    } else {
      for (offset_t c = 0; c < block.cols; ++c) {
        to[c] = cast<T>(load<S>(row + c * offset_t{sizeof(S)}));
      }
    }
  }
}

// Squares of `tile`, so that the cache lines of both sides are used whole.
template <class S, class T>
void transpose_rows(Block const& block, offset_t first, offset_t last, T* out) {
  for (offset_t c0 = 0; c0 < block.cols; c0 += tile) {
    offset_t const c1 = std::min(c0 + tile, block.cols);
    for (offset_t c = c0; c < c1; ++c) {
      std::byte const* from = block.data + c * block.rows * offset_t{sizeof(S)};
      for (offset_t r = first; r < last; ++r) {
        out[r * block.cols + c] = cast<T>(load<S>(from + r * offset_t{sizeof(S)}));
      }
    }
  }
}

template <class S, class T>
void convert_from(Block const& block, offset_t first, offset_t last, T* out) {
  if (block.transposed) {
    transpose_rows<S>(block, first, last, out);
  } else {
    convert_rows<S>(block, first, last, out);
  }
}

template <class T>
void convert_task(Task const& task, T* result) {
  Block const& block = *task.block;
  offset_t const last = std::min(task.first_row + tile, block.rows);
  T* out = result + block.out;
  switch (block.dtype) {
    case DataType::f64:
      return convert_from<double>(block, task.first_row, last, out);
    case DataType::f32:
      return convert_from<float>(block, task.first_row, last, out);
    case DataType::bf16:
      return convert_from<bfloat16>(block, task.first_row, last, out);
    case DataType::f16:
      return convert_from<half>(block, task.first_row, last, out);
  }
}

}  // namespace

template <Element T>
void convert(Kokkos::DefaultHostExecutionSpace const& host, std::vector<Block> const& blocks,
             T* out) {
  std::vector<Task> tasks;
  for (Block const& block : blocks) {
    for (offset_t r = 0; r < block.rows; r += tile) tasks.push_back({&block, r});
  }
  using Policy =
      Kokkos::RangePolicy<Kokkos::DefaultHostExecutionSpace, Kokkos::Schedule<Kokkos::Dynamic>,
                          Kokkos::IndexType<offset_t>>;
  Task const* const task = tasks.data();
  Kokkos::parallel_for("kmoe::io::convert", Policy(host, 0, static_cast<offset_t>(tasks.size())),
                       [=](offset_t i) { convert_task(task[i], out); });
  host.fence("kmoe::io::convert");
}

template void convert(Kokkos::DefaultHostExecutionSpace const&, std::vector<Block> const&, double*);
template void convert(Kokkos::DefaultHostExecutionSpace const&, std::vector<Block> const&, float*);
template void convert(Kokkos::DefaultHostExecutionSpace const&, std::vector<Block> const&,
                      bfloat16*);
template void convert(Kokkos::DefaultHostExecutionSpace const&, std::vector<Block> const&, half*);

}  // namespace kmoe::io::detail
