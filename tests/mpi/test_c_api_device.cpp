// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The C interface with pointers into the memory of Kokkos' default space: that of the device where
// there is one.

#include <cmath>
#include <type_traits>

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
using Space = Kokkos::DefaultExecutionSpace;
bool constexpr on_device =
    !Kokkos::SpaceAccessibility<Kokkos::HostSpace, Space::memory_space>::accessible;

index_t constexpr hidden = 64, max_tokens = 40;

template <class View>
auto on_host(View const& view) {
  return Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
}

template <class T>
kmoe_dtype constexpr dtype = std::is_same_v<T, float> ? KMOE_F32 : KMOE_BF16;

/// A block of bytes of a memory space, aligned as the interface asks, with a guard on each side.
template <class Memory>
class Block {
 public:
  explicit Block(std::size_t bytes) : bytes_(bytes), all_("block", bytes + 3 * guard) {
    auto const address = reinterpret_cast<std::uintptr_t>(all_.data());
    begin_ = guard + (guard - address % guard) % guard;
    Kokkos::deep_copy(all_, 0xff);  // floats of it are NaN
  }
  [[nodiscard]] void* data() const { return all_.data() + begin_; }
  [[nodiscard]] bool guards_stand() const {
    auto const now = on_host(all_);
    for (std::size_t i = 0; i < guard; ++i) {
      if (now(begin_ - 1 - i) != 0xff || now(begin_ + bytes_ + i) != 0xff) return false;
    }
    return true;
  }

 private:
  static std::size_t constexpr guard = 128;
  std::size_t bytes_, begin_ = 0;
  Kokkos::View<unsigned char*, Memory> all_;
};

/// The part of a rank in a layer of five experts, the last of them a user expert, whose weights,
/// tokens and results lie in the default space's memory.
template <class T>
class Part {
 public:
  Part() {
    EXPECT_EQ(kmoe_initialize_mpi(MPI_COMM_WORLD), KMOE_SUCCESS) << kmoe_last_error();
    EXPECT_EQ(kmoe_comm_create(MPI_COMM_WORLD, &comm), KMOE_SUCCESS) << kmoe_last_error();
    EXPECT_EQ(kmoe_comm_rank(comm, &rank), KMOE_SUCCESS);
    EXPECT_EQ(kmoe_comm_size(comm, &size), KMOE_SUCCESS);
    model.config.hidden_size = hidden;
    model.config.intermediate_size = 48;
    model.config.num_experts = 5;
    model.config.num_user_experts = 1;
    model.config.top_k = 2;
    EXPECT_EQ(kmoe_layer_options_init(&options, sizeof(options)), KMOE_SUCCESS);
    options.dtype = dtype<T>;
    options.hidden_size = hidden;
    options.intermediate_size = 48;
    options.num_experts = 5;
    options.num_user_experts = 1;
    options.top_k = 2;
    options.max_tokens_per_rank = max_tokens;
    std::vector<int32_t> mine(5);
    std::size_t count = 0;
    EXPECT_EQ(kmoe_local_experts(&options, rank, size, 5, mine.data(), &count), KMOE_SUCCESS);
    mine.resize(count);  // without the user expert
    views = model.weights<Space, T>(mine);
    down = kmoe::Tensor3<T, Space>("down", count, hidden, 48);
    Kokkos::deep_copy(down, views.experts.down);
    EXPECT_EQ(kmoe_layer_weights_init(&weights, sizeof(weights)), KMOE_SUCCESS);
    weights.router = views.router.weight.data();
    weights.gate_up = views.experts.gate_up.data();
    weights.down = down.data();
    tokens = rank % 2 == 0 ? 37 : 0;
    x = model.tokens<Space, T>(std::size_t(rank) * max_tokens, tokens);
    y = kmoe::Matrix<T, Space>("y", tokens, hidden);
    ids = kmoe::Matrix<index_t, Space>("ids", tokens, 2);
    scores = kmoe::Matrix<float, Space>("scores", tokens, 2);
  }
  ~Part() { EXPECT_EQ(kmoe_finalize(), KMOE_SUCCESS) << kmoe_last_error(); }
  Part(Part const&) = delete;
  Part& operator=(Part const&) = delete;

  kmoe_layer create() {
    kmoe_layer layer = nullptr;
    EXPECT_EQ(kmoe_layer_create(comm, &options, &weights, &layer), KMOE_SUCCESS)
        << kmoe_last_error();
    EXPECT_EQ(kmoe_layer_set_expert_function(layer, negate, nullptr), KMOE_SUCCESS);
    return layer;
  }

  /// y of the layer's own router, from device pointers to device pointers.
  std::vector<double> forward(kmoe_layer layer) {
    Kokkos::deep_copy(y, T(std::nan("")));
    EXPECT_EQ(kmoe_layer_forward(layer, tokens, x.data(), y.data()), KMOE_SUCCESS)
        << kmoe_last_error();
    EXPECT_EQ(kmoe_layer_fence(layer), KMOE_SUCCESS);
    auto const now = on_host(y);
    return doubles(now, 0, now.size());
  }

  /// The user expert: y = -x.
  static int negate(void*, int32_t expert, std::size_t rows, void const* in, void* out) {
    EXPECT_EQ(expert, 4);
    Kokkos::View<T const*, Space> const from(static_cast<T const*>(in), rows * hidden);
    Kokkos::View<T*, Space> const to(static_cast<T*>(out), rows * hidden);
    Kokkos::parallel_for("kmoe::test::negate", Kokkos::RangePolicy<Space>(0, rows * hidden),
                         Negate{from, to});
    Space().fence();
    return 0;
  }
  struct Negate {
    Kokkos::View<T const*, Space> from;
    Kokkos::View<T*, Space> to;
    KOKKOS_FUNCTION void operator()(std::size_t i) const { to(i) = T(-float(from(i))); }
  };

  kmoe_comm comm = nullptr;
  int32_t rank = -1, size = 0;
  LayerModel model;
  kmoe_layer_options options{};
  kmoe_layer_weights weights{};
  kmoe::LayerWeights<Space, T> views;
  kmoe::Tensor3<T, Space> down;  ///< what `weights` points to
  std::size_t tokens = 0;
  kmoe::Matrix<T, Space> x, y;
  kmoe::Matrix<index_t, Space> ids;
  kmoe::Matrix<float, Space> scores;
};

template <class T>
class CApiDevice : public ::testing::Test {};
using Elements = ::testing::Types<float, kmoe::bfloat16>;
TYPED_TEST_SUITE(CApiDevice, Elements);

TYPED_TEST(CApiDevice, takes_pointers_into_its_memory_and_matches_plain_loops) {
  using T = TypeParam;
  Part<T> part;
  kmoe_layer const layer = part.create();
  ASSERT_EQ(
      kmoe_layer_route(layer, part.tokens, part.x.data(), part.ids.data(), part.scores.data()),
      KMOE_SUCCESS)
      << kmoe_last_error();
  ASSERT_EQ(kmoe_layer_fence(layer), KMOE_SUCCESS);
  auto const y = part.forward(layer);
  auto const x = on_host(part.x);
  auto const ids = on_host(part.ids);
  auto const scores = on_host(part.scores);
  std::vector<double> bound;
  auto const expected = kmoe::test::reference_layer<T>(
      part.model, {ids.data(), ids.data() + ids.size()},
      {scores.data(), scores.data() + scores.size()}, doubles(x, 0, x.size()), bound,
      [](int, double const* token, std::size_t h) { return -token[h]; });
  ASSERT_EQ(y.size(), expected.size());
  for (std::size_t i = 0; i < y.size(); ++i) {
    EXPECT_TRUE(std::abs(y[i] - expected[i]) <= bound[i])
        << "element " << i << ": " << y[i] << " for " << expected[i] << " +- " << bound[i];
  }
  // A routing of the caller, in the layer's memory as well.
  Kokkos::deep_copy(part.ids, 4);
  Kokkos::deep_copy(part.scores, 0.5F);
  ASSERT_EQ(kmoe_layer_forward_routed(layer, part.tokens, part.x.data(), part.ids.data(),
                                      part.scores.data(), part.y.data()),
            KMOE_SUCCESS)
      << kmoe_last_error();
  ASSERT_EQ(kmoe_layer_fence(layer), KMOE_SUCCESS);
  auto const negated = on_host(part.y);
  for (std::size_t i = 0; i < negated.size(); ++i) {
    ASSERT_EQ(float(negated.data()[i]), -float(x.data()[i]));
  }
}

TYPED_TEST(CApiDevice, wraps_weights_without_a_copy) {
  Part<TypeParam> part;
  kmoe_layer const layer = part.create();
  auto const before = part.forward(layer);
  if constexpr (!on_device) return;  // there the weights are repacked for the kernels
  // What the layer computes follows the caller's array.
  Kokkos::deep_copy(part.down, TypeParam(0.0F));
  auto const after = part.forward(layer);
  bool const some = part.tokens > 0;
  EXPECT_EQ(before != after, some);
  part.weights.copy = 1;
  kmoe_layer const own = part.create();
  auto const zero = part.forward(own);
  EXPECT_EQ(zero, after);
  Kokkos::deep_copy(part.down, TypeParam(1.0F));
  EXPECT_EQ(part.forward(own), zero);
  EXPECT_EQ(part.forward(layer) != zero, some);
}

TYPED_TEST(CApiDevice, computes_the_same_from_host_memory) {
  using T = TypeParam;
  Part<T> part;
  auto const expected = part.forward(part.create());
  auto const router = on_host(part.views.router.weight);
  auto const gate_up = on_host(part.views.experts.gate_up);
  auto const down = on_host(part.down);
  part.weights.memory = KMOE_MEMORY_HOST;
  part.weights.router = router.data();
  part.weights.gate_up = gate_up.data();
  part.weights.down = down.data();
  kmoe_layer const layer = part.create();
  EXPECT_EQ(part.forward(layer), expected);
  auto const x = on_host(part.x);
  std::vector<T> y(x.size(), T(std::nan("")));
  ASSERT_EQ(kmoe_layer_forward_host(layer, part.tokens, x.data(), y.data()), KMOE_SUCCESS)
      << kmoe_last_error();
  EXPECT_EQ(doubles(y, 0, y.size()), expected);
}

TYPED_TEST(CApiDevice, works_in_the_callers_workspace) {
  Part<TypeParam> part;
  auto const expected = part.forward(part.create());
  std::size_t device = 0, host = 0, workspace = 0, held = 0;
  ASSERT_EQ(kmoe_workspace_query(&part.options, part.rank, part.size, &device, &host),
            KMOE_SUCCESS);
  EXPECT_GT(device, 0U);
  Block<Space::memory_space> const device_block(device);
  Block<Kokkos::HostSpace> const host_block(host);
  part.options.device_workspace = device_block.data();
  part.options.device_workspace_bytes = device;
  part.options.host_workspace = host_block.data();
  part.options.host_workspace_bytes = host;
  kmoe_layer const layer = part.create();
  ASSERT_EQ(kmoe_layer_bytes(layer, &workspace, &held), KMOE_SUCCESS);
  EXPECT_EQ(workspace, device + host);
  EXPECT_EQ(part.forward(layer), expected);
  EXPECT_TRUE(device_block.guards_stand());
  EXPECT_TRUE(host_block.guards_stand());
  ASSERT_EQ(kmoe_layer_destroy(layer), KMOE_SUCCESS);  // before its workspace
}

void* new_stream() {
#ifdef KOKKOS_ENABLE_CUDA
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  return stream;
#else
  return nullptr;
#endif
}

TYPED_TEST(CApiDevice, works_on_the_callers_stream) {
  Part<TypeParam> part;
  kmoe_layer const layer = part.create();
  auto const expected = part.forward(layer);
  if constexpr (!on_device) {
    int not_a_stream = 0;
    EXPECT_EQ(kmoe_layer_set_stream(layer, &not_a_stream), KMOE_ERROR_UNSUPPORTED);
    EXPECT_TRUE(contains(kmoe_last_error(), "no streams")) << kmoe_last_error();
  }
  for (void* const stream : {new_stream(), static_cast<void*>(nullptr)}) {
    ASSERT_EQ(kmoe_layer_set_stream(layer, stream), KMOE_SUCCESS) << kmoe_last_error();
    EXPECT_EQ(part.forward(layer), expected);
  }
}

}  // namespace
