// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// A grouped multiplication with quantized weights: one signature for host and device kernels.
///
/// Device kernels get the weights as QuantizedTensor has them, in a checkpoint's own layout, and
/// quantize x by RowQuantizer. A kernel of one chip takes the cases that it can from
/// quantized_gemm() and leaves the others to the portable one.

#include <cstddef>

#include <kmoe/core/quantization.hpp>

#include "gemm/device_gemm.hpp"

namespace kmoe::detail {

/// Bytes that one product needs besides its arguments; of two products the larger will do.
template <ExecutionSpace E, Element T>
std::size_t quantized_scratch_bytes(E const& exec, QuantScheme const& scheme, offset_t k,
                                    offset_t max_rows);

/// What quantized_mlp() asks of its arguments' memory for up to max_tokens rows of x. Hopper's
/// kernel of four bits reads x and the intermediate in an order of its own, in whole blocks of 128.
struct QuantizedMlpMemory {
  index_t columns;    ///< that rows of the intermediate have room for, intermediate_size or more
  std::size_t bytes;  ///< of scratch; with less, only time is lost
};
template <ExecutionSpace E, Element T>
QuantizedMlpMemory quantized_mlp_memory(QuantScheme const& scheme, bool gated, index_t hidden_size,
                                        index_t intermediate_size, offset_t max_tokens);

/// out[r, :] = w_out * act(Q(x'[r, :]) . W[g, :, :]^T + bias[g, :]), where Q quantizes as the
/// scheme says, sums are floats, and the rest is as of DeviceGemm (whose b is not used). Every
/// output depends on its row, its expert and the instruction set alone. Asynchronous on devices;
/// complete on return on hosts. \param scratch of quantized_scratch_bytes \param block_offsets
/// [groups + 2] on host spaces
template <ExecutionSpace E, Element T>
void quantized_gemm(E const& exec, char const* label, DeviceGemm<T> const& gemm,
                    QuantizedTensor<E> const& weights, std::byte* scratch, offset_t* block_offsets);

/// The two products of an MLP and its stages, as device_mlp(), where a kernel of one chip takes
/// these weights and sizes. Results of wgmma: the sum of 128 products of fp8 has about 13 bits.
/// \param down the memory of its x is that of quantized_mlp_memory()
/// \param scratch of the larger quantized_scratch_bytes or that, which are `bytes`
/// \return false: nothing was done
template <ExecutionSpace E, Element T>
bool quantized_mlp(E const& exec, DeviceGemm<T> const& gate_up, DeviceGemm<T> const& down,
                   QuantizedTensor<E> const& gate_up_weights,
                   QuantizedTensor<E> const& down_weights, std::byte* scratch, std::size_t bytes,
                   std::uint32_t* counters, MlpStages const& stages);

}  // namespace kmoe::detail
