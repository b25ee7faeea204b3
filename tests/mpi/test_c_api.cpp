// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The C interface on several ranks: weights in every layout against plain loops, checkpoints, and
// errors of one rank that are the same code and text on all.

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <mpi.h>

#include <kmoe/kmoe.h>
#include <kmoe/kmoe.hpp>

#include "support/layer_model.hpp"
#include "support/layer_reference.hpp"

namespace {

using kmoe::index_t;
using kmoe::test::contains;
using kmoe::test::doubles;
using kmoe::test::LayerModel;
using Host = Kokkos::DefaultHostExecutionSpace;

/// kmoe between its two calls; Kokkos runs already, and stays.
class CApi : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(kmoe_initialize_mpi(MPI_COMM_WORLD), KMOE_SUCCESS) << kmoe_last_error();
    ASSERT_EQ(kmoe_comm_create(MPI_COMM_WORLD, &comm_), KMOE_SUCCESS) << kmoe_last_error();
    ASSERT_EQ(kmoe_comm_rank(comm_, &rank_), KMOE_SUCCESS);
    ASSERT_EQ(kmoe_comm_size(comm_, &size_), KMOE_SUCCESS);
  }
  void TearDown() override {
    EXPECT_EQ(kmoe_finalize(), KMOE_SUCCESS) << kmoe_last_error();
    EXPECT_TRUE(Kokkos::is_initialized());
  }
  [[nodiscard]] bool last() const { return rank_ == size_ - 1; }

  kmoe_comm comm_ = nullptr;
  int32_t rank_ = -1, size_ = 0;
};

kmoe_layer_options options_of(LayerModel const& model, kmoe_dtype dtype, int32_t max_tokens) {
  kmoe_layer_options o;
  EXPECT_EQ(kmoe_layer_options_init(&o, sizeof(o)), KMOE_SUCCESS);
  o.dtype = dtype;
  o.space = KMOE_SPACE_HOST;
  o.hidden_size = model.config.hidden_size;
  o.intermediate_size = model.config.intermediate_size;
  o.num_experts = model.config.num_experts;
  o.top_k = model.config.top_k;
  o.gate_up_layout = static_cast<int32_t>(model.layout);
  o.max_tokens_per_rank = max_tokens;
  return o;
}

/// Each of n matrices [rows][cols] as [cols][rows].
template <class T>
std::vector<T> transposed(T const* in, std::size_t n, std::size_t rows, std::size_t cols) {
  std::vector<T> out(n * rows * cols);
  for (std::size_t e = 0; e < n; ++e) {
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t c = 0; c < cols; ++c) {
        out[(e * cols + c) * rows + r] = in[(e * rows + r) * cols + c];
      }
    }
  }
  return out;
}

/// The status and the text of a call, after checking that every rank has the same.
int agreed(int status) {
  std::array<char, 1024> mine{}, first{};
  std::snprintf(mine.data(), mine.size(), "%d %s", status, status == 0 ? "" : kmoe_last_error());
  first = mine;
  MPI_Bcast(first.data(), int(first.size()), MPI_CHAR, 0, MPI_COMM_WORLD);
  EXPECT_STREQ(mine.data(), first.data());
  return status;
}

kmoe_dtype constexpr dtypes[] = {KMOE_F64, KMOE_F32, KMOE_BF16, KMOE_F16};

template <class T>
void check_layouts(kmoe_comm comm, int32_t rank, int32_t ranks, kmoe_dtype dtype) {
  int round = 0;
  for (int layout = 0; layout < 4; ++layout) {
    for (bool const transpose : {false, true}) {
      for (bool const biases : {false, true}) {
        LayerModel model;
        model.seed = 50 + std::uint64_t(round++);
        model.config.hidden_size = 18;
        model.config.intermediate_size = 11;
        model.config.num_experts = 5;
        model.config.top_k = 2;
        model.layout = static_cast<kmoe::GateUpLayout>(layout);
        model.biases = biases;
        auto options = options_of(model, dtype, 8);
        options.dispatcher = round % 2;
        options.placement = KMOE_PLACEMENT_ROUND_ROBIN;
        std::vector<int32_t> mine(5);
        std::size_t count = 0;
        ASSERT_EQ(kmoe_local_experts(&options, rank, ranks, 5, mine.data(), &count), KMOE_SUCCESS);
        mine.resize(count);
        auto const native = model.weights<Host, T>(mine);
        auto const& e = native.experts;
        auto router = transposed(native.router.weight.data(), 1, 5, 18);
        auto gate_up = transposed(e.gate_up.data(), count, e.gate_up.extent(1), 18);
        auto down = transposed(e.down.data(), count, 18, 11);

        kmoe_layer_weights weights;
        ASSERT_EQ(kmoe_layer_weights_init(&weights, sizeof(weights)), KMOE_SUCCESS);
        weights.router = transpose ? router.data() : native.router.weight.data();
        weights.router_bias = native.router.bias.data();
        weights.gate_up = transpose ? gate_up.data() : e.gate_up.data();
        weights.down = transpose ? down.data() : e.down.data();
        weights.gate_up_bias = e.gate_up_bias.data();
        weights.down_bias = e.down_bias.data();
        weights.router_transposed = weights.gate_up_transposed = weights.down_transposed =
            transpose ? 1 : 0;
        weights.copy = 1;
        kmoe_layer layer = nullptr;
        ASSERT_EQ(kmoe_layer_create(comm, &options, &weights, &layer), KMOE_SUCCESS)
            << kmoe_last_error();
        // Copied: what becomes of the arrays does not matter.
        std::fill(router.begin(), router.end(), T(std::nan("")));
        std::fill(gate_up.begin(), gate_up.end(), T(std::nan("")));
        std::fill(down.begin(), down.end(), T(std::nan("")));

        std::size_t const tokens = (rank + round) % 3 == 0 ? 0 : 7;
        auto const x = model.tokens<Host, T>(std::size_t(rank) * 8, tokens);
        std::vector<T> y(tokens * 18, T(std::nan("")));
        std::vector<int32_t> ids(tokens * 2, -9);
        std::vector<float> scores(tokens * 2);
        ASSERT_EQ(kmoe_layer_route(layer, tokens, x.data(), ids.data(), scores.data()),
                  KMOE_SUCCESS)
            << kmoe_last_error();
        ASSERT_EQ(kmoe_layer_forward(layer, tokens, x.data(), y.data()), KMOE_SUCCESS)
            << kmoe_last_error();
        std::vector<double> bound;
        auto const expected =
            kmoe::test::reference_layer<T>(model, ids, scores, doubles(x, 0, x.size()), bound);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          EXPECT_TRUE(std::abs(double(y[i]) - expected[i]) <= bound[i])
              << "layout " << layout << " transposed " << transpose << " biases " << biases
              << " element " << i << ": " << double(y[i]) << " for " << expected[i];
        }
        EXPECT_EQ(kmoe_layer_destroy(layer), KMOE_SUCCESS);
      }
    }
  }
}

TEST_F(CApi, takes_weights_of_every_type_and_layout) {
  check_layouts<double>(comm_, rank_, size_, KMOE_F64);
  check_layouts<float>(comm_, rank_, size_, KMOE_F32);
  check_layouts<kmoe::bfloat16>(comm_, rank_, size_, KMOE_BF16);
  check_layouts<kmoe::half>(comm_, rank_, size_, KMOE_F16);
}

TEST_F(CApi, runs_a_checkpoint_as_cpp_does) {
  std::string const directory = std::string(KMOE_GOLDEN_DIR) + "/qwen3_moe";
  kmoe_checkpoint checkpoint = nullptr;
  ASSERT_EQ(kmoe_checkpoint_open(directory.c_str(), &checkpoint), KMOE_SUCCESS);
  std::size_t count = 0;
  ASSERT_EQ(kmoe_checkpoint_layers(checkpoint, 0, nullptr, &count), KMOE_SUCCESS);
  std::vector<int32_t> layers(count);
  ASSERT_EQ(kmoe_checkpoint_layers(checkpoint, count, layers.data(), &count), KMOE_SUCCESS);
  ASSERT_FALSE(layers.empty());

  kmoe::io::Checkpoint const same(directory);
  auto const& block = same.block(layers[0]);
  for (auto const dtype : dtypes) {
    kmoe_layer_options options;
    ASSERT_EQ(kmoe_layer_options_init(&options, sizeof(options)), KMOE_SUCCESS);
    options.dtype = dtype;
    options.space = KMOE_SPACE_HOST;
    options.max_tokens_per_rank = 9;
    ASSERT_EQ(kmoe_checkpoint_options(checkpoint, layers[0], &options), KMOE_SUCCESS);
    EXPECT_EQ(options.num_experts, block.config.num_experts);
    EXPECT_EQ(options.max_tokens_per_rank, 9);
    kmoe_layer layer = nullptr;
    ASSERT_EQ(kmoe_layer_create_from_checkpoint(comm_, checkpoint, layers[0], &options, &layer),
              KMOE_SUCCESS)
        << kmoe_last_error();
    if (dtype != KMOE_F32) continue;  // kmoe_finalize frees the layer
    auto config = block.config;
    config.dispatcher = kmoe::DispatcherKind::all_to_all;
    kmoe::Communicator const comm(MPI_COMM_WORLD);
    auto const placement = kmoe::ExpertPlacement::contiguous(config.num_experts, size_);
    Host const exec;
    kmoe::MoeLayer<Host, float> cpp(
        exec, comm, config, placement,
        kmoe::io::load_weights<Host, float>(exec, same, block, placement.experts_of(rank_)), 9);
    LayerModel model;
    model.config = config;
    auto const x = model.tokens<Host, float>(std::size_t(rank_) * 9, 9);
    kmoe::Matrix<float, Host> const y("y", 9, config.hidden_size), z("z", 9, config.hidden_size);
    cpp.forward(exec, x, y);
    ASSERT_EQ(kmoe_layer_forward_host(layer, 9, x.data(), z.data()), KMOE_SUCCESS);
    EXPECT_EQ(std::memcmp(y.data(), z.data(), y.size() * sizeof(float)), 0);
  }
  kmoe_layer none = nullptr;
  kmoe_layer_options options;
  ASSERT_EQ(kmoe_layer_options_init(&options, sizeof(options)), KMOE_SUCCESS);
  ASSERT_EQ(kmoe_checkpoint_options(checkpoint, layers[0], &options), KMOE_SUCCESS);
  EXPECT_EQ(agreed(kmoe_layer_create_from_checkpoint(comm_, checkpoint, last() ? 9999 : layers[0],
                                                     &options, &none)),
            KMOE_ERROR_INVALID_ARGUMENT);
  EXPECT_TRUE(contains(kmoe_last_error(), "9999")) << kmoe_last_error();
  EXPECT_EQ(none, nullptr);
}

TEST_F(CApi, takes_fortran_communicators) {
  kmoe_comm comm = nullptr;
  ASSERT_EQ(kmoe_initialize_mpi_f(MPI_Comm_c2f(MPI_COMM_WORLD)), KMOE_SUCCESS);
  ASSERT_EQ(kmoe_comm_create_f(MPI_Comm_c2f(MPI_COMM_WORLD), &comm), KMOE_SUCCESS);
  int32_t rank = -1;
  EXPECT_EQ(kmoe_comm_rank(comm, &rank), KMOE_SUCCESS);
  EXPECT_EQ(rank, rank_);
  EXPECT_EQ(kmoe_comm_destroy(comm), KMOE_SUCCESS);
  EXPECT_EQ(kmoe_finalize(), KMOE_SUCCESS);
  EXPECT_NE(kmoe_comm_create(MPI_COMM_NULL, &comm), KMOE_SUCCESS);
}

TEST_F(CApi, the_latest_error_is_of_its_thread) {
  EXPECT_EQ(kmoe_comm_rank(nullptr, &rank_), KMOE_ERROR_INVALID_HANDLE);
  std::string const text = kmoe_last_error();
  EXPECT_TRUE(contains(text, "comm is null")) << text;
  std::thread([] {
    EXPECT_STREQ(kmoe_last_error(), "");
    EXPECT_EQ(kmoe_layer_destroy(nullptr), KMOE_ERROR_INVALID_HANDLE);
    EXPECT_TRUE(contains(kmoe_last_error(), "layer is null")) << kmoe_last_error();
  }).join();
  EXPECT_EQ(kmoe_last_error(), text);
}

struct Solver {
  int fails_for = -1;
  int throws_for = -1;
  std::size_t rows = 0;
};

int solve(void* context, int32_t expert, std::size_t rows, void const* x, void* y) {
  auto& solver = *static_cast<Solver*>(context);
  solver.rows += rows;
  if (expert == solver.fails_for) return 17;
  if (expert == solver.throws_for) throw std::runtime_error("no convergence");
  for (std::size_t i = 0; i < rows * 18; ++i) {
    static_cast<double*>(y)[i] = -static_cast<double const*>(x)[i];
  }
  return 0;
}

TEST_F(CApi, an_error_on_one_rank_is_the_same_on_all) {
  LayerModel model;
  model.config.hidden_size = 18;
  model.config.intermediate_size = 4;
  model.config.num_experts = size_;  // all of them the caller's, one on each rank
  model.config.top_k = 1;
  auto options = options_of(model, KMOE_F64, 8);
  options.num_user_experts = size_;
  kmoe_layer_weights weights;
  ASSERT_EQ(kmoe_layer_weights_init(&weights, sizeof(weights)), KMOE_SUCCESS);

  kmoe_layer layer = nullptr;
  EXPECT_EQ(agreed(kmoe_layer_create(comm_, last() ? nullptr : &options, &weights, &layer)),
            KMOE_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(agreed(kmoe_layer_create(comm_, &options, last() ? nullptr : &weights, &layer)),
            KMOE_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(agreed(kmoe_layer_create(comm_, &options, &weights, last() ? nullptr : &layer)),
            KMOE_ERROR_INVALID_ARGUMENT);
  auto other = options;
  if (last()) other.max_tokens_per_rank = 9;
  if (size_ > 1) {
    EXPECT_EQ(agreed(kmoe_layer_create(comm_, &other, &weights, &layer)),
              KMOE_ERROR_INVALID_ARGUMENT);
    EXPECT_TRUE(contains(kmoe_last_error(), "max_tokens_per_rank")) << kmoe_last_error();
    other = options;
    if (last()) other.dtype = KMOE_F32;
    EXPECT_EQ(agreed(kmoe_layer_create(comm_, &other, &weights, &layer)),
              KMOE_ERROR_INVALID_ARGUMENT);
    EXPECT_TRUE(contains(kmoe_last_error(), "element")) << kmoe_last_error();
  }
  EXPECT_EQ(layer, nullptr);
  ASSERT_EQ(agreed(kmoe_layer_create(comm_, &options, &weights, &layer)), KMOE_SUCCESS);

  std::vector<double> x(8 * 18, 0.5 + rank_), y(8 * 18);
  // Every token to the next rank's expert; no router.
  std::vector<int32_t> const ids(8, (rank_ + 1) % size_);
  std::vector<float> const ones(8, 1.0F);
  auto const run = [&](std::size_t tokens, void const* in) {
    return agreed(kmoe_layer_forward_routed(layer, tokens, in, ids.data(), ones.data(), y.data()));
  };
  EXPECT_EQ(agreed(kmoe_layer_forward(layer, 8, x.data(), y.data())), KMOE_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(run(8, x.data()), KMOE_ERROR_INVALID_ARGUMENT);
  EXPECT_TRUE(contains(kmoe_last_error(), "set_user_experts")) << kmoe_last_error();
  Solver solver;
  ASSERT_EQ(kmoe_layer_set_expert_function(layer, solve, &solver), KMOE_SUCCESS);
  EXPECT_EQ(run(last() ? 9 : 8, x.data()), KMOE_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(run(8, last() ? nullptr : x.data()), KMOE_ERROR_INVALID_ARGUMENT);
  solver.fails_for = 0;
  EXPECT_EQ(run(8, x.data()), KMOE_ERROR_CALLBACK);
  EXPECT_TRUE(contains(kmoe_last_error(), "returned 17 for expert 0")) << kmoe_last_error();
  solver = {.throws_for = 0};  // a function in C++ may
  EXPECT_NE(run(8, x.data()), KMOE_SUCCESS);
  EXPECT_TRUE(contains(kmoe_last_error(), "no convergence")) << kmoe_last_error();
  solver = {};
  EXPECT_EQ(agreed(last() ? kmoe_layer_abandon_forward(layer, "mesh is tangled")
                          : kmoe_layer_forward_routed(layer, 8, x.data(), ids.data(), ones.data(),
                                                      y.data())),
            KMOE_ERROR_INVALID_ARGUMENT);
  EXPECT_TRUE(contains(kmoe_last_error(), "mesh is tangled")) << kmoe_last_error();
  EXPECT_EQ(solver.rows, 0U);

  ASSERT_EQ(run(8, x.data()), KMOE_SUCCESS);
  EXPECT_EQ(solver.rows, 8U);
  for (double const value : y) EXPECT_EQ(value, -0.5 - rank_);
  kmoe_layer_report report{};
  report.size = sizeof(report);
  ASSERT_EQ(kmoe_layer_get_report(layer, &report), KMOE_SUCCESS);
  EXPECT_EQ(report.tokens_sent, size_ == 1 ? 0 : 24);  // two failed steps and this one
  // A group may go before its layers.
  EXPECT_EQ(kmoe_comm_destroy(comm_), KMOE_SUCCESS);
  EXPECT_EQ(run(8, x.data()), KMOE_SUCCESS);
  EXPECT_EQ(kmoe_layer_destroy(layer), KMOE_SUCCESS);
  EXPECT_EQ(agreed(kmoe_layer_create(comm_, &options, &weights, &layer)),
            KMOE_ERROR_INVALID_HANDLE);
}

TEST(CApiBefore, comm_create_before_initialize_is_an_error_on_every_rank) {
  kmoe_comm comm = nullptr;
  EXPECT_EQ(agreed(kmoe_comm_create(MPI_COMM_WORLD, &comm)), KMOE_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(comm, nullptr);
}

}  // namespace
