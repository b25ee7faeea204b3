// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A layer on one rank as a graph of the device: captured once, replayed with new data in the same
// buffers, bit for bit as if it had been called.

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <kmoe/layer/moe_layer.hpp>

#include "support/capture.hpp"
#include "support/kernels.hpp"
#include "support/layer_model.hpp"
#include "support/random.hpp"
#include "support/typed.hpp"

namespace kmoe::test {
namespace {

LayerModel make_model(IdSpace id_space) {
  LayerModel model;
  model.config.hidden_size = 64;
  model.config.intermediate_size = 48;
  model.config.num_experts = 12;
  model.config.top_k = 3;
  model.config.router.renormalize = true;
  model.config.shared_intermediate_size = 32;
  model.config.shared_expert_gate = true;
  model.config.id_space = id_space;
  return model;
}

template <class C>
class Graph : public ::testing::Test {
 protected:
  using E = typename C::E;
  using T = typename C::T;
  static constexpr std::size_t num_tokens = 37;

  Graph() : exec(Kokkos::Experimental::partition_space(E(), 1)[0]) {}

  [[nodiscard]] MoeLayer<E, T> make_layer(LayerModel const& model) const {
    std::vector<index_t> all(model.config.num_experts);
    for (std::size_t e = 0; e < all.size(); ++e) all[e] = static_cast<index_t>(e);
    return {exec,
            Communicator(),
            model.config,
            ExpertPlacement::contiguous(model.config.num_experts, 1),
            model.template weights<E, T>(all),
            static_cast<index_t>(num_tokens)};
  }

  void set_batch(LayerModel const& model, std::size_t begin) const {
    Kokkos::deep_copy(x, model.template tokens<E, T>(begin, num_tokens));
    fill_ids(routing.topk_ids, begin, -1, model.config.num_experts + 1);
    fill_random(routing.topk_weights, begin + 1);
    poison(y);
    Kokkos::fence();
  }
  [[nodiscard]] std::vector<unsigned char> result() const {
    exec.fence();
    auto const host = to_host(y);
    auto const* const bytes = reinterpret_cast<unsigned char const*>(host.data());
    return {bytes, bytes + host.size() * sizeof(T)};
  }

  /// `forward` called and replayed, with three batches.
  template <class Forward>
  void expect_same(LayerModel const& model, Forward const& forward) const {
    set_batch(model, 1000);
    forward();  // the first call may set up what later ones use
    std::vector<std::vector<unsigned char>> expected;
    for (std::size_t batch = 0; batch < 3; ++batch) {
      set_batch(model, 100 * batch);
      forward();
      expected.push_back(result());
    }
    EXPECT_NE(expected[0], expected[1]);
    Captured const captured(exec, forward);
    for (std::size_t batch = 3; batch-- > 0;) {
      set_batch(model, 100 * batch);
      captured.replay();
      EXPECT_EQ(result(), expected[batch]) << "batch " << batch;
    }
  }

  E exec;
  Matrix<T, E> x{"x", num_tokens, 64}, y{"y", num_tokens, 64};
  Routing<E> routing{Matrix<index_t, E>("ids", num_tokens, 3),
                     Matrix<float, E>("weights", num_tokens, 3)};
};
TYPED_TEST_SUITE(Graph, Cases, TypeNames);

TYPED_TEST(Graph, ForwardIsReplayedWithNewData) {
  auto const model = make_model(IdSpace::local);
  auto layer = this->make_layer(model);
  this->expect_same(model, [&] { layer.forward(this->exec, this->x, this->y); });
}

TYPED_TEST(Graph, ForwardRoutedIsReplayedWithNewData) {
  for (auto const id_space : {IdSpace::local, IdSpace::masked}) {
    auto const model = make_model(id_space);
    auto layer = this->make_layer(model);
    this->expect_same(model,
                      [&] { layer.forward_routed(this->exec, this->x, this->routing, this->y); });
    offset_t rows = 0;
    for (offset_t const n : layer.report().tokens_per_expert) rows += n;
    EXPECT_GT(rows, 0);
  }
}

// Between the routing and the experts nothing runs but the permutation, after them the sum.
TYPED_TEST(Graph, OneRankLaunchesNothingMore) {
  using E = typename TypeParam::E;
  auto model = make_model(IdSpace::masked);
  model.config.shared_intermediate_size = 0;
  model.config.shared_expert_gate = false;
  auto layer = this->make_layer(model);
  this->set_batch(model, 7);
  layer.forward_routed(this->exec, this->x, this->routing, this->y);
  this->exec.fence();
  LaunchRecorder const recorder;
  layer.forward_routed(this->exec, this->x, this->routing, this->y);
  this->exec.fence();
  EXPECT_EQ(LaunchRecorder::allocations(), 0) << LaunchRecorder::last_allocation();
  std::size_t others = 0;
  for (Launch const& launch : LaunchRecorder::launches()) {
    others += launch.label.find("expert") == std::string::npos ? 1 : 0;
  }
  if constexpr (!std::is_same_v<typename E::memory_space, Kokkos::HostSpace>) {
    EXPECT_EQ(others, 2U);
    EXPECT_EQ(LaunchRecorder::launches().front().label, "kmoe::make_permutation::place");
  }
  EXPECT_EQ(LaunchRecorder::launches().back().label, "kmoe::combine::add_rows");
}

}  // namespace
}  // namespace kmoe::test
