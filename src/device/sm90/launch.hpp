// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// How the kernels are launched.

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "device/sm90/schedule.hpp"

namespace kmoe::device::sm90 {

inline void check(cudaError_t status, char const* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error("kmoe: " + std::string(what) + ": " + cudaGetErrorString(status));
}

/// Of bands of so many tiles of tokens, and `features` tiles of the products.
inline Order order_of(int band, int lag, std::pair<int, int> features) {
  auto const of = [](int tiles) { return Divisor::of(static_cast<std::uint32_t>(tiles)); };
  auto const [first, second] = features;
  return {band,
          lag,
          {first, second},
          of(band),
          of(band * first),
          of(std::max(band * second, 1)),
          of(band * (first + second))};
}

/// Tiles of what.widths features in bands of up to `band` tiles of tokens.
inline void set_order(Launch& what, int band, int blocks) {
  auto const tiles = [&](int p) {
    return p < what.count ? (what.products[p].features + what.widths[p] - 1) / what.widths[p] : 0;
  };
  band = static_cast<int>(std::clamp<std::int64_t>(what.max_rows, 1, band));
  // Enough tiles of the first product lie between a tile of the second and its input.
  int const size = band * tiles(0);
  what.order = order_of(band, (3 * blocks + size - 1) / size, {tiles(0), tiles(1)});
}

template <auto Kernel, class Tile, class What>
void launch_kernel(cudaStream_t stream, What const& what, int blocks) {
  static bool const raised = [] {
    check(cudaFuncSetAttribute(Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_limit),
          "shared memory of the expert kernel");
    return true;
  }();
  static_cast<void>(raised);
  cudaLaunchAttribute attributes[2]{};  // the kernel waits by itself for the ones before it
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = Tile::pair;
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks / Tile::pair * Tile::pair;
  config.blockDim = Tile::threads;
  config.dynamicSmemBytes = Tile::bytes(what.groups, what.sides.ids != nullptr);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = Tile::pair > 1 ? 2 : 1;
  check(cudaLaunchKernelEx(&config, Kernel, what), "launch of the expert kernel");
}

/// What goes through x before an expert kernel, with as many of `threads` as `most` blocks of 256
/// have; it waits by itself, too.
template <class... Parameters, class... Arguments>
void launch_before(cudaStream_t stream, int most, std::int64_t threads,
                   void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(std::min<std::int64_t>((threads + 255) / 256, most));
  config.blockDim = 256;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...),
        "launch of the kernel before the expert kernel");
}

/// The kernel that keeps the intermediate on the chip (fused.hpp): whether it can, and its launch.
/// One block works on 128 rows: it pays where there are enough of them for most multiprocessors.
bool fused_takes(Work const& what);
void launch_fused(Operand operand, cudaStream_t stream, Launch& what, int blocks);

}  // namespace kmoe::device::sm90
