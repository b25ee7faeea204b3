// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/experts/expert_mlp.hpp>

#include <algorithm>
#include <string>

#include <kmoe/core/error.hpp>

#include "gemm/device_gemm.hpp"
#include "gemm/host_gemm.hpp"
#include "gemm/quantized_gemm.hpp"
#include "instantiate.hpp"
#include "permute/check_permutation.hpp"

namespace kmoe {
namespace {

/// Rows in flight: all on a device; on a host the intermediate of a window stays within reach of
/// the last-level cache.
template <ExecutionSpace E, Element T>
offset_t window_rows(index_t intermediate_size, offset_t max_rows) {
  if constexpr (!detail::uses_host_kernels<E>) return max_rows;
  constexpr offset_t window_bytes = offset_t{32} << 20, fewest = 256, most = 16384;
  offset_t const row_bytes = std::max<offset_t>(1, intermediate_size) * offset_t{sizeof(T)};
  return std::min(max_rows, std::clamp(window_bytes / row_bytes, fewest, most));
}

template <ExecutionSpace E, Element T>
detail::HostGemm host_gemm(PackedWeights<E, T> const& weights) {
  auto const& parts = weights.parts();
  detail::HostGemm g;
  g.kernel = static_cast<device::HostKernel const*>(parts.kernel);
  g.groups = parts.groups;
  g.k = parts.k;
  g.columns = parts.columns;
  g.gated = parts.layout != GateUpLayout::plain;
  g.panels = parts.panels.data();
  g.bias = parts.panel_bias.data();
  return g;
}

template <ExecutionSpace E, Element T>
detail::DeviceGemm<T> device_gemm(PackedWeights<E, T> const& weights) {
  auto const& parts = weights.parts();
  detail::DeviceGemm<T> g;
  g.groups = parts.groups;
  g.k = parts.k;
  g.columns = parts.columns;
  g.layout = parts.layout;
  g.b = parts.b.data();
  g.bias = parts.bias.extent(0) == 0 ? nullptr : parts.bias.data();
  return g;
}

template <ExecutionSpace E, Element T>
void check_quantized(char const* function, ExpertWeights<E, T> const& weights) {
  auto const& up = weights.quantized_gate_up;
  auto const& down = weights.quantized_down;
  validate(function, "gate_up", up);
  validate(function, "down", down);
  if (!(up.scheme == down.scheme)) {
    throw InvalidArgument(std::string(function) + ": down must have the scheme of gate_up, " +
                          to_string(up.scheme) + ", found " + to_string(down.scheme));
  }
  detail::expect_extent(function, "down's experts must equal gate_up's,", up.num_experts(),
                        down.num_experts(), down.codes.label());
  if (up.num_experts() == 0) return;
  detail::expect_extent(function, "down's rows must equal gate_up's columns = hidden_size",
                        up.columns, down.rows(), down.codes.label());
  detail::expect_extent(function, "gate_up's rows must equal the gates and ups of down's columns =",
                        offset_t{down.columns} * (weights.gated() ? 2 : 1), up.rows(),
                        up.codes.label());
  auto const check_bias = [&](char const* rule, auto const& bias, index_t columns) {
    if (bias.extent(0) == 0) return;
    detail::expect_extent(function, rule, columns, bias.extent(1), bias.label());
    detail::expect_extent(function, "bias.extent(0) must equal the experts,", up.num_experts(),
                          bias.extent(0), bias.label());
  };
  check_bias("gate_up_bias.extent(1) must equal gate_up's rows,", weights.gate_up_bias, up.rows());
  check_bias("down_bias.extent(1) must equal down's rows,", weights.down_bias, down.rows());
}

template <ExecutionSpace E>
void fill_dense_offsets(E const& exec, Vector<offset_t, E> const& offsets, offset_t rows) {
  Kokkos::parallel_for(
      "kmoe::dense_offsets", Kokkos::RangePolicy<E>(exec, 0, 2),
      KOKKOS_LAMBDA(int i) { offsets(i) = i == 0 ? 0 : rows; });
}

}  // namespace

template <ExecutionSpace E, Element T>
ExpertMlp<E, T>::ExpertMlp(E const& exec, ExpertWeights<E, T> const& weights,
                           ExpertOptions const& options)
    : options_(options) {
  constexpr char const* function = "kmoe::ExpertMlp";
  if (options.activation == Activation::swiglu_oai && !weights.gated()) {
    throw InvalidArgument("kmoe::ExpertMlp: swiglu_oai needs gated weights, found layout plain");
  }
  auto const groups = static_cast<std::size_t>(weights.num_experts());
  if constexpr (detail::uses_host_kernels<E>) {
    block_offsets_ = Vector<offset_t, E>(
        Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, "kmoe::block_offsets"), groups + 2);
  }
  dense_offsets_ = Vector<offset_t, E>(
      Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, "kmoe::dense_offsets"), 2);
  if (weights.quantized()) {
    check_quantized(function, weights);
    quantized_ = {weights.quantized_gate_up, weights.quantized_down, weights.gate_up_bias,
                  weights.down_bias, weights.layout};
    return;
  }
  auto const& up = weights.gate_up;
  auto const& down = weights.down;
  detail::expect_extent(function, "down.extent(0) must equal gate_up.extent(0) =", up.extent(0),
                        down.extent(0), down.label());
  if (weights.num_experts() > 0) {
    detail::expect_extent(function, "down.extent(1) must equal gate_up.extent(2) = hidden_size",
                          up.extent(2), down.extent(1), down.label());
    detail::expect_extent(function,
                          "gate_up.extent(1) must equal the gates and ups of down.extent(2) =",
                          static_cast<long long>(down.extent(2)) * (weights.gated() ? 2 : 1),
                          up.extent(1), up.label());
  }
  gate_up_ = PackedWeights<E, T>(exec, up, weights.layout, weights.gate_up_bias);
  down_ = PackedWeights<E, T>(exec, down, GateUpLayout::plain, weights.down_bias);
}

template <ExecutionSpace E, Element T>
std::size_t ExpertMlp<E, T>::weight_bytes() const {
  auto const biases = quantized_.gate_up_bias.size() + quantized_.down_bias.size();
  return gate_up_.bytes() + down_.bytes() + quantized_.gate_up.bytes() + quantized_.down.bytes() +
         biases * sizeof(accumulate_t<T>) +
         (block_offsets_.size() + dense_offsets_.size()) * sizeof(offset_t);
}

template <ExecutionSpace E, Element T>
void ExpertMlp<E, T>::Scratch::bind(E const& exec, Workspace<E>& ws, index_t hidden_size,
                                    index_t intermediate_size, bool gated, offset_t rows,
                                    offset_t tokens, QuantScheme const& scheme) {
  max_rows = rows;
  offset_t const window = window_rows<E, T>(intermediate_size, rows);
  auto const at_once = detail::quantized_mlp_memory<E, T>(
      scheme, gated, hidden_size, intermediate_size, rows == 0 || tokens == 0 ? rows : tokens);
  intermediate = ws.template matrix<T>(window, at_once.columns);
  if constexpr (!detail::uses_host_kernels<E>) {
    counters = ws.template vector<std::uint32_t>(detail::num_device_counters(rows));
    if (!ws.counting()) Kokkos::deep_copy(exec, counters, std::uint32_t{0});
  }
  if (scheme.quantized()) {
    workers = ws.template vector<std::byte>(
        std::max({detail::quantized_scratch_bytes<E, T>(exec, scheme, hidden_size, window),
                  detail::quantized_scratch_bytes<E, T>(exec, scheme, intermediate_size, window),
                  at_once.bytes}));
    return;
  }
  if constexpr (detail::uses_host_kernels<E>) {
    if (window == 0) return;
    auto const& kernel = detail::host_kernel_of<T>();
    offset_t const bytes =
        std::max(detail::worker_layout(kernel, hidden_size, window, false).bytes,
                 detail::worker_layout(kernel, intermediate_size, window, false).bytes);
    num_workers = exec.concurrency();
    workers = ws.template vector<std::byte>(num_workers * bytes);
  }
}

template <ExecutionSpace E, Element T>
void ExpertMlp<E, T>::bind(E const& exec, Workspace<E>& ws, offset_t max_rows,
                           offset_t max_tokens) {
  bool const gated = quantized_.layout != GateUpLayout::plain;
  scratch_.bind(exec, ws, hidden_size(), intermediate_size(), gated, max_rows, max_tokens,
                quantized_.gate_up.scheme);
}

template <ExecutionSpace E, Element T>
void ExpertMlp<E, T>::bind_shape(E const& exec, Workspace<E>& ws, index_t hidden_size,
                                 index_t intermediate_size, bool gated, offset_t max_rows,
                                 QuantScheme const& scheme, offset_t max_tokens) {
  Scratch{}.bind(exec, ws, hidden_size, intermediate_size, gated, max_rows, max_tokens, scheme);
}

template <ExecutionSpace E, Element T>
bool ExpertMlp<E, T>::run(E const& exec, InMatrix<T, E> x, InVector<offset_t, E> offsets,
                          InVector<index_t, E> slot_of_row, index_t slots_per_token,
                          offset_t num_rows, InMatrix<float, E> weights, Matrix<T, E> const& rows,
                          [[maybe_unused]] detail::MlpStages const& stages) const {
  offset_t const window = scratch_.intermediate.extent(0);
  bool const on_input = options_.router_weight_on_input;
  float const* const weight_data = weights.extent(0) == 0 ? nullptr : weights.data();
  if (quantized()) {
    return run_quantized(exec, x, offsets, slot_of_row, slots_per_token, num_rows, weight_data,
                         rows, stages);
  }
  if constexpr (detail::uses_host_kernels<E>) {
    auto first = host_gemm(gate_up_), second = host_gemm(down_);
    for (auto* g : {&first, &second}) {
      g->offsets = offsets.data();
      g->slots = slot_of_row.extent(0) == 0 ? nullptr : slot_of_row.data();
      g->workers = std::min<index_t>(scratch_.num_workers, exec.concurrency());
      g->worker_memory = scratch_.workers.data();
      g->layout = detail::worker_layout(*g->kernel, g->k, window, false);
      g->block_offsets = block_offsets_.data();
    }
    first.x = x.data();
    first.x_stride = x.extent(1);
    first.slots_per_row = slots_per_token;
    first.input_weights = on_input ? weight_data : nullptr;
    first.epilogue = detail::epilogue_of(options_.activation);
    first.alpha = options_.swiglu_alpha;
    first.limit = options_.swiglu_limit;
    first.out = scratch_.intermediate.data();
    first.out_stride = scratch_.intermediate.extent(1);
    second.x = scratch_.intermediate.data();
    second.x_stride = scratch_.intermediate.extent(1);
    second.output_weights = on_input ? nullptr : weight_data;
    second.out = rows.data();
    second.out_stride = rows.extent(1);
    for (offset_t begin = 0; begin < num_rows; begin += window) {
      for (auto* g : {&first, &second}) {
        g->row_begin = begin;
        g->row_end = std::min(begin + window, num_rows);
      }
      first.out_first = second.x_first = begin;
      detail::run(exec, "kmoe::expert_gate_up", first);
      detail::run(exec, "kmoe::expert_down", second);
    }
    return true;
  } else {
    auto first = device_gemm(gate_up_), second = device_gemm(down_);
    first.offsets = second.offsets = offsets.data();
    first.slots = second.slots = slot_of_row.extent(0) == 0 ? nullptr : slot_of_row.data();
    first.x = x.data();
    first.x_rows = x.extent(0);
    first.slots_per_row = slots_per_token;
    first.activated = true;
    first.options = options_;
    (on_input ? first.input_weights : second.output_weights) = weight_data;
    first.out = scratch_.intermediate.data();
    second.x = scratch_.intermediate.data();
    second.x_rows = window;
    second.out = rows.data();
    first.row_end = second.row_end = num_rows;
    return detail::device_mlp<E, T>(exec, first, second, scratch_.counters.data(), stages);
  }
}

template <ExecutionSpace E, Element T>
bool ExpertMlp<E, T>::run_quantized(E const& exec, InMatrix<T, E> x, InVector<offset_t, E> offsets,
                                    InVector<index_t, E> slot_of_row, index_t slots_per_token,
                                    offset_t num_rows, float const* weights,
                                    Matrix<T, E> const& rows,
                                    detail::MlpStages const& stages) const {
  auto const& [gate_up, down, gate_up_bias, down_bias, layout] = quantized_;
  offset_t const window = std::max<offset_t>(1, scratch_.intermediate.extent(0));
  detail::DeviceGemm<T> first, second;
  for (auto* g : {&first, &second}) {
    g->groups = num_experts();
    g->offsets = offsets.data();
    g->slots = slot_of_row.extent(0) == 0 ? nullptr : slot_of_row.data();
  }
  first.x = x.data();
  first.x_rows = x.extent(0);
  first.slots_per_row = slots_per_token;
  first.k = gate_up.columns;
  first.columns = down.columns;
  first.layout = layout;
  first.bias = gate_up_bias.extent(0) == 0 ? nullptr : gate_up_bias.data();
  first.activated = true;
  first.options = options_;
  first.out = scratch_.intermediate.data();
  second.x = scratch_.intermediate.data();
  second.x_rows = window;
  second.k = down.columns;
  second.columns = down.rows();
  second.bias = down_bias.extent(0) == 0 ? nullptr : down_bias.data();
  second.out = rows.data();
  (options_.router_weight_on_input ? first.input_weights : second.output_weights) = weights;
  first.row_end = second.row_end = num_rows;
  if (detail::quantized_mlp<E, T>(exec, first, second, gate_up, down, scratch_.workers.data(),
                                  scratch_.workers.size(), scratch_.counters.data(), stages)) {
    return true;
  }
  if (stages.ids != nullptr || stages.y != nullptr) return false;
  for (offset_t begin = 0; begin < num_rows; begin += window) {
    for (auto* g : {&first, &second}) {
      g->row_begin = begin;
      g->row_end = std::min(begin + window, num_rows);
    }
    first.out_first = second.x_first = begin;
    detail::quantized_gemm<E, T>(exec, "kmoe::expert_gate_up", first, gate_up,
                                 scratch_.workers.data(), block_offsets_.data());
    detail::quantized_gemm<E, T>(exec, "kmoe::expert_down", second, down, scratch_.workers.data(),
                                 block_offsets_.data());
  }
  return true;
}

template <ExecutionSpace E, Element T>
offset_t ExpertMlp<E, T>::check_forward(InMatrix<T, E> const& x, Permutation<E> const& permutation,
                                        InMatrix<float, E> const& topk_weights,
                                        Matrix<T, E> const& rows) const {
  constexpr char const* function = "kmoe::ExpertMlp::forward";
  auto const& offsets = permutation.expert_offsets;
  auto const slots_per_token = static_cast<offset_t>(permutation.row_of_slot.extent(1));
  auto const slots = static_cast<offset_t>(x.extent(0)) * slots_per_token;
  detail::expect_extent(function, "expert_offsets.extent(0) must equal num_experts + 1 =",
                        offset_t{num_experts()} + 1, offsets.extent(0), offsets.label());
  if (num_experts() == 0 || slots == 0) return 0;
  check_shapes(function, x, topk_weights, slots_per_token, rows);
  return std::min<offset_t>(slots, rows.extent(0));
}

template <ExecutionSpace E, Element T>
void ExpertMlp<E, T>::forward(E const& exec, InMatrix<T, E> x, Permutation<E> const& permutation,
                              InMatrix<float, E> topk_weights, Matrix<T, E> const& rows) const {
  constexpr char const* function = "kmoe::ExpertMlp::forward";
  auto num_rows = check_forward(x, permutation, topk_weights, rows);
  if (num_rows == 0) return;
  auto const& offsets = permutation.expert_offsets;
  if constexpr (detail::uses_host_kernels<E>) {
    exec.fence(function);
    num_rows = offsets(num_experts());
    detail::expect(num_rows <= static_cast<offset_t>(rows.extent(0)), function,
                   "expert_offsets[El] must be at most rows.extent(0)", num_rows);
    detail::expect(num_rows <= scratch_.max_rows, function,
                   "expert_offsets[El] must be at most max_rows of bind()", num_rows);
  }
  num_rows = std::min(num_rows, scratch_.max_rows);
  run(exec, x, offsets, permutation.slot_of_row,
      static_cast<index_t>(permutation.row_of_slot.extent(1)), num_rows, topk_weights, rows, {});
}

template <ExecutionSpace E, Element T>
bool ExpertMlp<E, T>::forward_at_once(E const& exec, InMatrix<T, E> x,
                                      InMatrix<index_t, E> expert_ids,
                                      Permutation<E> const& permutation,
                                      Vector<offset_t, E> const& rows_per_expert,
                                      InMatrix<float, E> topk_weights, Matrix<T, E> const& rows,
                                      T* y) const {
  if constexpr (detail::uses_host_kernels<E>) return false;
  detail::check_permutation<E>(expert_ids, permutation, rows_per_expert);
  auto const slots = static_cast<offset_t>(expert_ids.size());
  auto const num_rows = check_forward(x, permutation, topk_weights, rows);
  // All slots may get a row; and the ids are read while row_of_slot is written.
  if (num_rows == 0 || num_rows != slots || num_rows > scratch_.max_rows ||
      !expert_ids.span_is_contiguous() || expert_ids.data() == permutation.row_of_slot.data()) {
    return false;
  }
  detail::MlpStages stages;
  stages.ids = expert_ids.data();
  stages.num_slots = slots;
  stages.offsets = permutation.expert_offsets.data();
  stages.slots = permutation.slot_of_row.data();
  stages.row_of_slot = permutation.row_of_slot.data();
  if (rows_per_expert.extent(0) > 0) stages.rows_per_group = rows_per_expert.data();
  stages.y = y;
  return run(exec, x, permutation.expert_offsets, permutation.slot_of_row,
             static_cast<index_t>(expert_ids.extent(1)), num_rows, topk_weights, rows, stages);
}

template <ExecutionSpace E, Element T>
void ExpertMlp<E, T>::forward(E const& exec, InMatrix<T, E> x, InMatrix<index_t, E> expert_ids,
                              Permutation<E> const& permutation,
                              Vector<offset_t, E> const& rows_per_expert,
                              InMatrix<float, E> topk_weights, Matrix<T, E> const& rows) const {
  if (forward_at_once(exec, x, expert_ids, permutation, rows_per_expert, topk_weights, rows,
                      nullptr)) {
    return;
  }
  make_permutation<E>(exec, expert_ids, permutation, rows_per_expert);
  forward(exec, x, permutation, topk_weights, rows);
}

template <ExecutionSpace E, Element T>
void ExpertMlp<E, T>::forward_combined(E const& exec, InMatrix<T, E> x,
                                       InMatrix<index_t, E> expert_ids,
                                       Permutation<E> const& permutation,
                                       Vector<offset_t, E> const& rows_per_expert,
                                       InMatrix<float, E> topk_weights, Matrix<T, E> const& rows,
                                       Matrix<T, E> const& y) const {
  constexpr char const* function = "kmoe::ExpertMlp::forward_combined";
  detail::expect_extent(function, "y.extent(0) must equal x.extent(0) =", x.extent(0), y.extent(0),
                        y.label());
  detail::expect_extent(function, "y.extent(1) must equal x.extent(1) =", x.extent(1), y.extent(1),
                        y.label());
  bool const dense = y.span_is_contiguous();
  if (dense && forward_at_once(exec, x, expert_ids, permutation, rows_per_expert, topk_weights,
                               rows, y.data())) {
    return;
  }
  make_permutation<E>(exec, expert_ids, permutation, rows_per_expert);
  if constexpr (!detail::uses_host_kernels<E>) {
    auto const num_rows = check_forward(x, permutation, topk_weights, rows);
    detail::MlpStages stages;
    stages.row_of_slot = permutation.row_of_slot.data();
    stages.num_slots = static_cast<offset_t>(expert_ids.size());
    stages.y = y.data();
    if (dense && num_rows > 0 && num_rows == stages.num_slots && num_rows <= scratch_.max_rows &&
        run(exec, x, permutation.expert_offsets, permutation.slot_of_row,
            static_cast<index_t>(expert_ids.extent(1)), num_rows, topk_weights, rows, stages)) {
      return;
    }
  }
  forward(exec, x, permutation, topk_weights, rows);
  unpermute<E, T>(exec, rows, permutation, {}, y);
}

template <ExecutionSpace E, Element T>
void ExpertMlp<E, T>::forward_dense(E const& exec, InMatrix<T, E> x, InMatrix<float, E> weights,
                                    Matrix<T, E> const& y) const {
  constexpr char const* function = "kmoe::ExpertMlp::forward_dense";
  auto const tokens = static_cast<offset_t>(x.extent(0));
  detail::expect(num_experts() == 1, function, "the weights must hold one expert", num_experts());
  check_shapes(function, x, weights, 1, y);
  detail::expect_extent(function, "y.extent(0) must equal x.extent(0) =", tokens, y.extent(0),
                        y.label());
  detail::expect(tokens <= scratch_.max_rows, function,
                 "x.extent(0) must be at most max_rows of bind()", tokens);
  if constexpr (detail::uses_host_kernels<E>) {
    exec.fence(function);
    dense_offsets_(0) = 0;
    dense_offsets_(1) = tokens;
  } else {
    fill_dense_offsets(exec, dense_offsets_, tokens);
  }
  run(exec, x, dense_offsets_, {}, 1, tokens, weights, y, {});
}

template <ExecutionSpace E, Element T>
void ExpertMlp<E, T>::check_shapes(char const* function, InMatrix<T, E> const& x,
                                   InMatrix<float, E> const& weights, offset_t slots_per_token,
                                   Matrix<T, E> const& rows) const {
  index_t const hidden = hidden_size();
  detail::expect_extent(function, "x.extent(1) must equal hidden_size", hidden, x.extent(1),
                        x.label());
  detail::expect_extent(function, "the output's extent(1) must equal hidden_size", hidden,
                        rows.extent(1), rows.label());
  if (weights.extent(0) == 0) return;
  detail::expect_extent(function, "the weights' extent(0) must equal x.extent(0) =", x.extent(0),
                        weights.extent(0), weights.label());
  detail::expect_extent(function,
                        "the weights' extent(1) must equal the slots per token =", slots_per_token,
                        weights.extent(1), weights.label());
}

#define KMOE_INSTANTIATE(E, T) template class KMOE_API ExpertMlp<E, T>;
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE

}  // namespace kmoe
