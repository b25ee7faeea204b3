// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Quantized weights to measure with.

#include <cstdint>

#include <Kokkos_Core.hpp>
#include <kmoe/core/quantization.hpp>
#include <kmoe/experts/expert_mlp.hpp>

#include "device_timer.hpp"

namespace perf {

using kmoe::index_t;

/// Random codes and scales of about one over the square root of the row.
inline kmoe::QuantizedTensor<Space> random_tensor(Space const& exec,
                                                  kmoe::QuantScheme const& scheme,
                                                  std::size_t experts, std::size_t rows,
                                                  std::size_t columns, index_t parts) {
  kmoe::QuantizedTensor<Space> t;
  t.scheme = scheme;
  t.columns = static_cast<index_t>(columns);
  t.parts = parts;
  auto const bytes = static_cast<std::size_t>(scheme.code_bytes(t.columns));
  kmoe::Tensor3<std::uint8_t, Space> const codes("codes", experts, rows, bytes);
  auto* const code = codes.data();
  Kokkos::parallel_for(
      "kmoe::perf::codes",
      Kokkos::RangePolicy<Space, Kokkos::IndexType<std::size_t>>(exec, 0, codes.size()),
      KOKKOS_LAMBDA(std::size_t i) {
        // No NaN, no large e4m3.
        code[i] = static_cast<std::uint8_t>((i * 2654435761U >> 11) & 0xb7U);
      });
  t.codes = codes;
  auto const scale_rows = static_cast<std::size_t>(t.scale_rows());
  auto const blocks = static_cast<std::size_t>(t.blocks());
  if (scheme.scale == kmoe::ScaleCode::f32) {
    kmoe::Tensor3<float, Space> const scales("scales", experts, scale_rows, blocks);
    Kokkos::deep_copy(scales, 0.01F);
    t.scales = scales;
  } else {
    kmoe::Tensor3<std::uint8_t, Space> const scales("scales", experts, scale_rows, blocks);
    Kokkos::deep_copy(scales, std::uint8_t(scheme.scale == kmoe::ScaleCode::e8m0 ? 121 : 0x28));
    t.scale_codes = scales;
  }
  if (scheme.zero_points) {
    kmoe::Tensor3<std::uint8_t, Space> const zeros("zeros", experts, scale_rows, blocks);
    Kokkos::deep_copy(zeros, std::uint8_t(7));
    t.zero_points = zeros;
  }
  if (scheme.scale == kmoe::ScaleCode::e4m3) {
    kmoe::Matrix<float, Space> const scales("part_scales", experts, parts);
    Kokkos::deep_copy(scales, 0.05F);
    t.part_scales = scales;
  }
  exec.fence("perf::random_tensor");
  return t;
}

/// Random experts of that format: gates and ups [experts, 2 intermediate, hidden], and down.
inline kmoe::ExpertWeights<Space, kmoe::bfloat16> random_experts(Space const& exec,
                                                                 kmoe::QuantScheme const& scheme,
                                                                 std::size_t experts,
                                                                 std::size_t hidden,
                                                                 std::size_t intermediate) {
  kmoe::ExpertWeights<Space, kmoe::bfloat16> weights;
  weights.quantized_gate_up = random_tensor(exec, scheme, experts, 2 * intermediate, hidden, 2);
  weights.quantized_down = random_tensor(exec, scheme, experts, hidden, intermediate, 1);
  return weights;
}

}  // namespace perf
