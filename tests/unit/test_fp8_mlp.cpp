// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Experts with fp8 weights, with scales of blocks, rows and matrices: sizes and numbers of rows
// that send each of Hopper's tiles to work, against plain loops; the same bits of a token whatever
// the tile, the grouping and the sums.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include <kmoe/experts/expert_mlp.hpp>
#include <kmoe/permute/permutation.hpp>

#include "device/sm90/experts.hpp"
#include "reference/expert_mlp.hpp"
#include "reference/quantization.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"
#include "support/typed.hpp"

namespace {

using kmoe::index_t;
using kmoe::offset_t;
using Host = Kokkos::DefaultHostExecutionSpace;

/// How the weights are quantized; `given`: scales of the activations are, for each expert.
struct Format {
  char const* name;
  bool given = false;

  [[nodiscard]] kmoe::QuantScheme scheme() const { return kmoe::quant_scheme(name); }
  /// With a scale of a row, what sums of gate_up leave out can move all codes of the intermediate:
  /// there the numbers are such that nothing is left out, integers of few bits times powers of two
  /// with 7 (448 = 64 * 7) for the largest.
  [[nodiscard]] bool exact() const {
    return scheme().activations != kmoe::ActivationCode::fp8_group;
  }
};

/// 0 to -2 random bits.
float random_power(std::uint64_t seed, std::size_t i) {
  return std::ldexp(1.0F, -int(kmoe::test::random_bits(seed, i) % 3));
}
float random_integer(std::uint64_t seed, std::size_t i) {
  return float(kmoe::test::random_value(seed, i, kmoe::test::Values::integers));
}

kmoe::QuantizedHostTensor random_weights(std::size_t e, std::size_t n, std::size_t k,
                                         std::uint64_t seed, int parts, Format const& format) {
  kmoe::Tensor3<float, Host> w("w", e, n, k);
  auto const scheme = format.scheme();
  std::size_t const rows = scheme.block_rows > 0 ? scheme.block_rows : n / parts;
  std::size_t const columns = scheme.block_cols > 0 ? scheme.block_cols : k;
  // Blocks of very different sizes: a scale of a neighbour would show.
  kmoe::test::set_entries(w, [&](float& x, std::size_t i) {
    std::size_t const block = i / k / rows * 1000 + i % k / columns;
    if (format.exact()) {
      bool const first = i / k % rows == 0 && i % k % columns == 0;
      x = (first ? 7.0F : random_integer(seed, i)) * random_power(seed + 9, block) / 128;
      return;
    }
    x = float((0.5 + 2 * kmoe::test::random_unit(seed + 9, block)) / std::sqrt(double(k)) *
              kmoe::test::random_value(seed, i, kmoe::test::Values::normal));
  });
  auto q = kmoe::quantize(w, scheme, parts);
  if (format.given) {
    kmoe::Vector<float, Host> const scales("input_scales", e);
    for (std::size_t i = 0; i < e; ++i) {  // some elements saturate; that of expert 5: of the row
      scales(i) = i == 5 ? 0.0F : std::ldexp(1.0F, int(i % 3) - 7);
    }
    q.input_scales = scales;
  }
  return q;
}

/// Experts and their weights; the routing and x of as many tokens as a case wants, the first ones
/// always the same.
template <class E, class T>
struct Model {
  using Bias = kmoe::Matrix<kmoe::accumulate_t<T>, E>;
  static constexpr index_t experts = 8, slots = 2, most_tokens = 300;
  Format format;
  std::size_t hidden, inner;
  kmoe::GateUpLayout layout;
  kmoe::ExpertOptions options;
  kmoe::QuantizedHostTensor gate_up, down;
  Bias gate_up_bias, down_bias;
  kmoe::Matrix<T, E> x;
  kmoe::Matrix<float, E> weights;
  bool all_to_one = false, few_have_rows = false;
  offset_t max_rows = 0;  // that memory is bound for, 0: all slots

  Model(Format const& f, std::size_t h, std::size_t i, kmoe::GateUpLayout l, bool biased)
      : format(f),
        hidden(h),
        inner(i),
        layout(l),
        gate_up(
            random_weights(experts, 2 * i, h, 1, l == kmoe::GateUpLayout::interleaved ? 1 : 2, f)),
        down(random_weights(experts, h, i, 2, 1, f)),
        x(kmoe::test::random_matrix<T, E>(most_tokens, h, 5, kmoe::test::Values::normal)),
        weights(kmoe::test::random_matrix<float, E>(most_tokens, slots, 6)) {
    if (biased) {
      using Value = kmoe::accumulate_t<T>;
      auto const values = f.exact() ? kmoe::test::Values::integers : kmoe::test::Values::uniform;
      gate_up_bias = kmoe::test::random_matrix<Value, E>(experts, 2 * i, 3, values);
      down_bias = kmoe::test::random_matrix<Value, E>(experts, h, 4);
      options.activation = kmoe::Activation::swiglu_oai;
    }
    auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, x);
    if (f.exact()) {
      for (std::size_t t = 0; t < most_tokens; ++t) {
        std::size_t const largest = t == 40 ? 200 : h - 1 - t % 7;
        for (std::size_t k = 0; k < h; ++k) {
          float const v = k == largest ? 7.0F : random_integer(5, t * h + k);
          host(t, k) = T(v * random_power(8, t));
        }
      }
      kmoe::test::set_entries(weights,
                              [](float& w, std::size_t slot) { w = random_power(6, slot); });
    }
    // A token of zeros, one with a block of zeros, one with a large block.
    for (std::size_t k = 0; k < h; ++k) {
      host(1, k) = T(0.0F);
      if (k < 128) host(2, k) = T(0.0F);
      if (k >= 128 && k < 256) host(40, k) = T((f.exact() ? 16 : 20) * double(host(40, k)));
    }
    Kokkos::deep_copy(x, host);
  }

  [[nodiscard]] index_t id(std::size_t slot) const {
    if (all_to_one) return slot % 2 == 0 ? 3 : -1;
    if (few_have_rows && slot % 16 > 0) return -1;
    if (slot % 13 == 12) return -1;
    auto const first = index_t(kmoe::test::random_bits(7, slot / 2) % 7);  // expert 7 is empty
    return slot % 2 == 0 ? first : (first + 3) % 7;
  }

  struct Result {
    Kokkos::View<T**, Kokkos::LayoutRight, Kokkos::HostSpace> rows, y;  // rows by slot
  };
  enum class Way { steps, grouped, combined };

  Result run(E const& exec, std::size_t tokens, Way way) const {
    kmoe::ExpertWeights<E, T> w;
    w.layout = layout;
    w.quantized_gate_up = kmoe::copy_to(exec, gate_up);
    w.quantized_down = kmoe::copy_to(exec, down);
    w.gate_up_bias = gate_up_bias;
    w.down_bias = down_bias;
    kmoe::ExpertMlp<E, T> mlp(exec, w, options);
    auto const count = static_cast<index_t>(tokens);
    kmoe::Permutation<E> permutation;
    auto const workspace = kmoe::make_workspace<E>([&](kmoe::Workspace<E>& ws) {
      permutation.bind(ws, count, slots, experts);
      mlp.bind(exec, ws, max_rows > 0 ? max_rows : offset_t{count} * slots);
    });
    kmoe::Matrix<index_t, E> const ids("ids", tokens, slots);
    kmoe::test::set_entries(ids, [&](index_t& i, std::size_t slot) { i = id(slot); });
    auto const own_x = kmoe::row_range(x, 0, tokens);
    auto const own_weights = kmoe::row_range(weights, 0, tokens);
    auto const rows = kmoe::test::poisoned_matrix<T, E>(tokens * slots, hidden);
    auto const y = kmoe::test::poisoned_matrix<T, E>(tokens, hidden);
    for (int repeat = 0; repeat < 2; ++repeat) {  // what a launch leaves behind serves the next
      switch (way) {
        case Way::steps:
          kmoe::make_permutation<E>(exec, ids, permutation);
          mlp.forward(exec, own_x, permutation, own_weights, rows);
          break;
        case Way::grouped:
          mlp.forward(exec, own_x, ids, permutation, {}, own_weights, rows);
          break;
        case Way::combined:
          mlp.forward_combined(exec, own_x, ids, permutation, {}, own_weights, rows, y);
      }
    }
    if (way != Way::combined) kmoe::unpermute<E, T>(exec, rows, permutation, {}, y);
    exec.fence();
    Result result;
    result.rows = decltype(result.rows)("rows", tokens * slots, hidden);
    result.y = decltype(result.y)("y", tokens, hidden);
    auto const by_row = kmoe::test::to_host(rows);
    auto const row_of_slot = kmoe::test::to_host(permutation.row_of_slot);
    for (std::size_t s = 0; s < tokens * slots; ++s) {
      index_t const row = row_of_slot.data()[s];
      EXPECT_EQ(row >= 0, id(s) >= 0);
      for (std::size_t n = 0; n < hidden; ++n) {
        result.rows(s, n) = row < 0 ? T(0.0F) : by_row(std::size_t(row), n);
      }
    }
    Kokkos::deep_copy(result.y, y);
    return result;
  }

  /// The row of a slot by plain loops; the intermediate is rounded to T before it is quantized.
  [[nodiscard]] std::vector<double> expected(std::size_t slot) const {
    auto const w1 = kmoe::dequantize(one(gate_up, id(slot)));
    auto const w2 = kmoe::dequantize(one(down, id(slot)));
    auto const e = std::size_t(id(slot));
    auto const host = kmoe::test::to_host(kmoe::row_range(x, slot / slots, slot / slots + 1));
    std::vector<double> row(hidden), between(inner), out(hidden);
    double const weight = kmoe::test::to_host(weights)(slot / slots, slot % slots);
    bool const on_input = options.router_weight_on_input;
    for (std::size_t k = 0; k < hidden; ++k) {
      row[k] = on_input ? float(T(float(host(0, k)) * float(weight))) : float(host(0, k));
    }
    row = rounded(gate_up, e, row);
    auto const bias = [&](Bias const& b, std::size_t n) {
      return b.extent(0) == 0 ? 0.0 : double(kmoe::test::to_host(b)(e, n));
    };
    auto const dot = [&](auto const& w, std::size_t n, std::vector<double> const& v) {
      double sum = 0;
      for (std::size_t k = 0; k < v.size(); ++k) sum += v[k] * w(0, n, k);
      return sum;
    };
    bool const pairs = layout == kmoe::GateUpLayout::interleaved;
    bool const gate_first = layout == kmoe::GateUpLayout::gate_first;
    for (std::size_t i = 0; i < inner; ++i) {
      std::size_t const gate = pairs ? 2 * i : gate_first ? i : inner + i;
      std::size_t const up = pairs ? 2 * i + 1 : gate_first ? inner + i : i;
      between[i] = float(T(reference::gated_activation(
          std::string(to_string(options.activation)), dot(w1, gate, row) + bias(gate_up_bias, gate),
          dot(w1, up, row) + bias(gate_up_bias, up), options.swiglu_alpha, options.swiglu_limit)));
    }
    between = rounded(down, e, between);
    for (std::size_t n = 0; n < hidden; ++n) {
      out[n] = (on_input ? 1 : weight) * (dot(w2, n, between) + bias(down_bias, n));
    }
    return out;
  }

  static std::vector<double> rounded(kmoe::QuantizedHostTensor const& w, std::size_t expert,
                                     std::vector<double> const& row) {
    using Code = kmoe::ActivationCode;
    auto const code = w.scheme.activations;
    return reference::quantize_row(
        code == Code::fp8_group ? "fp8_group" : "fp8_static", false, row,
        w.input_scales.extent(0) == 0 ? 0.0 : double(w.input_scales(expert)));
  }

  static kmoe::QuantizedHostTensor one(kmoe::QuantizedHostTensor t, index_t e) {
    auto const range = std::pair<std::size_t, std::size_t>(std::size_t(e), std::size_t(e) + 1);
    t.codes = Kokkos::subview(t.codes, range, Kokkos::ALL, Kokkos::ALL);
    t.scales = Kokkos::subview(t.scales, range, Kokkos::ALL, Kokkos::ALL);
    t.input_scales = {};
    return t;
  }
};

template <class C>
class Fp8Mlp : public ::testing::Test {
 public:
  using M = Model<typename C::E, typename C::T>;
  using Way = typename M::Way;

  static void check(M const& model, bool by_chip) {
    SCOPED_TRACE(std::string(model.format.name) + (model.format.given ? " given " : " ") +
                 std::string(to_string(model.layout)));
    typename C::E const exec;
    // 3 tokens: tiles of 64 features; 40: of 256, x in codes; 120: with scales of rows a product in
    // each launch; 300: with room for more tokens.
    typename M::Result most;
    for (std::size_t const tokens : {300, 120, 40, 3}) {
      for (auto const way : {Way::steps, Way::grouped, Way::combined}) {
        kmoe::test::LaunchRecorder const recorder;
        auto const result = model.run(exec, tokens, way);
        auto const& seen = recorder.launches();
        EXPECT_EQ(by_chip, std::any_of(seen.begin(), seen.end(),
                                       [](auto const& launch) {
                                         return launch.label == "kmoe::expert_mlp";
                                       }))
            << tokens << " tokens";
        if (most.rows.size() == 0) {
          most = result;
          compare(model, result, tokens);
        }
        EXPECT_EQ(std::memcmp(result.rows.data(), most.rows.data(),
                              result.rows.size() * sizeof(typename C::T)),
                  0)
            << tokens << " tokens, way " << int(way);
        EXPECT_EQ(
            std::memcmp(result.y.data(), most.y.data(), result.y.size() * sizeof(typename C::T)), 0)
            << tokens << " tokens, way " << int(way);
      }
    }
  }

  static void compare(M const& model, typename M::Result const& result, std::size_t tokens) {
    double difference = 0, norm = 0;
    for (std::size_t s = 0; s < tokens * M::slots; s += s < 8 ? 1 : 24) {
      if (model.id(s) < 0) continue;
      auto const row = model.expected(s);
      double row_difference = 0, row_norm = 0;
      for (std::size_t n = 0; n < row.size(); ++n) {
        row_difference += std::pow(double(result.rows(s, n)) - row[n], 2);
        row_norm += row[n] * row[n];
      }
      // A code on the edge falls to the other side: a 16th of one element, of few.
      EXPECT_LE(std::sqrt(row_difference), 0.03 * std::sqrt(row_norm)) << "slot " << s;
      difference += row_difference;
      norm += row_norm;
    }
    EXPECT_GT(norm, 0);
    EXPECT_LE(std::sqrt(difference / norm), sizeof(typename C::T) == 2 ? 1e-2 : 2e-3);
  }
};
TYPED_TEST_SUITE(Fp8Mlp, kmoe::test::Cases, kmoe::test::TypeNames);

/// Whether Hopper's kernel is to be seen at work.
template <class E, class T>
bool by_chip() {
  bool const host =
      Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename E::memory_space>::accessible;
  return !host && sizeof(T) == 2 && kmoe::device::sm90::available();
}

TYPED_TEST(Fp8Mlp, cut_blocks_and_every_layout) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  for (auto const layout : {kmoe::GateUpLayout::gate_first, kmoe::GateUpLayout::up_first,
                            kmoe::GateUpLayout::interleaved}) {
    Model<E, T> const model({"fp8_block"}, 336, 208, layout,
                            layout == kmoe::GateUpLayout::interleaved);
    TestFixture::check(model, by_chip<E, T>());
  }
}

// One scale per row of activations: of weights per row or matrix, activations' given or not.
TYPED_TEST(Fp8Mlp, scales_of_rows_and_every_layout) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  Format const formats[] = {{"fp8_channel"}, {"fp8_tensor"}, {"fp8_tensor", true}};
  for (int i = 0; i < 6; ++i) {
    auto const layout = i % 3 == 0   ? kmoe::GateUpLayout::gate_first
                        : i % 3 == 1 ? kmoe::GateUpLayout::up_first
                                     : kmoe::GateUpLayout::interleaved;
    // The 64 of a tile of features are cut, too, and 128 of k.
    Model<E, T> model(formats[i < 3 ? 0 : i - 3], i == 1 ? 2352 : 336, 208, layout, i % 2 == 0);
    model.options.router_weight_on_input = i == 2;
    TestFixture::check(model, by_chip<E, T>());
  }
}

TYPED_TEST(Fp8Mlp, scales_of_rows_and_all_tokens_to_one_expert) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  Model<E, T> model({"fp8_channel"}, 256, 384, kmoe::GateUpLayout::gate_first, true);
  model.all_to_one = true;
  TestFixture::check(model, by_chip<E, T>());
}

// Room for fewer rows than tokens, of which most are of no expert here: the same bits.
TYPED_TEST(Fp8Mlp, scales_of_rows_and_fewer_rows_than_tokens) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  Model<E, T> model({"fp8_channel"}, 256, 128, kmoe::GateUpLayout::gate_first, false);
  model.few_have_rows = true;
  auto const all = model.run(E{}, 300, Model<E, T>::Way::steps);
  TestFixture::compare(model, all, 300);
  model.max_rows = 41;
  auto const few = model.run(E{}, 300, Model<E, T>::Way::steps);
  EXPECT_EQ(std::memcmp(few.rows.data(), all.rows.data(), all.rows.size() * sizeof(T)), 0);
}

TYPED_TEST(Fp8Mlp, whole_blocks_and_all_tokens_to_one_expert) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  Model<E, T> model({"fp8_block"}, 256, 384, kmoe::GateUpLayout::gate_first, true);
  model.all_to_one = true;
  TestFixture::check(model, by_chip<E, T>());
}

// Rows of codes that are not whole pieces of 16 bytes are left to the portable kernel.
TYPED_TEST(Fp8Mlp, sizes_that_hopper_does_not_take) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  for (auto const* const name : {"fp8_block", "fp8_channel"}) {
    Model<E, T> const model({name}, 136, 56, kmoe::GateUpLayout::gate_first, false);
    TestFixture::check(model, false);
  }
}

}  // namespace
