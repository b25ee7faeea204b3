// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>

#include <kmoe/core/error.hpp>
#include <kmoe/io/checkpoint.hpp>
#include <kmoe/io/npy.hpp>

#include "instantiate.hpp"
#include "io/checkpoint_impl.hpp"
#include "io/convert.hpp"
#include "io/finder.hpp"
#include "io/load_quantized.hpp"

namespace kmoe::io {
namespace {

using detail::Block;
using detail::BlockNames;
using detail::ExpertForm;
using detail::fill_packed;
using detail::find_packed;
using detail::Finder;
using detail::PackedPlan;
using detail::PackedSource;
using detail::QuantConfig;
using Host = Kokkos::DefaultHostExecutionSpace;
using Shape = std::vector<std::int64_t>;

/// A result of known extents and the blocks of the file that fill it.
struct Plan {
  std::array<offset_t, 3> extents{};  ///< [El, rows, cols]; all 0: the block has no such tensor
  std::vector<Block> blocks;

  /// Adds rows x cols elements that begin at element `skip` of the tensor.
  void add(TensorView const* tensor, offset_t skip, offset_t rows, offset_t cols, offset_t out,
           bool transposed = false) {
    if (tensor == nullptr) return;  // reported by the Finder
    DataType const type = *data_type_from_safetensors(tensor->dtype);
    blocks.push_back({.data = tensor->bytes.data() + skip * static_cast<offset_t>(size_of(type)),
                      .dtype = type,
                      .transposed = transposed,
                      .rows = rows,
                      .cols = cols,
                      .out = out});
  }
};

/// gate_up, down and their biases, of routed experts or of the shared one.
struct MlpPlan {
  Plan gate_up, down, gate_up_bias, down_bias;
  PackedPlan packed_gate_up, packed_down;  ///< instead of gate_up and down
};

/// All results of one load.
struct LayerPlan {
  Plan router, router_bias, correction_bias, shared_gate;
  MlpPlan experts, shared;
  GateUpLayout layout = GateUpLayout::gate_first;
};

/// A tensor that is one matrix.
Plan plan_matrix(Finder& finder, std::string const& name, offset_t rows, offset_t cols) {
  Plan plan;
  if (name.empty()) return plan;
  plan.extents = {1, rows, cols};
  plan.add(finder.find(name, {rows, cols}), 0, rows, cols, 0);
  return plan;
}

/// One of the two weights of all experts, from a tensor [E, rows, cols] or transposed.
void plan_fused(Finder& finder, TensorStore const& store, Plan& plan, std::string const& name,
                bool transposed, MoeConfig const& config, std::span<index_t const> experts) {
  auto const [count, rows, cols] = plan.extents;
  // LongCat's zero experts may have rows, too.
  std::int64_t held = config.num_experts;
  if (auto const* tensor = store.find(name); tensor != nullptr && !tensor->shape.empty() &&
                                             tensor->shape[0] == config.num_router_columns()) {
    held = config.num_router_columns();
  }
  TensorView const* const tensor =
      finder.find(name, transposed ? Shape{held, cols, rows} : Shape{held, rows, cols});
  for (std::size_t slot = 0; slot < experts.size(); ++slot) {
    auto const out = static_cast<offset_t>(slot) * rows * cols;
    plan.add(tensor, experts[slot] * rows * cols, rows, cols, out, transposed);
  }
}

PackedPlan packed_plan(QuantConfig const& config, std::size_t experts, offset_t rows,
                       offset_t columns, index_t parts) {
  return {config,
          static_cast<index_t>(experts),
          static_cast<index_t>(rows),
          static_cast<index_t>(columns),
          parts,
          {}};
}

/// The same from gpt-oss' blocks [E, rows, groups, 16] and scales [E, rows, groups].
PackedPlan plan_blocks(Finder& finder, QuantConfig const& config, std::string const& blocks,
                       std::string const& scales, std::int64_t held, offset_t rows,
                       offset_t columns, std::span<index_t const> experts) {
  auto plan = packed_plan(config, experts.size(), rows, columns, 1);
  offset_t const groups = (columns + 31) / 32;
  PackedSource source;
  source.codes = finder.find(blocks, {held, rows, groups, 16}, {"U8"});
  source.scales = finder.find(scales, {held, rows, groups}, {"U8"});
  for (index_t const e : experts) {
    source.slice = e;
    plan.sources.push_back(source);
  }
  return plan;
}

void plan_bias(Finder& finder, Plan& plan, std::string const& name, offset_t held, offset_t cols,
               std::span<index_t const> experts) {
  plan.extents = {1, static_cast<offset_t>(experts.size()), cols};
  TensorView const* tensor = finder.find(name, {held, cols});
  for (std::size_t slot = 0; slot < experts.size(); ++slot) {
    plan.add(tensor, experts[slot] * cols, 1, cols, static_cast<offset_t>(slot) * cols);
  }
}

/// Weights of linear layers in a quantized form.
void plan_packed(Finder& finder, QuantConfig const& config, MlpPlan& plan, offset_t hidden,
                 offset_t intermediate, std::span<std::array<std::string, 3> const> bases) {
  plan.packed_gate_up = packed_plan(config, bases.size(), 2 * intermediate, hidden, 2);
  plan.packed_down = packed_plan(config, bases.size(), hidden, intermediate, 1);
  for (auto const& [gate, up, down] : bases) {
    auto& sources = plan.packed_gate_up.sources;
    sources.push_back(find_packed(finder, config, gate, intermediate, hidden));
    sources.push_back(find_packed(finder, config, up, intermediate, hidden));
    plan.packed_down.sources.push_back(find_packed(finder, config, down, hidden, intermediate));
  }
}

MlpPlan plan_experts(Finder& finder, TensorStore const& store, BlockNames const& names,
                     MoeConfig const& config, std::span<index_t const> experts) {
  ExpertForm const& form = *names.form;
  offset_t const h = config.hidden_size;
  offset_t const i = config.intermediate_size;
  auto const count = static_cast<offset_t>(experts.size());
  MlpPlan plan;
  auto const full = [&](std::string_view name) {
    return name.empty() ? std::string() : names.expert(name, 0);
  };
  if (names.packed && form.per_expert()) {
    std::vector<std::array<std::string, 3>> bases;
    for (index_t const e : experts) {
      bases.push_back(
          {names.module(form.gate, e), names.module(form.up, e), names.module(form.down, e)});
    }
    plan_packed(finder, names.quantization, plan, h, i, bases);
  } else if (names.packed) {
    plan.packed_gate_up =
        plan_blocks(finder, names.quantization, full(form.gate), full(form.gate_scales),
                    config.num_experts, 2 * i, h, experts);
    plan.packed_down = plan_blocks(finder, names.quantization, full(form.down),
                                   full(form.down_scales), config.num_experts, h, i, experts);
  } else {
    plan.gate_up.extents = {count, 2 * i, h};
    plan.down.extents = {count, h, i};
  }
  if (!names.packed && form.per_expert()) {
    for (offset_t slot = 0; slot < count; ++slot) {
      index_t const e = experts[static_cast<std::size_t>(slot)];
      offset_t const out = slot * 2 * i * h;
      plan.gate_up.add(finder.find(names.expert(form.gate, e), {i, h}), 0, i, h, out);
      plan.gate_up.add(finder.find(names.expert(form.up, e), {i, h}), 0, i, h, out + i * h);
      plan.down.add(finder.find(names.expert(form.down, e), {h, i}), 0, h, i, slot * h * i);
    }
  } else if (!names.packed) {
    plan_fused(finder, store, plan.gate_up, full(form.gate), form.transposed, config, experts);
    plan_fused(finder, store, plan.down, full(form.down), form.transposed, config, experts);
  }
  if (!form.gate_bias.empty()) {
    plan_bias(finder, plan.gate_up_bias, names.expert(form.gate_bias, 0), config.num_experts, 2 * i,
              experts);
    plan_bias(finder, plan.down_bias, names.expert(form.down_bias, 0), config.num_experts, h,
              experts);
  }
  return plan;
}

MlpPlan plan_shared(Finder& finder, BlockNames const& names, MoeConfig const& config) {
  MlpPlan plan;
  if (names.shared.empty()) return plan;
  offset_t const h = config.hidden_size;
  offset_t const i = config.shared_intermediate_size;
  auto const find = [&](char const* name, Shape const& shape) {
    return finder.find(names.shared + name, shape);
  };
  if (names.shared_packed) {
    std::array<std::string, 3> const bases[] = {
        {names.shared + "gate_proj", names.shared + "up_proj", names.shared + "down_proj"}};
    plan_packed(finder, names.quantization, plan, h, i, bases);
  } else {
    plan.gate_up.extents = {1, 2 * i, h};
    plan.gate_up.add(find("gate_proj.weight", {i, h}), 0, i, h, 0);
    plan.gate_up.add(find("up_proj.weight", {i, h}), 0, i, h, i * h);
    plan.down.extents = {1, h, i};
    plan.down.add(find("down_proj.weight", {h, i}), 0, h, i, 0);
  }
  if (names.shared_bias) {
    plan.gate_up_bias.extents = {1, 1, 2 * i};
    plan.gate_up_bias.add(find("gate_proj.bias", {i}), 0, 1, i, 0);
    plan.gate_up_bias.add(find("up_proj.bias", {i}), 0, 1, i, i);
    plan.down_bias.extents = {1, 1, h};
    plan.down_bias.add(find("down_proj.bias", {h}), 0, 1, h, 0);
  }
  return plan;
}

LayerPlan plan_layer(TensorStore const& store, BlockNames const& names, MoeBlock const& block,
                     std::span<index_t const> experts) {
  MoeConfig const& config = block.config;
  offset_t const columns = config.num_router_columns();
  Finder finder(store, block);
  LayerPlan plan;
  plan.router = plan_matrix(finder, names.router, columns, config.hidden_size);
  plan.router_bias = plan_matrix(finder, names.router_bias, 1, columns);
  plan.correction_bias = plan_matrix(finder, names.correction_bias, 1, columns);
  plan.experts = plan_experts(finder, store, names, config, experts);
  plan.layout = names.form->layout;
  plan.shared = plan_shared(finder, names, config);
  plan.shared_gate = plan_matrix(finder, names.shared_gate, 1, config.hidden_size);
  finder.report();
  return plan;
}

template <class E>
Host host_instance(E const& exec) {
  if constexpr (std::is_same_v<E, Host>) {
    return exec;
  } else {
    return {};
  }
}

/// Allocates a View of these extents and fills it. `check` sees the host copy first.
template <class View, class E, class Check>
View fill(E const& exec, Plan const& plan, std::string const& label, Check const& check) {
  auto const n = [&](int d) { return static_cast<std::size_t>(plan.extents[d]); };
  auto const property = Kokkos::view_alloc(label, Kokkos::WithoutInitializing);
  View view;
  if constexpr (View::rank() == 3) {
    view = View(property, n(0), n(1), n(2));
  } else if constexpr (View::rank() == 2) {
    view = View(property, n(1), n(2));
  } else {
    view = View(property, n(2));
  }
  auto const host = Kokkos::create_mirror_view(
      Kokkos::view_alloc(Kokkos::HostSpace{}, Kokkos::WithoutInitializing), view);
  detail::convert(host_instance(exec), plan.blocks, host.data());
  check(host);
  if (host.data() != view.data()) {
    Kokkos::deep_copy(exec, view, host);
    exec.fence("kmoe::io::load_weights: the host copy goes away");
  }
  return view;
}

template <class View, class E>
View fill(E const& exec, Plan const& plan, std::string const& label) {
  return fill<View>(exec, plan, label, [](auto const&) {});
}

/// A router with a NaN or an infinity would make every token's routing meaningless.
template <class HostView>
void check_finite(HostView const& view, TensorStore const& store, std::string const& name) {
  for (std::size_t i = 0; i < view.size(); ++i) {
    auto const value = static_cast<double>(view.data()[i]);
    if (std::isfinite(value)) continue;
    std::size_t const cols = view.extent(HostView::rank() - 1);
    throw IoError(describe(store.at(name)) + ": " + (std::isnan(value) ? "NaN" : "infinity") +
                  " at [" + (HostView::rank() == 2 ? std::to_string(i / cols) + ", " : "") +
                  std::to_string(i % cols) + "]: a router must be finite");
  }
}

template <ExecutionSpace E, Element T>
Tensor3<T, E> decode(E const& exec, QuantizedHostTensor const& tensor) {
  auto const values = dequantize(tensor);
  Tensor3<T, Kokkos::DefaultHostExecutionSpace> const host(
      Kokkos::view_alloc(tensor.codes.label(), Kokkos::WithoutInitializing), values.layout());
  for (std::size_t i = 0; i < values.size(); ++i) host.data()[i] = T(values.data()[i]);
  auto const out = Kokkos::create_mirror_view_and_copy(E(), host);
  exec.fence("kmoe::io::load_weights: the host copy goes away");
  return out;
}

template <ExecutionSpace E, Element T>
ExpertWeights<E, T> fill_mlp(E const& exec, MlpPlan const& plan, GateUpLayout layout,
                             std::string const& label, Quantized quantized) {
  using Weight = Tensor3<T, E>;
  using Bias = Matrix<accumulate_t<T>, E>;
  ExpertWeights<E, T> out{
      .gate_up = {},
      .down = {},
      .gate_up_bias = fill<Bias>(exec, plan.gate_up_bias, label + "gate_up_bias"),
      .down_bias = fill<Bias>(exec, plan.down_bias, label + "down_bias"),
      .layout = layout};
  if (!plan.packed_gate_up.any()) {
    out.gate_up = fill<Weight>(exec, plan.gate_up, label + "gate_up");
    out.down = fill<Weight>(exec, plan.down, label + "down");
    return out;
  }
  auto const gate_up = fill_packed(plan.packed_gate_up, label + "gate_up");
  auto const down = fill_packed(plan.packed_down, label + "down");
  if (quantized == Quantized::decode) {
    out.gate_up = decode<E, T>(exec, gate_up);
    out.down = decode<E, T>(exec, down);
  } else {
    out.quantized_gate_up = copy_to(exec, gate_up);
    out.quantized_down = copy_to(exec, down);
  }
  return out;
}

}  // namespace

template <ExecutionSpace E, Element T>
LayerWeights<E, T> load_weights(E const& exec, Checkpoint const& checkpoint, MoeBlock const& block,
                                std::span<index_t const> experts, Quantized quantized) {
  for (index_t const e : experts) {
    kmoe::detail::expect(
        e >= 0 && e < block.config.num_experts, "kmoe::io::load_weights",
        "experts must be below num_experts " + std::to_string(block.config.num_experts), e);
  }
  auto const& impl = *checkpoint.impl_;
  BlockNames const names = detail::find_names(impl.store, impl, impl.layers, block);
  LayerPlan const plan = plan_layer(impl.store, names, block, experts);
  auto const finite = [&](std::string const& name) {
    return [&](auto const& view) { check_finite(view, impl.store, name); };
  };
  using Floats = Vector<float, E>;
  return {.router = {.weight = fill<Matrix<T, E>>(exec, plan.router, "kmoe::router.weight",
                                                  finite(names.router)),
                     .bias = fill<Floats>(exec, plan.router_bias, "kmoe::router.bias",
                                          finite(names.router_bias)),
                     .correction_bias =
                         fill<Floats>(exec, plan.correction_bias, "kmoe::router.correction_bias",
                                      finite(names.correction_bias))},
          .experts = fill_mlp<E, T>(exec, plan.experts, plan.layout, "kmoe::experts.", quantized),
          .shared = fill_mlp<E, T>(exec, plan.shared, GateUpLayout::gate_first, "kmoe::shared.",
                                   quantized),
          .shared_gate = fill<Matrix<T, E>>(exec, plan.shared_gate, "kmoe::shared_gate")};
}

#define KMOE_INSTANTIATE(SPACE, T)                                 \
  template KMOE_API LayerWeights<SPACE, T> load_weights<SPACE, T>( \
      SPACE const&, Checkpoint const&, MoeBlock const&, std::span<index_t const>, Quantized);
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE

}  // namespace kmoe::io
