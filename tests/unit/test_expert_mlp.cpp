// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The expert MLP: values against plain loops, bits against itself, on every instruction set that
// this machine offers.

#include <kmoe/experts/expert_mlp.hpp>

#include <atomic>
#include <cmath>
#include <cstring>
#include <tuple>

#include <gtest/gtest.h>

#include <kmoe/core/error.hpp>

#include "reference/expert_mlp.hpp"
#include "support/each_isa.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "support/typed.hpp"

namespace {

using kmoe::Activation;
using kmoe::GateUpLayout;
using kmoe::index_t;
using kmoe::offset_t;
using kmoe::test::for_each_isa;
using kmoe::test::on_host;

constexpr Activation all_activations[] = {Activation::silu,      Activation::gelu_erf,
                                          Activation::gelu_tanh, Activation::relu,
                                          Activation::relu2,     Activation::swiglu_oai};
constexpr GateUpLayout all_layouts[] = {GateUpLayout::gate_first, GateUpLayout::up_first,
                                        GateUpLayout::interleaved, GateUpLayout::plain};

template <class V>
std::vector<double> to_doubles(V const& view) {
  auto const host = kmoe::test::to_host(view);
  std::vector<double> out(host.size());
  for (std::size_t i = 0; i < host.size(); ++i) out[i] = static_cast<double>(host.data()[i]);
  return out;
}

enum class Weighting { none, output, input };

/// Random experts and tokens, and where each slot goes.
struct Problem {
  index_t experts = 3, hidden = 8, intermediate = 8, tokens = 10, slots = 2;
  Activation activation = Activation::silu;
  GateUpLayout layout = GateUpLayout::gate_first;
  bool biases = true;
  Weighting weighting = Weighting::output;
  int route = 0;  // 0 random with -1 slots, 1 all to one expert, 2 none anywhere
};

template <class C>
class ExpertMlp : public ::testing::Test {
 public:
  using E = typename C::E;
  using T = typename C::T;
  using A = kmoe::accumulate_t<T>;

  struct Data {
    kmoe::ExpertWeights<E, T> weights;
    kmoe::ExpertOptions options;
    kmoe::Matrix<T, E> x;
    kmoe::Matrix<float, E> topk_weights;
    kmoe::Workspace<E> permutation_memory;
    kmoe::Permutation<E> permutation;
    kmoe::Matrix<index_t, E> ids;
  };

  static Data make(Problem const& p) {
    Data d;
    std::size_t const n = p.layout == GateUpLayout::plain ? p.intermediate : 2 * p.intermediate;
    auto const scaled = [](auto const& view, std::uint64_t seed, double scale) {
      kmoe::test::set_entries(view, [&](auto& entry, std::size_t i) {
        entry = std::remove_reference_t<decltype(entry)>(
            scale * kmoe::test::random_value(seed, i, kmoe::test::Values::uniform));
      });
    };
    kmoe::Tensor3<T, E> const gate_up("gate_up", p.experts, n, p.hidden);
    kmoe::Tensor3<T, E> const down("down", p.experts, p.hidden, p.intermediate);
    scaled(gate_up, 1, 3 / std::sqrt(double(p.hidden)));
    scaled(down, 2, 3 / std::sqrt(double(p.intermediate)));
    d.weights.gate_up = gate_up;
    d.weights.down = down;
    d.weights.layout = p.layout;
    if (p.biases) {
      d.weights.gate_up_bias = kmoe::test::random_matrix<A, E>(p.experts, n, 3);
      d.weights.down_bias = kmoe::test::random_matrix<A, E>(p.experts, p.hidden, 4);
    }
    d.options.activation = p.activation;
    d.options.swiglu_limit = 1.25F;
    d.options.router_weight_on_input = p.weighting == Weighting::input;
    d.x = kmoe::test::random_matrix<T, E>(p.tokens, p.hidden, 5, kmoe::test::Values::normal);
    if (p.weighting != Weighting::none) {
      d.topk_weights = kmoe::test::random_matrix<float, E>(p.tokens, p.slots, 6);
    }
    kmoe::Matrix<index_t, E> const ids("ids", p.tokens, p.slots);
    kmoe::test::fill_ids(ids, 7, p.route == 0 ? -1 : 0, p.route == 0 ? p.experts : 1);
    kmoe::test::set_entries(ids, [&](index_t& id, std::size_t i) {
      if (p.route == 0) id = index_t(kmoe::test::random_unit(7, i) * (p.experts + 1)) - 1;
      if (p.route == 1) id = p.experts - 1;
      if (p.route == 2) id = -1;
    });
    d.ids = ids;
    d.permutation_memory = kmoe::make_workspace<E>(
        [&](kmoe::Workspace<E>& ws) { d.permutation.bind(ws, p.tokens, p.slots, p.experts); });
    E const exec;
    kmoe::make_permutation(exec, ids, d.permutation);
    exec.fence();
    return d;
  }

  static kmoe::Matrix<T, E> forward(E const& exec, Problem const& p, Data const& d) {
    kmoe::ExpertMlp<E, T> mlp(exec, d.weights, d.options);
    auto const slots = offset_t{p.tokens} * p.slots;
    kmoe::Workspace<E> told;
    kmoe::ExpertMlp<E, T>::bind_shape(exec, told, p.hidden, p.intermediate, d.weights.gated(),
                                      slots);
    auto const ws =
        kmoe::make_workspace<E>([&](kmoe::Workspace<E>& w) { mlp.bind(exec, w, slots); });
    EXPECT_EQ(told.bytes(), ws.bytes());
    auto const rows = kmoe::test::poisoned_matrix<T, E>(slots, p.hidden);
    mlp.forward(exec, d.x, d.permutation, d.topk_weights, rows);
    exec.fence();
    return rows;
  }

  static std::vector<reference::Expert> experts(Problem const& p, Data const& d) {
    std::vector<double> const all[] = {to_doubles(d.weights.gate_up), to_doubles(d.weights.down),
                                       to_doubles(d.weights.gate_up_bias),
                                       to_doubles(d.weights.down_bias)};
    std::vector<reference::Expert> out;
    for (index_t e = 0; e < p.experts; ++e) {
      auto const part = [&](int which) {
        auto const size = static_cast<std::ptrdiff_t>(all[which].size() / p.experts);
        auto const begin = all[which].begin() + e * size;
        return std::vector<double>(begin, begin + size);
      };
      out.push_back({std::size_t(p.hidden), std::size_t(p.intermediate),
                     std::string(to_string(p.layout)), part(0), part(1), part(2), part(3)});
    }
    return out;
  }

  static void check(Problem const& p) {
    SCOPED_TRACE(std::string(to_string(p.activation)) + " " + std::string(to_string(p.layout)) +
                 " H " + std::to_string(p.hidden) + " I " + std::to_string(p.intermediate) +
                 " weighting " + std::to_string(int(p.weighting)) + " biases " +
                 std::to_string(p.biases));
    auto const d = make(p);
    auto const rows = to_doubles(forward(E(), p, d));
    auto const x = to_doubles(d.x), w = to_doubles(d.topk_weights);
    auto const offsets = kmoe::test::to_host(d.permutation.expert_offsets);
    // Behind the rows that there are nothing has been written, and nothing is read.
    std::pair const there{index_t{0}, static_cast<index_t>(offsets(p.experts))};
    auto const slot_of_row = kmoe::test::to_host(Kokkos::subview(d.permutation.slot_of_row, there));
    auto const all_experts = experts(p, d);
    for (index_t e = 0; e < p.experts; ++e) {
      auto const& weights = all_experts[e];
      for (offset_t r = offsets(e); r < offsets(e + 1); ++r) {
        index_t const slot = slot_of_row(r);
        std::vector<double> token(x.begin() + std::ptrdiff_t(slot / p.slots) * p.hidden,
                                  x.begin() + std::ptrdiff_t(slot / p.slots + 1) * p.hidden);
        double weight = 1;
        if (p.weighting == Weighting::output) weight = w[slot];
        if (p.weighting == Weighting::input) {
          for (auto& value : token) value = double(T(A(value) * A(w[slot])));
        }
        auto const want =
            reference::expert_mlp(weights, token, weight, std::string(to_string(p.activation)),
                                  d.options.swiglu_alpha, d.options.swiglu_limit);
        for (index_t n = 0; n < p.hidden; ++n) {
          double const tolerance =
              kmoe::test::sum_tolerance<T>(std::max(p.hidden, p.intermediate) + 4, want[n].sum,
                                           want[n].value) +
              kmoe::test::unit_roundoff<T> * want[n].rounding +
              kmoe::test::underflow_unit<T> * p.intermediate * 4;
          ASSERT_NEAR(rows[r * p.hidden + n], want[n].value, tolerance)
              << "row " << r << " column " << n << " expert " << e;
        }
      }
    }
    for (std::size_t i = offsets(p.experts) * p.hidden; i < rows.size(); ++i) {
      ASSERT_TRUE(std::isnan(rows[i])) << "a row that belongs to no expert was written";
    }
  }
};
TYPED_TEST_SUITE(ExpertMlp, kmoe::test::Cases, kmoe::test::TypeNames);

TYPED_TEST(ExpertMlp, EveryActivationLayoutAndWeighting) {
  for_each_isa<typename TypeParam::E>([] {
    for (auto const activation : all_activations) {
      for (auto const layout : all_layouts) {
        if (activation == Activation::swiglu_oai && layout == GateUpLayout::plain) continue;
        for (auto const weighting : {Weighting::none, Weighting::output, Weighting::input}) {
          for (bool const whole : {false, true}) {  // rows of whole 16-byte pieces
            Problem p;
            p.hidden = whole ? 72 : 31;
            p.intermediate = whole ? 40 : 33;
            p.activation = activation;
            p.layout = layout;
            p.weighting = weighting;
            p.biases = weighting != Weighting::none;
            TestFixture::check(p);
          }
        }
      }
    }
  });
}

TYPED_TEST(ExpertMlp, OddSizes) {
  for_each_isa<typename TypeParam::E>([] {
    for (index_t const hidden : {1, 7, 32, 33, 127, 130}) {
      for (index_t const intermediate : {1, 7, 31, 128, 130}) {
        Problem p;
        p.hidden = hidden;
        p.intermediate = intermediate;
        p.tokens = 6;
        p.slots = intermediate % 2 + 1;
        p.layout = hidden % 2 == 0 ? GateUpLayout::interleaved : GateUpLayout::gate_first;
        TestFixture::check(p);
      }
    }
  });
}

/// From few tokens and experts to many: device spaces have tiles of several sizes for them.
TYPED_TEST(ExpertMlp, EveryTile) {
  struct Size {
    index_t tokens, slots, experts;
  };
  auto const check = [](Size const& size, index_t hidden, GateUpLayout layout, int route = 0) {
    Problem p;
    p.route = route;
    p.tokens = size.tokens;
    p.slots = size.slots;
    p.experts = size.experts;
    p.hidden = hidden;
    p.intermediate = 968;  // the last tile of features is not whole
    p.layout = layout;
    if (layout == GateUpLayout::plain) p.intermediate = 1288;
    TestFixture::check(p);
  };
  for (auto const& size : {Size{3, 1, 2}, Size{4, 3, 20}, Size{30, 4, 40}, Size{100, 2, 3},
                           Size{300, 2, 70}, Size{700, 2, 70}}) {
    check(size, 136, GateUpLayout::gate_first);
  }
  // One token, or few experts: tiles of eight tokens. One of many experts has all rows: more than
  // the tile chosen for few has.
  check({1, 8, 20}, 136, GateUpLayout::gate_first);
  check({5, 1, 6}, 136, GateUpLayout::gate_first);
  check({75, 2, 40}, 136, GateUpLayout::gate_first, 1);
  // Many rows of each expert; with gates only where no host computes them, too.
  check({3400, 2, 70}, 24, GateUpLayout::plain);
  if (!on_host<typename TypeParam::E>) check({3400, 2, 70}, 264, GateUpLayout::gate_first);
}

TYPED_TEST(ExpertMlp, AllToOneNoneAnywhereNoTokens) {
  for_each_isa<typename TypeParam::E>([] {
    Problem p;
    p.tokens = 150;
    p.route = 1;
    TestFixture::check(p);
    p.route = 2;
    TestFixture::check(p);
    p.tokens = 0;
    TestFixture::check(p);
  });
}

TYPED_TEST(ExpertMlp, NoExpertsIsFine) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  E const exec;
  kmoe::ExpertWeights<E, T> weights;
  weights.gate_up = kmoe::Tensor3<T, E>("gate_up", 0, 16, 8);
  weights.down = kmoe::Tensor3<T, E>("down", 0, 8, 8);
  kmoe::ExpertMlp<E, T> mlp(exec, weights, {});
  kmoe::Permutation<E> permutation;
  auto const memory = kmoe::make_workspace<E>([&](kmoe::Workspace<E>& ws) {
    permutation.bind(ws, 4, 2, 0);
    mlp.bind(exec, ws, 0);
  });
  kmoe::Matrix<index_t, E> const ids("ids", 4, 2);
  Kokkos::deep_copy(ids, -1);
  kmoe::make_permutation(exec, ids, permutation);
  auto const x = kmoe::test::random_matrix<T, E>(4, 8, 1);
  EXPECT_NO_THROW(mlp.forward(exec, x, permutation, {}, kmoe::Matrix<T, E>("rows", 0, 8)));
}

/// Every row of a large batch, against the same token and expert alone; windows are crossed.
TYPED_TEST(ExpertMlp, BitsOfARowDependOnItAlone) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  for_each_isa<typename TypeParam::E>([] {
    E const exec;
    // 18000 slots are more than a window. From about 7000 rows on a GPU has a kernel of its own for
    // hidden sizes up to 256.
    using L = GateUpLayout;
    for (auto const& [hidden, intermediate, tokens, layout] :
         {std::tuple(9, 35, 9000, L::gate_first), std::tuple(8, 264, 1500, L::gate_first),
          std::tuple(8, 72, 4000, L::gate_first), std::tuple(64, 64, 4000, L::up_first),
          std::tuple(136, 40, 4000, L::interleaved), std::tuple(200, 16, 4000, L::up_first),
          std::tuple(256, 24, 4000, L::gate_first)}) {
      Problem p;
      p.hidden = hidden;
      p.intermediate = intermediate;
      p.tokens = tokens;
      p.layout = layout;
      auto const d = TestFixture::make(p);
      auto const many = kmoe::test::to_host(TestFixture::forward(exec, p, d));
      auto const row_of_slot = kmoe::test::to_host(d.permutation.row_of_slot);
      for (index_t const count : {1, 2, 15, 40}) {
        for (index_t const first : {0, p.tokens / 2, p.tokens - 50}) {
          Problem few = p;
          few.tokens = count;
          auto part = TestFixture::make(few);
          auto const range = std::pair(first, first + count);
          part.x = Kokkos::subview(d.x, range, Kokkos::ALL);
          part.topk_weights = Kokkos::subview(d.topk_weights, range, Kokkos::ALL);
          kmoe::Matrix<index_t, E> const ids("ids", count, p.slots);
          auto const offsets = kmoe::test::to_host(d.permutation.expert_offsets);
          kmoe::test::set_entries(ids, [&](index_t& id, std::size_t i) {
            index_t const row = row_of_slot(first + i / p.slots, i % p.slots);
            id = -1;
            for (index_t e = 0; row >= 0 && e < p.experts; ++e) {
              if (row >= offsets(e) && row < offsets(e + 1)) id = e;
            }
          });
          kmoe::make_permutation(exec, ids, part.permutation);
          auto const rows = kmoe::test::to_host(TestFixture::forward(exec, few, part));
          auto const part_row = kmoe::test::to_host(part.permutation.row_of_slot);
          for (index_t t = 0; t < count; ++t) {
            for (index_t k = 0; k < p.slots; ++k) {
              index_t const a = row_of_slot(first + t, k), b = part_row(t, k);
              ASSERT_EQ(a < 0, b < 0);
              if (a < 0) continue;
              ASSERT_EQ(std::memcmp(&many(a, 0), &rows(b, 0), p.hidden * sizeof(T)), 0)
                  << "token " << first + t << " slot " << k << " among " << count;
            }
          }
        }
      }
    }
  });
}

/// Grouping, products and sums in one call, against three: the same bits in everything they write.
TYPED_TEST(ExpertMlp, AllInOneIsTheSame) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  E const exec;
  struct Size {
    index_t experts, hidden, intermediate, tokens, slots;
  };
  // Few and many slots and steps of k, around the kernels' tiles and stages; few slots of many
  // experts; experts for whom nothing comes.
  for (auto const [experts, hidden, intermediate, tokens, slots] :
       {Size{3, 8, 8, 1, 2}, Size{40, 64, 704, 1, 8}, Size{40, 768, 96, 8, 8},
        Size{5, 72, 200, 8, 1}, Size{16, 256, 128, 64, 2}, Size{600, 16, 16, 50, 3},
        Size{4, 448, 320, 300, 4}, Size{7, 32, 24, 700, 3}, Size{4, 64, 40, 3000, 1},
        Size{6, 136, 72, 2100, 5}}) {
    for (int const route : {0, 1, 2}) {
      Problem p;
      p.experts = experts;
      p.hidden = hidden;
      p.intermediate = intermediate;
      p.tokens = tokens;
      p.slots = slots;
      p.route = route;
      auto const d = TestFixture::make(p);
      auto const rows = TestFixture::forward(exec, p, d);
      kmoe::Matrix<T, E> const expected("expected", tokens, hidden), y("y", tokens, hidden);
      kmoe::unpermute<E, T>(exec, rows, d.permutation, {}, expected);

      kmoe::ExpertMlp<E, T> mlp(exec, d.weights, d.options);
      kmoe::Permutation<E> permutation;
      auto const memory = kmoe::make_workspace<E>([&](kmoe::Workspace<E>& ws) {
        permutation.bind(ws, tokens, slots, experts);
        mlp.bind(exec, ws, offset_t{tokens} * slots);
      });
      kmoe::Matrix<T, E> const own_rows("own_rows", std::size_t(tokens) * slots, hidden);
      kmoe::Vector<offset_t, E> const counted("counted", experts);
      kmoe::test::poison(own_rows);
      for (int repeat = 1; repeat <= 2; ++repeat) {
        kmoe::test::poison(y);
        mlp.forward_combined(exec, d.x, d.ids, permutation, counted, d.topk_weights, own_rows, y);
        exec.fence();
        SCOPED_TRACE(testing::Message()
                     << experts << " experts, H " << hidden << ", I " << intermediate << ", T "
                     << tokens << ", K " << slots << ", route " << route << ", call " << repeat);
        auto const a = kmoe::test::to_host(expected), b = kmoe::test::to_host(y);
        for (std::size_t i = 0; i < a.size(); ++i) {
          ASSERT_EQ(std::memcmp(a.data() + i, b.data() + i, sizeof(T)), 0)
              << "element " << i << ": " << static_cast<double>(a.data()[i]) << " and "
              << static_cast<double>(b.data()[i]);
          ASSERT_FALSE(std::isnan(static_cast<double>(b.data()[i]))) << "element " << i;
        }
        auto const row = kmoe::test::to_host(d.permutation.row_of_slot);
        auto const own_row = kmoe::test::to_host(permutation.row_of_slot);
        ASSERT_EQ(std::memcmp(row.data(), own_row.data(), row.size() * sizeof(index_t)), 0);
        auto const offsets = kmoe::test::to_host(d.permutation.expert_offsets);
        auto const own_offsets = kmoe::test::to_host(permutation.expert_offsets);
        auto const counts = kmoe::test::to_host(counted);
        for (index_t e = 0; e < experts; ++e) {
          ASSERT_EQ(offsets(e + 1), own_offsets(e + 1));
          ASSERT_EQ(repeat * (offsets(e + 1) - offsets(e)), counts(e));
        }
      }
    }
  }
}

TYPED_TEST(ExpertMlp, DenseIsAGroupOfOne) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  for_each_isa<typename TypeParam::E>([] {
    for (auto const weighting : {Weighting::none, Weighting::output, Weighting::input}) {
      E const exec;
      Problem p;
      p.experts = 1;
      p.slots = 1;
      p.route = 1;
      p.hidden = 33;
      p.tokens = 67;
      p.weighting = weighting;
      auto const d = TestFixture::make(p);
      auto const want = kmoe::test::to_host(TestFixture::forward(exec, p, d));
      kmoe::ExpertMlp<E, T> mlp(exec, d.weights, d.options);
      auto const ws =
          kmoe::make_workspace<E>([&](kmoe::Workspace<E>& w) { mlp.bind(exec, w, p.tokens); });
      auto const y = kmoe::test::poisoned_matrix<T, E>(p.tokens, p.hidden);
      mlp.forward_dense(exec, d.x, d.topk_weights, y);
      exec.fence();
      auto const got = kmoe::test::to_host(y);
      EXPECT_EQ(std::memcmp(want.data(), got.data(), got.size() * sizeof(T)), 0);
    }
  });
}

std::atomic<int> allocations{0};

TYPED_TEST(ExpertMlp, ForwardAllocatesNothing) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  E const exec;
  Problem p;
  p.tokens = 100;
  auto const d = TestFixture::make(p);
  kmoe::ExpertMlp<E, T> mlp(exec, d.weights, d.options);
  auto const slots = offset_t{p.tokens} * p.slots;
  auto const ws = kmoe::make_workspace<E>([&](kmoe::Workspace<E>& w) { mlp.bind(exec, w, slots); });
  kmoe::Matrix<T, E> const rows("rows", slots, p.hidden);
  Kokkos::Tools::Experimental::set_allocate_data_callback(
      [](Kokkos::Tools::SpaceHandle, char const*, void const*, std::uint64_t bytes) {
        if (bytes != 0) ++allocations;  // a policy with scratch memory reports one of none
      });
  allocations = 0;
  mlp.forward(exec, d.x, d.permutation, d.topk_weights, rows);
  exec.fence();
  int const counted = allocations;
  kmoe::Matrix<T, E> const control("control", 3, 3);
  EXPECT_GT(allocations, counted);
  Kokkos::Tools::Experimental::set_allocate_data_callback(nullptr);
  EXPECT_EQ(counted, 0);
}

TYPED_TEST(ExpertMlp, ScratchIsBounded) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  if (!on_host<E>) GTEST_SKIP() << "devices hold the intermediate of all rows";
  E const exec;
  kmoe::Workspace<E> large, larger;
  kmoe::ExpertMlp<E, T>::bind_shape(exec, large, 2048, 768, true, offset_t{1} << 20);
  kmoe::ExpertMlp<E, T>::bind_shape(exec, larger, 2048, 768, true, offset_t{1} << 40);
  EXPECT_EQ(large.bytes(), larger.bytes());
  EXPECT_LT(large.bytes(), std::size_t{40 << 20} + exec.concurrency() * std::size_t{4 << 20});
}

TYPED_TEST(ExpertMlp, RefusesWhatDoesNotFit) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  E const exec;
  Problem p;
  auto const d = TestFixture::make(p);
  using Mlp = kmoe::ExpertMlp<E, T>;
  auto bad = d.weights;
  bad.layout = GateUpLayout::plain;
  EXPECT_THROW(Mlp(exec, bad, d.options), kmoe::InvalidArgument);
  bad = d.weights;
  bad.down = kmoe::Tensor3<T, E>("down", p.experts, p.hidden + 1, p.intermediate);
  EXPECT_THROW(Mlp(exec, bad, d.options), kmoe::InvalidArgument);
  bad = d.weights;
  bad.down_bias = kmoe::Matrix<kmoe::accumulate_t<T>, E>("bias", p.experts, p.hidden + 1);
  EXPECT_THROW(Mlp(exec, bad, d.options), kmoe::InvalidArgument);

  Mlp mlp(exec, d.weights, d.options);
  auto const slots = offset_t{p.tokens} * p.slots;
  auto const ws = kmoe::make_workspace<E>([&](kmoe::Workspace<E>& w) { mlp.bind(exec, w, slots); });
  kmoe::Matrix<T, E> const rows("rows", slots, p.hidden), narrow("narrow", slots, p.hidden - 1);
  kmoe::Matrix<float, E> const short_weights("w", p.tokens - 1, p.slots);
  EXPECT_NO_THROW(mlp.forward(exec, d.x, d.permutation, d.topk_weights, rows));
  EXPECT_THROW(mlp.forward(exec, d.x, d.permutation, d.topk_weights, narrow),
               kmoe::InvalidArgument);
  EXPECT_THROW(mlp.forward(exec, d.x, d.permutation, short_weights, rows), kmoe::InvalidArgument);
  EXPECT_THROW(mlp.forward_dense(exec, d.x, {}, rows), kmoe::InvalidArgument);  // three experts
}

/// act(x) alone, by an expert with H = I = 1 and unit weights: accuracy in units of the last place
/// over the whole range, NaN and infinities.
TYPED_TEST(ExpertMlp, ActivationsAreAccurate) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  using A = kmoe::accumulate_t<T>;
  constexpr double u = std::max(kmoe::test::unit_roundoff<T>, kmoe::test::unit_roundoff<A>);
  for_each_isa<typename TypeParam::E>([] {
    E const exec;
    index_t const count = 4001;
    for (auto const activation : all_activations) {
      if (activation == Activation::swiglu_oai) continue;
      SCOPED_TRACE(std::string(to_string(activation)));
      kmoe::ExpertWeights<E, T> weights;
      kmoe::Tensor3<T, E> const one("one", 1, 1, 1);
      kmoe::test::set_entries(one, [](T& entry, std::size_t) { entry = T(1.0F); });
      weights.gate_up = weights.down = one;
      weights.layout = GateUpLayout::plain;
      kmoe::ExpertOptions options;
      options.activation = activation;
      kmoe::ExpertMlp<E, T> mlp(exec, weights, options);
      auto const ws =
          kmoe::make_workspace<E>([&](kmoe::Workspace<E>& w) { mlp.bind(exec, w, count); });
      kmoe::Matrix<T, E> const x("x", count, 1);
      kmoe::test::set_entries(x, [](T& entry, std::size_t i) {
        double const s = (double(i) - 2000) / 2000;
        entry = T(A(i % 2 == 0 ? 5 * s : 30 * s));
        if (i == 0) entry = T(std::numeric_limits<float>::quiet_NaN());
        if (i == 1) entry = T(std::numeric_limits<float>::infinity());
      });
      auto const y = kmoe::test::poisoned_matrix<T, E>(count, 1);
      mlp.forward_dense(exec, x, {}, y);
      auto const in = to_doubles(x), out = to_doubles(y);
      EXPECT_TRUE(std::isnan(out[0]));
      EXPECT_EQ(out[1], std::numeric_limits<double>::infinity());
      for (index_t i = 2; i < count; ++i) {
        double const want = reference::activation(std::string(to_string(activation)), in[i]);
        // In the tails e^-s decides: a few roundings of s, here and in
        // the plain loops, become relative errors of s each.
        double const a = std::abs(in[i]);
        double const s = activation == Activation::gelu_tanh  ? 1.6 * a * (1 + 0.0447 * a * a)
                         : activation == Activation::gelu_erf ? a * a / 2
                                                              : a / 4;
        double const accurate = (6 + 8 * s) * kmoe::test::unit_roundoff<A>;
        ASSERT_NEAR(out[i], want,
                    std::abs(want) * (accurate + 1.01 * u) + a * (sizeof(A) == 4 ? 1e-37 : 1e-307) +
                        2 * kmoe::test::underflow_unit<T>)
            << "at " << in[i];
      }
    }
  });
}

}  // namespace
