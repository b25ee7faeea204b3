// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// A layer of one shape and element type with weights made once, its phases as work to be timed,
/// and the check of what they computed.

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <kmoe/experts/expert_mlp.hpp>
#include <kmoe/layer/moe_layer.hpp>

#include "cases.hpp"
#include "cli/synthetic.hpp"
#include "device_timer.hpp"

namespace perf {

using kmoe::cli::Noise;

/// The numbers of a layer: a function of the element's place.
struct LayerNoise {
  Noise x, gate_up, down;
  explicit LayerNoise(kmoe::cli::Preset const& size)
      : x{.seed = 3},
        gate_up{.seed = 1, .scale = 1 / std::sqrt(static_cast<float>(size.hidden_size))},
        // silu(gate) * up of normal numbers has a deviation of about 0.6
        down{.seed = 2, .scale = 1.7F / std::sqrt(static_cast<float>(size.intermediate_size))} {}
};

/// What an input holds at that place.
template <class T>
KOKKOS_INLINE_FUNCTION double rounded(Noise const& noise, std::size_t i) {
  return static_cast<double>(T(noise(i)));
}

/// Elements that are not finite.
template <class T>
std::size_t count_bad(Space const& exec, kmoe::Matrix<T, Space> const& values) {
  T const* const data = values.data();
  std::size_t bad = 0;
  Kokkos::parallel_reduce(
      "kmoe::perf::count_bad",
      Kokkos::RangePolicy<Space, Kokkos::IndexType<std::size_t>>(exec, 0, values.size()),
      KOKKOS_LAMBDA(std::size_t i, std::size_t & sum) {
        if (!Kokkos::isfinite(static_cast<kmoe::accumulate_t<T>>(data[i]))) ++sum;
      },
      bad);
  return bad;
}

/// Largest ||y - ref|| / ||ref|| of a few tokens from the first to the last. The reference is
/// computed in float64 from the same rounded inputs, made again from their places; nothing else of
/// it is rounded.
template <class T>
double sampled_error(Space const& exec, kmoe::cli::Preset const& size, std::size_t tokens,
                     kmoe::Routing<Space> const& routing, kmoe::Matrix<T, Space> const& y,
                     std::size_t max_samples) {
  LayerNoise const noise(size);
  auto const samples = std::min(tokens, max_samples);
  auto const stride = samples > 1 ? (tokens - 1) / (samples - 1) : 1;
  auto const hidden = static_cast<std::size_t>(size.hidden_size);
  auto const inter = static_cast<std::size_t>(size.intermediate_size);
  auto const top_k = static_cast<std::size_t>(size.top_k);
  kmoe::Matrix<double, Space> const h("kmoe::perf::h", samples * top_k, inter);
  kmoe::Matrix<double, Space> const reference("kmoe::perf::reference", samples, hidden);
  Kokkos::parallel_for(
      "kmoe::perf::reference_gate_up",
      Kokkos::RangePolicy<Space, Kokkos::IndexType<std::size_t>>(exec, 0, h.size()),
      KOKKOS_LAMBDA(std::size_t work) {
        std::size_t const slot = work / inter;
        std::size_t const i = work % inter;
        std::size_t const token = slot / top_k * stride;
        auto const expert = static_cast<std::size_t>(routing.topk_ids(token, slot % top_k));
        std::size_t const gate_row = (expert * 2 * inter + i) * hidden;
        double gate = 0;
        double up = 0;
        for (std::size_t c = 0; c < hidden; ++c) {
          double const value = rounded<T>(noise.x, token * hidden + c);
          gate += value * rounded<T>(noise.gate_up, gate_row + c);
          up += value * rounded<T>(noise.gate_up, gate_row + inter * hidden + c);
        }
        h(slot, i) = gate / (1 + Kokkos::exp(-gate)) * up;
      });
  Kokkos::parallel_for(
      "kmoe::perf::reference_down",
      Kokkos::RangePolicy<Space, Kokkos::IndexType<std::size_t>>(exec, 0, reference.size()),
      KOKKOS_LAMBDA(std::size_t work) {
        std::size_t const sample = work / hidden;
        std::size_t const c = work % hidden;
        double sum = 0;
        for (std::size_t k = 0; k < top_k; ++k) {
          auto const expert = static_cast<std::size_t>(routing.topk_ids(sample * stride, k));
          double row = 0;
          for (std::size_t i = 0; i < inter; ++i) {
            row += h(sample * top_k + k, i) *
                   rounded<T>(noise.down, (expert * hidden + c) * inter + i);
          }
          sum += static_cast<double>(routing.topk_weights(sample * stride, k)) * row;
        }
        reference(sample, c) = sum;
      });
  auto const expected = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), reference);
  double worst = 0;
  for (std::size_t s = 0; s < samples; ++s) {
    auto const row = kmoe::row_range(y, s * stride, s * stride + 1);
    auto const got = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), row);
    double difference = 0;
    double norm = 0;
    for (std::size_t c = 0; c < hidden; ++c) {
      double const e = expected(s, c);
      difference += std::pow(static_cast<double>(got(0, c)) - e, 2);
      norm += e * e;
    }
    double const error = std::sqrt(difference / norm);
    if (!(error <= worst)) worst = error;  // also NaN
    if (std::isnan(worst)) break;
  }
  return worst;
}

/// One phase: what is timed, and the matrix that it must fill.
template <class T>
struct Task {
  std::function<void()> run;
  kmoe::Matrix<T, Space> out;  ///< extent 0: no matrix
};

template <class T>
class LayerUnderTest {
 public:
  LayerUnderTest(Space const& exec, kmoe::cli::Preset const& size, index_t max_tokens)
      : exec_(exec),
        size_(size),
        max_tokens_(max_tokens),
        x_(allocate<kmoe::Matrix<T, Space>>("x", max_tokens, size.hidden_size)),
        y_(allocate<kmoe::Matrix<T, Space>>("y", max_tokens, size.hidden_size)),
        gate_up_(allocate<kmoe::Tensor3<T, Space>>("gate_up", size.num_experts,
                                                   2 * size.intermediate_size, size.hidden_size)),
        down_(allocate<kmoe::Tensor3<T, Space>>("down", size.num_experts, size.hidden_size,
                                                size.intermediate_size)) {
    LayerNoise const noise(size);
    kmoe::cli::fill(exec, x_, noise.x);
    kmoe::cli::fill(exec, gate_up_, noise.gate_up);
    kmoe::cli::fill(exec, down_, noise.down);
    exec.fence("perf::LayerUnderTest");
  }

  void set_routing(HostRouting const& routing) {
    auto const top_k = static_cast<std::size_t>(size_.top_k);
    tokens_ = routing.ids.size() / top_k;
    routing_ = {allocate<kmoe::Matrix<index_t, Space>>("topk_ids", tokens_, top_k),
                allocate<kmoe::Matrix<float, Space>>("topk_weights", tokens_, top_k)};
    copy_in(routing.ids, routing_.topk_ids);
    copy_in(routing.weights, routing_.topk_weights);
  }

  Task<T> task(std::string_view phase) {
    auto const x = kmoe::row_range(x_, 0, tokens_);
    auto const y = kmoe::row_range(y_, 0, tokens_);
    auto const routing = routing_;
    auto const exec = exec_;
    if (phase == "whole") {
      auto const forward = layer();
      return {[=] { forward->forward_routed(exec, x, routing, y); }, y};
    }
    auto const grouping = std::make_shared<Grouping>(exec, size_, tokens_);
    auto const& permutation = grouping->permutation;
    if (phase == "permutation") {
      return {[=] { kmoe::make_permutation(exec, routing.topk_ids, grouping->permutation); }, {}};
    }
    kmoe::make_permutation(exec, routing.topk_ids, permutation);
    auto const rows = allocate<kmoe::Matrix<T, Space>>("rows", slots(), size_.hidden_size);
    if (phase == "experts") {
      auto const mlp = experts();
      return {[=] { mlp->forward(exec, x, grouping->permutation, routing.topk_weights, rows); },
              rows};
    }
    kmoe::cli::fill(exec, rows, {.seed = 4});
    if (phase == "combine") {
      return {[=] { kmoe::unpermute(exec, rows, grouping->permutation, {}, y); }, y};
    }
    bool const first = phase == "gate_up";
    kmoe::PackedWeights<Space, T> const packed(exec, first ? gate_up_ : down_);
    auto const a = first ? rows : wide("h", size_.intermediate_size);
    auto const c = first ? wide("c", 2 * size_.intermediate_size) : rows;
    if (!first) kmoe::cli::fill(exec, a, {.seed = 5});
    return {[=] { kmoe::grouped_gemm(exec, a, packed, grouping->permutation.expert_offsets, c); },
            c};
  }

  /// Bytes of what task() allocates for a phase.
  [[nodiscard]] static double scratch_bytes(kmoe::cli::Preset const& size, index_t tokens,
                                            std::string_view phase) {
    double const width = phase == "gate_up"       ? size.hidden_size + 2. * size.intermediate_size
                         : phase == "down"        ? size.hidden_size + size.intermediate_size
                         : phase == "permutation" ? 0
                                                  : size.hidden_size;
    return width * tokens * size.top_k * sizeof(T);
  }

  [[nodiscard]] double error(std::size_t max_samples) const {
    return sampled_error<T>(exec_, size_, tokens_, routing_, y_, max_samples);
  }

 private:
  struct Grouping {
    Grouping(Space const&, kmoe::cli::Preset const& size, std::size_t tokens)
        : workspace(kmoe::make_workspace<Space>([&](kmoe::Workspace<Space>& ws) {
            permutation.bind(ws, static_cast<index_t>(tokens), size.top_k, size.num_experts);
          })) {}
    kmoe::Permutation<Space> permutation;
    kmoe::Workspace<Space> workspace;
  };

  template <class V, class... Extents>
  static V allocate(std::string const& label, Extents... extents) {
    return V(Kokkos::view_alloc("kmoe::perf::" + label, Kokkos::WithoutInitializing), extents...);
  }

  template <class U, class V>
  static void copy_in(std::vector<U> const& from, V const& to) {
    Kokkos::View<U const**, Kokkos::LayoutRight, Kokkos::HostSpace, Kokkos::MemoryUnmanaged> const
        host(from.data(), to.extent(0), to.extent(1));
    Kokkos::deep_copy(to, host);
  }

  [[nodiscard]] std::size_t slots() const {
    return tokens_ * static_cast<std::size_t>(size_.top_k);
  }
  [[nodiscard]] kmoe::Matrix<T, Space> wide(std::string const& label, index_t columns) const {
    return allocate<kmoe::Matrix<T, Space>>(label, slots(), columns);
  }

  [[nodiscard]] kmoe::ExpertWeights<Space, T> weights() const {
    kmoe::ExpertWeights<Space, T> weights;
    weights.gate_up = gate_up_;
    weights.down = down_;
    return weights;
  }

  std::shared_ptr<kmoe::MoeLayer<Space, T>> layer() {
    if (layer_) return layer_;
    kmoe::MoeConfig config;
    config.hidden_size = size_.hidden_size;
    config.intermediate_size = size_.intermediate_size;
    config.num_experts = size_.num_experts;
    config.top_k = size_.top_k;
    config.workspace_limit_bytes = std::numeric_limits<std::size_t>::max() / 2;  // one chunk
    kmoe::LayerWeights<Space, T> given;
    given.experts = weights();
    layer_ = std::make_shared<kmoe::MoeLayer<Space, T>>(
        exec_, kmoe::Communicator(), config,
        kmoe::ExpertPlacement::contiguous(size_.num_experts, 1), given, max_tokens_);
    return layer_;
  }

  std::shared_ptr<kmoe::ExpertMlp<Space, T>> experts() {
    if (experts_) return experts_;
    experts_ = std::make_shared<kmoe::ExpertMlp<Space, T>>(exec_, weights(), kmoe::ExpertOptions());
    experts_workspace_ = kmoe::make_workspace<Space>([&](kmoe::Workspace<Space>& ws) {
      experts_->bind(exec_, ws, offset_t{max_tokens_} * size_.top_k, max_tokens_);
    });
    return experts_;
  }

  Space exec_;
  kmoe::cli::Preset size_;
  index_t max_tokens_;
  kmoe::Matrix<T, Space> x_, y_;
  kmoe::Tensor3<T, Space> gate_up_, down_;
  std::size_t tokens_ = 0;
  kmoe::Routing<Space> routing_;
  std::shared_ptr<kmoe::MoeLayer<Space, T>> layer_;
  std::shared_ptr<kmoe::ExpertMlp<Space, T>> experts_;
  kmoe::Workspace<Space> experts_workspace_;
};

}  // namespace perf
