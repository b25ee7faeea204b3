// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "io/load_quantized.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include <kmoe/core/codes.hpp>

#include "io/mapped_file.hpp"

namespace kmoe::io::detail {
namespace {

using Host = Kokkos::DefaultHostExecutionSpace;
using Shape = Finder::Shape;
using Types = Finder::Types;

constexpr offset_t ceil_div(offset_t n, offset_t by) {
  return (n + by - 1) / by;
}

Types const scale_floats{"F32", "BF16", "F16", "F8_E8M0"};
Types const words{"I32"};

offset_t row_bytes(QuantScheme const& scheme, offset_t columns) {
  return scheme.code == WeightCode::int4 ? ceil_div(columns, 8) * 4 : scheme.code_bytes(columns);
}

float float_at(TensorView const& tensor, offset_t i) {
  std::byte const* const p = tensor.bytes.data();
  if (tensor.dtype == "F32") return load<float>(p + i * 4);
  if (tensor.dtype == "BF16") return static_cast<float>(load<bfloat16>(p + i * 2));
  if (tensor.dtype == "F16") return static_cast<float>(load<half>(p + i * 2));
  return decode_e8m0(std::to_integer<std::uint8_t>(p[i]));
}

/// Scale number i, refused where it is no scale.
float scale_at(TensorView const& tensor, offset_t i, bool positive) {
  float const value = float_at(tensor, i);
  if (std::isfinite(value) && (positive ? value > 0 : value >= 0)) return value;
  throw IoError(describe(tensor) + ": scale number " + std::to_string(i) + " is " +
                std::to_string(value) + ": scales must be finite and " +
                (positive ? "positive" : "not negative"));
}

/// weight_shape repeats the extents that packed words do not tell.
void check_shape(Finder& finder, TensorView const* tensor, offset_t rows, offset_t columns) {
  if (tensor == nullptr) return;
  bool const wide = tensor->dtype == "I64";
  auto const at = [&](int i) {
    std::byte const* const p = tensor->bytes.data();
    return wide ? load<std::int64_t>(p + i * 8) : std::int64_t{load<std::int32_t>(p + i * 4)};
  };
  if (at(0) == rows && at(1) == columns) return;
  finder.complain(*tensor, "must hold " + to_text(Shape{rows, columns}) + ", found " +
                               to_text(Shape{at(0), at(1)}));
}

}  // namespace

PackedSource find_packed(Finder& finder, QuantConfig const& config, std::string const& base,
                         offset_t rows, offset_t columns) {
  QuantScheme const& s = config.scheme;
  QuantNames const& names = config.names;
  auto const name = [&](std::string_view parameter) { return base + "." + std::string(parameter); };
  offset_t const block_rows = s.block_rows == 0 ? rows : s.block_rows;
  offset_t const blocks = s.block_cols == 0 ? 1 : ceil_div(columns, s.block_cols);
  PackedSource source;
  switch (s.code) {
    case WeightCode::int4:
      source.codes = finder.find(name(names.codes), {rows, ceil_div(columns, 8)}, words);
      break;
    case WeightCode::e2m1:
      source.codes = finder.find(name(names.codes), {rows, ceil_div(columns, 2)}, {"U8"});
      break;
    case WeightCode::int8:
      source.codes = finder.find(name(names.codes), {rows, columns}, {"I8"});
      break;
    default:
      source.codes = finder.find(name(names.codes), {rows, columns}, {"F8_E4M3"});
  }
  Shape shape{ceil_div(rows, block_rows), blocks};
  if (s.block_cols == 0) shape.pop_back();
  Types const types = s.scale == ScaleCode::f32    ? scale_floats
                      : s.scale == ScaleCode::e8m0 ? Types{"U8", "F8_E8M0"}
                                                   : Types{"F8_E4M3"};
  source.scales = finder.find(name(names.scales), shape, types);
  if (!names.part_scale.empty()) {
    source.part_scale = finder.find(name(names.part_scale), {1}, {"F32"});
  }
  if (!names.input_scale.empty()) {
    source.input_scale = finder.find_optional(name(names.input_scale), {1}, {"F32", "BF16", "F16"});
  }
  if (!names.zero_points.empty()) {
    source.zero_points = finder.find(name(names.zero_points), {ceil_div(rows, 8), blocks}, words);
  }
  if (!names.shape.empty()) {
    check_shape(finder, finder.find(name(names.shape), {2}, {"I64", "I32"}), rows, columns);
  }
  return source;
}

QuantizedHostTensor fill_packed(PackedPlan const& plan, std::string const& label) {
  QuantScheme const& s = plan.config.scheme;
  auto const n = [](auto value) { return static_cast<std::size_t>(value); };
  QuantizedHostTensor t;
  t.scheme = s;
  t.columns = plan.columns;
  t.parts = plan.parts;
  offset_t const part_rows = plan.rows / plan.parts;
  // What the file has, padding included; gpt-oss pads rows to whole blocks.
  offset_t width = row_bytes(s, plan.columns);
  if (!plan.sources.empty() && plan.sources[0].codes->shape.size() == 4) {
    width = ceil_div(plan.columns, 32) * 16;
  }
  Tensor3<std::uint8_t, Host> const codes(
      Kokkos::view_alloc(label + ".codes", Kokkos::WithoutInitializing), n(plan.experts),
      n(plan.rows), n(width));
  t.codes = codes;
  std::size_t const scale_rows = plan.rows == 0 ? 0 : n(t.scale_rows()), blocks = n(t.blocks());
  Tensor3<float, Host> scales;
  Tensor3<std::uint8_t, Host> scale_codes, zeros;
  Matrix<float, Host> part_scales;
  Vector<float, Host> input_scales;
  if (s.scale == ScaleCode::f32) {
    t.scales = scales =
        Tensor3<float, Host>(label + ".scales", n(plan.experts), scale_rows, blocks);
  } else {
    t.scale_codes = scale_codes =
        Tensor3<std::uint8_t, Host>(label + ".scales", n(plan.experts), scale_rows, blocks);
  }
  if (s.zero_points) {
    t.zero_points = zeros =
        Tensor3<std::uint8_t, Host>(label + ".zero_points", n(plan.experts), scale_rows, blocks);
  }
  if (s.scale == ScaleCode::e4m3) {
    t.part_scales = part_scales =
        Matrix<float, Host>(label + ".part_scales", n(plan.experts), n(plan.parts));
  }
  bool const given = std::ranges::any_of(
      plan.sources, [](PackedSource const& source) { return source.input_scale != nullptr; });
  if (given) {
    t.input_scales = input_scales = Vector<float, Host>(label + ".input_scales", n(plan.experts));
  }

  PackedSource const* const sources = plan.sources.data();
  offset_t const part_bytes = part_rows * width, parts = plan.parts;
  Host const host;
  Kokkos::parallel_for(
      "kmoe::io::copy_codes",
      Kokkos::RangePolicy<Host, Kokkos::Schedule<Kokkos::Dynamic>>(host, 0, plan.sources.size()),
      [=](std::size_t i) {
        std::memcpy(codes.data() + static_cast<offset_t>(i) * part_bytes,
                    sources[i].codes->bytes.data() + sources[i].slice * part_bytes, n(part_bytes));
      });
  host.fence("kmoe::io::copy_codes");

  offset_t const per_part = static_cast<offset_t>(scale_rows * blocks) / parts;
  for (std::size_t i = 0; i < plan.sources.size(); ++i) {
    PackedSource const& source = plan.sources[i];
    auto const e = static_cast<offset_t>(i) / parts, part = static_cast<offset_t>(i) % parts;
    offset_t const to = static_cast<offset_t>(i) * per_part, from = source.slice * per_part;
    for (offset_t j = 0; j < per_part; ++j) {
      if (s.scale == ScaleCode::f32) {
        scales.data()[to + j] = scale_at(*source.scales, from + j, false);
        continue;
      }
      auto const code = std::to_integer<std::uint8_t>(source.scales->bytes[n(from + j)]);
      if (s.scale == ScaleCode::e4m3 && (code & 0x80U) != 0) {
        throw IoError(describe(*source.scales) + ": scale number " + std::to_string(j) + " is " +
                      std::to_string(decode_e4m3fn(code)) + ": scales must not be negative");
      }
      scale_codes.data()[to + j] = code;
    }
    if (source.part_scale != nullptr) {
      float const value = scale_at(*source.part_scale, 0, true);
      part_scales(e, part) = plan.config.names.reciprocal ? 1 / value : value;
    }
    if (given) {
      if (source.input_scale == nullptr) {
        throw IoError(describe(*source.codes) +
                      ": has no input scale, but other experts' weights have one");
      }
      // Gates and ups see the same activations: the larger scale holds both.
      float const value = scale_at(*source.input_scale, 0, true);
      input_scales(e) = std::max(input_scales(e), plan.config.names.reciprocal ? 1 / value : value);
    }
    if (source.zero_points != nullptr) {  // eight rows to a word
      for (offset_t j = 0; j < per_part; ++j) {
        offset_t const row = j / static_cast<offset_t>(blocks),
                       block = j % static_cast<offset_t>(blocks);
        auto const word =
            load<std::uint32_t>(source.zero_points->bytes.data() +
                                (row / 8 * static_cast<offset_t>(blocks) + block) * 4);
        zeros.data()[to + j] = static_cast<std::uint8_t>(word >> (4 * (row % 8)) & 15U);
      }
    }
  }
  return t;
}

}  // namespace kmoe::io::detail
