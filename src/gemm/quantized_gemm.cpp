// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "gemm/quantized_gemm.hpp"

#include <algorithm>
#include <type_traits>

#include "device/launch.hpp"
#include "device/sm90/fp8.hpp"
#include "device/sm90/packed.hpp"
#include "gemm/host_quant_gemm.hpp"
#include "gemm/quantized_tile.hpp"
#include "gemm/sm90_work.hpp"
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

/// Of the formats of four bits that Hopper's kernel decodes.
[[maybe_unused]] sm90::Format packed_format(QuantScheme const& scheme, index_t block_rows,
                                            index_t block_cols) {
  if (scheme.activations != ActivationCode::none || block_rows != 1) return sm90::Format::other;
  bool const e2m1 = scheme.code == WeightCode::e2m1;
  if (e2m1 && scheme.scale == ScaleCode::e8m0 && block_cols == 32) return sm90::Format::mxfp4;
  if (e2m1 && scheme.scale == ScaleCode::e4m3 && block_cols == 16) return sm90::Format::nvfp4;
  if (scheme.code == WeightCode::int4 && block_cols == 128) {
    return scheme.zero_points ? sm90::Format::int4_zero : sm90::Format::int4;
  }
  return sm90::Format::other;
}
template <ExecutionSpace E>
sm90::Format packed_format(QuantizedTensor<E> const& w) {
  return packed_format(w.scheme, w.block_rows(), w.block_cols());
}

template <ExecutionSpace E>
sm90::PackedScales packed_scales(QuantizedTensor<E> const& w) {
  sm90::PackedScales s{};
  auto const blocks = static_cast<int>(w.blocks());
  bool const floats = w.scheme.scale == ScaleCode::f32;
  s.code_pitch = static_cast<int>(w.codes.extent(2));
  s.scales = floats ? reinterpret_cast<std::uint8_t const*>(w.scales.data()) : w.scale_codes.data();
  s.scale_pitch = floats ? 4 * blocks : blocks;
  s.zeros = w.zero_points.data();
  s.zero_pitch = blocks;
  s.part_scales = w.part_scales.data();
  s.part_rows = w.part_rows();
  s.parts = w.parts;
  return s;
}

/// Hopper's kernel of four bits: false and nothing launched where it can not. One product, or two.
template <ExecutionSpace E, Element T>
bool run_packed(E const& exec, char const* label, DeviceGemm<T> const& first,
                QuantizedTensor<E> const& first_weights, DeviceGemm<T> const* second,
                QuantizedTensor<E> const* second_weights, std::uint32_t* counters,
                MlpStages const& stages, std::byte* scratch = nullptr, std::size_t bytes = 0) {
  if constexpr (std::is_same_v<T, bfloat16> && requires { exec.cuda_stream(); }) {
    if (!is_whole(first) || !sm90::available()) return false;
    sm90::PackedWork what{
        work_of(first, second, counters, stages), packed_format(first_weights), {}, nullptr};
    std::size_t const needed = sm90::arranged_bytes(what.format, first.x_rows, first.k);
    if (needed > 0 && needed <= bytes) what.arranged = scratch;
    for (int p = 0; p < what.work.count; ++p) {
      auto const& w = p == 0 ? first_weights : *second_weights;
      if (packed_format(w) != what.format) return false;
      what.work.products[p].b = w.codes.data();
      what.packed[p] = packed_scales(w);
    }
    if (!sm90::takes_packed(what)) return false;
    device::LaunchMark<E> const mark(exec, label);
    sm90::launch_packed(exec.cuda_stream(), what);
    return true;
  } else {
    return false;
  }
}

/// Of the formats that Hopper's fp8 kernels take: e4m3fn codes and float scales.
template <ExecutionSpace E>
sm90::Fp8Scales fp8_scales_of(QuantizedTensor<E> const& t) {
  using sm90::Fp8Scales;
  auto const& s = t.scheme;
  if (s.code != WeightCode::e4m3fn || s.scale != ScaleCode::f32 ||
      t.codes.extent(2) != static_cast<std::size_t>(t.columns)) {
    return Fp8Scales::other;
  }
  if (s.activations == ActivationCode::fp8_group) {
    return s.block_rows == 128 && s.block_cols == 128 ? Fp8Scales::blocks : Fp8Scales::other;
  }
  bool const by_row =
      s.activations == ActivationCode::fp8_token || s.activations == ActivationCode::fp8_static;
  if (!by_row || s.block_cols != 0 || s.block_rows > 1) return Fp8Scales::other;
  return s.block_rows == 1 ? Fp8Scales::rows : Fp8Scales::parts;
}
template <ExecutionSpace E>
sm90::Fp8Weights fp8_weights(QuantizedTensor<E> const& t) {
  bool const given =
      t.scheme.activations == ActivationCode::fp8_static && t.input_scales.extent(0) > 0;
  return {t.scales.data(), t.parts, given ? t.input_scales.data() : nullptr};
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
    // Codes of both products' rows have room where folded values of one have; scales do not.
    offset_t const scales = max_rows * num_scales(scheme, k) * offset_t{sizeof(float)};
    return static_cast<std::size_t>(folded_bytes(k, max_rows) + 2 * round_up(scales, 128));
  }
}

template <ExecutionSpace E, Element T>
QuantizedMlpMemory quantized_mlp_memory([[maybe_unused]] QuantScheme const& scheme,
                                        [[maybe_unused]] bool gated,
                                        [[maybe_unused]] index_t hidden_size,
                                        index_t intermediate_size,
                                        [[maybe_unused]] offset_t max_tokens) {
  QuantizedMlpMemory memory{intermediate_size, 0};
  if constexpr (std::is_same_v<T, bfloat16> && requires(E const& e) { e.cuda_stream(); }) {
    auto const format = packed_format(scheme, scheme.block_rows, scheme.block_cols);
    if (!gated || !sm90::available()) return memory;
    memory.bytes = sm90::arranged_bytes(format, max_tokens, hidden_size);
    if (memory.bytes > 0) memory.columns = index_t(sm90::arranged_columns(intermediate_size));
  }
  return memory;
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
    if (run_packed<E, T>(exec, label, gemm, weights, nullptr, nullptr, nullptr, {})) return;
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
    if constexpr (device::multiplies_codes<E>) {
      if (CodeDeviceGemm::takes(weights.scheme)) {
        return tile_gemm<E, device::E4m3>(exec, label, CodeDeviceGemm{g});
      }
    }
    tile_gemm<E, float>(exec, label, g);
  }
}

template <ExecutionSpace E, Element T>
bool quantized_mlp([[maybe_unused]] E const& exec, [[maybe_unused]] DeviceGemm<T> const& gate_up,
                   [[maybe_unused]] DeviceGemm<T> const& down,
                   [[maybe_unused]] QuantizedTensor<E> const& gate_up_weights,
                   [[maybe_unused]] QuantizedTensor<E> const& down_weights,
                   [[maybe_unused]] std::byte* scratch, [[maybe_unused]] std::size_t bytes,
                   [[maybe_unused]] std::uint32_t* counters,
                   [[maybe_unused]] MlpStages const& stages) {
  if constexpr (sizeof(T) == 2 && requires { exec.cuda_stream(); }) {
    if (run_packed<E, T>(exec, "kmoe::expert_mlp", gate_up, gate_up_weights, &down, &down_weights,
                         counters, stages, scratch, bytes)) {
      return true;
    }
    auto unweighted = gate_up;
    unweighted.input_weights = nullptr;
    if (!is_whole(unweighted) || !sm90::available()) return false;
    sm90::Fp8Work work{work_of(gate_up, &down, counters, stages),
                       fp8_scales_of(gate_up_weights),
                       {fp8_weights(gate_up_weights), fp8_weights(down_weights)},
                       gate_up.input_weights,
                       scratch,
                       bytes};
    if (fp8_scales_of(down_weights) != work.kind) return false;
    work.work.products[0].b = gate_up_weights.codes.data();
    work.work.products[1].b = down_weights.codes.data();
    if (!sm90::takes_fp8(work)) return false;
    device::LaunchMark<E> const mark(exec, "kmoe::expert_mlp");
    constexpr bool is_bf16 = std::is_same_v<T, bfloat16>;
    sm90::launch_fp8(exec.cuda_stream(), is_bf16 ? sm90::Operand::bf16 : sm90::Operand::f16, work);
    return true;
  } else {
    return false;
  }
}

#define KMOE_INSTANTIATE(E, T)                                                               \
  template std::size_t quantized_scratch_bytes<E, T>(E const&, QuantScheme const&, offset_t, \
                                                     offset_t);                              \
  template QuantizedMlpMemory quantized_mlp_memory<E, T>(QuantScheme const&, bool, index_t,  \
                                                         index_t, offset_t);                 \
  template void quantized_gemm<E, T>(E const&, char const*, DeviceGemm<T> const&,            \
                                     QuantizedTensor<E> const&, std::byte*, offset_t*);      \
  template bool quantized_mlp<E, T>(E const&, DeviceGemm<T> const&, DeviceGemm<T> const&,    \
                                    QuantizedTensor<E> const&, QuantizedTensor<E> const&,    \
                                    std::byte*, std::size_t, std::uint32_t*, MlpStages const&);
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE

}  // namespace kmoe::detail
