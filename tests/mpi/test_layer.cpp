// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The layer against the float64 reference, its memory, and its errors, which are the same on every
// rank.

#include <cmath>
#include <memory>

#include <gtest/gtest.h>
#include <mpi.h>

#include <kmoe/layer/moe_layer.hpp>

#include "support/kernels.hpp"
#include "support/layer_model.hpp"
#include "support/layer_reference.hpp"
#include "support/tolerance.hpp"
#include "support/watch_allocations.hpp"

namespace {

using kmoe::index_t;
using kmoe::test::contains;
using kmoe::test::doubles;
using kmoe::test::error_of;
using kmoe::test::LayerModel;
using kmoe::test::reference_layer;
using Space = Kokkos::DefaultExecutionSpace;
using Layer = kmoe::MoeLayer<Space, float>;

LayerModel small_model() {
  LayerModel model;
  model.config.hidden_size = 32;
  model.config.intermediate_size = 48;
  model.config.num_experts = 6;
  model.config.top_k = 2;
  model.config.router.renormalize = true;
  return model;
}

kmoe::LayerWeights<Space, float> my_weights(LayerModel const& model,
                                            kmoe::ExpertPlacement const& placement, int rank) {
  auto const experts = placement.experts_of(rank);
  return model.weights<Space, float>(experts);
}

template <class T>
class LayerReference : public ::testing::Test {};
using Elements = ::testing::Types<double, float, kmoe::bfloat16, kmoe::half>;
TYPED_TEST_SUITE(LayerReference, Elements);

// The adversarial grid: sizes, experts against ranks, empty ranks, and ids of every kind.
TYPED_TEST(LayerReference, matches_plain_loops_for_any_routing) {
  using T = TypeParam;
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  index_t const ranks = comm.size();
  Space const exec;
  enum Ids { random_ids, all_to_one, all_padding, half_padding, out_of_range, repeated, num_kinds };
  int round = 0;
  for (index_t const experts :
       {index_t{1}, std::max<index_t>(1, ranks - 1), ranks, ranks + 1, index_t{8}, index_t{60}}) {
    for (index_t const top_k : {index_t{1}, index_t{2}, std::min<index_t>(experts, 8)}) {
      for (int kind = 0; kind < num_kinds; ++kind, ++round) {
        index_t const sizes[] = {1, 7, 31, 32, 33, 130};
        LayerModel model;
        model.seed = 100 + std::uint64_t(round);
        model.config.hidden_size = sizes[round % 6];
        model.config.intermediate_size = sizes[(round / 6 + round) % 6];
        model.config.num_experts = experts;
        model.config.top_k = std::min(top_k, experts);
        model.biases = round % 2 == 1;
        model.layout = static_cast<kmoe::GateUpLayout>(round % 4);
        model.config.experts.activation = static_cast<kmoe::Activation>(round % 5);
        model.config.dispatcher = static_cast<kmoe::DispatcherKind>(round % 2);
        model.config.id_space = static_cast<kmoe::IdSpace>(round / 2 % 2);
        auto const placement = round % 3 == 0 ? kmoe::ExpertPlacement::contiguous(experts, ranks)
                                              : kmoe::ExpertPlacement::round_robin(experts, ranks);
        auto const mine = placement.experts_of(comm.rank());
        std::size_t const tokens = (comm.rank() + round) % 3 == 0 ? 0 : 1 + (round * 5) % 17;
        kmoe::MoeLayer<Space, T> layer(exec, comm, model.config, placement,
                                       model.template weights<Space, T>(mine), 17);

        std::size_t const slots = tokens * model.config.top_k, hidden = model.config.hidden_size;
        auto const columns = std::size_t(model.config.top_k);
        kmoe::Routing<Space> const routing{kmoe::Matrix<index_t, Space>("ids", tokens, columns),
                                           kmoe::Matrix<float, Space>("weights", tokens, columns)};
        auto const ids_host = Kokkos::create_mirror_view(routing.topk_ids);
        auto const weights_host = Kokkos::create_mirror_view(routing.topk_weights);
        std::vector<int> ids(slots);
        std::vector<float> weights(slots);
        for (std::size_t s = 0; s < slots; ++s) {
          double const u = kmoe::test::uniform(9000 + round, comm.rank() * 1000 + s) * 0.5 + 0.5;
          int const any = std::min(int(u * experts), int(experts) - 1);
          switch (kind) {
            case all_to_one:
              ids[s] = experts - 1;
              break;
            case all_padding:
              ids[s] = -1;
              break;
            case half_padding:
              ids[s] = s / model.config.top_k % 2 == 0 ? -1 : any;
              break;
            case out_of_range:
              ids[s] = s % 3 == 0 ? experts + int(s % 2) : (s % 3 == 1 ? -5 : any);
              break;
            case repeated:
              ids[s] = int(s / model.config.top_k) % experts;
              break;
            default:
              ids[s] = any;
          }
          weights[s] = float(u + 0.1);
          ids_host.data()[s] = ids[s];
          weights_host.data()[s] = weights[s];
        }
        Kokkos::deep_copy(routing.topk_ids, ids_host);
        Kokkos::deep_copy(routing.topk_weights, weights_host);
        auto const x = model.template tokens<Space, T>(std::size_t(comm.rank()) * 17, tokens);
        kmoe::Matrix<T, Space> y("y", tokens, hidden);
        Kokkos::deep_copy(y, T(std::nan("")));
        layer.forward_routed(exec, x, routing, y);
        exec.fence();

        auto const x_host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), x);
        auto const y_host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), y);
        std::vector<double> bound;
        auto const expected =
            reference_layer<T>(model, ids, weights, doubles(x_host, 0, x_host.size()), bound);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          // Written so that NaN fails.
          ASSERT_TRUE(std::abs(double(y_host.data()[i]) - expected[i]) <= bound[i])
              << "round " << round << " E " << experts << " K " << model.config.top_k << " H "
              << hidden << " I " << model.config.intermediate_size << " ids " << kind << " element "
              << i << ": " << double(y_host.data()[i]) << " for " << expected[i] << " +- "
              << bound[i];
        }
      }
    }
  }
}

TEST(Layer, forward_allocates_nothing_and_workspace_is_exact) {
  for (auto const dispatcher : {kmoe::DispatcherKind::standard, kmoe::DispatcherKind::all_to_all}) {
    auto model = small_model();
    model.config.dispatcher = dispatcher;
    model.config.shared_intermediate_size = 16;
    kmoe::Communicator const comm(MPI_COMM_WORLD);
    Space const exec;
    auto const placement = kmoe::ExpertPlacement::contiguous(6, comm.size());
    auto const weights = my_weights(model, placement, comm.rank());
    auto const told = Layer::workspace_bytes(exec, model.config, placement, comm.rank(), 100, true);
    std::unique_ptr<Layer> layer;
    std::size_t allocated = 0;
    {
      kmoe::test::WatchAllocations const watch;
      layer = std::make_unique<Layer>(exec, comm, model.config, placement, weights, 100);
      allocated = watch.kokkos_bytes();
    }
    // On devices the weights are used where the caller has them.
    std::size_t given = 0;
    if (!std::is_same_v<Space::memory_space, Kokkos::HostSpace>) {
      for (auto const* w : {&weights.experts, &weights.shared}) {
        given +=
            (w->gate_up.size() + w->down.size() + w->gate_up_bias.size() + w->down_bias.size()) *
            sizeof(float);
      }
    }
    EXPECT_EQ(allocated + given, told + layer->weight_bytes());
    EXPECT_EQ(layer->workspace_bytes(), told);

    std::size_t const tokens = comm.rank() == 0 ? 100 : 17;
    auto const x = model.tokens<Space, float>(0, tokens);
    kmoe::Matrix<float, Space> const y("y", tokens, 32);
    {
      kmoe::test::WatchAllocations const watch;
      layer->forward(exec, x, y);
      exec.fence();
      EXPECT_EQ(watch.kokkos_allocations(), 0U);
      EXPECT_EQ(watch.large_blocks(), 0U);
    }
  }
}

TEST(Layer, every_kernel_has_a_name_and_runs_on_the_instance_passed) {
  auto const instances = Kokkos::Experimental::partition_space(Space(), 1, 1);
  Space const exec = instances[1];
  auto model = small_model();
  model.config.shared_intermediate_size = 16;
  model.config.shared_expert_gate = true;
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  auto const placement = kmoe::ExpertPlacement::contiguous(6, comm.size());
  auto const experts = placement.experts_of(comm.rank());
  for (auto const dispatcher : {kmoe::DispatcherKind::standard, kmoe::DispatcherKind::all_to_all}) {
    model.config.dispatcher = dispatcher;
    Layer layer(exec, comm, model.config, placement, model.weights<Space, float>(experts), 20);
    layer.set_profiling(true);
    auto const x = model.tokens<Space, float>(0, 20);
    kmoe::Matrix<float, Space> const y("y", 20, 32);
    kmoe::test::LaunchRecorder const recorder;
    layer.forward(exec, x, y);
    EXPECT_GE(kmoe::test::LaunchRecorder::launches().size(), 8U);
    for (auto const& launch : kmoe::test::LaunchRecorder::launches()) {
      EXPECT_TRUE(launch.label.starts_with("kmoe::")) << launch.label;
      EXPECT_EQ(launch.device, Kokkos::Tools::Experimental::device_id(exec)) << launch.label;
    }
  }
}

TEST(Layer, ranks_that_disagree_get_the_same_error) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  if (comm.size() == 1) GTEST_SKIP() << "needs two ranks";
  auto model = small_model();
  if (comm.rank() == comm.size() - 1) model.config.router.routed_scaling_factor = 2.5F;
  auto const placement = kmoe::ExpertPlacement::contiguous(6, comm.size());
  auto const weights = my_weights(model, placement, comm.rank());
  auto const what = error_of<kmoe::InvalidArgument>(
      [&] { Layer(Space(), comm, model.config, placement, weights, 10); });
  EXPECT_TRUE(contains(what, "routed_scaling_factor")) << what;
  EXPECT_TRUE(contains(what, "2.5")) << what;
}

TEST(Layer, wrong_weights_on_one_rank_are_an_error_on_all) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  auto const model = small_model();
  auto const placement = kmoe::ExpertPlacement::round_robin(6, comm.size());
  auto weights = my_weights(model, placement, comm.rank());
  if (comm.rank() == comm.size() - 1) {
    weights.experts.down =
        kmoe::Tensor3<float, Space>("short_down", weights.experts.num_experts(), 32, 47);
  }
  auto const what = error_of<kmoe::InvalidArgument>(
      [&] { Layer(Space(), comm, model.config, placement, weights, 10); });
  EXPECT_TRUE(contains(what, "experts.down")) << what;
  EXPECT_TRUE(contains(what, "48")) << what;
  EXPECT_TRUE(contains(what, "47")) << what;
  EXPECT_TRUE(contains(what, "short_down")) << what;
}

TEST(Layer, wrong_arguments_of_forward_on_one_rank_are_an_error_on_all) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  auto const model = small_model();
  auto const placement = kmoe::ExpertPlacement::contiguous(6, comm.size());
  Space const exec;
  Layer layer(exec, comm, model.config, placement, my_weights(model, placement, comm.rank()), 10);
  bool const wrong = comm.rank() == comm.size() - 1;
  kmoe::Matrix<float, Space> const good("good", 10, 32), narrow("narrow", 10, 31),
      many("many", 11, 32), out("out", 10, 32);

  auto const width =
      error_of<kmoe::InvalidArgument>([&] { layer.forward(exec, wrong ? narrow : good, out); });
  EXPECT_TRUE(contains(width, "x.extent(1) must equal hidden_size 32, found 31")) << width;
  auto const count =
      error_of<kmoe::InvalidArgument>([&] { layer.forward(exec, wrong ? many : good, out); });
  EXPECT_TRUE(contains(count, "max_tokens_per_rank 10, found 11")) << count;
  auto const alias =
      error_of<kmoe::InvalidArgument>([&] { layer.forward(exec, wrong ? out : good, out); });
  EXPECT_TRUE(contains(alias, "overlap")) << alias;
  // The layer is still usable.
  EXPECT_NO_THROW(layer.forward(exec, good, out));
}

TEST(Layer, replicated_tokens_must_agree_in_number) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  if (comm.size() == 1) GTEST_SKIP() << "needs two ranks";
  auto model = small_model();
  model.config.token_layout = kmoe::TokenLayout::replicated;
  auto const placement = kmoe::ExpertPlacement::contiguous(6, comm.size());
  Space const exec;
  Layer layer(exec, comm, model.config, placement, my_weights(model, placement, comm.rank()), 10);
  std::size_t const tokens = comm.rank() == 0 ? 9 : 10;
  kmoe::Matrix<float, Space> const x("x", tokens, 32), y("y", tokens, 32);
  auto const what = error_of<kmoe::InvalidArgument>([&] { layer.forward(exec, x, y); });
  EXPECT_TRUE(contains(what, "between 9 and 10")) << what;
}

TEST(Layer, two_layers_on_split_communicators_live_together) {
  int world_rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
  MPI_Comm half = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, world_rank % 2, 0, &half);
  {
    kmoe::Communicator const small(half), world(MPI_COMM_WORLD);
    auto const model = small_model();
    Space const exec;
    auto const build = [&](kmoe::Communicator const& comm) {
      auto const placement = kmoe::ExpertPlacement::contiguous(6, comm.size());
      return Layer(exec, comm, model.config, placement, my_weights(model, placement, comm.rank()),
                   9);
    };
    auto a = build(small);
    auto b = build(world);
    auto const x = model.tokens<Space, float>(std::size_t(world_rank) * 9, 9);
    kmoe::Matrix<float, Space> const ya("ya", 9, 32), yb("yb", 9, 32);
    a.forward(exec, x, ya);
    b.forward(exec, x, yb);
    exec.fence();
    auto const ha = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), ya);
    auto const hb = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), yb);
    for (std::size_t i = 0; i < ha.size(); ++i) ASSERT_EQ(ha.data()[i], hb.data()[i]);
  }
  MPI_Comm_free(&half);
}

}  // namespace
