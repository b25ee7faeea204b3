// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "gemm/quantized_gemm.hpp"

#include <algorithm>

#include "gemm/host_quant_gemm.hpp"
#include "gemm/quantized_tile.hpp"
#include "gemm/tile_gemm.hpp"
#include "instantiate.hpp"

namespace kmoe::detail {
namespace {

/// Scales of a row of activations.
offset_t num_scales(QuantScheme const& scheme, offset_t k) {
  return scheme.activations == ActivationCode::fp8_group ? (k + 127) / 128 : 1;
}
offset_t folded_bytes(offset_t k, offset_t rows) {
  return round_up(rows * k * offset_t{sizeof(bfloat16)}, 128);
}

}  // namespace

template <ExecutionSpace E, Element T>
std::size_t quantized_scratch_bytes(E const& exec, QuantScheme const& scheme, offset_t k,
                                    offset_t max_rows) {
  if (max_rows == 0) return 0;
  if constexpr (uses_host_kernels<E>) {
    auto const plan = host_quant_plan(host_element<T>(), scheme, k, max_rows);
    return static_cast<std::size_t>(exec.concurrency() * plan.bytes);
  } else {
    if (scheme.activations == ActivationCode::none) return 0;
    return static_cast<std::size_t>(folded_bytes(k, max_rows) +
                                    max_rows * num_scales(scheme, k) * offset_t{sizeof(float)});
  }
}

template <ExecutionSpace E, Element T>
void quantized_gemm(E const& exec, char const* label, DeviceGemm<T> const& gemm,
                    QuantizedTensor<E> const& weights, std::byte* scratch,
                    [[maybe_unused]] offset_t* block_offsets) {
  offset_t const rows = gemm.row_end - gemm.row_begin;
  if (rows == 0 || gemm.groups == 0 || gemm.columns == 0) return;
  if constexpr (uses_host_kernels<E>) {
    auto const plan = host_quant_plan(host_element<T>(), weights.scheme, gemm.k, rows);
    HostQuantGemm<T>(gemm, weights, plan, exec.concurrency(), scratch, block_offsets)
        .run(exec, label);
  } else {
    QuantDeviceGemm g(gemm, weights);
    auto const code = weights.scheme.activations;
    if (code != ActivationCode::none) {
      auto* const folded = reinterpret_cast<bfloat16*>(scratch);
      auto* const scales = reinterpret_cast<float*>(scratch + folded_bytes(gemm.k, rows));
      auto const groups = static_cast<int>(num_scales(weights.scheme, gemm.k));
      using Quantize = QuantizeRows<E>;
      Kokkos::parallel_for("kmoe::quantize_rows",
                           typename Quantize::Policy(exec, static_cast<int>(rows), 128),
                           Quantize{g, {code, weights.scheme.fnuz()}, folded, scales, groups});
      g.folded = folded;
      g.folded_first = gemm.row_begin;
      g.x_scales = scales;
      g.x_groups = groups;
      g.x_group = code == ActivationCode::fp8_group ? 128 : static_cast<int>(gemm.k);
      g.x_rows = rows;
      g.input_weights = nullptr;
    }
    tile_gemm<E, float>(exec, label, g);
  }
}

#define KMOE_INSTANTIATE(E, T)                                                               \
  template std::size_t quantized_scratch_bytes<E, T>(E const&, QuantScheme const&, offset_t, \
                                                     offset_t);                              \
  template void quantized_gemm<E, T>(E const&, char const*, DeviceGemm<T> const&,            \
                                     QuantizedTensor<E> const&, std::byte*, offset_t*);
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE

}  // namespace kmoe::detail
