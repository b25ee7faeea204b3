// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Quantized weights: which formats there are, and how one lies in memory.
///
/// A format is a code per weight, scales of blocks of weights, and what is done to activations:
///
///     name            code  scales                    activations
///     fp8_tensor      e4m3  float per matrix          e4m3, given scale or per token
///     fp8_channel     e4m3  float per row             e4m3 per token
///     fp8_block       e4m3  float per 128 x 128       e4m3 per 128 of a token
///     mxfp8           e4m3  e8m0 per 32 of a row      e4m3 with e8m0 per 32
///     mxfp4           e2m1  e8m0 per 32 of a row      as they are
///     mxfp4_a8        e2m1  e8m0 per 32 of a row      e4m3 with e8m0 per 32
///     mxfp4_a4        e2m1  e8m0 per 32 of a row      e2m1 with e8m0 per 32
///     nvfp4           e2m1  e4m3 per 16, and a float  as they are
///     nvfp4_a4        e2m1  e4m3 per 16, and a float  e2m1 with e4m3 per 16 and a float
///     int8            int8  float per row             int8 per token
///     int4            int4  float per 128 of a row    as they are
///     int4_zero       int4  and a zero point each     as they are
///
/// fp8_* also as ..._fnuz: e4m3fnuz codes (both sides) and scales twice as large.
/// Checkpoints may name other block sizes; QuantScheme says what a tensor has.
///
/// Activations are rounded by the functions of quantize_row.hpp on every backend. No scale depends
/// on more than one token: a scale over a batch would tie a token's bits to its neighbours, so that
/// "dynamic per tensor" means per token here.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <kmoe/core/codes.hpp>
#include <kmoe/core/types.hpp>

namespace kmoe KMOE_API {

/// How one weight is written; codes.hpp has the values.
enum class WeightCode : std::uint8_t {
  none,      ///< not quantized
  e4m3fn,    ///< a byte
  e4m3fnuz,  ///< a byte
  e2m1,      ///< 4 bits: element 2j in the low half of byte j of its row, 2j + 1 in the high half
  int8,      ///< a byte, two's complement
  int4,      ///< 4 bits in the order of e2m1, the value + 8 (or the value, less a zero point)
};

/// How the scale of a block is written.
enum class ScaleCode : std::uint8_t {
  f32,   ///< float (checkpoints' bf16 and f16 scales are widened, which is exact)
  e8m0,  ///< a byte, a power of two
  e4m3,  ///< a byte, e4m3fn; there are part scales besides
};

/// What is done to the activations before they meet the weights.
enum class ActivationCode : std::uint8_t {
  none,        ///< nothing
  fp8_static,  ///< e4m3 with the expert's input_scale; per token where it has none
  fp8_token,   ///< e4m3, scale = largest magnitude / largest code, per token
  fp8_group,   ///< the same per 128 elements of a token
  mxfp8,       ///< e4m3fn with e8m0 per 32
  mxfp4,       ///< e2m1 with e8m0 per 32
  nvfp4,       ///< e2m1 with e4m3 per 16 and the expert's input_scale, else a float per token
  int8_token,  ///< int8 in -127..127, scale = largest magnitude / 127, per token
};

/// One format. Blocks are block_rows x block_cols; 0 = all of the part, or of the row.
struct QuantScheme {
  WeightCode code = WeightCode::none;
  ScaleCode scale = ScaleCode::f32;
  index_t block_rows = 1;
  index_t block_cols = 0;
  bool zero_points = false;
  ActivationCode activations = ActivationCode::none;

  bool operator==(QuantScheme const&) const = default;

  [[nodiscard]] KOKKOS_INLINE_FUNCTION bool quantized() const { return code != WeightCode::none; }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION int bits() const {
    return code == WeightCode::e2m1 || code == WeightCode::int4 ? 4 : 8;
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION bool fnuz() const { return code == WeightCode::e4m3fnuz; }
  /// Bytes that `columns` codes need, without padding.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION offset_t code_bytes(offset_t columns) const {
    return (columns * bits() + 7) / 8;
  }
};

/// What a code stands for without its scale.
/// \param zero the code of 0 where codes are int4 (8, or the group's zero point)
[[nodiscard]] KOKKOS_INLINE_FUNCTION float value_of(WeightCode type, std::uint8_t code, int zero) {
  switch (type) {
    case WeightCode::e4m3fn:
      return decode_e4m3fn(code);
    case WeightCode::e4m3fnuz:
      return decode_e4m3fnuz(code);
    case WeightCode::e2m1:
      return decode_e2m1(code);
    case WeightCode::int8:
      return static_cast<float>(static_cast<std::int8_t>(code));
    default:
      return static_cast<float>(static_cast<int>(code) - zero);
  }
}

struct QuantFormat {
  std::string_view name;
  QuantScheme scheme;
};

/// The formats of the table above, and their fnuz forms.
std::span<QuantFormat const> quant_formats();
/// The scheme of that name. \throws InvalidArgument that lists the names
QuantScheme quant_scheme(std::string_view name);
/// A format's name, or the fields: "int4 f32 1x64 none".
std::string to_string(QuantScheme const& scheme);
/// \throws InvalidArgument for a combination that has no meaning
void validate(QuantScheme const& scheme);

/// The weights of El experts as a checkpoint has them: nothing is reordered, unpacked or decoded.
///
/// A matrix [N, K] consists of `parts` equal ranges of rows (a fused gate_up: 2, so that no block
/// lies across gates and ups; else 1), each cut into blocks from its first row on. Weight (n, k) of
/// expert e, where p = n / part_rows() and i = n % part_rows(), is
///
///     value(codes(e, n, k)) * scale(e, scale_row(n), k / block_cols) [* part_scales(e, p)]
///
/// with value(q) = q - zero_point for integers. The last block of a row or part may be cut short.
/// A row has codes.extent(2) bytes, which may exceed what K codes need (gpt-oss, compressed-tensors
/// pad rows to whole blocks or words); what they hold there is not looked at.
template <ExecutionSpace E>
struct QuantizedTensor {
  QuantScheme scheme;
  index_t columns = 0;  ///< K
  index_t parts = 1;
  Tensor3<std::uint8_t const, E> codes;        ///< [El, N, >= code_bytes(K)]
  Tensor3<float const, E> scales;              ///< ScaleCode::f32, [El, scale_rows(), blocks()]
  Tensor3<std::uint8_t const, E> scale_codes;  ///< the other scale codes, the same extents
  Tensor3<std::uint8_t const, E> zero_points;  ///< [El, scale_rows(), blocks()], 0..15; or empty
  Matrix<float const, E> part_scales;          ///< [El, parts]; only and always for e4m3 scales
  /// [El] scale of this tensor's activations (fp8_static, nvfp4); extent 0 = from each token.
  Vector<float const, E> input_scales;

  [[nodiscard]] bool quantized() const { return scheme.quantized(); }
  [[nodiscard]] index_t num_experts() const { return static_cast<index_t>(codes.extent(0)); }
  [[nodiscard]] index_t rows() const { return static_cast<index_t>(codes.extent(1)); }
  [[nodiscard]] index_t part_rows() const { return rows() / parts; }
  [[nodiscard]] index_t block_rows() const {
    return scheme.block_rows == 0 ? part_rows() : scheme.block_rows;
  }
  [[nodiscard]] index_t block_cols() const {
    return scheme.block_cols == 0 ? columns : scheme.block_cols;
  }
  /// Rows of the scales of one part, and of all.
  [[nodiscard]] index_t part_scale_rows() const {
    return block_rows() == 0 ? 0 : (part_rows() + block_rows() - 1) / block_rows();
  }
  [[nodiscard]] index_t scale_rows() const { return parts * part_scale_rows(); }
  /// Blocks of a row.
  [[nodiscard]] index_t blocks() const {
    return columns == 0 ? 0 : (columns + block_cols() - 1) / block_cols();
  }
  [[nodiscard]] index_t scale_row(index_t n) const {
    return n / part_rows() * part_scale_rows() + n % part_rows() / block_rows();
  }
  /// Bytes of everything held.
  [[nodiscard]] std::size_t bytes() const {
    return codes.size() + scale_codes.size() + zero_points.size() +
           (scales.size() + part_scales.size() + input_scales.size()) * sizeof(float);
  }
};

/// Checks extents and scheme; `name` is what messages call the tensor.
/// \throws InvalidArgument naming the rule, what was expected and found
template <ExecutionSpace E>
void validate(std::string_view function, std::string const& name, QuantizedTensor<E> const& tensor);

/// Memory of the host.
using QuantizedHostTensor = QuantizedTensor<Kokkos::DefaultHostExecutionSpace>;

/// Weights [El, N, K] in a format: the reference encoder, bit for bit defined.
///
/// Per block: f32 scales are largest magnitude / largest code (448, 240, 127, 7; int4_zero (largest
/// - least) / 15 with both taken across 0, zero point = round(-least / scale)), e8m0 as
/// encode_e8m0(), e4m3 = encode(largest magnitude / 6 / part scale) with part scale = largest
/// magnitude of the part / (6 * 448). Codes are encode(weight / scale), where a division by a power
/// of two is exact. A scale below 2^-126 becomes 2^-126. A block with NaN or infinity is NaN.
/// Parallel over rows on the default host space; allocates the result; complete on return.
/// \throws InvalidArgument for a scheme that is not valid
QuantizedHostTensor quantize(InTensor3<float, Kokkos::DefaultHostExecutionSpace> weights,
                             QuantScheme const& scheme, index_t parts = 1);

/// The weights that a tensor stands for, [El, N, K], each product rounded to float once per factor.
/// Parallel over rows on the default host space; allocates; complete on return.
Tensor3<float, Kokkos::DefaultHostExecutionSpace> dequantize(QuantizedHostTensor const& tensor);

/// The same values with e4m3fnuz codes and doubled scales (input scales too); an fp8 tensor only.
QuantizedHostTensor to_fnuz(QuantizedHostTensor const& tensor);

/// A copy in another memory space. Fences `exec`.
template <ExecutionSpace E>
QuantizedTensor<E> copy_to(E const& exec, QuantizedHostTensor const& tensor);

}  // namespace KMOE_API
