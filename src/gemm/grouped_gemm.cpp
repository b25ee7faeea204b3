// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/gemm/grouped_gemm.hpp>

#include <cstdint>
#include <memory>
#include <string>

#include <kmoe/core/error.hpp>

#include "gemm/device_gemm.hpp"
#include "gemm/host_gemm.hpp"
#include "gemm/quantized_gemm.hpp"
#include "instantiate.hpp"

namespace kmoe {
namespace detail {
namespace {

/// Row of b that becomes column `j` of panel `panel`, or -1 beyond the last.
offset_t row_of_column(device::HostKernel const& kernel, GateUpLayout layout, offset_t columns,
                       offset_t panel, offset_t j) {
  offset_t const width = output_columns(kernel, layout != GateUpLayout::plain);
  offset_t const n = panel * width + j % width;
  bool const up = j >= width;
  if (n >= columns) return -1;
  switch (layout) {
    case GateUpLayout::plain:
      return n;
    case GateUpLayout::interleaved:
      return 2 * n + (up ? 1 : 0);
    case GateUpLayout::gate_first:
      return up ? columns + n : n;
    case GateUpLayout::up_first:
      return up ? n : columns + n;
  }
  return -1;
}

template <ExecutionSpace E, Element T>
void pack_panels(E const& exec, InTensor3<T, E> const& b, InMatrix<accumulate_t<T>, E> const& bias,
                 PackedParts<E, T>& parts) {
  auto const& kernel = host_kernel_of<T>();
  offset_t const k = parts.k, rows = b.extent(1), columns = parts.columns;
  offset_t const panels = num_panels(kernel, columns, parts.layout != GateUpLayout::plain);
  offset_t const bytes = panel_bytes(kernel, k), width = kernel.panel_columns;
  auto const layout = parts.layout;
  parts.kernel = &kernel;
  parts.panels =
      Vector<std::byte, E>(Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, "kmoe::panels"),
                           static_cast<std::size_t>(parts.groups * panels * bytes));
  if (bias.extent(0) != 0) {
    parts.panel_bias = Vector<accumulate_t<T>, E>(
        Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, "kmoe::panel_bias"),
        static_cast<std::size_t>(parts.groups * panels * width));
  }
  auto const out = parts.panels;
  auto const out_bias = parts.panel_bias;
  Kokkos::parallel_for(
      "kmoe::pack_panels",
      Kokkos::RangePolicy<E, Kokkos::IndexType<offset_t>>(exec, 0, parts.groups * panels),
      [=, &kernel](offset_t i) {
        offset_t const group = i / panels, panel = i % panels;
        void const* addresses[64];
        for (offset_t j = 0; j < width; ++j) {
          offset_t const row = row_of_column(kernel, layout, columns, panel, j);
          addresses[j] = row < 0 ? nullptr : b.data() + (group * rows + row) * k;
          if (out_bias.extent(0) != 0) {
            out_bias(i * width + j) = row < 0 ? accumulate_t<T>(0) : bias(group, row);
          }
        }
        kernel.pack_b({addresses, k, out.data() + i * bytes});
      });
  exec.fence("kmoe::pack_panels");
}

/// Scratch of the calling thread: it grows to what the largest call needed.
std::byte* thread_scratch(offset_t bytes) {
  thread_local std::unique_ptr<std::byte[]> memory;
  thread_local offset_t size = 0;
  constexpr offset_t line = 128;
  if (size < bytes) {
    memory.reset();
    memory.reset(new std::byte[static_cast<std::size_t>(bytes + line)]);
    size = bytes;
  }
  auto const address = reinterpret_cast<std::uintptr_t>(memory.get());
  return memory.get() + (line - address % line) % line;
}

template <ExecutionSpace E>
void check_offsets(char const* function, InVector<offset_t, E> const& offsets, offset_t rows) {
  offset_t last = 0;
  for (std::size_t g = 0; g < offsets.extent(0); ++g) {
    if (offsets(g) < last) {
      throw_invalid(function, "expert_offsets must be ascending and >= 0",
                    std::to_string(offsets(g)), offsets.label());
    }
    last = offsets(g);
  }
  if (last > rows) {
    throw_invalid(function, "expert_offsets must be at most a.extent(0) = " + std::to_string(rows),
                  std::to_string(last), offsets.label());
  }
}

/// a [M, k], c [M, columns], groups + 1 offsets.
template <ExecutionSpace E, Element T>
void check_extents(char const* function, InMatrix<T, E> const& a, index_t groups, index_t k,
                   index_t columns, InVector<offset_t, E> const& offsets, Matrix<T, E> const& c) {
  expect_extent(function, "a.extent(1) must equal K of b =", k, a.extent(1), a.label());
  expect_extent(function, "c.extent(1) must equal N of b =", columns, c.extent(1), c.label());
  expect_extent(function, "c.extent(0) must equal a.extent(0) =", a.extent(0), c.extent(0),
                c.label());
  expect_extent(function, "expert_offsets.extent(0) must equal groups + 1 =", offset_t{groups} + 1,
                offsets.extent(0), offsets.label());
}

/// Rows and columns of one call; either `b` (raw) or `parts`.
template <ExecutionSpace E, Element T>
void multiply(E const& exec, InMatrix<T, E> const& a, PackedParts<E, T> const& parts, T const* raw,
              InVector<offset_t, E> const& offsets, Matrix<T, E> const& c) {
  constexpr char const* function = "kmoe::grouped_gemm";
  if (parts.layout != GateUpLayout::plain) {
    throw InvalidArgument("kmoe::grouped_gemm: b must not be gated, found layout " +
                          std::string(to_string(parts.layout)));
  }
  check_extents<E, T>(function, a, parts.groups, parts.k, parts.columns, offsets, c);
  if (parts.groups == 0) return;
  expect(parts.columns >= 1, function, "N of b must be at least 1", parts.columns);
  expect(parts.k >= 1, function, "K of b must be at least 1", parts.k);
  if constexpr (uses_host_kernels<E>) {
    exec.fence(function);
    check_offsets<E>(function, offsets, a.extent(0));
    auto const& kernel = raw != nullptr ? host_kernel_of<T>()
                                        : *static_cast<device::HostKernel const*>(parts.kernel);
    HostGemm g;
    g.kernel = &kernel;
    g.groups = parts.groups;
    g.offsets = offsets.data();
    g.row_end = a.extent(0);
    g.x = a.data();
    g.x_stride = a.extent(1);
    g.k = parts.k;
    g.columns = parts.columns;
    g.panels = parts.panels.data();
    g.raw = raw;
    g.bias = parts.panel_bias.data();
    g.out = c.data();
    g.out_stride = c.extent(1);
    g.workers = exec.concurrency();
    g.layout = worker_layout(kernel, g.k, a.extent(0), raw != nullptr);
    offset_t const list = round_up((offset_t{g.groups} + 2) * offset_t{sizeof(offset_t)}, 128);
    std::byte* const scratch = thread_scratch(list + g.workers * g.layout.bytes);
    g.block_offsets = reinterpret_cast<offset_t*>(scratch);
    g.worker_memory = scratch + list;
    run(exec, function, g);
  } else {
    DeviceGemm<T> g;
    g.groups = parts.groups;
    g.offsets = offsets.data();
    g.row_end = a.extent(0);
    g.x = a.data();
    g.x_rows = a.extent(0);
    g.k = parts.k;
    g.columns = parts.columns;
    g.b = parts.b.data();
    g.bias = parts.bias.extent(0) == 0 ? nullptr : parts.bias.data();
    g.out = c.data();
    device_gemm<E, T>(exec, function, g);
  }
}

}  // namespace
}  // namespace detail

template <ExecutionSpace E, Element T>
PackedWeights<E, T>::PackedWeights(E const& exec, InTensor3<T, E> b, GateUpLayout layout,
                                   InMatrix<accumulate_t<T>, E> bias) {
  constexpr char const* function = "kmoe::PackedWeights";
  bool const gated = layout != GateUpLayout::plain;
  detail::expect(b.extent(0) == 0 || b.extent(1) >= 1, function, "b.extent(1) must be at least 1",
                 b.extent(1));
  detail::expect(b.extent(0) == 0 || b.extent(2) >= 1, function, "b.extent(2) must be at least 1",
                 b.extent(2));
  detail::expect(!gated || b.extent(1) % 2 == 0, function,
                 "b.extent(1) must be even: as many gates as ups", b.extent(1));
  if (bias.extent(0) != 0) {
    detail::expect_extent(function, "bias.extent(0) must equal b.extent(0) =", b.extent(0),
                          bias.extent(0), bias.label());
    detail::expect_extent(function, "bias.extent(1) must equal b.extent(1) =", b.extent(1),
                          bias.extent(1), bias.label());
  }
  parts_.groups = static_cast<index_t>(b.extent(0));
  parts_.columns = static_cast<index_t>(b.extent(1) / (gated ? 2 : 1));
  parts_.k = static_cast<index_t>(b.extent(2));
  parts_.layout = layout;
  if constexpr (detail::uses_host_kernels<E>) {
    detail::pack_panels<E, T>(exec, b, bias, parts_);
  } else {
    parts_.b = b;
    parts_.bias = bias;
  }
}

template <ExecutionSpace E, Element T>
std::size_t PackedWeights<E, T>::bytes() const {
  return parts_.panels.size() + parts_.panel_bias.size() * sizeof(accumulate_t<T>) +
         parts_.b.size() * sizeof(T) + parts_.bias.size() * sizeof(accumulate_t<T>);
}

template <ExecutionSpace E, Element T>
void grouped_gemm(E const& exec, InMatrix<T, E> a,
                  PackedWeights<E, std::type_identity_t<T>> const& b,
                  InVector<offset_t, E> expert_offsets, Matrix<T, E> const& c) {
  detail::multiply<E, T>(exec, a, b.parts(), nullptr, expert_offsets, c);
}

template <ExecutionSpace E, Element T>
void grouped_gemm(E const& exec, InMatrix<T, E> a, InTensor3<T, E> b,
                  InVector<offset_t, E> expert_offsets, Matrix<T, E> const& c) {
  detail::PackedParts<E, T> parts;
  parts.groups = static_cast<index_t>(b.extent(0));
  parts.columns = static_cast<index_t>(b.extent(1));
  parts.k = static_cast<index_t>(b.extent(2));
  parts.b = b;
  detail::multiply<E, T>(exec, a, parts, b.data(), expert_offsets, c);
}

template <ExecutionSpace E, Element T>
void grouped_gemm(E const& exec, InMatrix<T, E> a, QuantizedTensor<E> const& b,
                  InVector<offset_t, E> expert_offsets, Matrix<T, E> const& c) {
  constexpr char const* function = "kmoe::grouped_gemm";
  validate(function, "b", b);
  detail::expect(b.quantized() || b.num_experts() == 0, function, "b must be quantized", 0);
  index_t const groups = b.num_experts();
  detail::check_extents<E, T>(function, a, groups, b.columns, b.rows(), expert_offsets, c);
  if (groups == 0 || a.extent(0) == 0) return;
  detail::DeviceGemm<T> g;
  g.groups = groups;
  g.offsets = expert_offsets.data();
  g.row_end = static_cast<offset_t>(a.extent(0));
  g.x = a.data();
  g.x_rows = g.row_end;
  g.k = b.columns;
  g.columns = b.rows();
  g.out = c.data();
  std::size_t const bytes =
      detail::quantized_scratch_bytes<E, T>(exec, b.scheme, b.columns, g.row_end);
  if constexpr (detail::uses_host_kernels<E>) {
    exec.fence(function);
    detail::check_offsets<E>(function, expert_offsets, g.row_end);
    offset_t const list =
        detail::round_up((offset_t{groups} + 2) * offset_t{sizeof(offset_t)}, 128);
    std::byte* const scratch = detail::thread_scratch(list + static_cast<offset_t>(bytes));
    detail::quantized_gemm<E, T>(exec, function, g, b, scratch + list,
                                 reinterpret_cast<offset_t*>(scratch));
  } else {
    Vector<std::byte, E> const scratch(
        Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, "kmoe::quantized_rows"), bytes);
    detail::quantized_gemm<E, T>(exec, function, g, b, scratch.data(), nullptr);
    if (bytes != 0) exec.fence("kmoe::grouped_gemm: the scratch goes away");
  }
}

#define KMOE_INSTANTIATE(E, T)                                                                   \
  template class KMOE_API PackedWeights<E, T>;                                                   \
  template KMOE_API void grouped_gemm<E, T>(E const&, InMatrix<T, E>,                            \
                                            PackedWeights<E, std::type_identity_t<T>> const&,    \
                                            InVector<offset_t, E>, Matrix<T, E> const&);         \
  template KMOE_API void grouped_gemm<E, T>(E const&, InMatrix<T, E>, InTensor3<T, E>,           \
                                            InVector<offset_t, E>, Matrix<T, E> const&);         \
  template KMOE_API void grouped_gemm<E, T>(E const&, InMatrix<T, E>, QuantizedTensor<E> const&, \
                                            InVector<offset_t, E>, Matrix<T, E> const&);
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE

}  // namespace kmoe
