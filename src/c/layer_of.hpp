// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// A layer behind a handle: pointers in, Views on.

#include <algorithm>
#include <utility>
#include <vector>

#include "c/layer.hpp"
#include "c/weights.hpp"

namespace kmoe::c {

/// The execution space on a stream of its device.
template <ExecutionSpace E>
E space_on(void* stream) {
  if (stream == nullptr) return E();
  if constexpr (requires(E e) { e.cuda_stream(); }) {
    return E(static_cast<decltype(std::declval<E const&>().cuda_stream())>(stream));
  } else if constexpr (requires(E e) { e.hip_stream(); }) {
    return E(static_cast<decltype(std::declval<E const&>().hip_stream())>(stream));
  } else {
    throw Unsupported(std::string("kmoe_layer_set_stream: the layer's space, ") + E::name() +
                      ", has no streams");
  }
}

template <ExecutionSpace E, Element T>
class LayerOf final : public AnyLayer {
 public:
  /// Collective.
  LayerOf(E exec, Communicator const& comm, LayerPlan const& plan, ExpertPlacement const& placement,
          LayerWeights<E, T> const& weights)
      : exec_(std::move(exec)),
        comm_(comm),
        options_(plan.options),
        layer_(exec_, comm, plan.config, placement, weights, plan.options.max_tokens_per_rank,
               {plan.options.device_workspace,
                plan.options.host_workspace,
                {plan.options.device_workspace_bytes, plan.options.host_workspace_bytes}}) {
    options_.rank_of_expert = nullptr;
    options_.device_workspace = options_.host_workspace = nullptr;
    options_.device_workspace_bytes = options_.host_workspace_bytes = 0;
  }

  void forward(ForwardCall const& call) override {
    auto const tokens = rows(call.tokens), slots = tokens * config().slots_per_token();
    In const x(static_cast<T const*>(call.x), tokens, hidden());
    Out const y(static_cast<T*>(call.y), config().no_combine ? slots : tokens, hidden());
    if (call.routed) {
      // A Routing is written to by routers only.
      layer_.forward_routed(exec_, x,
                            routing(tokens, const_cast<int32_t*>(call.topk_ids),
                                    const_cast<float*>(call.topk_weights)),
                            y);
    } else {
      layer_.forward(exec_, x, y);
    }
  }

  void forward_host(ForwardCall const& call) override {
    if constexpr (on_host<E>) {
      forward(call);
      exec_.fence("kmoe_layer_forward_host");
    } else {
      forward_staged(call);
    }
  }

  void abandon_forward(std::string const& message) override { layer_.abandon_forward(message); }

  void route(std::size_t tokens, void const* x, int32_t* ids, float* weights) override {
    layer_.route(exec_, In(static_cast<T const*>(x), rows(tokens), hidden()),
                 routing(rows(tokens), ids, weights));
  }

  void set_expert_function(kmoe_expert_fn function, void* context) override {
    if (function == nullptr) return layer_.set_user_experts(nullptr);
    layer_.set_user_experts(batch_experts<E, T>(
        [=](E const&, index_t expert, Matrix<T const, E> const& x, Matrix<T, E> const& y) {
          int const status = function(context, expert, x.extent(0), x.data(), y.data());
          if (status == 0) return;
          fail(KMOE_ERROR_CALLBACK, "kmoe_layer_forward: the expert function returned " +
                                        std::to_string(status) + " for expert " +
                                        std::to_string(expert));
        }));
  }

  void set_stream(void* stream) override { exec_ = space_on<E>(stream); }
  void fence() override { exec_.fence("kmoe_layer_fence"); }
  std::pair<std::size_t, std::size_t> bytes() const override {
    return {layer_.workspace_bytes(), layer_.weight_bytes()};
  }
  LayerReport report() const override { return layer_.report(); }
  kmoe_layer_options options() const override { return options_; }

 private:
  using In = Matrix<T const, E>;
  using Out = Matrix<T, E>;

  [[nodiscard]] MoeConfig const& config() const { return layer_.config(); }
  [[nodiscard]] std::size_t hidden() const { return config().hidden_size; }
  /// Counts beyond any limit stay beyond it, and small enough to be multiplied.
  static std::size_t rows(std::size_t tokens) {
    return std::min(tokens, std::size_t{1} << (sizeof(std::size_t) * 4));
  }
  [[nodiscard]] Routing<E> routing(std::size_t tokens, int32_t* ids, float* weights) const {
    auto const slots = static_cast<std::size_t>(config().slots_per_token());
    return {Matrix<index_t, E>(ids, tokens, slots), Matrix<float, E>(weights, tokens, slots)};
  }

  void forward_staged(ForwardCall const& call) {
    auto const tokens = rows(call.tokens);
    auto const slots = static_cast<std::size_t>(config().slots_per_token());
    auto const rows_of_y = config().no_combine ? tokens * slots : tokens;
    Matrix<T, E> x, y;
    Matrix<index_t, E> ids;
    Matrix<float, E> weights;
    // Memory may run out on one rank only.
    agree(comm_, [&] {
      char const* const function = "kmoe_layer_forward_host";
      if (tokens == 0) return;
      detail::expect(static_cast<offset_t>(tokens) <= options_.max_tokens_per_rank, function,
                     "tokens must be at most max_tokens_per_rank " +
                         std::to_string(options_.max_tokens_per_rank),
                     static_cast<long long>(tokens));
      expect_not_null(call.x, function, "x");
      expect_not_null(call.y, function, "y");
      x = to_device(static_cast<T const*>(call.x), tokens, hidden());
      y = Matrix<T, E>(Kokkos::view_alloc("kmoe::staged_y", Kokkos::WithoutInitializing), rows_of_y,
                       hidden());
      if (!call.routed) return;
      expect_not_null(call.topk_ids, function, "topk_ids");
      expect_not_null(call.topk_weights, function, "topk_weights");
      ids = to_device(call.topk_ids, tokens, slots);
      weights = to_device(call.topk_weights, tokens, slots);
    });
    forward({tokens, x.data(), ids.data(), weights.data(), y.data(), call.routed});
    exec_.fence("kmoe_layer_forward_host");
    if (tokens == 0) return;  // y has no extents
    Kokkos::deep_copy(HostMatrix<T>(static_cast<T*>(call.y), rows_of_y, hidden()), y);
  }

  template <class V>
  using HostMatrix = Kokkos::View<V**, Kokkos::LayoutRight, Kokkos::HostSpace,
                                  Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  template <class V>
  static Matrix<V, E> to_device(V const* data, std::size_t n, std::size_t cols) {
    Matrix<V, E> out(Kokkos::view_alloc("kmoe::staged", Kokkos::WithoutInitializing), n, cols);
    Kokkos::deep_copy(out, HostMatrix<V const>(data, n, cols));
    return out;
  }

  E exec_;
  Communicator comm_;
  kmoe_layer_options options_;
  MoeLayer<E, T> layer_;
};

}  // namespace kmoe::c
