// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The reference encoder and decoder of quantized weights, on the host.

#include <algorithm>

#include <kmoe/core/error.hpp>
#include <kmoe/core/quantization.hpp>
#include <kmoe/core/quantize_row.hpp>

namespace kmoe {
namespace {

using Host = Kokkos::DefaultHostExecutionSpace;
using Floats = Tensor3<float, Host>;
using Bytes = Tensor3<std::uint8_t, Host>;

template <class F>
void for_each(char const* label, offset_t count, F const& f) {
  Host const exec;
  using Policy =
      Kokkos::RangePolicy<Host, Kokkos::Schedule<Kokkos::Dynamic>, Kokkos::IndexType<offset_t>>;
  Kokkos::parallel_for(label, Policy(exec, 0, count), f);
  exec.fence(label);
}

float most_of(QuantScheme const& scheme) {
  switch (scheme.code) {
    case WeightCode::e4m3fn:
      return e4m3fn_max;
    case WeightCode::e4m3fnuz:
      return e4m3fnuz_max;
    case WeightCode::e2m1:
      return e2m1_max;
    case WeightCode::int8:
      return 127;
    default:
      return 7;
  }
}

std::uint8_t code_of(QuantScheme const& scheme, float x, int zero) {
  switch (scheme.code) {
    case WeightCode::e4m3fn:
      return encode_e4m3fn(x);
    case WeightCode::e4m3fnuz:
      return encode_e4m3fnuz(x);
    case WeightCode::e2m1:
      return encode_e2m1(x);
    case WeightCode::int8:
      return static_cast<std::uint8_t>(round_to_int(x, -127, 127));
    default:
      return static_cast<std::uint8_t>(round_to_int(x, -zero, 15 - zero) + zero);
  }
}

struct Encoder {
  InTensor3<float, Host> weights;
  QuantizedHostTensor t;
  Bytes codes, scale_codes, zeros;
  Floats scales;
  Matrix<float, Host> part_scales;

  /// Largest magnitude of rows [first, last) and columns [begin, end) of an expert.
  [[nodiscard]] std::uint32_t largest(offset_t e, offset_t first, offset_t last, offset_t begin,
                                      offset_t end) const {
    std::uint32_t most = 0;
    for (offset_t n = first; n < last; ++n) {
      for (offset_t k = begin; k < end; ++k)
        most = std::max(most, magnitude_bits(weights(e, n, k)));
    }
    return most;
  }

  /// The float that the block's codes are multiplied by; stores the scale as the format has it.
  float make_scale(offset_t e, offset_t part, offset_t row, offset_t block,
                   std::uint32_t most) const {
    switch (t.scheme.scale) {
      case ScaleCode::f32:
        return scales(e, row, block) = RowQuantizer::float_scale(most, most_of(t.scheme));
      case ScaleCode::e8m0:
        return decode_e8m0(scale_codes(e, row, block) =
                               encode_e8m0(Kokkos::bit_cast<float>(most),
                                           t.scheme.code == WeightCode::e2m1 ? 2 : 8));
      case ScaleCode::e4m3:
        break;
    }
    float const part_scale = part_scales(e, part);
    RowQuantizer const rounding{ActivationCode::nvfp4, false};
    scale_codes(e, row, block) = rounding.group_scale(most, part_scale).code;
    return decode_e4m3fn(scale_codes(e, row, block)) * part_scale;
  }

  /// Scale and zero point of 4-bit integers between the least and the largest weight and 0.
  float make_zero(offset_t e, offset_t row, offset_t block, offset_t first, offset_t last,
                  offset_t begin, offset_t end) const {
    float low = 0, high = 0;
    for (offset_t n = first; n < last; ++n) {
      for (offset_t k = begin; k < end; ++k) {
        low = std::min(low, weights(e, n, k));
        high = std::max(high, weights(e, n, k));
      }
    }
    float const scale = std::max((high - low) / 15.0F, 0x1p-126F);
    zeros(e, row, block) = static_cast<std::uint8_t>(round_to_int(-low / scale, 0, 15));
    return scales(e, row, block) = scale;
  }

  void put(offset_t e, offset_t n, offset_t k, std::uint8_t code) const {
    if (t.scheme.bits() == 8) {
      codes(e, n, k) = code;
    } else {
      auto& pair = codes(e, n, k / 2);
      pair = static_cast<std::uint8_t>(k % 2 == 0 ? (pair & 0xf0U) | code
                                                  : (pair & 0x0fU) | code << 4U);
    }
  }

  /// All blocks of one row of scales.
  void encode(offset_t e, offset_t row) const {
    offset_t const part = row / t.part_scale_rows(), inner = row % t.part_scale_rows();
    offset_t const base = part * t.part_rows();
    offset_t const first = base + inner * t.block_rows();
    offset_t const last = std::min<offset_t>(base + t.part_rows(), first + t.block_rows());
    for (offset_t block = 0; block < t.blocks(); ++block) {
      offset_t const begin = block * t.block_cols();
      offset_t const end = std::min<offset_t>(t.columns, begin + t.block_cols());
      std::uint32_t const most = largest(e, first, last, begin, end);
      bool const shifted = t.scheme.zero_points && most < 0x7f800000U;
      float const scale = shifted ? make_zero(e, row, block, first, last, begin, end)
                                  : make_scale(e, part, row, block, most);
      int const zero = shifted ? zeros(e, row, block) : 8;
      for (offset_t n = first; n < last; ++n) {
        for (offset_t k = begin; k < end; ++k) {
          put(e, n, k, code_of(t.scheme, weights(e, n, k) / scale, zero));
        }
      }
    }
  }
};

}  // namespace

QuantizedHostTensor quantize(InTensor3<float, Host> weights, QuantScheme const& scheme,
                             index_t parts) {
  validate(scheme);
  detail::expect(scheme.quantized(), "kmoe::quantize", "the scheme must be a quantized one", 0);
  std::size_t const experts = weights.extent(0), rows = weights.extent(1);
  detail::expect(parts >= 1 && rows % static_cast<std::size_t>(parts) == 0, "kmoe::quantize",
                 "parts must divide weights.extent(1) = " + std::to_string(rows), parts);
  Encoder encoder{weights, {}, {}, {}, {}, {}, {}};
  QuantizedHostTensor& t = encoder.t;
  t.scheme = scheme;
  t.columns = static_cast<index_t>(weights.extent(2));
  t.parts = parts;
  encoder.codes =
      Bytes("kmoe::codes", experts, rows, static_cast<std::size_t>(scheme.code_bytes(t.columns)));
  t.codes = encoder.codes;
  auto const blocks = static_cast<std::size_t>(t.blocks());
  std::size_t const scale_rows = rows == 0 ? 0 : static_cast<std::size_t>(t.scale_rows());
  if (scheme.scale == ScaleCode::f32) {
    t.scales = encoder.scales = Floats("kmoe::scales", experts, scale_rows, blocks);
  } else {
    t.scale_codes = encoder.scale_codes = Bytes("kmoe::scale_codes", experts, scale_rows, blocks);
  }
  if (scheme.zero_points) {
    t.zero_points = encoder.zeros = Bytes("kmoe::zero_points", experts, scale_rows, blocks);
  }
  if (scheme.scale == ScaleCode::e4m3) {
    encoder.part_scales = Matrix<float, Host>("kmoe::part_scales", experts, parts);
    t.part_scales = encoder.part_scales;
    offset_t const part_rows = t.part_rows();
    for_each("kmoe::quantize::parts", static_cast<offset_t>(experts) * parts, [=](offset_t i) {
      offset_t const e = i / parts, part = i % parts;
      auto const most =
          encoder.largest(e, part * part_rows, (part + 1) * part_rows, 0, encoder.t.columns);
      encoder.part_scales(e, part) = RowQuantizer::float_scale(most, e2m1_max * e4m3fn_max);
    });
  }
  for_each("kmoe::quantize", static_cast<offset_t>(experts * scale_rows), [=](offset_t i) {
    auto const per_expert = static_cast<offset_t>(scale_rows);
    encoder.encode(i / per_expert, i % per_expert);
  });
  return t;
}

Floats dequantize(QuantizedHostTensor const& t) {
  validate("kmoe::dequantize", "tensor", t);
  auto const rows = static_cast<offset_t>(t.rows());
  Floats const out(Kokkos::view_alloc("kmoe::dequantized", Kokkos::WithoutInitializing),
                   t.codes.extent(0), t.codes.extent(1), static_cast<std::size_t>(t.columns));
  for_each("kmoe::dequantize", t.num_experts() * rows, [=](offset_t i) {
    offset_t const e = i / rows, n = i % rows;
    offset_t const row = t.scale_row(static_cast<index_t>(n));
    for (offset_t k = 0; k < t.columns; ++k) {
      std::uint8_t const byte = t.codes(e, n, k * t.scheme.bits() / 8);
      auto const code = static_cast<std::uint8_t>(
          t.scheme.bits() == 8 ? byte : (k % 2 == 0 ? byte & 0xfU : byte >> 4U));
      offset_t const block = k / t.block_cols();
      int const zero = t.scheme.zero_points ? t.zero_points(e, row, block) & 15 : 8;
      float const value = value_of(t.scheme.code, code, zero);
      switch (t.scheme.scale) {
        case ScaleCode::f32:
          out(e, n, k) = value * t.scales(e, row, block);
          break;
        case ScaleCode::e8m0:
          out(e, n, k) = value * decode_e8m0(t.scale_codes(e, row, block));
          break;
        case ScaleCode::e4m3:
          out(e, n, k) = value * decode_e4m3fn(t.scale_codes(e, row, block)) *
                         t.part_scales(e, n / t.part_rows());
      }
    }
  });
  return out;
}

QuantizedHostTensor to_fnuz(QuantizedHostTensor const& tensor) {
  detail::expect(tensor.scheme.code == WeightCode::e4m3fn && tensor.scheme.scale == ScaleCode::f32,
                 "kmoe::to_fnuz", "the tensor must have e4m3fn codes and float scales, code",
                 static_cast<int>(tensor.scheme.code));
  auto const doubled = [](auto const& view) {
    using V = std::remove_cvref_t<decltype(view)>;
    typename V::non_const_type const out(view.label(), view.layout());
    for (std::size_t i = 0; i < view.size(); ++i) out.data()[i] = 2 * view.data()[i];
    return V(out);
  };
  QuantizedHostTensor out = tensor;
  out.scheme.code = WeightCode::e4m3fnuz;
  Bytes const codes(tensor.codes.label(), tensor.codes.layout());
  for_each("kmoe::to_fnuz", static_cast<offset_t>(codes.size()),
           [=](offset_t i) { codes.data()[i] = e4m3fn_to_fnuz(tensor.codes.data()[i]); });
  out.codes = codes;
  out.scales = doubled(tensor.scales);
  out.input_scales = doubled(tensor.input_scales);
  return out;
}

}  // namespace kmoe
