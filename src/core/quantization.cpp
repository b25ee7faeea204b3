// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/core/quantization.hpp>

#include <array>

#include <kmoe/core/error.hpp>

#include "instantiate.hpp"

namespace kmoe {
namespace {

using A = ActivationCode;
using W = WeightCode;
using S = ScaleCode;

constexpr std::array formats{
    QuantFormat{"fp8_tensor", {W::e4m3fn, S::f32, 0, 0, false, A::fp8_static}},
    QuantFormat{"fp8_channel", {W::e4m3fn, S::f32, 1, 0, false, A::fp8_token}},
    QuantFormat{"fp8_block", {W::e4m3fn, S::f32, 128, 128, false, A::fp8_group}},
    QuantFormat{"fp8_tensor_fnuz", {W::e4m3fnuz, S::f32, 0, 0, false, A::fp8_static}},
    QuantFormat{"fp8_channel_fnuz", {W::e4m3fnuz, S::f32, 1, 0, false, A::fp8_token}},
    QuantFormat{"fp8_block_fnuz", {W::e4m3fnuz, S::f32, 128, 128, false, A::fp8_group}},
    QuantFormat{"mxfp8", {W::e4m3fn, S::e8m0, 1, 32, false, A::mxfp8}},
    QuantFormat{"mxfp4", {W::e2m1, S::e8m0, 1, 32, false, A::none}},
    QuantFormat{"mxfp4_a8", {W::e2m1, S::e8m0, 1, 32, false, A::mxfp8}},
    QuantFormat{"mxfp4_a4", {W::e2m1, S::e8m0, 1, 32, false, A::mxfp4}},
    QuantFormat{"nvfp4", {W::e2m1, S::e4m3, 1, 16, false, A::none}},
    QuantFormat{"nvfp4_a4", {W::e2m1, S::e4m3, 1, 16, false, A::nvfp4}},
    QuantFormat{"int8", {W::int8, S::f32, 1, 0, false, A::int8_token}},
    QuantFormat{"int4", {W::int4, S::f32, 1, 128, false, A::none}},
    QuantFormat{"int4_zero", {W::int4, S::f32, 1, 128, true, A::none}},
};

constexpr std::array<std::string_view, 6> weight_names{"none", "e4m3fn", "e4m3fnuz",
                                                       "e2m1", "int8",   "int4"};
constexpr std::array<std::string_view, 3> scale_names{"f32", "e8m0", "e4m3"};
constexpr std::array<std::string_view, 8> activation_names{
    "none", "fp8_static", "fp8_token", "fp8_group", "mxfp8", "mxfp4", "nvfp4", "int8_token"};

bool is_fp8(QuantScheme const& s) {
  return s.code == W::e4m3fn || s.code == W::e4m3fnuz;
}

}  // namespace

std::span<QuantFormat const> quant_formats() {
  return formats;
}

QuantScheme quant_scheme(std::string_view name) {
  std::string known;
  for (auto const& format : formats) {
    if (format.name == name) return format.scheme;
    known.append(" ").append(format.name);
  }
  throw InvalidArgument("kmoe::quant_scheme: unknown format \"" + std::string(name) +
                        "\"; known are" + known);
}

std::string to_string(QuantScheme const& scheme) {
  if (!scheme.quantized()) return "none";
  for (auto const& format : formats) {
    if (format.scheme == scheme) return std::string(format.name);
  }
  auto const extent = [](index_t n) { return n == 0 ? std::string("all") : std::to_string(n); };
  return std::string(weight_names[static_cast<std::size_t>(scheme.code)]) + " " +
         std::string(scale_names[static_cast<std::size_t>(scheme.scale)]) + " " +
         extent(scheme.block_rows) + "x" + extent(scheme.block_cols) +
         (scheme.zero_points ? " zero points " : " ") +
         std::string(activation_names[static_cast<std::size_t>(scheme.activations)]);
}

void validate(QuantScheme const& s) {
  constexpr std::string_view function = "kmoe::validate";
  auto const require = [&](bool holds, std::string_view rule) {
    if (!holds) detail::throw_invalid(function, rule, to_string(s));
  };
  if (!s.quantized()) return;
  require(s.block_rows >= 0 && s.block_cols >= 0, "blocks must not have negative extents");
  require(!s.zero_points || s.code == W::int4, "zero points need int4 codes");
  switch (s.scale) {
    case S::e8m0:
      require(s.block_rows == 1 && s.block_cols == 32 && (s.code == W::e2m1 || s.code == W::e4m3fn),
              "e8m0 scales belong to 32 e2m1 or e4m3fn codes of a row");
      break;
    case S::e4m3:
      require(s.block_rows == 1 && s.block_cols == 16 && s.code == W::e2m1,
              "e4m3 scales belong to 16 e2m1 codes of a row");
      break;
    case S::f32:
      require(s.code != W::e2m1, "e2m1 codes need e8m0 or e4m3 scales");
      require(s.block_cols % 32 == 0, "blocks must be a multiple of 32 columns");
  }
  switch (s.activations) {
    case A::none:
      break;
    case A::fp8_static:
    case A::fp8_token:
      require(is_fp8(s) && s.block_cols == 0, "fp8 activations per token need fp8 rows");
      break;
    case A::fp8_group:
      require(is_fp8(s) && s.block_cols == 128, "fp8 activations per 128 need blocks of 128");
      break;
    case A::mxfp8:
    case A::mxfp4:
      require(s.scale == S::e8m0, "mxfp8 and mxfp4 activations need e8m0 scales");
      break;
    case A::nvfp4:
      require(s.scale == S::e4m3, "nvfp4 activations need e4m3 scales");
      break;
    case A::int8_token:
      require(s.code == W::int8 && s.block_cols == 0, "int8 activations need int8 rows");
  }
}

template <ExecutionSpace E>
void validate(std::string_view function, std::string const& name, QuantizedTensor<E> const& t) {
  validate(t.scheme);
  if (!t.quantized()) return;
  auto const extents = [&](std::string const& field, auto const& view,
                           std::array<long long, 3> const& wanted) {
    for (int d = 0; d < 3; ++d) {
      detail::expect_extent(function,
                            name + "." + field + ".extent(" + std::to_string(d) + ") must equal",
                            wanted[static_cast<std::size_t>(d)],
                            static_cast<long long>(view.extent(d)), view.label());
    }
  };
  long long const experts = t.num_experts();
  if (experts == 0) return;
  detail::expect(t.columns >= 1, function, name + ".columns must be at least 1", t.columns);
  detail::expect(t.rows() >= 1, function, name + ".codes.extent(1) must be at least 1", t.rows());
  detail::expect(t.parts >= 1 && t.rows() % t.parts == 0, function,
                 name + ".parts must divide codes.extent(1) = " + std::to_string(t.rows()),
                 t.parts);
  detail::expect(
      static_cast<offset_t>(t.codes.extent(2)) >= t.scheme.code_bytes(t.columns), function,
      name + ".codes.extent(2) must be at least " + std::to_string(t.scheme.code_bytes(t.columns)) +
          " bytes for " + std::to_string(t.columns) + " columns",
      static_cast<long long>(t.codes.extent(2)));
  std::array<long long, 3> const blocks{experts, t.scale_rows(), t.blocks()};
  if (t.scheme.scale == S::f32) {
    extents("scales", t.scales, blocks);
  } else {
    extents("scale_codes", t.scale_codes, blocks);
  }
  if (t.scheme.zero_points) extents("zero_points", t.zero_points, blocks);
  if (t.scheme.scale == S::e4m3) {
    detail::expect_extent(function, name + ".part_scales.extent(0) must equal", experts,
                          static_cast<long long>(t.part_scales.extent(0)), t.part_scales.label());
    detail::expect_extent(function, name + ".part_scales.extent(1) must equal parts =", t.parts,
                          static_cast<long long>(t.part_scales.extent(1)), t.part_scales.label());
  }
  if (t.input_scales.extent(0) != 0) {
    detail::expect_extent(function, name + ".input_scales.extent(0) must equal", experts,
                          static_cast<long long>(t.input_scales.extent(0)), t.input_scales.label());
  }
}

template <ExecutionSpace E>
QuantizedTensor<E> copy_to(E const& exec, QuantizedHostTensor const& tensor) {
  auto const copy = [&]<class V>(V const& view, auto const& target) {
    using Target = std::remove_cvref_t<decltype(target)>;
    if constexpr (std::is_same_v<V, Target>) {
      return view;
    } else {
      typename Target::non_const_type const out(
          Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, view.label()), view.layout());
      Kokkos::deep_copy(exec, out, view);
      return Target(out);
    }
  };
  QuantizedTensor<E> out;
  out.scheme = tensor.scheme;
  out.columns = tensor.columns;
  out.parts = tensor.parts;
  out.codes = copy(tensor.codes, out.codes);
  out.scales = copy(tensor.scales, out.scales);
  out.scale_codes = copy(tensor.scale_codes, out.scale_codes);
  out.zero_points = copy(tensor.zero_points, out.zero_points);
  out.part_scales = copy(tensor.part_scales, out.part_scales);
  out.input_scales = copy(tensor.input_scales, out.input_scales);
  exec.fence("kmoe::copy_to: the host copy may go away");
  return out;
}

#define KMOE_INSTANTIATE(SPACE)                                                \
  template KMOE_API void validate<SPACE>(std::string_view, std::string const&, \
                                         QuantizedTensor<SPACE> const&);       \
  template KMOE_API QuantizedTensor<SPACE> copy_to<SPACE>(SPACE const&, QuantizedHostTensor const&);
KMOE_FOR_EACH_SPACE(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE

}  // namespace kmoe
