// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Errors, options, placement, expert map and mask, workspace.

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <kmoe/core/error.hpp>
#include <kmoe/core/expert_map.hpp>
#include <kmoe/core/expert_placement.hpp>
#include <kmoe/core/options.hpp>
#include <kmoe/core/workspace.hpp>

#include "support/random.hpp"
#include "support/typed.hpp"

namespace kmoe {
namespace {

/// The message of the InvalidArgument that `call` throws.
std::string message_of(std::function<void()> const& call) {
  try {
    call();
  } catch (InvalidArgument const& e) {
    return e.what();
  }
  return "no InvalidArgument";
}

TEST(Error, NamesFunctionRuleExpectedFoundAndLabel) {
  EXPECT_EQ(message_of([] {
              detail::expect_extent("kmoe::f", "a.extent(1) must equal hidden_size", 4096, 4095,
                                    "x");
            }),
            "kmoe::f: a.extent(1) must equal hidden_size 4096, found 4095 (View \"x\")");
  EXPECT_EQ(message_of([] { detail::expect(false, "kmoe::f", "top_k must be at least 1", -7); }),
            "kmoe::f: top_k must be at least 1, found -7");
  EXPECT_NO_THROW(detail::expect_extent("f", "r", 3, 3, "x"));
  EXPECT_NO_THROW(detail::expect(true, "f", "r", 3));
}

TEST(Error, ThrowErrorThrowsTheClassOfTheKind) {
  EXPECT_THROW(throw_error(ErrorKind::invalid_argument, "m"), InvalidArgument);
  EXPECT_THROW(throw_error(ErrorKind::io, "m"), IoError);
  EXPECT_THROW(throw_error(ErrorKind::unsupported, "m"), Unsupported);
  EXPECT_THROW(throw_error(ErrorKind::mpi, "m"), MpiError);
  try {
    throw_error(ErrorKind::io, "what");
  } catch (Error const& e) {
    EXPECT_EQ(e.kind(), ErrorKind::io);
    EXPECT_STREQ(e.what(), "what");
  }
}

template <class Enum>
void expect_names(std::vector<std::string> const& names) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(to_string(static_cast<Enum>(i)), names[i]);
    EXPECT_EQ(from_string<Enum>(names[i]), static_cast<Enum>(i));
    EXPECT_EQ(from_string<Enum>(names[i] + " "), std::nullopt);
  }
  EXPECT_EQ(to_string(static_cast<Enum>(names.size())), "?");
  EXPECT_EQ(from_string<Enum>("?"), std::nullopt);
  EXPECT_EQ(from_string<Enum>(""), std::nullopt);
}

TEST(Options, EnumsHaveNames) {
  expect_names<Scoring>({"softmax", "sigmoid", "topk_softmax", "topk_sigmoid", "sparse_mixer"});
  expect_names<GroupScore>({"max", "top2_sum"});
  expect_names<Activation>({"silu", "gelu_erf", "gelu_tanh", "relu", "relu2", "swiglu_oai"});
  expect_names<GateUpLayout>({"gate_first", "up_first", "interleaved", "plain"});
  expect_names<DispatcherKind>({"standard", "all_to_all"});
  expect_names<IdSpace>({"local", "masked"});
  expect_names<TokenLayout>({"replicated", "data_parallel"});
  expect_names<DataType>({"f64", "f32", "bf16", "f16"});
}

MoeConfig valid_config() {
  MoeConfig c;
  c.hidden_size = 8;
  c.intermediate_size = 6;
  c.num_experts = 12;
  c.top_k = 2;
  return c;
}

// Every change of one field shows in the text, and in nothing but that field's line.
TEST(Options, ToStringHasOneLinePerField) {
  struct Change {
    std::string line;
    std::function<void(MoeConfig&)> apply;
  };
  constexpr float infinity = std::numeric_limits<float>::infinity();
  std::vector<Change> const changes{
      {"hidden_size=9", [](auto& c) { c.hidden_size = 9; }},
      {"intermediate_size=9", [](auto& c) { c.intermediate_size = 9; }},
      {"num_experts=9", [](auto& c) { c.num_experts = 9; }},
      {"num_zero_experts=9", [](auto& c) { c.num_zero_experts = 9; }},
      {"num_user_experts=9", [](auto& c) { c.num_user_experts = 9; }},
      {"top_k=9", [](auto& c) { c.top_k = 9; }},
      {"router.scoring=sigmoid", [](auto& c) { c.router.scoring = Scoring::sigmoid; }},
      {"router.group_score=top2_sum", [](auto& c) { c.router.group_score = GroupScore::top2_sum; }},
      {"router.num_groups=9", [](auto& c) { c.router.num_groups = 9; }},
      {"router.topk_groups=9", [](auto& c) { c.router.topk_groups = 9; }},
      {"router.masked_score=-inf", [](auto& c) { c.router.masked_score = -infinity; }},
      {"router.zero_masked_weights=true", [](auto& c) { c.router.zero_masked_weights = true; }},
      {"router.renormalize=true", [](auto& c) { c.router.renormalize = true; }},
      {"router.renormalize_epsilon=9.99999968e-21",
       [](auto& c) { c.router.renormalize_epsilon = 1e-20F; }},
      {"router.renormalize_min_sum=9", [](auto& c) { c.router.renormalize_min_sum = 9; }},
      {"router.routed_scaling_factor=2.5", [](auto& c) { c.router.routed_scaling_factor = 2.5F; }},
      {"router.jitter_epsilon=0.100000001", [](auto& c) { c.router.jitter_epsilon = 0.1F; }},
      {"router.num_fused_shared_experts=9", [](auto& c) { c.router.num_fused_shared_experts = 9; }},
      {"experts.activation=relu2", [](auto& c) { c.experts.activation = Activation::relu2; }},
      {"experts.swiglu_alpha=9", [](auto& c) { c.experts.swiglu_alpha = 9; }},
      {"experts.swiglu_limit=9", [](auto& c) { c.experts.swiglu_limit = 9; }},
      {"experts.router_weight_on_input=true",
       [](auto& c) { c.experts.router_weight_on_input = true; }},
      {"shared_intermediate_size=9", [](auto& c) { c.shared_intermediate_size = 9; }},
      {"shared_expert_gate=true", [](auto& c) { c.shared_expert_gate = true; }},
      {"dispatcher=all_to_all", [](auto& c) { c.dispatcher = DispatcherKind::all_to_all; }},
      {"id_space=masked", [](auto& c) { c.id_space = IdSpace::masked; }},
      {"token_layout=replicated", [](auto& c) { c.token_layout = TokenLayout::replicated; }},
      {"dispatch_payload=nvfp4", [](auto& c) { c.dispatch_payload = PayloadCode::nvfp4; }},
      {"combine_payload=bf16", [](auto& c) { c.combine_payload = CombineCode::bf16; }},
      {"no_combine=true", [](auto& c) { c.no_combine = true; }},
      {"workspace_limit_bytes=9", [](auto& c) { c.workspace_limit_bytes = 9; }},
  };
  auto const lines_of = [](std::string const& text) {
    std::vector<std::string> lines;
    for (std::size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos;
         begin = end + 1) {
      lines.push_back(text.substr(begin, end - begin));
    }
    return lines;
  };
  auto const original = lines_of(to_string(valid_config()));
  ASSERT_EQ(original.size(), changes.size());
  for (std::size_t i = 0; i < changes.size(); ++i) {
    MoeConfig c = valid_config();
    changes[i].apply(c);
    auto expected = original;
    expected[i] = changes[i].line;
    EXPECT_NE(original[i], changes[i].line);
    EXPECT_EQ(lines_of(to_string(c)), expected);
  }
}

TEST(Options, ValidateNamesTheBrokenRule) {
  EXPECT_NO_THROW(validate(valid_config()));
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr index_t huge = std::numeric_limits<index_t>::max();
  struct Case {
    std::string message;
    std::function<void(MoeConfig&)> apply;
  };
  std::vector<Case> const cases{
      {"hidden_size must be at least 1, found 0", [](auto& c) { c.hidden_size = 0; }},
      {"intermediate_size must be at least 1, found -1", [](auto& c) { c.intermediate_size = -1; }},
      {"intermediate_size must be at most 536870911, found 2147483647",
       [](auto& c) { c.intermediate_size = huge; }},
      {"num_experts must be at least 1, found 0", [](auto& c) { c.num_experts = 0; }},
      {"num_experts must be at most 536870911, found 2147483647",
       [](auto& c) { c.num_experts = huge; }},
      {"num_zero_experts must be at least 0, found -1", [](auto& c) { c.num_zero_experts = -1; }},
      {"top_k must be at least 1, found 0", [](auto& c) { c.top_k = 0; }},
      {"top_k must be at most num_experts + num_zero_experts = 12, found 13",
       [](auto& c) { c.top_k = 13; }},
      {"router.scoring must be an enumerator, found 77",
       [](auto& c) { c.router.scoring = static_cast<Scoring>(77); }},
      {"id_space must be an enumerator, found 2",
       [](auto& c) { c.id_space = static_cast<IdSpace>(2); }},
      {"router.num_groups must be at least 1, found 0", [](auto& c) { c.router.num_groups = 0; }},
      {"router.num_groups must divide num_experts + num_zero_experts = 12, found 5",
       [](auto& c) { c.router.num_groups = 5; }},
      {"router.topk_groups must be in 1..num_groups = 4, found 5",
       [](auto& c) {
         c.router.num_groups = 4;
         c.router.topk_groups = 5;
       }},
      {"router.topk_groups must be in 1..num_groups = 1, found 0",
       [](auto& c) { c.router.topk_groups = 0; }},
      {"router.num_groups must leave 2 experts in a group for group_score top2_sum, found 12",
       [](auto& c) {
         c.router.num_groups = 12;
         c.router.group_score = GroupScore::top2_sum;
       }},
      {"top_k must be at most 2 with scoring sparse_mixer, found 3",
       [](auto& c) {
         c.router.scoring = Scoring::sparse_mixer;
         c.top_k = 3;
       }},
      {"router.masked_score must not be NaN, found nan",
       [](auto& c) { c.router.masked_score = nan; }},
      {"router.routed_scaling_factor must be finite, found nan",
       [](auto& c) { c.router.routed_scaling_factor = nan; }},
      {"router.renormalize_epsilon must not be negative, found -1",
       [](auto& c) { c.router.renormalize_epsilon = -1; }},
      {"router.renormalize_min_sum must not be negative, found -1",
       [](auto& c) { c.router.renormalize_min_sum = -1; }},
      {"router.jitter_epsilon must not be negative, found -1",
       [](auto& c) { c.router.jitter_epsilon = -1; }},
      {"router.num_fused_shared_experts must be at least 0, found -2",
       [](auto& c) { c.router.num_fused_shared_experts = -2; }},
      {"num_zero_experts must be 0 with fused shared experts, found 4",
       [](auto& c) {
         c.num_zero_experts = 4;
         c.router.num_fused_shared_experts = 1;
       }},
      {"experts.swiglu_limit must be positive, found 0",
       [](auto& c) { c.experts.swiglu_limit = 0; }},
      {"shared_intermediate_size must be at least 0, found -1",
       [](auto& c) { c.shared_intermediate_size = -1; }},
      {"shared_expert_gate must be false without a shared expert, found true",
       [](auto& c) { c.shared_expert_gate = true; }},
      {"combine_payload must be element with no_combine, found bf16",
       [](auto& c) {
         c.no_combine = true;
         c.combine_payload = CombineCode::bf16;
       }},
      {"no_combine must be false with a shared expert, which has no slot of its own, found true",
       [](auto& c) {
         c.no_combine = true;
         c.shared_intermediate_size = 4;
       }},
      {"token_layout must be data_parallel with dispatcher all_to_all, found replicated",
       [](auto& c) {
         c.dispatcher = DispatcherKind::all_to_all;
         c.token_layout = TokenLayout::replicated;
       }},
  };
  for (Case const& broken : cases) {
    MoeConfig c = valid_config();
    broken.apply(c);
    EXPECT_EQ(message_of([&] { validate(c); }), "kmoe::validate: " + broken.message);
  }
}

TEST(ExpertPlacement, ContiguousAndRoundRobinForAnyNumberOfRanks) {
  for (index_t const experts : {1, 2, 7, 8, 60, 384}) {
    for (index_t const ranks : {1, 2, 3, 4, 7, 9}) {
      auto const blocks = ExpertPlacement::contiguous(experts, ranks, 2);
      auto const dealt = ExpertPlacement::round_robin(experts, ranks, 2);
      EXPECT_EQ(blocks.num_placed(), experts + 2);
      index_t next = 0;
      for (index_t rank = 0; rank < ranks; ++rank) {
        // Contiguous: the next ceil or floor share of the ids, then the shared ones.
        auto const mine = blocks.experts_of(rank);
        ASSERT_EQ(mine.size(), static_cast<std::size_t>(blocks.num_local(rank)));
        EXPECT_EQ(blocks.num_local(rank), experts / ranks + (rank < experts % ranks) + 2);
        for (std::size_t i = 0; i + 2 < mine.size(); ++i) EXPECT_EQ(mine[i], next++);
        EXPECT_EQ(mine[mine.size() - 2], experts);
        EXPECT_EQ(mine.back(), experts + 1);
        for (index_t const e : dealt.experts_of(rank))
          EXPECT_TRUE(e >= experts || e % ranks == rank);
        EXPECT_EQ(dealt.num_local(rank), blocks.num_local(rank));
      }
      EXPECT_EQ(next, experts);
    }
  }
}

TEST(ExpertPlacement, RefusesWhatIsNoPlacement) {
  EXPECT_EQ(message_of([] {
              ExpertPlacement::custom({0, 3}, 3);
            }),
            "kmoe::ExpertPlacement: rank_of_expert[1] must be in 0..num_ranks-1 = 2, found 3");
  EXPECT_EQ(message_of([] { ExpertPlacement::custom({-1}, 3); }),
            "kmoe::ExpertPlacement: rank_of_expert[0] must be in 0..num_ranks-1 = 2, found -1");
  EXPECT_EQ(message_of([] { ExpertPlacement::contiguous(0, 3); }),
            "kmoe::ExpertPlacement: num_experts must be at least 1, found 0");
  EXPECT_EQ(message_of([] { ExpertPlacement::round_robin(3, 0); }),
            "kmoe::ExpertPlacement: num_ranks must be at least 1, found 0");
  EXPECT_EQ(message_of([] { ExpertPlacement::contiguous(3, 1, -1); }),
            "kmoe::ExpertPlacement: num_shared must be at least 0, found -1");
  EXPECT_EQ(message_of([] { (void)ExpertPlacement::contiguous(3, 2).experts_of(2); }),
            "kmoe::ExpertPlacement::experts_of: rank must be in 0..num_ranks-1 = 1, found 2");
}

TEST(ExpertPlacement, ToStringNamesEachExpert) {
  EXPECT_EQ(to_string(ExpertPlacement::custom({1, 0}, 2, 3)),
            "placement.num_ranks=2\nplacement.num_shared=3\nplacement.num_experts=2\n"
            "placement.rank_of_expert[0]=1\nplacement.rank_of_expert[1]=0\n");
}

template <class E>
class Maps : public ::testing::Test {
 protected:
  static Vector<index_t, E> storage(std::size_t n) {
    Vector<index_t, E> v("storage", n);
    test::poison(v);
    return v;
  }
  template <class V>
  static std::vector<index_t> host(V const& view) {
    auto const copy = test::to_host(view);
    return {copy.data(), copy.data() + copy.size()};
  }
};
TYPED_TEST_SUITE(Maps, test::Spaces, test::TypeNames);

TYPED_TEST(Maps, MapMaskAndRemapFollowThePlacement) {
  TypeParam const exec;
  std::uint64_t seed = 1;
  for (index_t const experts : {1, 3, 8, 60, 384, 2000}) {
    for (index_t const ranks : {1, 2, 3, 4, 7}) {
      for (index_t const shared : {0, 2}) {
        std::vector<index_t> random(static_cast<std::size_t>(experts));
        for (std::size_t e = 0; e < random.size(); ++e) {
          random[e] =
              static_cast<index_t>(test::random_bits(seed, e) % static_cast<unsigned>(ranks));
        }
        ++seed;
        for (auto const& placement : {ExpertPlacement::contiguous(experts, ranks, shared),
                                      ExpertPlacement::round_robin(experts, ranks, shared),
                                      ExpertPlacement::custom(random, ranks, shared)}) {
          index_t const rank = ranks / 2;
          auto const n = static_cast<std::size_t>(placement.num_placed());
          std::vector<index_t> expected_map(n, -1);
          std::vector<index_t> expected_mask(n, 0);
          index_t slot = 0;
          for (index_t const e : placement.experts_of(rank)) {
            expected_map[static_cast<std::size_t>(e)] = slot++;
            expected_mask[static_cast<std::size_t>(e)] = 1;
          }
          auto const map = make_expert_map(exec, placement, rank, this->storage(n));
          auto const flags = this->storage(n);
          auto const mask = make_expert_mask(exec, map, flags);
          auto const implied = make_expert_map(exec, mask, this->storage(n));
          EXPECT_EQ(map.num_local_experts(), slot);
          EXPECT_EQ(mask.num_local_experts(), slot);
          EXPECT_EQ(implied.num_local_experts(), slot);
          ASSERT_EQ(this->host(map.local_slots()), expected_map);
          ASSERT_EQ(this->host(mask.flags()), expected_mask);
          ASSERT_EQ(this->host(implied.local_slots()), expected_map);
          auto const in_place = make_expert_map(exec, mask, flags);
          ASSERT_EQ(this->host(in_place.local_slots()), expected_map);

          Matrix<index_t, TypeParam> ids("ids", 37, 3);
          test::fill_ids(ids, seed, -2, experts + shared + 2);
          auto remapped = test::poisoned_matrix<index_t, TypeParam>(37, 3);
          remap_ids(exec, map, ids, remapped);
          auto const in = this->host(ids);
          auto const out = this->host(remapped);
          for (std::size_t i = 0; i < in.size(); ++i) {
            bool const valid = in[i] >= 0 && in[i] < placement.num_placed();
            ASSERT_EQ(out[i], valid ? expected_map[static_cast<std::size_t>(in[i])] : -1);
          }
          remap_ids(exec, map, ids, ids);  // in place
          ASSERT_EQ(this->host(ids), out);
        }
      }
    }
  }
}

TYPED_TEST(Maps, ExtremeIdsNeverReachTheTable) {
  TypeParam const exec;
  auto const map = make_expert_map(exec, ExpertPlacement::contiguous(4, 1), 0, this->storage(4));
  std::vector<index_t> const extreme{
      -1, 4, 5, std::numeric_limits<index_t>::min(), std::numeric_limits<index_t>::max(), 3};
  Matrix<index_t, TypeParam> ids("ids", extreme.size(), 1);
  test::set_entries(ids, [&](index_t& id, std::size_t i) { id = extreme[i]; });
  remap_ids(exec, map, ids, ids);
  EXPECT_EQ(this->host(ids), (std::vector<index_t>{-1, -1, -1, -1, -1, 3}));

  Matrix<index_t, TypeParam> const no_tokens("no_tokens", 0, 8);
  EXPECT_NO_THROW(remap_ids(exec, map, no_tokens, no_tokens));
  ExpertMap<TypeParam> const no_experts;
  test::fill_ids(ids, 1, 0, 3);
  remap_ids(exec, no_experts, ids, ids);
  EXPECT_EQ(this->host(ids), std::vector<index_t>(extreme.size(), -1));
}

TYPED_TEST(Maps, RefuseWrongShapes) {
  TypeParam const exec;
  auto const placement = ExpertPlacement::contiguous(4, 2, 1);
  EXPECT_EQ(message_of([&] { make_expert_map(exec, placement, 0, this->storage(4)); }),
            "kmoe::make_expert_map: storage.extent(0) must equal placement.num_placed() = 5, "
            "found 4 (View \"storage\")");
  EXPECT_EQ(message_of([&] { make_expert_map(exec, placement, 2, this->storage(5)); }),
            "kmoe::make_expert_map: rank must be in 0..num_ranks-1 = 1, found 2");
  auto const map = make_expert_map(exec, placement, 1, this->storage(5));
  EXPECT_THROW(make_expert_mask(exec, map, this->storage(6)), InvalidArgument);
  auto const mask = make_expert_mask(exec, map, this->storage(5));
  EXPECT_THROW(make_expert_map(exec, mask, this->storage(4)), InvalidArgument);
  Matrix<index_t, TypeParam> const ids("ids", 3, 2);
  Matrix<index_t, TypeParam> const narrow("narrow", 3, 1);
  Matrix<index_t, TypeParam> const shorter("shorter", 2, 2);
  EXPECT_EQ(message_of([&] { remap_ids(exec, map, ids, narrow); }),
            "kmoe::remap_ids: local_ids.extent(1) must equal topk_ids.extent(1) = 2, found 1 "
            "(View \"narrow\")");
  EXPECT_THROW(remap_ids(exec, map, ids, shorter), InvalidArgument);
}

TYPED_TEST(Maps, WorkspaceHandsOutWhatItCounted) {
  Vector<double, TypeParam> a;
  Matrix<std::int8_t, TypeParam> b;
  Vector<offset_t, Kokkos::DefaultHostExecutionSpace> c;
  int calls = 0;
  auto const bind = [&](Workspace<TypeParam>& ws) {
    ++calls;
    a = ws.template vector<double>(17);
    b = ws.template matrix<std::int8_t>(3, 5);
    c = ws.template host_vector<offset_t>(2);
    EXPECT_EQ(ws.template vector<double>(0).data(), nullptr);
    if (ws.counting()) {
      EXPECT_EQ(a.data(), nullptr);
    }
  };
  auto const ws = make_workspace<TypeParam>(bind);
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(ws.device_bytes(), 256 + 128);
  EXPECT_EQ(ws.host_bytes(), 128);
  EXPECT_EQ(ws.bytes(), 512);
  EXPECT_EQ(a.extent(0), 17);
  EXPECT_EQ(b.extent(1), 5);
  EXPECT_EQ(reinterpret_cast<char*>(b.data()) - reinterpret_cast<char*>(a.data()), 256);
  test::poison(a);
  test::fill_ids(Matrix<index_t, TypeParam>("other", 1, 1), 1, 0, 2);
  auto const host = test::to_host(a);
  EXPECT_TRUE(std::isnan(host(0)) && std::isnan(host(16)));
  c(1) = 5;
}

}  // namespace
}  // namespace kmoe
