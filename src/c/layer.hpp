// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// A layer of any execution space and element type.

#include <memory>
#include <string>
#include <utility>

#include <kmoe/layer/moe_layer.hpp>

#include "c/handles.hpp"
#include "c/options.hpp"
#include "instantiate.hpp"

namespace kmoe::c {

/// What one forward is given; null ids: the layer's own router.
struct ForwardCall {
  std::size_t tokens = 0;
  void const* x = nullptr;
  int32_t const* topk_ids = nullptr;
  float const* topk_weights = nullptr;
  void* y = nullptr;
  bool routed = false;
};

class AnyLayer {
 public:
  virtual ~AnyLayer() = default;
  AnyLayer() = default;
  AnyLayer(AnyLayer const&) = delete;
  AnyLayer& operator=(AnyLayer const&) = delete;

  virtual void forward(ForwardCall const& call) = 0;
  virtual void forward_host(ForwardCall const& call) = 0;
  virtual void abandon_forward(std::string const& message) = 0;
  virtual void route(std::size_t tokens, void const* x, int32_t* ids, float* weights) = 0;
  virtual void set_expert_function(kmoe_expert_fn function, void* context) = 0;
  virtual void set_stream(void* stream) = 0;
  virtual void fence() = 0;
  virtual std::pair<std::size_t, std::size_t> bytes() const = 0;
  virtual LayerReport report() const = 0;
  virtual kmoe_layer_options options() const = 0;
};

template <ExecutionSpace E, class F>
auto with_element(DataType type, F const& f) {
  switch (type) {
    case DataType::f64:
      return f.template operator()<E, double>();
    case DataType::bf16:
      return f.template operator()<E, bfloat16>();
    case DataType::f16:
      return f.template operator()<E, half>();
    default:
      return f.template operator()<E, float>();
  }
}

/// Calls f.template operator()<E, T>() for the space and the element type of a plan.
template <class F>
auto with_layer_type(LayerPlan const& plan, F const& f) {
  if constexpr (!std::is_same_v<detail::DeviceSpace, detail::HostSpace>) {
    if (plan.options.space == KMOE_SPACE_DEFAULT) {
      return with_element<detail::DeviceSpace>(plan.dtype, f);
    }
  }
  return with_element<detail::HostSpace>(plan.dtype, f);
}

}  // namespace kmoe::c
