// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// KMOE_SUMMARY of programs that end before their layers do. Each runs as a process of its own.

#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <kmoe/kmoe.h>
#include <kmoe/layer/moe_layer.hpp>

#include "support/layer_model.hpp"
#include "support/temporary_directory.hpp"

namespace {

using Space = Kokkos::DefaultExecutionSpace;
using Layer = kmoe::MoeLayer<Space, float>;

/// A layer that nobody destroys, after `calls` steps of three tokens.
Layer& abandoned_layer(int calls) {
  kmoe::test::LayerModel model;
  model.config.hidden_size = 8;
  model.config.intermediate_size = 4;
  model.config.num_experts = 2;
  model.config.top_k = 1;
  Space const exec;
  auto& layer =
      *new Layer(exec, kmoe::Communicator(), model.config, kmoe::ExpertPlacement::contiguous(2, 1),
                 model.weights<Space, float>(std::vector<kmoe::index_t>{0, 1}), 3);
  auto const x = model.tokens<Space, float>(0, 3);
  kmoe::Matrix<float, Space> const y("y", 3, 8);
  for (int i = 0; i < calls; ++i) layer.forward(exec, x, y);
  return layer;
}

[[noreturn]] void leave_by_exit() {
  abandoned_layer(2);
  delete &abandoned_layer(1);
  abandoned_layer(3);
  std::exit(0);
}

[[noreturn]] void leave_by_finalize() {
  abandoned_layer(2);
  delete &abandoned_layer(1);
  abandoned_layer(3);
  Kokkos::finalize();
  std::_Exit(0);
}

/// A C program that forgets everything but its layer.
[[noreturn]] void leave_c() {
  kmoe_comm comm = nullptr;
  kmoe_layer layer = nullptr;
  kmoe_layer_options options;
  kmoe_layer_weights weights;
  kmoe_layer_options_init(&options, sizeof(options));
  kmoe_layer_weights_init(&weights, sizeof(weights));
  options.hidden_size = 1;
  options.num_experts = options.num_user_experts = options.top_k = 1;
  options.intermediate_size = 1;
  options.max_tokens_per_rank = 1;
  bool const ok = kmoe_initialize() == KMOE_SUCCESS &&
                  kmoe_comm_create_self(&comm) == KMOE_SUCCESS &&
                  kmoe_layer_create(comm, &options, &weights, &layer) == KMOE_SUCCESS;
  std::exit(ok ? 0 : 1);
}

/// forward_calls of each layer of the summary that `program` leaves.
std::vector<int> calls_after(void (*program)()) {
  // The process is this program once more, which finds the variable set when it comes here.
  std::optional<kmoe::test::TemporaryDirectory> folder;
  std::string path;
  if (std::getenv("KMOE_SUMMARY") == nullptr) {
    path = (folder.emplace() / "summary.json").string();
    ::setenv("KMOE_SUMMARY", path.c_str(), 1);
  }
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(program(), ::testing::ExitedWithCode(0), "");
  ::unsetenv("KMOE_SUMMARY");
  std::ifstream file(path);
  if (!file) return {};
  std::vector<int> calls;
  auto const json = nlohmann::json::parse(file);
  for (auto const& layer : json["layers"]) {
    EXPECT_EQ(layer["tokens"].get<int>(), 3 * layer["forward_calls"].get<int>());
    calls.push_back(layer["forward_calls"]);
  }
  return calls;
}

TEST(SummaryDeathTest, is_written_at_exit) {
  EXPECT_EQ(calls_after(leave_by_exit), (std::vector{1, 2, 3}));
}

TEST(SummaryDeathTest, is_written_when_kokkos_ends) {
  EXPECT_EQ(calls_after(leave_by_finalize), (std::vector{1, 2, 3}));
}

TEST(SummaryDeathTest, is_written_for_c_programs_that_end_nothing) {
  EXPECT_EQ(calls_after(leave_c), std::vector{0});
}

}  // namespace
