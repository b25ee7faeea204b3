// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// User experts beside MLP experts, changed routings, and workspaces of the caller.

#include <cmath>
#include <cstdlib>
#include <memory>

#include <gtest/gtest.h>
#include <mpi.h>

#include <kmoe/layer/moe_layer.hpp>

#include "support/layer_model.hpp"
#include "support/layer_reference.hpp"

namespace {

using kmoe::index_t;
using kmoe::test::contains;
using kmoe::test::doubles;
using kmoe::test::error_of;
using kmoe::test::LayerModel;
using Space = Kokkos::DefaultExecutionSpace;

/// y_h = (1 + expert) x_h / (1 + x_{H-1-h}^2): reads the whole token, and nothing cancels.
struct Physics {
  template <class T>
  KOKKOS_FUNCTION void operator()(kmoe::ExpertRow<T> const& row) const {
    using A = kmoe::accumulate_t<T>;
    for (index_t h = 0; h < row.hidden_size; ++h) {
      A const x = A(row.x[h]), other = A(row.x[row.hidden_size - 1 - h]);
      row.y[h] = T(A(1 + row.expert) * x / (A(1) + other * other));
    }
  }
};

kmoe::test::UserReference physics_reference(std::size_t hidden) {
  return [hidden](int expert, double const* x, std::size_t h) {
    return (1 + expert) * x[h] / (1 + x[hidden - 1 - h] * x[hidden - 1 - h]);
  };
}

/// All rows of one expert. A function: nvcc takes no device lambda inside a generic one.
template <class T>
void physics_batch(Space const& exec, index_t expert, kmoe::Matrix<T const, Space> const& x,
                   kmoe::Matrix<T, Space> const& y) {
  auto const x_data = x.data();
  auto const y_data = y.data();
  auto const hidden = static_cast<index_t>(x.extent(1));
  Kokkos::parallel_for(
      "kmoe::test::physics", Kokkos::RangePolicy<Space>(exec, 0, x.extent(0)),
      KOKKOS_LAMBDA(std::size_t r) {
        Physics()(kmoe::ExpertRow<T>{expert, x_data + r * hidden, y_data + r * hidden, hidden});
      });
}

LayerModel mixed_model(index_t experts, index_t user) {
  LayerModel model;
  model.config.hidden_size = 17;
  model.config.intermediate_size = 24;
  model.config.num_experts = experts;
  model.config.num_user_experts = user;
  model.config.top_k = std::min<index_t>(experts, 2);
  return model;
}

/// The weights of this rank's experts that have any.
template <class T>
kmoe::LayerWeights<Space, T> mlp_weights(LayerModel const& model,
                                         kmoe::ExpertPlacement const& placement, int rank) {
  auto mine = placement.experts_of(rank);
  std::erase_if(mine, [&](index_t e) { return e >= model.config.num_mlp_experts(); });
  return model.weights<Space, T>(mine);
}

/// Ids and weights of T tokens, a function of the token's number; -1 now and then.
kmoe::Routing<Space> some_routing(index_t first, index_t tokens, index_t experts, index_t columns) {
  kmoe::Routing<Space> const routing{kmoe::Matrix<index_t, Space>("ids", tokens, columns),
                                     kmoe::Matrix<float, Space>("weights", tokens, columns)};
  auto const ids = Kokkos::create_mirror_view(routing.topk_ids);
  auto const weights = Kokkos::create_mirror_view(routing.topk_weights);
  for (index_t t = 0; t < tokens; ++t) {
    for (index_t k = 0; k < columns; ++k) {
      auto const u = kmoe::test::uniform(77, (first + t) * 8 + k) * 0.5 + 0.5;
      ids(t, k) = std::min<index_t>(index_t(u * (experts + 1)), experts) - 1;
      weights(t, k) = float(0.25 + u);
    }
  }
  Kokkos::deep_copy(routing.topk_ids, ids);
  Kokkos::deep_copy(routing.topk_weights, weights);
  return routing;
}

template <class View>
auto on_host(View const& view) {
  return Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
}

template <class T>
std::vector<T> vector_of(auto const& view) {
  auto const host = on_host(view);
  return std::vector<T>(host.data(), host.data() + host.size());
}

template <class T>
class UserExperts : public ::testing::Test {};
using Elements = ::testing::Types<double, float, kmoe::bfloat16, kmoe::half>;
TYPED_TEST_SUITE(UserExperts, Elements);

TYPED_TEST(UserExperts, match_plain_loops_beside_mlp_experts) {
  using T = TypeParam;
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  Space const exec;
  int round = 0;
  // All MLP but one, half, all user experts; fewer and more experts than ranks.
  for (auto const& [experts, user] :
       {std::pair<index_t, index_t>{5, 1}, {6, 3}, {3, 3}, {1, 1}, {12, 4}}) {
    for (bool const batched : {false, true}) {
      for (int kind = 0; kind < 4; ++kind, ++round) {
        auto model = mixed_model(experts, user);
        model.config.dispatcher = static_cast<kmoe::DispatcherKind>(kind % 2);
        model.config.id_space = static_cast<kmoe::IdSpace>(kind / 2);
        auto const placement = round % 2 == 0
                                   ? kmoe::ExpertPlacement::contiguous(experts, comm.size())
                                   : kmoe::ExpertPlacement::round_robin(experts, comm.size());
        index_t const tokens = (comm.rank() + round) % 3 == 0 ? 0 : 9;
        kmoe::MoeLayer<Space, T> layer(exec, comm, model.config, placement,
                                       mlp_weights<T>(model, placement, comm.rank()), 9);
        layer.set_user_experts(batched ? kmoe::batch_experts<Space, T>(physics_batch<T>)
                                       : kmoe::row_experts<Space, T>(Physics()));
        auto const routing = some_routing(comm.rank() * 9, tokens, experts, model.config.top_k);
        auto const x = model.template tokens<Space, T>(comm.rank() * 9, tokens);
        kmoe::Matrix<T, Space> const y("y", tokens, 17);
        Kokkos::deep_copy(y, T(std::nan("")));
        layer.forward_routed(exec, x, routing, y);
        exec.fence();
        std::vector<double> bound;
        auto const x_host = on_host(x), y_host = on_host(y);
        auto const expected = kmoe::test::reference_layer<T>(
            model, vector_of<int>(routing.topk_ids), vector_of<float>(routing.topk_weights),
            doubles(x_host, 0, x_host.size()), bound, physics_reference(17));
        for (std::size_t i = 0; i < expected.size(); ++i) {
          // Not an assertion, which would leave the other ranks alone in the next round.
          EXPECT_TRUE(std::abs(double(y_host.data()[i]) - expected[i]) <= bound[i])
              << "round " << round << " element " << i << ": " << double(y_host.data()[i])
              << " for " << expected[i] << " +- " << bound[i];
        }
      }
    }
  }
}

TEST(UserExperts, weight_on_the_input_reaches_the_function) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  Space const exec;
  auto model = mixed_model(4, 4);
  model.config.top_k = 1;
  model.config.experts.router_weight_on_input = true;
  auto const placement = kmoe::ExpertPlacement::round_robin(4, comm.size());
  kmoe::MoeLayer<Space, double> layer(exec, comm, model.config, placement, {}, 20);
  layer.set_user_experts(kmoe::row_experts<Space, double>(Physics()));
  auto const routing = some_routing(0, 20, 4, 1);
  auto const x = model.tokens<Space, double>(0, 20);
  kmoe::Matrix<double, Space> const y("y", 20, 17);
  layer.forward_routed(exec, x, routing, y);
  auto const ids = on_host(routing.topk_ids);
  auto const weights = on_host(routing.topk_weights);
  auto const x_host = on_host(x), y_host = on_host(y);
  for (index_t t = 0; t < 20; ++t) {
    for (index_t h = 0; h < 17; ++h) {
      double const w = weights(t, 0), other = w * x_host(t, 16 - h);
      double const expected =
          ids(t, 0) < 0 ? 0 : (1 + ids(t, 0)) * w * x_host(t, h) / (1 + other * other);
      ASSERT_NEAR(y_host(t, h), expected, 1e-14);
    }
  }
}

TEST(UserExperts, bits_do_not_depend_on_ranks_chunks_or_placement) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  Space const exec;
  auto model = mixed_model(7, 3);
  index_t const tokens = 30;
  auto const run = [&](kmoe::Communicator const& c, kmoe::ExpertPlacement const& placement,
                       std::size_t limit) {
    model.config.workspace_limit_bytes = limit;
    kmoe::MoeLayer<Space, float> layer(exec, c, model.config, placement,
                                       mlp_weights<float>(model, placement, c.rank()), tokens);
    layer.set_user_experts(kmoe::row_experts<Space, float>(Physics()));
    kmoe::Matrix<float, Space> const y("y", tokens * (model.config.no_combine ? 2 : 1), 17);
    layer.forward_routed(exec, model.tokens<Space, float>(0, tokens), some_routing(0, tokens, 7, 2),
                         y);
    return vector_of<float>(y);
  };
  auto const all = std::size_t{1} << 30;
  for (bool const no_combine : {false, true}) {
    model.config.no_combine = no_combine;
    model.config.token_layout = kmoe::TokenLayout::data_parallel;
    auto const alone = run(kmoe::Communicator(), kmoe::ExpertPlacement::contiguous(7, 1), all);
    EXPECT_EQ(alone, run(comm, kmoe::ExpertPlacement::round_robin(7, comm.size()), 1));
    EXPECT_EQ(alone, run(comm, kmoe::ExpertPlacement::contiguous(7, comm.size()), all));
    model.config.token_layout = kmoe::TokenLayout::replicated;
    EXPECT_EQ(alone, run(comm, kmoe::ExpertPlacement::round_robin(7, comm.size()), all));
    if (!no_combine) continue;
    // The rows themselves, not multiplied by the router weight.
    auto const x = on_host(model.tokens<Space, float>(0, tokens));
    auto const ids = on_host(some_routing(0, tokens, 7, 2).topk_ids);
    int rows = 0;
    for (index_t t = 0; t < tokens; ++t) {
      auto const token = doubles(x, std::size_t(t) * 17, 17);
      for (index_t k = 0; k < 2; ++k) {
        if (ids(t, k) < 4) continue;
        ++rows;
        for (index_t h = 0; h < 17; ++h) {
          double const expected = physics_reference(17)(ids(t, k), token.data(), h);
          EXPECT_NEAR(alone[(t * 2 + k) * 17 + h], expected, 1e-5 * std::abs(expected));
        }
      }
    }
    EXPECT_GT(rows, 0);
  }
}

TEST(UserExperts, take_over_where_the_gate_is_not_confident) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  Space const exec;
  // The router knows the 4 trained experts; expert 4 + r is the fallback of rank r.
  index_t const trained = 4, ranks = comm.size();
  auto model = mixed_model(trained + ranks, ranks);
  std::vector<index_t> where(trained + ranks);
  for (index_t e = 0; e < trained; ++e) where[e] = e % ranks;
  for (index_t r = 0; r < ranks; ++r) where[trained + r] = r;
  auto const placement = kmoe::ExpertPlacement::custom(where, ranks);
  auto weights = mlp_weights<float>(model, placement, comm.rank());
  weights.router.weight =
      Kokkos::subview(weights.router.weight, std::pair<index_t, index_t>(0, trained), Kokkos::ALL);
  kmoe::MoeLayer<Space, float> layer(exec, comm, model.config, placement, weights, 40);
  layer.set_user_experts(kmoe::row_experts<Space, float>(Physics()));
  index_t const tokens = 20 + comm.rank();
  auto const x = model.tokens<Space, float>(comm.rank() * 40, tokens);
  kmoe::Matrix<float, Space> const y("y", tokens, 17), plain("plain", tokens, 17);
  auto routing = some_routing(0, tokens, trained, 2);
  layer.route(exec, x, routing);
  layer.forward_routed(exec, x, routing, y);
  layer.forward(exec, x, plain);
  EXPECT_EQ(vector_of<float>(y), vector_of<float>(plain));

  auto const ids = on_host(routing.topk_ids);
  auto const scores = on_host(routing.topk_weights);
  std::vector<bool> fallback(tokens);
  for (index_t t = 0; t < tokens; ++t) {
    EXPECT_TRUE(ids(t, 0) >= 0 && ids(t, 0) < trained && ids(t, 1) >= 0 && ids(t, 1) < trained);
    fallback[t] = scores(t, 0) < 0.5F;
    if (!fallback[t]) continue;
    ids(t, 0) = trained + comm.rank();
    scores(t, 0) = 1.0F;
    ids(t, 1) = -1;
  }
  EXPECT_NE(std::count(fallback.begin(), fallback.end(), true), 0);
  EXPECT_NE(std::count(fallback.begin(), fallback.end(), false), 0);
  Kokkos::deep_copy(routing.topk_ids, ids);
  Kokkos::deep_copy(routing.topk_weights, scores);
  auto const before = layer.report().tokens_sent;
  layer.forward_routed(exec, x, routing, y);
  auto const x_host = on_host(x), y_host = on_host(y), plain_host = on_host(plain);
  auto const reference = physics_reference(17);
  for (index_t t = 0; t < tokens; ++t) {
    std::vector<double> const token = doubles(x_host, t * 17, 17);
    for (index_t h = 0; h < 17; ++h) {
      if (fallback[t]) {
        double const expected = reference(trained + comm.rank(), token.data(), h);
        ASSERT_NEAR(y_host(t, h), expected, 1e-6 * (std::abs(expected) + 1));
      } else {
        ASSERT_EQ(y_host(t, h), plain_host(t, h));
      }
    }
  }
  EXPECT_GE(layer.report().tokens_sent, before);
}

TEST(UserExperts, an_exception_on_one_rank_is_the_same_error_on_all) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  Space const exec;
  auto const model = mixed_model(6, 6);
  auto const placement = kmoe::ExpertPlacement::contiguous(6, comm.size());
  kmoe::MoeLayer<Space, float> layer(exec, comm, model.config, placement, {}, 12);
  auto const x = model.tokens<Space, float>(0, 12);
  auto const routing = some_routing(0, 12, 6, 2);
  kmoe::Matrix<float, Space> const y("y", 12, 17);
  auto const missing =
      error_of<kmoe::InvalidArgument>([&] { layer.forward_routed(exec, x, routing, y); });
  EXPECT_TRUE(contains(missing, "set_user_experts")) << missing;

  layer.set_user_experts(
      kmoe::batch_experts<Space, float>([](Space const&, index_t expert, auto const&, auto const&) {
        if (expert == 5) throw kmoe::Unsupported("solver of expert 5 does not converge");
      }));
  auto const thrown =
      error_of<kmoe::Unsupported>([&] { layer.forward_routed(exec, x, routing, y); });
  EXPECT_TRUE(contains(thrown, "does not converge")) << thrown;
  layer.set_user_experts(kmoe::row_experts<Space, float>(Physics()));
  EXPECT_NO_THROW(layer.forward_routed(exec, x, routing, y));

  auto const given_up = error_of<kmoe::InvalidArgument>([&] {
    if (comm.rank() == comm.size() - 1) layer.abandon_forward("no input on this rank");
    layer.forward_routed(exec, x, routing, y);
  });
  EXPECT_TRUE(contains(given_up, "no input on this rank")) << given_up;
}

TEST(UserExperts, options_that_contradict_are_refused) {
  auto model = mixed_model(4, 5);
  EXPECT_THROW(validate(model.config), kmoe::InvalidArgument);
  model = mixed_model(4, -1);
  EXPECT_THROW(validate(model.config), kmoe::InvalidArgument);
  model = mixed_model(4, 1);
  EXPECT_NO_THROW(validate(model.config));
  model.config.router.num_fused_shared_experts = 1;
  EXPECT_THROW(validate(model.config), kmoe::InvalidArgument);
}

TEST(Workspace, of_the_caller_holds_everything) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  Space const exec;
  auto const model = mixed_model(6, 2);
  auto const placement = kmoe::ExpertPlacement::round_robin(6, comm.size());
  auto const weights = mlp_weights<float>(model, placement, comm.rank());
  using Layer = kmoe::MoeLayer<Space, float>;
  auto const size = Layer::workspace_size(exec, model.config, placement, comm.rank(), 25, true);
  auto const x = model.tokens<Space, float>(0, 25);
  auto const y_of = [&](kmoe::WorkspaceMemory const& memory) {
    Layer layer(exec, comm, model.config, placement, weights, 25, memory);
    layer.set_user_experts(kmoe::row_experts<Space, float>(Physics()));
    EXPECT_EQ(layer.workspace_bytes(), size.device_bytes + size.host_bytes);
    kmoe::Matrix<float, Space> const y("y", 25, 17);
    layer.forward(exec, x, y);
    return vector_of<float>(y);
  };
  // Guards behind the blocks must stay.
  std::size_t const guard = 128;
  Kokkos::View<unsigned char*, Space> const device("device", size.device_bytes + 2 * guard);
  Kokkos::View<unsigned char*, Kokkos::HostSpace> const host("host", size.host_bytes + 2 * guard);
  Kokkos::deep_copy(device, 0xff);
  Kokkos::deep_copy(host, 0xff);
  auto const skip = [](void const* begin) {
    return (128 - reinterpret_cast<std::uintptr_t>(begin) % 128) % 128;
  };
  std::size_t const device_skip = skip(device.data()), host_skip = skip(host.data());
  kmoe::WorkspaceMemory memory{device.data() + device_skip, host.data() + host_skip, size};
  EXPECT_EQ(y_of(memory), y_of({}));
  auto const device_after = on_host(device);
  for (std::size_t i = 0; i < guard; ++i) {
    EXPECT_EQ(device_after(device_skip + size.device_bytes + i), 0xff);
    EXPECT_EQ(host(host_skip + size.host_bytes + i), 0xff);
  }

  if (comm.rank() == comm.size() - 1) --memory.size.device_bytes;
  auto const small = error_of<kmoe::InvalidArgument>(
      [&] { Layer(exec, comm, model.config, placement, weights, 25, memory); });
  EXPECT_TRUE(contains(small, "workspace device must have")) << small;
}

}  // namespace
