// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The layer against the float64 reference, its memory, and its errors, which are the same on every
// rank.

#include <atomic>
#include <cstdlib>
#include <new>

#include <gtest/gtest.h>
#include <mpi.h>

#include <kmoe/layer/moe_layer.hpp>

#include "reference/moe_layer.hpp"
#include "support/layer_model.hpp"

namespace {

using kmoe::index_t;
using kmoe::test::LayerModel;
using Space = Kokkos::DefaultExecutionSpace;
using Layer = kmoe::MoeLayer<Space, float>;

// Counted while a forward() runs: memory from Kokkos, and blocks from operator new that are too
// large to be a kernel's label.
std::atomic<bool> watching{false};
std::atomic<std::size_t> kokkos_allocations{0};
std::atomic<std::size_t> kokkos_bytes{0};
std::atomic<std::size_t> large_blocks{0};
constexpr std::size_t large = 1024;

}  // namespace

void* operator new(std::size_t size) {
  if (watching && size >= large) ++large_blocks;
  if (void* const memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

class WatchAllocations {
 public:
  WatchAllocations() {
    kokkos_allocations = kokkos_bytes = large_blocks = 0;
    Kokkos::Tools::Experimental::set_allocate_data_callback(
        [](Kokkos_Profiling_SpaceHandle, char const*, void const*, std::uint64_t bytes) {
          ++kokkos_allocations;
          kokkos_bytes += bytes;
        });
    watching = true;
  }
  WatchAllocations(WatchAllocations const&) = delete;
  WatchAllocations& operator=(WatchAllocations const&) = delete;
  ~WatchAllocations() {
    watching = false;
    Kokkos::Tools::Experimental::set_allocate_data_callback(nullptr);
  }
};

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

/// What() of the error that `call` throws on this rank, after checking that every rank has the
/// same.
template <class Exception, class F>
std::string error_of(F const& call) {
  std::string what = "no error";
  try {
    call();
  } catch (Exception const& error) {
    what = error.what();
  }
  std::array<char, 1024> mine{}, first{};
  what.copy(mine.data(), mine.size() - 1);
  first = mine;
  MPI_Bcast(first.data(), int(first.size()), MPI_CHAR, 0, MPI_COMM_WORLD);
  EXPECT_STREQ(mine.data(), first.data());
  return what;
}

bool contains(std::string const& text, std::string const& part) {
  return text.find(part) != std::string::npos;
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
    auto const told =
        Layer::workspace_bytes(exec, model.config, placement, comm.rank(), 100, true);
    std::unique_ptr<Layer> layer;
    {
      WatchAllocations const watch;
      layer = std::make_unique<Layer>(exec, comm, model.config, placement, weights, 100);
    }
    EXPECT_EQ(kokkos_bytes.load(), told + layer->weight_bytes());
    EXPECT_EQ(layer->workspace_bytes(), told);

    std::size_t const tokens = comm.rank() == 0 ? 100 : 17;
    auto const x = model.tokens<Space, float>(0, tokens);
    kmoe::Matrix<float, Space> const y("y", tokens, 32);
    {
      WatchAllocations const watch;
      layer->forward(exec, x, y);
      exec.fence();
    }
    EXPECT_EQ(kokkos_allocations.load(), 0U);
    EXPECT_EQ(large_blocks.load(), 0U);
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
    weights.experts.down = kmoe::Tensor3<float, Space>("short_down", weights.experts.num_experts(), 32, 47);
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

  auto const width = error_of<kmoe::InvalidArgument>(
      [&] { layer.forward(exec, wrong ? narrow : good, out); });
  EXPECT_TRUE(contains(width, "x.extent(1) must equal hidden_size 32, found 31")) << width;
  auto const count = error_of<kmoe::InvalidArgument>(
      [&] { layer.forward(exec, wrong ? many : good, out); });
  EXPECT_TRUE(contains(count, "max_tokens_per_rank 10, found 11")) << count;
  auto const alias = error_of<kmoe::InvalidArgument>(
      [&] { layer.forward(exec, wrong ? out : good, out); });
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
      return Layer(exec, comm, model.config, placement, my_weights(model, placement, comm.rank()), 9);
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
