// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The reproducibility contract: y is bit for bit the same for any number of ranks, placement,
// dispatcher, id space, chunk and split of the tokens. Every rank computes the whole batch alone
// (one rank, standard dispatcher, local ids) and holds its part of the distributed run against it.

#include <cstring>
#include <random>

#include <gtest/gtest.h>
#include <mpi.h>

#include <kmoe/layer/moe_layer.hpp>

#include "support/layer_model.hpp"

namespace {

using kmoe::index_t;
using kmoe::test::LayerModel;
using Space = Kokkos::DefaultExecutionSpace;

template <class T>
std::vector<T> to_host(kmoe::Matrix<T, Space> const& view) {
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  return {host.data(), host.data() + host.size()};
}

/// One way to run the model over the ranks.
struct Variant {
  kmoe::DispatcherKind dispatcher;
  kmoe::IdSpace id_space;
  kmoe::TokenLayout layout;
  int placement;  // 0 contiguous, 1 round robin, 2 random
  int split;      // 0 even, 1 all on the last rank, 2 ragged with empty ranks
  std::size_t limit;
};

kmoe::ExpertPlacement make_placement(int kind, kmoe::MoeConfig const& config, int ranks) {
  auto const shared = config.router.num_fused_shared_experts;
  if (kind == 0) return kmoe::ExpertPlacement::contiguous(config.num_experts, ranks, shared);
  if (kind == 1) return kmoe::ExpertPlacement::round_robin(config.num_experts, ranks, shared);
  std::mt19937 random(7);
  std::vector<index_t> rank_of(config.num_experts);
  for (auto& rank : rank_of) rank = static_cast<index_t>(random() % unsigned(ranks));
  return kmoe::ExpertPlacement::custom(rank_of, ranks, shared);
}

/// First token of each rank, and the total as the last entry.
std::vector<std::size_t> make_split(int kind, std::size_t tokens, int ranks) {
  std::vector<std::size_t> first(ranks + 1, 0);
  std::mt19937 random(11);
  for (int r = 0; r < ranks; ++r) {
    std::size_t const left = tokens - first[r];
    std::size_t mine = tokens * (r + 1) / ranks - tokens * r / ranks;
    if (kind == 1) mine = r == ranks - 1 ? left : 0;
    if (kind == 2) mine = r == ranks - 1 ? left : (r % 2 == 0 ? 0 : random() % (left + 1));
    first[r + 1] = first[r] + mine;
  }
  return first;
}

template <class T>
std::vector<T> run(LayerModel const& model, kmoe::Communicator const& comm,
                   kmoe::ExpertPlacement const& placement, std::size_t begin, std::size_t count,
                   std::size_t max_tokens) {
  Space const exec;
  auto const experts = placement.experts_of(comm.rank());
  kmoe::MoeLayer<Space, T> layer(exec, comm, model.config, placement,
                                 model.weights<Space, T>(experts), index_t(max_tokens));
  EXPECT_EQ(layer.workspace_bytes(),
            (kmoe::MoeLayer<Space, T>::workspace_bytes(
                exec, model.config, placement, comm.rank(), index_t(max_tokens),
                model.layout != kmoe::GateUpLayout::plain, model.quantization)));
  std::size_t const rows = model.config.no_combine ? count * model.config.slots_per_token() : count;
  kmoe::Matrix<T, Space> y("y", rows, model.config.hidden_size);
  Kokkos::deep_copy(y, T(std::nan("")));
  auto const x = model.tokens<Space, T>(begin, count);
  layer.forward(exec, x, y);
  auto const first = to_host(y);
  layer.forward(exec, x, y);  // a used workspace must not show
  exec.fence();
  auto const second = to_host(y);
  EXPECT_EQ(std::memcmp(first.data(), second.data(), first.size() * sizeof(T)), 0);
  return second;
}

template <class T>
void expect_contract(LayerModel model, std::size_t tokens) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  int const ranks = comm.size();
  auto const shared = model.config.router.num_fused_shared_experts;
  auto const alone = run<T>(model, kmoe::Communicator(),
                            kmoe::ExpertPlacement::contiguous(model.config.num_experts, 1, shared),
                            0, tokens, tokens);
  for (auto const& value : alone) ASSERT_TRUE(std::isfinite(double(value)));

  using enum kmoe::DispatcherKind;
  using enum kmoe::TokenLayout;
  std::size_t const roomy = std::size_t{1} << 30;
  for (auto const id_space : {kmoe::IdSpace::local, kmoe::IdSpace::masked}) {
    for (Variant const& v : {
             Variant{standard, id_space, replicated, 0, 0, roomy},
             Variant{standard, id_space, replicated, 2, 0, 1},
             Variant{standard, id_space, data_parallel, 0, 0, roomy},
             Variant{standard, id_space, data_parallel, 1, 2, 1},
             Variant{standard, id_space, data_parallel, 2, 1, roomy},
             Variant{all_to_all, id_space, data_parallel, 0, 0, roomy},
             Variant{all_to_all, id_space, data_parallel, 1, 1, roomy},
             Variant{all_to_all, id_space, data_parallel, 2, 2, roomy},
             Variant{all_to_all, id_space, data_parallel, 2, 2, 1},
         }) {
      auto variant = model;
      variant.config.dispatcher = v.dispatcher;
      variant.config.id_space = v.id_space;
      variant.config.token_layout = v.layout;
      variant.config.workspace_limit_bytes = v.limit;
      auto const first =
          v.layout == replicated ? std::vector<std::size_t>{} : make_split(v.split, tokens, ranks);
      std::size_t const begin = v.layout == replicated ? 0 : first[comm.rank()];
      std::size_t const end = v.layout == replicated ? tokens : first[comm.rank() + 1];
      auto const y = run<T>(variant, comm, make_placement(v.placement, variant.config, ranks),
                            begin, end - begin, tokens);
      std::size_t const width = alone.size() / tokens;
      ASSERT_EQ(y.size(), (end - begin) * width);
      if (y.empty()) continue;
      EXPECT_EQ(std::memcmp(y.data(), alone.data() + begin * width, y.size() * sizeof(T)), 0)
          << to_string(v.dispatcher) << " " << to_string(v.id_space) << " " << to_string(v.layout)
          << " placement " << v.placement << " split " << v.split << " limit " << v.limit;
    }
  }
}

template <class T>
class Contract : public ::testing::Test {};
using Elements = ::testing::Types<double, float, kmoe::bfloat16, kmoe::half>;
TYPED_TEST_SUITE(Contract, Elements);

LayerModel base(index_t hidden, index_t intermediate, index_t experts, index_t top_k) {
  LayerModel model;
  model.config.hidden_size = hidden;
  model.config.intermediate_size = intermediate;
  model.config.num_experts = experts;
  model.config.top_k = top_k;
  model.config.router.renormalize = true;
  return model;
}

TYPED_TEST(Contract, softmax_top2_of_8) {
  expect_contract<TypeParam>(base(64, 96, 8, 2), 53);
}

TYPED_TEST(Contract, odd_sizes_with_biases_and_interleaved_weights) {
  auto model = base(33, 31, 7, 3);
  model.biases = true;
  model.layout = kmoe::GateUpLayout::interleaved;
  model.config.experts.activation = kmoe::Activation::swiglu_oai;
  expect_contract<TypeParam>(model, 41);
}

TYPED_TEST(Contract, grouped_router_with_gated_shared_expert) {
  auto model = base(32, 24, 16, 4);
  model.correction_bias = true;
  model.config.router.scoring = kmoe::Scoring::sigmoid;
  model.config.router.group_score = kmoe::GroupScore::top2_sum;
  model.config.router.num_groups = 4;
  model.config.router.topk_groups = 2;
  model.config.router.routed_scaling_factor = 2.5F;
  model.config.shared_intermediate_size = 40;
  model.config.shared_expert_gate = true;
  expect_contract<TypeParam>(model, 37);
}

TYPED_TEST(Contract, fused_shared_experts) {
  auto model = base(16, 24, 5, 2);
  model.config.router.num_fused_shared_experts = 2;
  expect_contract<TypeParam>(model, 29);
}

TYPED_TEST(Contract, zero_experts) {
  auto model = base(32, 16, 6, 3);
  model.config.num_zero_experts = 4;
  expect_contract<TypeParam>(model, 31);
}

TYPED_TEST(Contract, one_slot_weight_on_input) {
  auto model = base(48, 17, 4, 1);
  model.layout = kmoe::GateUpLayout::up_first;
  model.config.router.scoring = kmoe::Scoring::topk_sigmoid;
  model.config.router.renormalize = false;
  model.config.experts.router_weight_on_input = true;
  expect_contract<TypeParam>(model, 19);
}

TYPED_TEST(Contract, fewer_experts_than_ranks_plain) {
  auto model = base(7, 5, 2, 2);
  model.layout = kmoe::GateUpLayout::plain;
  model.config.experts.activation = kmoe::Activation::relu2;
  expect_contract<TypeParam>(model, 3);
}

TYPED_TEST(Contract, no_combine) {
  auto model = base(24, 16, 9, 3);
  model.config.no_combine = true;
  expect_contract<TypeParam>(model, 23);
}

// Every format of weights with every way to travel.
TYPED_TEST(Contract, quantized_weights_and_messages) {
  int round = 0;
  for (auto const& format : kmoe::quant_formats()) {
    SCOPED_TRACE(std::string(format.name));
    auto model = base(round % 2 == 0 ? 64 : 33, round % 3 == 0 ? 31 : 48, 6, 2);
    model.quantization = format.scheme;
    model.biases = round % 2 == 1;
    model.layout = static_cast<kmoe::GateUpLayout>(round % 4);
    model.config.dispatch_payload = static_cast<kmoe::PayloadCode>(round % 4);
    model.config.combine_payload = static_cast<kmoe::CombineCode>(round / 2 % 2);
    model.config.num_zero_experts = round % 5 == 0 ? 2 : 0;
    ++round;
    expect_contract<TypeParam>(model, 11);
  }
  for (auto const payload :
       {kmoe::PayloadCode::fp8, kmoe::PayloadCode::mxfp4, kmoe::PayloadCode::nvfp4}) {
    SCOPED_TRACE(std::string(to_string(payload)));
    auto model = base(130, 24, 5, 3);
    model.config.dispatch_payload = payload;
    model.config.combine_payload = kmoe::CombineCode::bf16;
    expect_contract<TypeParam>(model, 13);
  }
}

}  // namespace
