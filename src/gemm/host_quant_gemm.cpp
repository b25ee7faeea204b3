// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "gemm/host_quant_gemm.hpp"

#include <kmoe/core/quantize_row.hpp>

namespace kmoe::detail {
namespace {

using device::QuantOperand;

static_assert(int(WeightCode::e4m3fn) == int(device::QuantCode::e4m3fn) &&
              int(WeightCode::e4m3fnuz) == int(device::QuantCode::e4m3fnuz) &&
              int(WeightCode::e2m1) == int(device::QuantCode::e2m1) &&
              int(WeightCode::int8) == int(device::QuantCode::int8) &&
              int(WeightCode::int4) == int(device::QuantCode::int4));
static_assert(int(ScaleCode::e8m0) == int(device::QuantScale::e8m0) &&
              int(ScaleCode::e4m3) == int(device::QuantScale::e4m3));

constexpr offset_t bytes_of(QuantOperand operand) {
  return operand == QuantOperand::f32 ? 4 : operand == QuantOperand::bf16 ? 2 : 1;
}

constexpr offset_t groups_of(offset_t k) {
  return (k + device::quant_group - 1) / device::quant_group;
}

/// values = the folded values of a row; returns its scale. `group_scales` where groups have any.
float quantize_values(RowQuantizer const& rounding, float given, offset_t k, float* values,
                      float* group_scales) {
  auto const largest = [&](offset_t begin, offset_t end) {
    std::uint32_t most = 0;
    for (offset_t i = begin; i < end; ++i) most = std::max(most, magnitude_bits(values[i]));
    return most;
  };
  float const row = rounding.row_scale(rounding.scans_row() ? largest(0, k) : 0, given);
  offset_t const group = rounding.group() == 0 ? k : rounding.group();
  for (offset_t begin = 0; begin < k; begin += group) {
    offset_t const end = std::min(k, begin + group);
    auto const g = rounding.group_scale(rounding.group() == 0 ? 0 : largest(begin, end), row);
    for (offset_t i = begin; i < end; ++i) values[i] = rounding.folded(values[i], g);
    if (rounding.code == ActivationCode::fp8_group) group_scales[begin / group] = g.scale;
  }
  return row;
}

}  // namespace

HostQuantPlan host_quant_plan(device::HostElement element, QuantScheme const& scheme, offset_t k,
                              offset_t max_rows) {
  constexpr offset_t line = 128, cache_bytes = offset_t{1} << 20;
  HostQuantPlan plan;
  plan.kernel = &device::quant_kernel(device::host_isa());
  plan.element = element;
  plan.k = k;
  plan.padded = round_up(k, device::quant_unit);
  if (scheme.activations == ActivationCode::int8_token) {
    plan.operand = QuantOperand::s8;
  } else if (scheme.activations != ActivationCode::none || element == device::HostElement::bf16) {
    bool const mxfp4 = scheme.code == WeightCode::e2m1 && scheme.scale == ScaleCode::e8m0;
    plan.operand = mxfp4 ? plan.kernel->mxfp4 : plan.kernel->real;
  }
  offset_t const row_bytes = plan.padded * bytes_of(plan.operand);
  plan.full_rows =
      std::clamp<offset_t>(cache_bytes / std::max<offset_t>(1, row_bytes) / 4 * 4, 8, 256);
  offset_t const rows = std::max<offset_t>(1, std::min(plan.full_rows, max_rows));
  offset_t at = round_up(rows * row_bytes, line);
  auto const take = [&](offset_t bytes) {
    offset_t const begin = at;
    at += round_up(bytes, line);
    return begin;
  };
  plan.accumulators = take(rows * plan.kernel->panel_columns * 4);
  plan.row_scales = take(rows * 4);
  plan.group_scales = take(rows * groups_of(k) * 4);
  plan.row_sums = take(rows * 4);
  plan.weights = take(rows * 4);
  plan.decoded = take(device::quant_columns * device::quant_row_bytes(k));
  plan.values = take(plan.padded * 4);
  plan.bytes = at;
  return plan;
}

template <Element T>
HostQuantGemm<T>::HostQuantGemm(DeviceGemm<T> const& gemm, QuantizedHostTensor const& weights,
                                HostQuantPlan const& plan, index_t workers, std::byte* memory,
                                offset_t* block_offsets)
    : g_(gemm),
      w_(weights),
      plan_(plan),
      workers_(workers),
      memory_(memory),
      block_offsets_(block_offsets) {
  offset_t const width = plan.kernel->panel_columns / (g_.gated() ? 2 : 1);
  panels_ = (g_.columns + width - 1) / width;
  block_offsets_[0] = 0;
  for (index_t g = 0; g < g_.groups; ++g) {
    offset_t const rows = clamped(g_.offsets[g + 1]) - clamped(g_.offsets[g]);
    offset_t const step = block_rows(rows);
    block_offsets_[g + 1] = block_offsets_[g] + (rows + step - 1) / step;
  }
  block_offsets_[g_.groups + 1] = 0;
  offset_t const blocks = block_offsets_[g_.groups];
  offset_t const wanted = workers == 1 ? 1 : offset_t{4} * workers;
  splits_ = blocks == 0 ? 1 : std::clamp<offset_t>((wanted + blocks - 1) / blocks, 1, panels_);
  tasks_ = blocks * splits_;
}

template <Element T>
void HostQuantGemm<T>::work(index_t worker) const {
  std::byte* const memory = memory_ + worker * plan_.bytes;
  offset_t packed = -1;
  for (;;) {
    offset_t const task = Kokkos::atomic_fetch_add(&block_offsets_[g_.groups + 1], offset_t{1});
    if (task >= tasks_) return;
    offset_t const block = task / splits_, split = task % splits_;
    auto const group = static_cast<index_t>(
        std::upper_bound(block_offsets_, block_offsets_ + g_.groups + 1, block) - block_offsets_ -
        1);
    offset_t const begin = clamped(g_.offsets[group]), end = clamped(g_.offsets[group + 1]);
    offset_t const step = block_rows(end - begin);
    offset_t const first = begin + (block - block_offsets_[group]) * step;
    offset_t const rows = std::min(step, end - first);
    if (block != packed) pack(memory, group, first, rows);
    packed = block;
    for (offset_t panel = panels_ * split / splits_; panel < panels_ * (split + 1) / splits_;
         ++panel) {
      multiply(memory, group, first, rows, panel);
    }
  }
}

template <Element T>
void HostQuantGemm<T>::pack(std::byte* memory, index_t group, offset_t first, offset_t rows) const {
  auto* const values = reinterpret_cast<float*>(memory + plan_.values);
  auto* const row_scales = reinterpret_cast<float*>(memory + plan_.row_scales);
  auto* const group_scales = reinterpret_cast<float*>(memory + plan_.group_scales);
  auto* const row_sums = reinterpret_cast<std::int32_t*>(memory + plan_.row_sums);
  auto* const weights = reinterpret_cast<float*>(memory + plan_.weights);
  QuantScheme const& scheme = w_.scheme;
  RowQuantizer const rounding{scheme.activations, scheme.fnuz()};
  float const given = w_.input_scales.extent(0) == 0 ? 0.0F : w_.input_scales(group);
  offset_t const k = plan_.k, row_bytes = plan_.padded * bytes_of(plan_.operand);
  for (offset_t r = 0; r < rows; ++r) {
    T const* const x = g_.x + g_.row_of_x(first + r) * k;
    if (g_.input_weights == nullptr) {
      for (offset_t i = 0; i < k; ++i) values[i] = static_cast<float>(x[i]);
    } else {
      using A = accumulate_t<T>;
      A const weight = g_.input_weights[g_.slot(first + r)];
      for (offset_t i = 0; i < k; ++i) {
        values[i] = static_cast<float>(static_cast<T>(static_cast<A>(x[i]) * weight));
      }
    }
    row_scales[r] = 1;
    if (scheme.activations != ActivationCode::none) {
      float const row =
          quantize_values(rounding, given, k, values, group_scales + r * groups_of(k));
      // Where the groups have scales of their own, they are in the sums already.
      row_scales[r] = scheme.activations == ActivationCode::fp8_group ? 1.0F : row;
    }
    if (plan_.operand == QuantOperand::s8) {
      std::int32_t sum = 0;
      for (offset_t i = 0; i < k; ++i) sum += static_cast<std::int32_t>(values[i]);
      row_sums[r] = sum;
    }
    plan_.kernel->pack[static_cast<int>(plan_.operand)](
        {values, k, scheme.bits() == 4, memory + r * row_bytes});
    if (g_.output_weights != nullptr) weights[r] = g_.output_weights[g_.slot(first + r)];
  }
}

template <Element T>
void HostQuantGemm<T>::multiply(std::byte* memory, index_t group, offset_t first, offset_t rows,
                                offset_t panel) const {
  constexpr int most = 64;
  std::uint8_t const* codes[most];
  void const* scales[most];
  std::uint8_t const* zeros[most];
  float column_scales[most], bias[most];
  QuantScheme const& scheme = w_.scheme;
  int const panel_columns = plan_.kernel->panel_columns;
  int const width = panel_columns / (g_.gated() ? 2 : 1);
  offset_t const blocks = w_.blocks(), scale_rows = w_.scale_rows();
  bool const row_scaled = scheme.scale == ScaleCode::f32 && scheme.block_cols == 0;
  for (int j = 0; j < panel_columns; ++j) {
    offset_t const n = panel * width + j % width;
    codes[j] = nullptr;
    scales[j] = nullptr;
    zeros[j] = nullptr;
    column_scales[j] = bias[j] = 0;
    if (n >= g_.columns) continue;
    offset_t const row = g_.row_of_b(n, j >= width);
    // Divisions would cost as much as the row.
    offset_t const scale_row =
        scheme.block_rows == 1 ? row : w_.scale_row(static_cast<index_t>(row));
    offset_t const scale = (group * scale_rows + scale_row) * blocks;
    codes[j] =
        w_.codes.data() + (group * w_.rows() + row) * static_cast<offset_t>(w_.codes.extent(2));
    column_scales[j] = 1;
    if (row_scaled) {
      column_scales[j] = w_.scales.data()[scale];
    } else if (scheme.scale == ScaleCode::f32) {
      scales[j] = w_.scales.data() + scale;
    } else {
      scales[j] = w_.scale_codes.data() + scale;
    }
    if (scheme.scale == ScaleCode::e4m3) {
      column_scales[j] = w_.part_scales(group, static_cast<index_t>(row) / w_.part_rows());
    }
    if (scheme.zero_points) zeros[j] = w_.zero_points.data() + scale;
    if (g_.bias != nullptr) {
      bias[j] = static_cast<float>(g_.bias[group * g_.rows_of_b() + row]);
    }
  }
  device::QuantMultiply m{};
  m.code = static_cast<device::QuantCode>(scheme.code);
  m.scale = static_cast<device::QuantScale>(scheme.scale);
  m.block = scheme.block_cols;
  m.a = memory;
  m.a_stride = plan_.padded;
  m.rows = rows;
  m.k = plan_.k;
  if (scheme.activations == ActivationCode::fp8_group) {
    m.a_scales = reinterpret_cast<float*>(memory + plan_.group_scales);
    m.a_scale_stride = groups_of(plan_.k);
  }
  m.row_scales = reinterpret_cast<float*>(memory + plan_.row_scales);
  m.row_sums = reinterpret_cast<std::int32_t*>(memory + plan_.row_sums);
  m.codes = codes;
  m.scales = scales;
  m.zeros = scheme.zero_points ? zeros : nullptr;
  m.column_scales = column_scales;
  m.decoded = memory + plan_.decoded;
  m.integer_dot = device::integer_dot(plan_.kernel->isa);
  device::Multiply& f = m.finish;
  offset_t const column = panel * width;
  f.rows = rows;
  f.panels = 1;
  f.bias = g_.bias == nullptr ? nullptr : bias;
  f.row_weights =
      g_.output_weights == nullptr ? nullptr : reinterpret_cast<float*>(memory + plan_.weights);
  f.out = g_.out + (first - g_.out_first) * g_.columns + column;
  f.out_stride = g_.columns;
  f.out_columns = g_.columns - column;
  f.accumulators = memory + plan_.accumulators;
  f.epilogue = g_.activated ? epilogue_of(g_.options.activation) : device::Epilogue::identity;
  f.gated = g_.gated();
  f.alpha = g_.options.swiglu_alpha;
  f.limit = g_.options.swiglu_limit;
  plan_.kernel->multiply[static_cast<int>(plan_.operand)][static_cast<int>(plan_.element)](m);
}

template class HostQuantGemm<double>;
template class HostQuantGemm<float>;
template class HostQuantGemm<bfloat16>;
template class HostQuantGemm<half>;

}  // namespace kmoe::detail
