// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Products with quantized weights: values against plain loops on the decoded weights and the
// quantized activations, for every format, element and instruction set; bits that do not depend on
// the number of rows.

#include <cstring>
#include <string>
#include <tuple>

#include <gtest/gtest.h>

#include <kmoe/core/error.hpp>
#include <kmoe/experts/expert_mlp.hpp>

#include "reference/expert_mlp.hpp"
#include "support/each_isa.hpp"
#include "support/quantized.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "support/typed.hpp"

namespace {

using kmoe::index_t;
using kmoe::offset_t;
using kmoe::test::quantized;
using Host = Kokkos::DefaultHostExecutionSpace;

constexpr char const* four_bits[] = {"mxfp4", "int4_zero", "nvfp4", "int4"};

template <class C>
class QuantizedGemm : public ::testing::Test {
 public:
  using E = typename C::E;
  using T = typename C::T;

  static void check(E const& exec, kmoe::QuantFormat const& format, std::size_t n, std::size_t k,
                    bool given, bool wild = false) {
    std::size_t const rows = 11;
    auto const q = quantized(format.scheme, 3, n, k, n + k, n % 2 == 0 ? 2 : 1, given, wild);
    auto const w = kmoe::dequantize(q);
    auto const x = kmoe::test::random_matrix<T, E>(rows, k, 5, kmoe::test::Values::normal);
    kmoe::Vector<offset_t, E> const offsets("offsets", 4);
    offset_t const ends[] = {0, 4, 4, 10};  // an empty group and rows beyond the last
    kmoe::test::set_entries(offsets, [&](offset_t& o, std::size_t i) { o = ends[i]; });
    auto const c = kmoe::test::poisoned_matrix<T, E>(rows, n);
    kmoe::grouped_gemm<E, T>(exec, x, kmoe::copy_to(exec, q), offsets, c);
    exec.fence();
    auto const x_host = kmoe::test::to_host(x);
    auto const c_host = kmoe::test::to_host(c);
    kmoe::test::expect_products<T>(q, w, x_host, c_host, std::string(format.name), wild);
    for (std::size_t j = 0; j < n; ++j) EXPECT_TRUE(std::isnan(double(c_host(10, j))));
  }
};
TYPED_TEST_SUITE(QuantizedGemm, kmoe::test::Cases, kmoe::test::TypeNames);

TYPED_TEST(QuantizedGemm, every_format_matches_plain_loops) {
  using E = typename TypeParam::E;
  kmoe::test::for_each_isa<E>([&] {
    E const exec;
    for (auto const& format : kmoe::quant_formats()) {
      for (auto const& [n, k] : {std::pair<std::size_t, std::size_t>{1, 1},
                                 {33, 31},
                                 {34, 64},
                                 {5, 129},
                                 {70, 300},
                                 // Sizes that Hopper's kernel takes; the last block of k is cut.
                                 {48, 64},
                                 {48, 128},
                                 {272, 448}}) {
        TestFixture::check(exec, format, n, k, k == 300);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
    // Scales from one end of floats to the other (halves have no such sums).
    if (!std::is_same_v<typename TypeParam::T, kmoe::half>) {
      TestFixture::check(exec, {"mxfp4 wild", kmoe::quant_scheme("mxfp4")}, 144, 192, false, true);
    }
    // Groups of other sizes, and one scale per row of 4-bit integers.
    for (index_t const group : {32, 64, 0}) {
      auto scheme = kmoe::quant_scheme(group == 64 ? "int4_zero" : "int4");
      scheme.block_cols = group;
      TestFixture::check(exec, {"int4 group", scheme}, 9, 200, false);
    }
  });
}

// Bits of a row: the same alone, among others, in another place.
TYPED_TEST(QuantizedGemm, bits_do_not_depend_on_the_other_rows) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  kmoe::test::for_each_isa<E>([&] {
    E const exec;
    // Few rows take another way, unless scales lie at the ends of their range. The last sizes are
    // Hopper's, which has wider tiles for more rows.
    for (std::size_t pass = 0; pass < 3 * kmoe::quant_formats().size(); ++pass) {
      auto const& format = kmoe::quant_formats()[pass / 3];
      std::size_t const n = pass % 3 == 2 ? 272 : 37, k = pass % 3 == 0 ? 200 : 192;
      std::size_t const rows = pass % 3 == 2 ? 300 : 70;
      bool const wild = pass % 3 == 1;
      auto const q = kmoe::copy_to(exec, quantized(format.scheme, 1, n, k, 3, 1, true, wild));
      auto const x = kmoe::test::random_matrix<T, E>(rows, k, 5, kmoe::test::Values::normal);
      auto const run = [&](std::size_t begin, std::size_t end) {
        kmoe::Vector<offset_t, E> const offsets("offsets", 2);
        kmoe::test::set_entries(
            offsets, [&](offset_t& o, std::size_t i) { o = i == 0 ? 0 : offset_t(end - begin); });
        auto const c = kmoe::test::poisoned_matrix<T, E>(end - begin, n);
        kmoe::grouped_gemm<E, T>(exec, kmoe::row_range(x, begin, end), q, offsets, c);
        exec.fence();
        return kmoe::test::to_host(c);
      };
      auto const all = run(0, rows);
      for (auto const& [begin, end] : {std::pair<std::size_t, std::size_t>{0, 1},
                                       {5, 6},
                                       {7, 10},
                                       {12, 14},
                                       {20, 24},
                                       {60, 70},
                                       {2, 70}}) {
        auto const part = run(begin, end);
        EXPECT_EQ(std::memcmp(part.data(), all.data() + begin * n, part.size() * sizeof(T)), 0)
            << format.name << " rows " << begin << " to " << end;
      }
    }
  });
}

// An MLP of quantized weights against the dense one of the decoded weights: every layout,
// activation and weighting, empty experts, dense calls.
TYPED_TEST(QuantizedGemm, mlp_matches_the_dense_one_of_the_decoded_weights) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  using Bias = kmoe::Matrix<kmoe::accumulate_t<T>, E>;
  E const exec;
  index_t const experts = 4, slots = 2;
  int round = 0;
  for (auto const& [hidden, inner, tokens] :
       {std::tuple<index_t, index_t, index_t>{96, 45, 9}, {256, 192, 150}, {192, 320, 150}})
    for (auto const layout : {kmoe::GateUpLayout::gate_first, kmoe::GateUpLayout::up_first,
                              kmoe::GateUpLayout::interleaved, kmoe::GateUpLayout::plain}) {
      for (auto const activation : {kmoe::Activation::silu, kmoe::Activation::gelu_tanh,
                                    kmoe::Activation::relu2, kmoe::Activation::swiglu_oai}) {
        bool const plain = layout == kmoe::GateUpLayout::plain;
        if (plain && activation == kmoe::Activation::swiglu_oai) continue;
        ++round;
        auto const scheme = kmoe::quant_scheme(four_bits[round % 4]);
        std::size_t const rows = plain ? inner : 2 * inner;
        int const parts = layout == kmoe::GateUpLayout::interleaved || plain ? 1 : 2;
        auto const gate_up = quantized(scheme, experts, rows, hidden, 1, parts, false);
        auto const down = quantized(scheme, experts, hidden, inner, 2, 1, false);
        kmoe::ExpertWeights<E, T> packed, dense;
        packed.layout = dense.layout = layout;
        packed.quantized_gate_up = kmoe::copy_to(exec, gate_up);
        packed.quantized_down = kmoe::copy_to(exec, down);
        packed.gate_up_bias = dense.gate_up_bias =
            kmoe::test::random_matrix<typename Bias::value_type, E>(experts, rows, 3);
        packed.down_bias = dense.down_bias =
            kmoe::test::random_matrix<typename Bias::value_type, E>(experts, hidden, 4);
        auto const decode = [](kmoe::QuantizedHostTensor const& q) {
          auto const w = kmoe::dequantize(q);
          kmoe::Tensor3<T, E> const out("w", w.extent(0), w.extent(1), w.extent(2));
          kmoe::test::set_entries(out, [&](T& x, std::size_t i) { x = T(w.data()[i]); });
          return out;
        };
        dense.gate_up = decode(gate_up);
        dense.down = decode(down);
        kmoe::ExpertOptions options;
        options.activation = activation;
        options.router_weight_on_input = round % 3 == 0;

        auto const x = kmoe::test::random_matrix<T, E>(tokens, hidden, 5);
        auto const weights = kmoe::test::random_matrix<float, E>(tokens, slots, 6);
        kmoe::Matrix<index_t, E> const ids("ids", tokens, slots);
        kmoe::test::set_entries(ids, [&](index_t& id, std::size_t i) {  // expert 2 is empty
          id = i % 5 == 4 ? -1 : index_t(i * 3 % 4 == 2 ? 3 : i * 3 % 4);
        });
        auto const run = [&](kmoe::ExpertWeights<E, T> const& w) {
          kmoe::ExpertMlp<E, T> mlp(exec, w, options);
          kmoe::Permutation<E> permutation;
          kmoe::Workspace<E> told;
          kmoe::ExpertMlp<E, T>::bind_shape(exec, told, hidden, inner, !plain, tokens * slots,
                                            w.scheme());
          kmoe::Workspace<E> bound;
          mlp.bind(exec, bound, tokens * slots);
          EXPECT_EQ(told.bytes(), bound.bytes());
          auto const workspace = kmoe::make_workspace<E>([&](kmoe::Workspace<E>& ws) {
            permutation.bind(ws, tokens, slots, experts);
            mlp.bind(exec, ws, tokens * slots);
          });
          kmoe::make_permutation<E>(exec, ids, permutation);
          kmoe::Matrix<T, E> const out("rows", tokens * slots, hidden);
          mlp.forward(exec, x, permutation, weights, out);
          exec.fence();
          EXPECT_GT(mlp.weight_bytes(), 0U);
          return kmoe::test::to_host(out);
        };
        auto const got = run(packed), expected = run(dense);
        double difference = 0, norm = 0;
        for (std::size_t i = 0; i < got.size(); ++i) {
          double const e = double(expected.data()[i]);
          difference += std::pow(double(got.data()[i]) - e, 2);
          norm += e * e;
        }
        // The decoded integers times their scales do not fit 16 bits exactly.
        double const bound = sizeof(T) == 2 ? 1e-2 : 2e-6;
        EXPECT_GT(norm, 0.1);
        EXPECT_LE(std::sqrt(difference / norm), bound)
            << to_string(layout) << " " << to_string(activation) << " " << to_string(scheme);
      }
    }
}

// Memory for the order in which a kernel reads x: none but the time depends on it. All memory holds
// NaN, sizes are no multiples of 128, some scales are larger than what the products take. Experts
// that share the tokens; one that has all; experts without any between others, and tokens without
// experts.
TYPED_TEST(QuantizedGemm, mlp_with_less_memory_has_the_same_bits) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  using Bias = kmoe::Matrix<kmoe::accumulate_t<T>, E>;
  E const exec;
  std::size_t const experts = 3, hidden = 192, inner = 320, tokens = 150, slots = 2;
  auto const x = kmoe::test::random_matrix<T, E>(tokens, hidden, 5);
  auto const weights = kmoe::test::random_matrix<float, E>(tokens, slots, 6);
  kmoe::Matrix<index_t, E> const shared("ids", tokens, slots), one("ids", tokens, slots),
      gaps("ids", tokens, slots);
  kmoe::test::set_entries(
      shared, [&](index_t& id, std::size_t i) { id = index_t((i / slots + i % slots) % experts); });
  kmoe::test::set_entries(one, [&](index_t& id, std::size_t i) { id = i % slots == 0 ? 1 : -1; });
  kmoe::test::set_entries(gaps, [&](index_t& id, std::size_t i) {
    std::size_t const token = i / slots;
    id = token % 3 == 1 || (token % 5 == 0 && i % slots == 0) ? -1 : index_t(i % slots * 2);
  });
  for (auto const* const name : four_bits) {
    for (auto const layout : {kmoe::GateUpLayout::gate_first, kmoe::GateUpLayout::up_first,
                              kmoe::GateUpLayout::interleaved}) {
      auto const scheme = kmoe::quant_scheme(name);
      int const parts = layout == kmoe::GateUpLayout::interleaved ? 1 : 2;
      auto const gate_up = quantized(scheme, experts, 2 * inner, hidden, 1, parts, false);
      auto const down = quantized(scheme, experts, hidden, inner, 2, 1, false);
      auto const set = [](auto const& codes, std::size_t e, std::size_t n, std::size_t block) {
        const_cast<std::uint8_t&>(codes(e, n, block)) = 165;  // 2^38
      };
      if (scheme.scale == kmoe::ScaleCode::e8m0 && std::isfinite(double(T(0x1p100F)))) {
        set(gate_up.scale_codes, 0, 5, 1);
        set(gate_up.scale_codes, 1, 2 * inner - 3, 3);
        set(down.scale_codes, 0, 7, 2);
        set(down.scale_codes, 2, hidden - 1, 9);
      }
      kmoe::ExpertWeights<E, T> w;
      w.layout = layout;
      w.quantized_gate_up = kmoe::copy_to(exec, gate_up);
      w.quantized_down = kmoe::copy_to(exec, down);
      w.gate_up_bias =
          kmoe::test::random_matrix<typename Bias::value_type, E>(experts, 2 * inner, 3);
      w.down_bias = kmoe::test::random_matrix<typename Bias::value_type, E>(experts, hidden, 4);
      kmoe::ExpertOptions options;
      options.activation = parts == 2 ? kmoe::Activation::silu : kmoe::Activation::swiglu_oai;
      kmoe::ExpertMlp<E, T> mlp(exec, w, options);
      offset_t rows = 0;
      auto const run = [&](kmoe::Matrix<index_t, E> const& ids, offset_t max_tokens) {
        kmoe::Permutation<E> permutation;
        auto const bind = [&](kmoe::Workspace<E>& ws) {
          permutation.bind(ws, index_t(tokens), index_t(slots), index_t(experts));
          mlp.bind(exec, ws, offset_t(tokens * slots), max_tokens);
        };
        kmoe::Workspace<E> counted;
        bind(counted);
        Kokkos::View<std::byte*, typename E::memory_space> const memory("memory",
                                                                        counted.device_bytes());
        Kokkos::View<std::byte*, Host> const host_memory("host", counted.host_bytes());
        Kokkos::deep_copy(memory, std::byte{0xff});
        kmoe::Workspace<E> workspace(memory.data(), memory.size(), host_memory.data(),
                                     host_memory.size());
        bind(workspace);
        kmoe::make_permutation<E>(exec, ids, permutation);
        auto const out = kmoe::test::poisoned_matrix<T, E>(tokens * slots, hidden);
        mlp.forward(exec, x, permutation, weights, out);
        exec.fence();
        rows = kmoe::test::to_host(permutation.expert_offsets)(experts);
        return kmoe::test::to_host(out);
      };
      for (auto const& ids : {shared, one, gaps}) {
        auto const all = run(ids, 0);
        for (std::size_t i = 0; i < std::size_t(rows) * hidden; ++i) {
          ASSERT_FALSE(std::isnan(double(all.data()[i]))) << name << " " << to_string(layout);
        }
        for (auto const max_tokens : {offset_t(tokens), offset_t{1}}) {
          auto const got = run(ids, max_tokens);
          EXPECT_EQ(std::memcmp(got.data(), all.data(), got.size() * sizeof(T)), 0)
              << name << " " << to_string(layout) << " " << max_tokens << " " << rows << " rows";
        }
      }
    }
  }
}

// Grouping, products and sums in one call, against three; a token alone against the same one among
// others: the same bits.
TYPED_TEST(QuantizedGemm, mlp_in_one_call_is_the_same_and_tokens_are_alone) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  using Mlp = kmoe::ExpertMlp<E, T>;
  E const exec;
  std::size_t const experts = 9, hidden = 192, inner = 128, slots = 3;
  for (auto const* const name :
       {"mxfp4", "int4_zero", "nvfp4", "int4", "fp8_block", "fp8_channel", "fp8_tensor"}) {
    auto const scheme = kmoe::quant_scheme(name);
    kmoe::ExpertWeights<E, T> w;
    w.quantized_gate_up =
        kmoe::copy_to(exec, quantized(scheme, experts, 2 * inner, hidden, 1, 2, false));
    w.quantized_down = kmoe::copy_to(exec, quantized(scheme, experts, hidden, inner, 2, 1, false));
    Mlp mlp(exec, w, {});
    struct Result {
      kmoe::Matrix<T, E> rows, y;
      kmoe::Permutation<E> permutation;
      kmoe::Workspace<E> workspace;
    };
    std::size_t const most = 300;
    auto const x = kmoe::test::random_matrix<T, E>(most, hidden, 5);
    auto const weights = kmoe::test::random_matrix<float, E>(most, slots, 6);
    bool to_one = false;  // expert
    auto const run = [&](std::size_t first, std::size_t tokens, int way) {
      Result r;
      r.workspace = kmoe::make_workspace<E>([&](kmoe::Workspace<E>& ws) {
        r.permutation.bind(ws, index_t(tokens), index_t(slots), index_t(experts));
        mlp.bind(exec, ws, offset_t(tokens * slots));
      });
      kmoe::Matrix<index_t, E> const ids("ids", tokens, slots);
      kmoe::test::set_entries(ids, [&](index_t& id, std::size_t i) {
        std::size_t const token = first + i / slots, k = i % slots;
        id = (token + k) % 7 == 6 ? -1 : index_t((token * 5 + k * 4) % experts);
        if (to_one) id = k == token % slots ? 4 : -1;
      });
      r.rows = kmoe::test::poisoned_matrix<T, E>(tokens * slots, hidden);
      r.y = kmoe::test::poisoned_matrix<T, E>(tokens, hidden);
      auto const part = kmoe::row_range(x, first, first + tokens);
      auto const part_weights =
          Kokkos::subview(weights, std::pair(first, first + tokens), Kokkos::ALL);
      if (way == 0) {
        kmoe::make_permutation<E>(exec, ids, r.permutation);
        mlp.forward(exec, part, r.permutation, part_weights, r.rows);
      } else if (way == 1) {
        mlp.forward(exec, part, ids, r.permutation, {}, part_weights, r.rows);
      } else {
        mlp.forward_combined(exec, part, ids, r.permutation, {}, part_weights, r.rows, r.y);
      }
      if (way < 2) kmoe::unpermute<E, T>(exec, r.rows, r.permutation, {}, r.y);
      exec.fence();
      return r;
    };
    // Tiles for few rows and for many; to one expert, a few more than a tile of each size has.
    for (auto const& [count, skewed] : {std::pair<std::size_t, bool>{1, false},
                                        {3, false},
                                        {40, false},
                                        {300, false},
                                        {12, true},
                                        {20, true},
                                        {40, true}}) {
      std::size_t const tokens = count;
      to_one = skewed;
      auto const steps = run(0, tokens, 0), grouped = run(0, tokens, 1), one = run(0, tokens, 2);
      auto const same = [&](auto const& a, auto const& b, std::size_t size, char const* what) {
        auto const left = kmoe::test::to_host(a), right = kmoe::test::to_host(b);
        EXPECT_EQ(std::memcmp(left.data(), right.data(), size * sizeof(*left.data())), 0)
            << name << " " << what << " of " << tokens;
      };
      auto const offsets = kmoe::test::to_host(steps.permutation.expert_offsets);
      std::size_t const rows = std::size_t(offsets(experts));
      same(steps.rows, grouped.rows, rows * hidden, "rows");
      same(steps.permutation.row_of_slot, grouped.permutation.row_of_slot, tokens * slots, "slots");
      same(steps.y, grouped.y, tokens * hidden, "sums");
      same(steps.y, one.y, tokens * hidden, "y");
      auto const y = kmoe::test::to_host(one.y);
      for (std::size_t const t : {std::size_t{0}, tokens / 2, tokens - 1}) {
        auto const alone = kmoe::test::to_host(run(t, 1, 2).y);
        EXPECT_EQ(std::memcmp(alone.data(), &y(t, 0), hidden * sizeof(T)), 0)
            << name << " token " << t << " of " << tokens;
        EXPECT_TRUE(std::isfinite(double(y(t, 0))));
      }
    }
  }
}

}  // namespace
