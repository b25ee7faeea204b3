// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What can be seen of a layer from outside: regions of profiling tools, KMOE_LOG, KMOE_SUMMARY, and
// the routing that forward() uses.

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <mpi.h>
#include <nlohmann/json.hpp>

#include <kmoe/layer/moe_layer.hpp>

#include "device/whereabouts.hpp"
#include "support/layer_model.hpp"
#include "support/temporary_directory.hpp"

namespace {

using kmoe::test::LayerModel;
using Space = Kokkos::DefaultExecutionSpace;
using Layer = kmoe::MoeLayer<Space, float>;
bool constexpr on_device =
    !Kokkos::SpaceAccessibility<Kokkos::HostSpace, Space::memory_space>::accessible;

struct Fixture {
  Fixture() {
    model.config.hidden_size = 16;
    model.config.intermediate_size = 24;
    model.config.num_experts = 5;
    model.config.top_k = 2;
    model.config.shared_intermediate_size = 8;
    placement = kmoe::ExpertPlacement::contiguous(5, comm.size());
    auto const experts = placement->experts_of(comm.rank());
    weights = model.weights<Space, float>(experts);
    x = model.tokens<Space, float>(0, tokens);
    y = kmoe::Matrix<float, Space>("y", tokens, 16);
  }
  Layer layer() { return Layer(exec, comm, model.config, *placement, weights, 20); }

  Space exec;
  kmoe::Communicator comm{MPI_COMM_WORLD};
  LayerModel model;
  std::optional<kmoe::ExpertPlacement> placement;
  kmoe::LayerWeights<Space, float> weights;
  kmoe::index_t tokens = 3 + comm.rank();
  kmoe::Matrix<float, Space> x, y;
};

/// An environment variable for a scope.
class Variable {
 public:
  Variable(char const* name, std::string const& value) : name_(name) {
    ::setenv(name, value.c_str(), 1);
  }
  Variable(Variable const&) = delete;
  Variable& operator=(Variable const&) = delete;
  ~Variable() { ::unsetenv(name_); }

 private:
  char const* name_;
};

/// Follows the regions for as long as it lives, and throws at a kernel on request.
class Regions {
 public:
  Regions() {
    opened.clear();
    depth = 0;
    throw_in.clear();
    namespace Tools = Kokkos::Tools::Experimental;
    Tools::set_push_region_callback([](char const* name) {
      opened.emplace_back(name);
      stack.emplace_back(name);
      ++depth;
    });
    Tools::set_pop_region_callback([] {
      stack.pop_back();
      --depth;
    });
    Tools::set_begin_parallel_for_callback([](char const*, std::uint32_t, std::uint64_t*) {
      if (!throw_in.empty() && !stack.empty() && stack.back() == throw_in) {
        throw_in.clear();
        throw std::runtime_error("a tool that throws");
      }
    });
  }
  Regions(Regions const&) = delete;
  Regions& operator=(Regions const&) = delete;
  ~Regions() {
    namespace Tools = Kokkos::Tools::Experimental;
    Tools::set_push_region_callback(nullptr);
    Tools::set_pop_region_callback(nullptr);
    Tools::set_begin_parallel_for_callback(nullptr);
    stack.clear();
  }
  static bool has(std::string const& name) {
    return std::find(opened.begin(), opened.end(), name) != opened.end();
  }

  inline static std::vector<std::string> opened, stack;
  inline static int depth = 0;
  inline static std::string throw_in;
};

TEST(Observe, RegionsAreNamedAndBalanced) {
  Fixture f;
  Regions const regions;
  auto layer = f.layer();
  layer.forward(f.exec, f.x, f.y);
  EXPECT_EQ(Regions::depth, 0);
  for (char const* name :
       {"build", "forward", "route", "dispatch", "experts", "combine", "shared"}) {
    EXPECT_TRUE(Regions::has(std::string("kmoe::MoeLayer::") + name)) << name;
  }
  for (auto const& name : Regions::opened) {
    // Kokkos Kernels opens regions of its own inside of ours.
    EXPECT_TRUE(name.starts_with("kmoe::") || name.starts_with("KokkosBlas::")) << name;
  }
}

TEST(Observe, RegionsAreBalancedAfterAThrow) {
  Fixture f;
  Regions const regions;
  auto layer = f.layer();
  kmoe::Matrix<float, Space> const wrong("wrong", f.tokens, 17);
  EXPECT_THROW(layer.forward(f.exec, wrong, f.y), kmoe::InvalidArgument);
  EXPECT_EQ(Regions::depth, 0);
  EXPECT_THROW(layer.forward_routed(f.exec, f.x, {}, f.y), kmoe::InvalidArgument);
  EXPECT_EQ(Regions::depth, 0);
  auto config = f.model.config;
  config.top_k = 0;
  EXPECT_THROW(Layer(f.exec, f.comm, config, *f.placement, f.weights, 20), kmoe::InvalidArgument);
  EXPECT_EQ(Regions::depth, 0);
}

// An error from deep inside of each phase that runs kernels, with and without profiling. On one
// rank, since the others would wait for the one that throws.
TEST(Observe, RegionsAreBalancedAfterAThrowInAPhase) {
  Fixture f;
  if (f.comm.size() > 1) GTEST_SKIP() << "needs one rank";
  for (bool const profiling : {false, true}) {
    for (char const* phase : {"route", "dispatch", "combine", "shared"}) {
      // A device's experts may group the tokens of one rank in their own launch.
      if (on_device && !profiling && phase == std::string("dispatch")) continue;
      Regions const regions;
      auto layer = f.layer();
      layer.set_profiling(profiling);
      Regions::throw_in = std::string("kmoe::MoeLayer::") + phase;
      EXPECT_THROW(layer.forward(f.exec, f.x, f.y), std::runtime_error) << phase;
      EXPECT_EQ(Regions::depth, 0) << phase;
      EXPECT_TRUE(Regions::has(std::string("kmoe::MoeLayer::") + phase));
    }
  }
}

TEST(Observe, ComputeRoutingIsWhatForwardUses) {
  Fixture f;
  f.model.config.workspace_limit_bytes = 1;  // chunks of one token
  auto layer = f.layer();
  ASSERT_EQ(layer.chunk_tokens(), 1);
  kmoe::Routing<Space> routing{kmoe::Matrix<kmoe::index_t, Space>("ids", f.tokens, 2),
                               kmoe::Matrix<float, Space>("weights", f.tokens, 2)};
  layer.route(f.exec, f.x, routing);
  layer.forward(f.exec, f.x, f.y);
  kmoe::Matrix<float, Space> const again("again", f.tokens, 16);
  layer.forward_routed(f.exec, f.x, routing, again);
  f.exec.fence();
  auto const a = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), f.y);
  auto const b = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), again);
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_EQ(a.data()[i], b.data()[i]);
  auto wrong = routing;
  wrong.topk_ids = kmoe::Matrix<kmoe::index_t, Space>("ids", f.tokens, 3);
  EXPECT_THROW(layer.route(f.exec, f.x, wrong), kmoe::InvalidArgument);
}

TEST(Observe, LogIsMuteUntilAsked) {
  Fixture f;
  auto const run = [&] {
    testing::internal::CaptureStderr();
    {
      auto layer = f.layer();
      layer.forward(f.exec, f.x, f.y);
    }
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(run(), "");
  std::string const head = "kmoe: rank " + std::to_string(f.comm.rank()) + ": ";
  {
    Variable const log("KMOE_LOG", "info");
    auto const text = run();
    EXPECT_EQ(text.rfind(head + "layer built: ", 0), 0U) << text;
    EXPECT_NE(text.find(" on " + kmoe::device::describe_device(f.exec) + " gpu_aware"),
              std::string::npos)
        << text;
    EXPECT_EQ(text.find("forward"), std::string::npos) << text;
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  }
  {
    Variable const log("KMOE_LOG", "debug");
    auto const text = run();
    EXPECT_NE(text.find(head + "forward: tokens=" + std::to_string(f.tokens)), std::string::npos)
        << text;
  }
  Variable const log("KMOE_LOG", "loud");
  EXPECT_THROW(f.layer(), kmoe::InvalidArgument);
}

TEST(Observe, SummaryOfEachLayer) {
  Fixture f;
  kmoe::test::TemporaryDirectory const folder;
  auto const path = (folder / "summary.%r.json").string();
  {
    Variable const summary("KMOE_SUMMARY", path);
    auto first = f.layer();
    first.forward(f.exec, f.x, f.y);
    first.forward(f.exec, f.x, f.y);
    auto second = f.layer();
  }
  auto name = path;
  name.replace(name.find("%r"), 2, std::to_string(f.comm.rank()));
  std::ifstream file(name);
  auto const json = nlohmann::json::parse(file);
  ASSERT_EQ(json["layers"].size(), 2U);  // in the order in which they ended
  auto const& layer = json["layers"][1];
  EXPECT_EQ(json["layers"][0]["forward_calls"], 0);
  EXPECT_EQ(layer["forward_calls"], 2);
  EXPECT_EQ(layer["ranks"], f.comm.size());
  EXPECT_EQ(layer["tokens"], 2 * f.tokens);
  double seconds = 0;
  for (char const* phase : {"shared", "route", "dispatch", "experts", "combine"}) {
    EXPECT_EQ(layer["phases"][phase]["count"], 2) << phase;
    seconds += layer["phases"][phase]["seconds"].get<double>();
  }
  EXPECT_GT(seconds, 0);
}

}  // namespace
