// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <kmoe/routing/router.hpp>

#include "reference/routing.hpp"
#include "support/random.hpp"
#include "support/routing.hpp"
#include "support/tolerance.hpp"
#include "support/typed.hpp"

namespace kmoe::test {
namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

using Rows = std::vector<std::vector<float>>;

/// What route() made of some rows, on the host.
struct Result {
  std::vector<std::vector<index_t>> ids;
  Rows weights;
  std::vector<offset_t> counters;
};

template <class E>
Matrix<float, E> to_matrix(Rows const& rows, index_t num_columns) {
  Matrix<float, E> m("logits", rows.size(), num_columns);
  set_entries(m, [&](float& v, std::size_t i) { v = rows[i / num_columns][i % num_columns]; });
  return m;
}

template <class E>
Vector<float, E> to_vector(std::vector<float> const& values) {
  Vector<float, E> v("bias", values.size());
  set_entries(v, [&](float& entry, std::size_t i) { entry = values[i]; });
  return v;
}

template <class E>
Routing<E> poisoned_routing(std::size_t tokens, std::size_t slots) {
  return {poisoned_matrix<index_t, E>(tokens, slots, "topk_ids"),
          poisoned_matrix<float, E>(tokens, slots, "topk_weights")};
}

template <class E>
Result to_result(Routing<E> const& routing, RouterCounters<E> const& counters) {
  Result result;
  auto const ids = to_host(routing.topk_ids);
  auto const weights = to_host(routing.topk_weights);
  for (std::size_t t = 0; t < ids.extent(0); ++t) {
    result.ids.emplace_back(&ids(t, 0), &ids(t, 0) + ids.extent(1));
    result.weights.emplace_back(&weights(t, 0), &weights(t, 0) + ids.extent(1));
  }
  auto const counts = to_host(counters);
  result.counters.assign(counts.data(), counts.data() + counts.extent(0));
  return result;
}

template <class E>
Result route_rows(Rows const& rows, index_t num_columns, RouterOptions const& options,
                  index_t top_k, std::vector<float> const& bias = {},
                  index_t num_valid_tokens = all_tokens) {
  auto const out = poisoned_routing<E>(rows.size(), top_k + options.num_fused_shared_experts);
  RouterCounters<E> const counters("counters", num_router_counters);
  E const exec;
  route(exec, to_matrix<E>(rows, num_columns), options, to_vector<E>(bias), out, counters,
        num_valid_tokens);
  exec.fence();
  return to_result<E>(out, counters);
}

// A variant under test, named after a model that uses it.
struct Variant {
  std::string name;
  RouterOptions options;
  bool bias = false;
};

index_t groups_for(index_t num_experts) {
  for (index_t const groups : {8, 6, 4}) {
    if (num_experts % groups == 0 && num_experts > groups) return groups;
  }
  return 1;
}

std::vector<Variant> variants(index_t num_experts) {
  index_t const groups = groups_for(num_experts);
  index_t const survivors = (groups + 1) / 2;
  std::vector<Variant> all;
  all.push_back({"olmoe", {}});
  all.push_back({"mixtral", {.renormalize = true}});
  all.push_back({"longcat_flash", {.routed_scaling_factor = 6.0F}, true});
  all.push_back({"ernie4_5", {.renormalize = true, .renormalize_min_sum = 1e-12F}, true});
  all.push_back({"deepseek_v2",
                 {.num_groups = groups,
                  .topk_groups = survivors,
                  .zero_masked_weights = true,
                  .routed_scaling_factor = 16.0F}});
  all.push_back({"minimax_m2", {.scoring = Scoring::sigmoid, .renormalize = true}, true});
  all.push_back({"lfm2",
                 {.scoring = Scoring::sigmoid,
                  .renormalize = true,
                  .renormalize_epsilon = 1e-6F,
                  .routed_scaling_factor = 0.5F},
                 true});
  RouterOptions v3{.scoring = Scoring::sigmoid,
                   .group_score = GroupScore::top2_sum,
                   .num_groups = groups,
                   .topk_groups = survivors,
                   .masked_score = -inf,
                   .renormalize = true,
                   .renormalize_epsilon = 1e-20F,
                   .routed_scaling_factor = 2.5F};
  all.push_back({"deepseek_v3", v3, true});
  v3.masked_score = 0;
  v3.renormalize = false;
  all.push_back({"deepseek_v3_masked_by_zero", v3, true});
  v3.num_fused_shared_experts = 2;
  all.push_back({"fused_shared", v3, true});
  all.push_back({"gpt_oss", {.scoring = Scoring::topk_softmax}});
  all.push_back({"topk_softmax_grouped",
                 {.scoring = Scoring::topk_softmax,
                  .num_groups = groups,
                  .topk_groups = survivors,
                  .masked_score = -inf},
                 true});
  all.push_back({"llama4", {.scoring = Scoring::topk_sigmoid}});
  all.push_back({"phimoe", {.scoring = Scoring::sparse_mixer, .jitter_epsilon = 0.05F}});
  return all;
}

enum class Data { random, quantized, equal, non_finite };

Rows make_logits(Data data, index_t tokens, index_t num_columns, std::uint64_t seed) {
  Rows rows(tokens, std::vector<float>(num_columns));
  for (index_t t = 0; t < tokens; ++t) {
    for (index_t e = 0; e < num_columns; ++e) {
      std::uint64_t const i = static_cast<std::uint64_t>(t) * num_columns + e;
      float const value = static_cast<float>(2 * random_value(seed, i, Values::normal));
      float& l = rows[t][e];
      switch (data) {
        case Data::random:
          l = value;
          break;
        case Data::quantized:
          l = std::round(value);
          break;
        case Data::equal:
          l = rows[t][0] = e == 0 ? value : rows[t][0];
          break;
        case Data::non_finite: {
          // From a few to nearly all entries, by row.
          bool const bad = random_unit(seed + 1, i) < (t % 4 + 0.5) / 4;
          l = bad ? std::vector<float>{nan, inf, -inf, -nan}[random_bits(seed + 2, i) % (1 + t % 4)]
                  : value;
          break;
        }
      }
    }
  }
  return rows;
}

/// Rounding of a score: the exponent's argument (of up to 20), exponential, sum and quotients; then
/// sum and quotient of the renormalization, and the factor.
double weight_tolerance(double weight) {
  return unit_roundoff<float> * 32 * weight + 0x1p-140;
}

template <class E>
class Route : public ::testing::Test {};
TYPED_TEST_SUITE(Route, Spaces, TypeNames);

TYPED_TEST(Route, EveryVariantMatchesTheReference) {
  offset_t compared = 0, undecided = 0;
  for (index_t const num_columns : {1, 7, 8, 29, 60, 128, 256, 384, 1000}) {
    index_t const tokens = num_columns > 60 ? 12 : 40;
    std::vector<float> bias(num_columns);
    for (index_t e = 0; e < num_columns; ++e) {
      bias[e] = static_cast<float>(random_value(5, e, Values::normal) / 4);
    }
    for (Variant const& variant : variants(num_columns)) {
      for (index_t const top_k : std::set<index_t>{1, 2, 8, std::min(num_columns, 384)}) {
        bool const sparse = variant.options.scoring == Scoring::sparse_mixer;
        if (top_k > num_columns || (sparse && top_k > 2)) continue;
        for (Data const data : {Data::random, Data::quantized, Data::equal, Data::non_finite}) {
          SCOPED_TRACE(variant.name + " E " + std::to_string(num_columns) + " K " +
                       std::to_string(top_k) + " data " + std::to_string(int(data)));
          Rows const rows = make_logits(data, tokens, num_columns, 17 + num_columns);
          std::vector<float> const no_bias;
          Result const result = route_rows<TypeParam>(rows, num_columns, variant.options, top_k,
                                                      variant.bias ? bias : no_bias);
          reference::RouterRules const rules = router_rules(variant.options, top_k);
          std::vector<double> const wide(bias.begin(), bias.end());
          for (index_t t = 0; t < tokens; ++t) {
            reference::Routed const expected =
                reference::route(rows[t], variant.bias ? wide : std::vector<double>{}, rules);
            ++compared;
            bool decided = true;
            for (index_t k = 0; k < top_k; ++k) {
              index_t const id = result.ids[t][k];
              ASSERT_GE(id, 0);
              ASSERT_LT(id, num_columns);
              if (id == expected.ids[k]) continue;
              // Allowed where float can not tell the two apart, never for equal logits.
              ASSERT_NEAR(expected.selection[id], expected.selection[expected.ids[k]], 2e-7);
              ASSERT_NE(rows[t][id], rows[t][expected.ids[k]]);
              decided = false;
            }
            if (!decided) {
              ++undecided;
              continue;
            }
            for (index_t k = 0; k < top_k; ++k) {
              ASSERT_NEAR(result.weights[t][k], expected.weights[k],
                          weight_tolerance(expected.weights[k]))
                  << "token " << t << " slot " << k;
            }
            for (index_t s = 0; s < variant.options.num_fused_shared_experts; ++s) {
              ASSERT_EQ(result.ids[t][top_k + s], num_columns + s);
              ASSERT_EQ(result.weights[t][top_k + s], 1.0F);
            }
          }
        }
      }
    }
  }
  EXPECT_GT(compared, 10000);
  EXPECT_LT(undecided, compared / 1000);
}

TYPED_TEST(Route, TiesGoToTheSmallerId) {
  for (Variant const& variant : variants(60)) {
    bool const sparse = variant.options.scoring == Scoring::sparse_mixer;
    index_t const top_k = sparse ? 2 : 60;
    Result const result =
        route_rows<TypeParam>(Rows(3, std::vector<float>(60, 0.25F)), 60, variant.options, top_k);
    for (auto const& ids : result.ids) {
      std::vector<index_t> expected(top_k);
      for (index_t k = 0; k < top_k; ++k) expected[k] = k;
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), ids.begin())) << variant.name;
    }
  }
  // Signed zeros are equal.
  Result const zeros =
      route_rows<TypeParam>({{-0.0F, 0.0F, -0.0F}}, 3, {.scoring = Scoring::topk_softmax}, 3);
  EXPECT_EQ(zeros.ids[0], (std::vector<index_t>{0, 1, 2}));
}

TYPED_TEST(Route, NonFiniteLogitsFollowTheTotalOrder) {
  using Ids = std::vector<index_t>;
  Rows const rows = {{nan, 1, inf, -inf, 2, inf},
                     {nan, nan, nan, nan, nan, nan},
                     {-inf, -inf, nan, -inf, -inf, -inf},
                     {0, 1, 2, 3, 4, 5}};
  for (Scoring const scoring : {Scoring::topk_softmax, Scoring::topk_sigmoid}) {
    Result const r = route_rows<TypeParam>(rows, 6, {.scoring = scoring}, 6);
    EXPECT_EQ(r.ids[0], (Ids{2, 5, 4, 1, 3, 0}));
    EXPECT_EQ(r.ids[1], (Ids{0, 1, 2, 3, 4, 5}));
    EXPECT_EQ(r.ids[2], (Ids{0, 1, 3, 4, 5, 2}));
    EXPECT_EQ(r.ids[3], (Ids{5, 4, 3, 2, 1, 0}));
    EXPECT_EQ(r.counters, (std::vector<offset_t>{3, 2, 0}));
  }
  Result const soft = route_rows<TypeParam>(rows, 6, {}, 3);
  EXPECT_EQ(soft.weights[0], (std::vector<float>{0.5F, 0.5F, 0.0F}));
  EXPECT_EQ(soft.weights[1], (std::vector<float>(3, 1.0F / 6)));
  EXPECT_EQ(soft.weights[2], (std::vector<float>(3, 1.0F / 6)));
  Result const mixed = route_rows<TypeParam>(rows, 6, {.scoring = Scoring::sparse_mixer}, 2);
  EXPECT_EQ(mixed.ids[0], (Ids{2, 5}));
  EXPECT_EQ(mixed.weights[0], (std::vector<float>{0.5F, 1.0F}));
  EXPECT_EQ(mixed.ids[1], (Ids{0, 1}));

  // Weights are finite and ids distinct whatever the row and the variant.
  Rows const bad = make_logits(Data::non_finite, 64, 60, 3);
  for (Variant const& variant : variants(60)) {
    bool const sparse = variant.options.scoring == Scoring::sparse_mixer;
    Result const r = route_rows<TypeParam>(bad, 60, variant.options, sparse ? 2 : 9);
    for (std::size_t t = 0; t < bad.size(); ++t) {
      EXPECT_EQ(std::set<index_t>(r.ids[t].begin(), r.ids[t].end()).size(), r.ids[t].size());
      for (float const w : r.weights[t]) EXPECT_TRUE(std::isfinite(w)) << variant.name;
    }
    EXPECT_GT(r.counters[rows_with_nan], 0);
    EXPECT_GT(r.counters[rows_with_inf], 0);
  }
}

TYPED_TEST(Route, ASumOfZeroIsRenormalizedWithoutNan) {
  Rows const rows = {{-inf, -inf, -inf, -inf}, {-200, -200, -200, -200}};
  RouterOptions options{.scoring = Scoring::sigmoid, .renormalize = true};
  for (auto const& w : route_rows<TypeParam>(rows, 4, options, 4).weights) {
    EXPECT_EQ(w, std::vector<float>(4, 0.25F));
  }
  options.renormalize_epsilon = 1e-20F;
  for (auto const& w : route_rows<TypeParam>(rows, 4, options, 4).weights) {
    EXPECT_EQ(w, std::vector<float>(4, 0.0F));
  }
  options.renormalize_epsilon = 0;
  options.renormalize_min_sum = 1e-12F;
  for (auto const& w : route_rows<TypeParam>(rows, 4, options, 4).weights) {
    EXPECT_EQ(w, std::vector<float>(4, 0.0F));
  }
}

TYPED_TEST(Route, BiasSelectsAndUnbiasedScoresWeigh) {
  std::vector<float> const bias = {0, 0, 0, 3};
  Result const r =
      route_rows<TypeParam>({{3, 2, 1, -1}}, 4, {.scoring = Scoring::sigmoid}, 2, bias);
  EXPECT_EQ(r.ids[0], (std::vector<index_t>{3, 0}));
  EXPECT_FLOAT_EQ(r.weights[0][0], static_cast<float>(1 / (1 + std::exp(1.0))));
  EXPECT_FLOAT_EQ(r.weights[0][1], static_cast<float>(1 / (1 + std::exp(-3.0))));
}

TYPED_TEST(Route, MaskedScoreDecidesAgainstNegativeSurvivors) {
  // Group 0 survives with both of its selection scores below zero.
  std::vector<float> const bias = {-1, -1, -2, -2};
  RouterOptions options{.scoring = Scoring::sigmoid,
                        .group_score = GroupScore::top2_sum,
                        .num_groups = 2,
                        .topk_groups = 1,
                        .masked_score = -inf};
  Rows const rows = {{-1, 0, 1, 2}};
  EXPECT_EQ(route_rows<TypeParam>(rows, 4, options, 2, bias).ids[0], (std::vector<index_t>{1, 0}));
  options.masked_score = 0;
  Result r = route_rows<TypeParam>(rows, 4, options, 2, bias);
  EXPECT_EQ(r.ids[0], (std::vector<index_t>{2, 3}));
  EXPECT_FLOAT_EQ(r.weights[0][1], static_cast<float>(1 / (1 + std::exp(-2.0))));
  options.zero_masked_weights = true;
  r = route_rows<TypeParam>(rows, 4, options, 3, bias);
  EXPECT_EQ(r.ids[0], (std::vector<index_t>{2, 3, 1}));
  EXPECT_EQ(r.weights[0][0], 0.0F);
  EXPECT_EQ(r.weights[0][1], 0.0F);
  EXPECT_FLOAT_EQ(r.weights[0][2], 0.5F);
}

TYPED_TEST(Route, SparseMixerThresholdIsRelativeToTheLargerMagnitude) {
  // By hand, with m negative, so that |l| is the divisor. Round 1, m = -1: experts 0, 1, 2 are 1/2,
  // 0 and 3/4 below; those not above 0.5 stay. Round 2, m = -2: experts 0 and 2 are 0 and 1/2
  // below.
  Result const r = route_rows<TypeParam>(
      {{-2, -1, -4}}, 3, {.scoring = Scoring::sparse_mixer, .jitter_epsilon = 0.25F}, 2);
  EXPECT_EQ(r.ids[0], (std::vector<index_t>{1, 0}));
  EXPECT_FLOAT_EQ(r.weights[0][0], static_cast<float>(1 / (1 + std::exp(-1.0))));
  EXPECT_FLOAT_EQ(r.weights[0][1], static_cast<float>(1 / (1 + std::exp(-2.0))));
}

TYPED_TEST(Route, BitsDoNotDependOnNeighbours) {
  Rows const rows = make_logits(Data::random, 50, 60, 8);
  for (Variant const& variant : variants(60)) {
    bool const sparse = variant.options.scoring == Scoring::sparse_mixer;
    Result const all = route_rows<TypeParam>(rows, 60, variant.options, sparse ? 2 : 7);
    for (std::size_t t = 0; t < rows.size(); t += 7) {
      Result const one = route_rows<TypeParam>({rows[t]}, 60, variant.options, sparse ? 2 : 7);
      EXPECT_EQ(one.ids[0], all.ids[t]) << variant.name;
      EXPECT_EQ(one.weights[0], all.weights[t]) << variant.name;
    }
  }
}

TYPED_TEST(Route, PaddingAndNoTokens) {
  Rows rows = make_logits(Data::random, 5, 8, 4);
  rows[4][0] = nan;
  RouterOptions const options{.num_fused_shared_experts = 1};
  Result const whole = route_rows<TypeParam>(rows, 8, options, 2);
  Result const padded = route_rows<TypeParam>(rows, 8, options, 2, {}, 3);
  for (int t = 0; t < 5; ++t) {
    EXPECT_EQ(padded.ids[t], t < 3 ? whole.ids[t] : std::vector<index_t>(3, no_expert));
    EXPECT_EQ(padded.weights[t], t < 3 ? whole.weights[t] : std::vector<float>(3, 0.0F));
  }
  EXPECT_EQ(whole.counters[rows_with_nan], 1);
  EXPECT_EQ(padded.counters[rows_with_nan], 0);
  EXPECT_TRUE(route_rows<TypeParam>({}, 8, options, 2).ids.empty());
}

TYPED_TEST(Route, CountersAddUpOrAreLeftOut) {
  using E = TypeParam;
  E const exec;
  auto const logits = to_matrix<E>({{nan, 1}, {inf, 0}, {nan, -inf}}, 2);
  RouterCounters<E> const counters("counters", num_router_counters);
  auto const out = poisoned_routing<E>(3, 1);
  for (int n = 0; n < 2; ++n) route(exec, logits, RouterOptions{}, {}, out, counters);
  route(exec, logits, RouterOptions{}, {}, out);
  exec.fence();
  EXPECT_EQ(to_result<E>(out, counters).counters, (std::vector<offset_t>{4, 4, 0}));
}

TYPED_TEST(Route, SubviewsWithWiderRows) {
  using E = TypeParam;
  Rows const rows = make_logits(Data::random, 6, 20, 2);
  auto const wide = to_matrix<E>(rows, 20);
  std::pair const columns(4, 12);
  Matrix<float const, E> const narrow = Kokkos::subview(wide, Kokkos::ALL, columns);
  Rows cut;
  for (auto const& row : rows) cut.emplace_back(row.begin() + 4, row.begin() + 12);
  E const exec;
  auto const out = poisoned_routing<E>(6, 3);
  route(exec, narrow, RouterOptions{}, {}, out);
  exec.fence();
  EXPECT_EQ(to_result<E>(out, {}).ids, route_rows<E>(cut, 8, {}, 3).ids);
}

TYPED_TEST(Route, WrongArgumentsAreRefusedByName) {
  using E = TypeParam;
  auto const message = [](RouterOptions const& options, index_t top_k, std::size_t bias = 0,
                          std::size_t tokens = 2, index_t valid = all_tokens) -> std::string {
    try {
      route(E(), Matrix<float, E>("logits", 2, 8), options, Vector<float, E>("bias", bias),
            poisoned_routing<E>(tokens, top_k), {}, valid);
    } catch (InvalidArgument const& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message({}, 2), "accepted");
  EXPECT_NE(message({}, 9).find("1..logits.extent(1) = 8, found 9"), std::string::npos);
  EXPECT_NE(message({}, 0).find("found 0"), std::string::npos);
  EXPECT_NE(message({.num_fused_shared_experts = 2}, 2).find("found 0"), std::string::npos);
  EXPECT_NE(message({}, 2, 7).find("correction_bias.extent(0)"), std::string::npos);
  EXPECT_NE(message({}, 2, 0, 3).find("View \"topk_ids\""), std::string::npos);
  EXPECT_NE(message({}, 2, 0, 2, 3).find("num_valid_tokens"), std::string::npos);
  EXPECT_NE(message({.num_groups = 3}, 2).find("num_groups must divide"), std::string::npos);
  EXPECT_NE(message({.num_groups = 2, .topk_groups = 3}, 2).find("topk_groups"), std::string::npos);
  EXPECT_NE(message({.scoring = Scoring::sparse_mixer}, 3).find("at most 2"), std::string::npos);
  EXPECT_NE(message({.scoring = Scoring::sparse_mixer}, 2, 8).find("correction_bias"),
            std::string::npos);
  EXPECT_NE(message({.routed_scaling_factor = nan}, 2).find("finite"), std::string::npos);
}

/// A user's router: the best expert, and one by a hash of the token. Faulty on purpose for token 2.
struct HashRouter {
  KOKKOS_FUNCTION void operator()(RouterRow const& row) const {
    index_t best = 0;
    for (index_t e = 1; e < row.num_columns; ++e) {
      if (row.logits[e] > row.logits[best]) best = e;
    }
    row.ids[0] = best;
    row.weights[0] = 0.75F;
    if (row.token == 1) return;
    row.ids[1] = row.token == 2 ? row.num_columns : (row.token * 5) % row.num_columns;
    row.weights[1] = row.token == 3 ? Kokkos::Experimental::quiet_NaN_v<float> : 0.25F;
  }
};

TYPED_TEST(Route, UserFunctor) {
  using E = TypeParam;
  Rows const rows = {{0, 1, 2}, {5, 4, 3}, {1, 3, 2}, {9, 1, 1}, {0, 0, 1}};
  E const exec;
  auto const out = poisoned_routing<E>(5, 2);
  RouterCounters<E> const counters("counters", num_router_counters);
  route(exec, to_matrix<E>(rows, 3), HashRouter{}, out, counters, -1, 4);
  exec.fence();
  Result const r = to_result<E>(out, counters);
  EXPECT_EQ(r.ids, (std::vector<std::vector<index_t>>{{2, 0}, {0, -1}, {1, -1}, {0, 0}, {-1, -1}}));
  EXPECT_EQ(r.weights, (Rows{{0.75F, 0.25F}, {0.75F, 0}, {0.75F, 0}, {0.75F, 0}, {0, 0}}));
  EXPECT_EQ(r.counters, (std::vector<offset_t>{0, 0, 1}));
  // A larger id space makes the id of token 2 valid.
  route(exec, to_matrix<E>(rows, 3), HashRouter{}, out, {}, 4);
  exec.fence();
  EXPECT_EQ(to_result<E>(out, {}).ids[2], (std::vector<index_t>{1, 3}));
}

}  // namespace
}  // namespace kmoe::test
