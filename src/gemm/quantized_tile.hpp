// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The portable device kernel of quantized weights: the tiles of tile_gemm.hpp in float, where
/// loads decode; on CDNA, fp8 by fp8 in codes. Activations that are quantized come from a kernel
/// before, which gathers their rows and writes folded values (bfloat16, exact) and scales. One
/// kernel for all element types: what x, the bias and out hold is looked at when they are read.

#include <kmoe/core/quantize_row.hpp>

#include "device/slab.hpp"
#include "device/warp.hpp"
#include "gemm/device_gemm.hpp"

namespace kmoe::detail {

/// Element i of an array of that type, as a float.
KOKKOS_INLINE_FUNCTION float read_element(void const* data, DataType type, offset_t i) {
  switch (type) {
    case DataType::f64:
      return static_cast<float>(static_cast<double const*>(data)[i]);
    case DataType::bf16:
      return static_cast<float>(static_cast<bfloat16 const*>(data)[i]);
    case DataType::f16:
      return static_cast<float>(static_cast<half const*>(data)[i]);
    default:
      return static_cast<float const*>(data)[i];
  }
}
/// x * weight rounded to the element type.
KOKKOS_INLINE_FUNCTION float read_weighted(void const* data, DataType type, offset_t i,
                                           float weight) {
  if (type == DataType::f64) {
    return static_cast<float>(static_cast<double const*>(data)[i] * static_cast<double>(weight));
  }
  float const product = read_element(data, type, i) * weight;
  if (type == DataType::bf16) return static_cast<float>(bfloat16(product));
  return type == DataType::f16 ? static_cast<float>(half(product)) : product;
}

/// QuantizedTensor in plain pointers.
struct QuantPointers {
  QuantScheme scheme;
  offset_t rows = 0, row_bytes = 0, blocks = 0, scale_rows = 0;
  index_t part_rows = 1, part_scale_rows = 1, block_rows = 1, block_cols = 1, parts = 1;
  std::uint8_t const* codes = nullptr;
  float const* scales = nullptr;
  std::uint8_t const* scale_codes = nullptr;
  std::uint8_t const* zero_points = nullptr;
  float const* part_scales = nullptr;
  float const* input_scales = nullptr;

  template <ExecutionSpace E>
  explicit QuantPointers(QuantizedTensor<E> const& t)
      : scheme(t.scheme),
        rows(t.rows()),
        row_bytes(static_cast<offset_t>(t.codes.extent(2))),
        blocks(t.blocks()),
        scale_rows(t.scale_rows()),
        part_rows(t.part_rows()),
        part_scale_rows(t.part_scale_rows()),
        block_rows(t.block_rows()),
        block_cols(t.block_cols()),
        parts(t.parts),
        codes(t.codes.data()),
        scales(t.scales.data()),
        scale_codes(t.scale_codes.data()),
        zero_points(t.zero_points.data()),
        part_scales(t.part_scales.data()),
        input_scales(t.input_scales.extent(0) == 0 ? nullptr : t.input_scales.data()) {}

  /// Number of the scale of an element.
  KOKKOS_INLINE_FUNCTION offset_t scale_at(offset_t row, int column) const {
    auto const expert = static_cast<index_t>(row / rows);
    auto const n = static_cast<index_t>(row - expert * rows);
    index_t const part = n / part_rows;
    offset_t const scale_row = part * part_scale_rows + (n - part * part_rows) / block_rows;
    return (expert * scale_rows + scale_row) * blocks + column / block_cols;
  }

  /// Elements column .. column + count - 1 of row `row` of all experts' rows; the columns lie in
  /// one block.
  template <int N>
  KOKKOS_INLINE_FUNCTION void read(offset_t row, int column, int count, float (&values)[N]) const {
    auto const expert = static_cast<index_t>(row / rows);
    index_t const part = static_cast<index_t>(row - expert * rows) / part_rows;
    offset_t const at = scale_at(row, column);
    float scale = 1;
    if (scheme.scale == ScaleCode::f32) {
      scale = scales[at];
    } else if (scheme.scale == ScaleCode::e8m0) {
      scale = decode_e8m0(scale_codes[at]);
    } else {
      scale = decode_e4m3fn(scale_codes[at]) * part_scales[expert * parts + part];
    }
    int const zero = scheme.zero_points ? zero_points[at] & 15 : 8;
    std::uint8_t const* const from = codes + row * row_bytes;
    bool const pairs = scheme.bits() == 4;
    KMOE_UNROLL
    for (int i = 0; i < N; ++i) {
      if (i >= count) continue;
      int const k = column + i;
      std::uint8_t const byte = from[pairs ? k / 2 : k];
      auto const code = static_cast<std::uint8_t>(!pairs       ? byte
                                                  : k % 2 == 0 ? byte & 15U
                                                               : byte >> 4U);
      values[i] = value_of(scheme.code, code, zero) * scale;
    }
  }
};

/// x as elements, or as folded values with scales.
struct QuantDeviceGemm : DeviceGemm<float> {
  static constexpr bool decodes = true;
  QuantPointers weights;
  DataType type = DataType::f32;  // of x, bias (f64: double, else float) and out
  void const* x_data = nullptr;
  bfloat16 const* folded = nullptr;  // [row_end - folded_first, k] in the order of the rows
  float const* x_scales = nullptr;   // [.., x_groups]
  int x_groups = 1, x_group = 1;     // per row, and the elements of each
  offset_t folded_first = 0;
  void const* bias_data = nullptr;
  void* out_data = nullptr;

  template <Element T, ExecutionSpace E>
  QuantDeviceGemm(DeviceGemm<T> const& g, QuantizedTensor<E> const& w)
      : weights(w), type(data_type_of<T>), x_data(g.x), bias_data(g.bias), out_data(g.out) {
    groups = g.groups;
    offsets = g.offsets;
    row_begin = g.row_begin;
    row_end = g.row_end;
    slots = g.slots;
    x_rows = g.x_rows;
    slots_per_row = g.slots_per_row;
    x_first = g.x_first;
    input_weights = g.input_weights;
    k = g.k;
    columns = g.columns;
    layout = g.layout;
    activated = g.activated;
    options = g.options;
    output_weights = g.output_weights;
    out_first = g.out_first;
  }

  /// Row of folded values, or of x.
  KOKKOS_INLINE_FUNCTION offset_t row_of_x(offset_t row) const {
    return folded != nullptr ? row - folded_first : DeviceGemm<float>::row_of_x(row);
  }
  /// The first `count` of `values`, which stay in registers: no index depends on count.
  template <int N>
  KOKKOS_INLINE_FUNCTION void read_x(offset_t row, int column, int count, float weight,
                                     float (&values)[N]) const {
    float const scale =
        folded == nullptr || count <= 0 ? 1 : x_scales[row * x_groups + column / x_group];
    KMOE_UNROLL
    for (int i = 0; i < N; ++i) {
      if (i >= count) continue;
      offset_t const at = row * k + column + i;
      if (folded != nullptr) {
        values[i] = static_cast<float>(folded[at]) * scale;
      } else {
        values[i] = input_weights == nullptr ? read_element(x_data, type, at)
                                             : read_weighted(x_data, type, at, weight);
      }
    }
  }
  template <int N>
  KOKKOS_INLINE_FUNCTION void read_b(offset_t row, int column, int count,
                                     float (&values)[N]) const {
    if (count > 0) weights.read(row, column, count, values);
  }
  KOKKOS_INLINE_FUNCTION float read_bias(offset_t i) const {
    return read_element(bias_data, type == DataType::f64 ? DataType::f64 : DataType::f32, i);
  }
  KOKKOS_INLINE_FUNCTION void store(offset_t row, offset_t n, float value) const {
    offset_t const at = row * columns + n;
    switch (type) {
      case DataType::f64:
        static_cast<double*>(out_data)[at] = value;
        break;
      case DataType::bf16:
        static_cast<bfloat16*>(out_data)[at] = bfloat16(value);
        break;
      case DataType::f16:
        static_cast<half*>(out_data)[at] = half(value);
        break;
      default:
        static_cast<float*>(out_data)[at] = value;
    }
  }
};

/// The same with codes of 8 bits as operands, whose sums of 128 of k are multiplied with both
/// scales.
struct CodeDeviceGemm : QuantDeviceGemm {
  static constexpr int block_k = 128;

  /// Whether that is what x (folded) and the weights are.
  [[nodiscard]] static bool takes(QuantScheme const& scheme) {
    bool const codes = scheme.code == WeightCode::e4m3fn || scheme.code == WeightCode::e4m3fnuz;
    bool const activations = scheme.activations == ActivationCode::fp8_group ||
                             scheme.activations == ActivationCode::fp8_token ||
                             scheme.activations == ActivationCode::fp8_static;
    return codes && activations && scheme.scale == ScaleCode::f32 &&
           scheme.block_cols % block_k == 0;
  }

  /// e4m3fnuz; codes of e4m3fn become those of their halves, and scales are doubled.
  template <int N>
  KOKKOS_INLINE_FUNCTION void read_x(offset_t row, int column, int count, float,
                                     device::E4m3 (&values)[N]) const {
    float const part = halves() ? 0.5F : 1.0F;
    KMOE_UNROLL
    for (int i = 0; i < N; ++i) {
      if (i >= count) continue;
      values[i] = {encode_e4m3fnuz(static_cast<float>(folded[row * k + column + i]) * part)};
    }
  }
  template <int N>
  KOKKOS_INLINE_FUNCTION void read_b(offset_t row, int column, int count,
                                     device::E4m3 (&values)[N]) const {
    bool const other = halves();
    std::uint8_t const* const from = weights.codes + row * weights.row_bytes + column;
    KMOE_UNROLL
    for (int i = 0; i < N; ++i) {
      if (i < count) values[i] = {other ? e4m3fn_to_fnuz(from[i]) : from[i]};
    }
  }
  KOKKOS_INLINE_FUNCTION float x_scale(offset_t row, int block) const {
    return (halves() ? 2.0F : 1.0F) * x_scales[row * x_groups + block * block_k / x_group];
  }
  KOKKOS_INLINE_FUNCTION float b_scale(offset_t row, int block) const {
    return (halves() ? 2.0F : 1.0F) * weights.scales[weights.scale_at(row, block * block_k)];
  }

 private:
  [[nodiscard]] KOKKOS_INLINE_FUNCTION bool halves() const { return !weights.scheme.fnuz(); }
};

/// Gathers and quantizes the rows of a product: a team per row.
template <ExecutionSpace E>
struct QuantizeRows {
  using Policy = Kokkos::TeamPolicy<E>;
  using Member = typename Policy::member_type;
  QuantDeviceGemm g;  // folded null
  RowQuantizer rounding;
  bfloat16* folded;
  float* scales;
  int groups;

  KOKKOS_FUNCTION void operator()(Member const& team) const {
    offset_t const row = g.row_begin + team.league_rank();
    if (row < g.offsets[0] || row >= g.offsets[g.groups]) return;
    float const weight = g.input_weights == nullptr ? 1.0F : g.input_weights[g.slot(row)];
    offset_t const from = g.row_of_x(row) * g.k;
    auto const value = [&](int i) {
      return g.input_weights == nullptr ? read_element(g.x_data, g.type, from + i)
                                        : read_weighted(g.x_data, g.type, from + i, weight);
    };
    auto const k = static_cast<int>(g.k);
    std::uint32_t largest = 0;
    if (rounding.scans_row()) {
      Kokkos::parallel_reduce(
          Kokkos::TeamThreadRange(team, k),
          [&](int i, std::uint32_t& most) { most = Kokkos::max(most, magnitude_bits(value(i))); },
          Kokkos::Max<std::uint32_t>(largest));
    }
    float const row_scale = rounding.row_scale(largest, given(row));
    offset_t const to = team.league_rank() * g.k;
    float* const row_scales = scales + offset_t{team.league_rank()} * groups;
    int const group = rounding.group();
    bool const grouped = rounding.code == ActivationCode::fp8_group;
    if (group == 0) {
      auto const scale = rounding.group_scale(0, row_scale);
      Kokkos::parallel_for(Kokkos::TeamThreadRange(team, k), [&](int i) {
        folded[to + i] = bfloat16(rounding.folded(value(i), scale));
      });
    } else {
      Kokkos::parallel_for(Kokkos::TeamThreadRange(team, (k + group - 1) / group), [&](int j) {
        int const begin = j * group, end = Kokkos::min(k, begin + group);
        std::uint32_t most = 0;
        for (int i = begin; i < end; ++i) most = Kokkos::max(most, magnitude_bits(value(i)));
        auto const scale = rounding.group_scale(most, row_scale);
        for (int i = begin; i < end; ++i) {
          folded[to + i] = bfloat16(rounding.folded(value(i), scale));
        }
        if (grouped) row_scales[j] = scale.scale;
      });
    }
    if (!grouped && team.team_rank() == 0) row_scales[0] = row_scale;
  }

 private:
  /// The input scale of the row's expert, or 0.
  KOKKOS_FUNCTION float given(offset_t row) const {
    if (g.weights.input_scales == nullptr) return 0;
    index_t low = 0, high = g.groups;
    while (high - low > 1) {
      index_t const middle = low + (high - low) / 2;
      (g.offsets[middle] <= row ? low : high) = middle;
    }
    return g.weights.input_scales[low];
  }
};

}  // namespace kmoe::detail
