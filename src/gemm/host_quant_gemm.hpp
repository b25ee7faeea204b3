// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The grouped multiplication with quantized weights on a host space: who computes what, and how
/// activations become operands. As host_gemm.hpp, but weights are read as they lie.

#include <cstddef>

#include <kmoe/core/quantization.hpp>

#include "device/host_quant.hpp"
#include "gemm/device_gemm.hpp"
#include "gemm/host_gemm.hpp"

namespace kmoe::detail {

/// How one product runs.
struct HostQuantPlan {
  device::QuantKernel const* kernel = nullptr;
  device::HostElement element = device::HostElement::f32;
  device::QuantOperand operand = device::QuantOperand::f32;
  offset_t k = 0;
  offset_t padded = 0;     // elements of a row of A
  offset_t full_rows = 0;  // of a block
  // Bytes from the beginning of a worker's memory.
  offset_t accumulators = 0, row_scales = 0, group_scales = 0, row_sums = 0, weights = 0,
           decoded = 0, values = 0, bytes = 0;
};

/// The instruction set of the process decides the operand.
HostQuantPlan host_quant_plan(device::HostElement element, QuantScheme const& scheme, offset_t k,
                              offset_t max_rows);

template <Element T>
constexpr device::HostElement host_element() {
  return std::is_same_v<T, double>     ? device::HostElement::f64
         : std::is_same_v<T, float>    ? device::HostElement::f32
         : std::is_same_v<T, bfloat16> ? device::HostElement::bf16
                                       : device::HostElement::f16;
}

template <Element T>
class HostQuantGemm {
 public:
  /// \param workers plan.bytes each; `block_offsets` [groups + 2]
  HostQuantGemm(DeviceGemm<T> const& gemm, QuantizedHostTensor const& weights,
                HostQuantPlan const& plan, index_t workers, std::byte* memory,
                offset_t* block_offsets);

  template <class E>
  void run(E const& exec, char const* label) const {
    if (tasks_ == 0) return;
    using Policy = Kokkos::RangePolicy<E, Kokkos::Schedule<Kokkos::Static>, Kokkos::IndexType<int>>;
    Kokkos::parallel_for(label, Policy(exec, 0, workers_, Kokkos::ChunkSize(1)),
                         [this](int worker) { work(worker); });
    exec.fence(label);
  }

 private:
  void work(index_t worker) const;
  void pack(std::byte* memory, index_t group, offset_t first, offset_t rows) const;
  void multiply(std::byte* memory, index_t group, offset_t first, offset_t rows,
                offset_t panel) const;
  [[nodiscard]] offset_t clamped(offset_t row) const {
    return std::clamp(row, g_.row_begin, g_.row_end);
  }
  [[nodiscard]] offset_t block_rows(offset_t rows) const {
    offset_t const blocks = std::max<offset_t>(1, (rows + plan_.full_rows - 1) / plan_.full_rows);
    return std::max<offset_t>(1, (rows + blocks - 1) / blocks);
  }

  DeviceGemm<T> g_;
  QuantizedHostTensor const& w_;
  HostQuantPlan plan_;
  index_t workers_;
  std::byte* memory_;
  offset_t* block_offsets_;
  offset_t panels_ = 0, splits_ = 1, tasks_ = 0;
};

}  // namespace kmoe::detail
