// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <kmoe/routing/router.hpp>

#include "device/isa.hpp"
#include "reference/routing.hpp"
#include "routing/logits_kernels.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "support/typed.hpp"

namespace kmoe::test {
namespace {

template <class V>
std::vector<double> widened(V const& view) {
  auto const host = to_host(view);
  std::vector<double> wide(host.size());
  for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<double>(host.data()[i]);
  return wide;
}

/// Calls test() with each instruction set that this machine has kernels of.
template <class Test>
void for_each_isa(Test&& test) {
  for (device::Isa const isa : {device::Isa::portable, device::Isa::avx2, device::Isa::avx512}) {
    if (!device::isa_available(isa)) continue;
    SCOPED_TRACE(std::string(device::to_string(isa)));
    device::override_host_isa(isa);
    test(isa);
  }
  device::override_host_isa(std::nullopt);
}

template <class C>
class RouterLogits : public ::testing::Test {
 public:
  using E = typename C::E;
  using T = typename C::T;

  static RouterWeights<E, T> random_weights(index_t num_columns, index_t hidden, bool bias) {
    RouterWeights<E, T> weights;
    weights.weight = random_matrix<T, E>(num_columns, hidden, 11, Values::normal, "weight");
    if (bias) {
      Vector<float, E> values("bias", num_columns);
      fill_random(values, 12, Values::normal);
      weights.bias = values;
    }
    return weights;
  }

  static Workspace<E> scratch_for(index_t num_columns, index_t hidden,
                                  RouterScratch<E, T>& scratch) {
    auto workspace =
        make_workspace<E>([&](Workspace<E>& ws) { scratch.bind(ws, num_columns, hidden); });
    poison(scratch.buffer);
    return workspace;
  }

  static Matrix<float, E> logits_of(Matrix<T const, E> const& x,
                                    RouterWeights<E, T> const& weights) {
    auto const columns = static_cast<index_t>(weights.weight.extent(0));
    RouterScratch<E, T> scratch;
    auto const workspace = scratch_for(columns, static_cast<index_t>(x.extent(1)), scratch);
    auto const logits = poisoned_matrix<float, E>(x.extent(0), columns, "logits");
    E const exec;
    router_logits(exec, x, weights, scratch, logits);
    exec.fence();
    return logits;
  }

  /// Rounding of the sum in accumulate_t<T>, then to float.
  static void expect_reference(std::vector<double> const& x, RouterWeights<E, T> const& weights,
                               Matrix<float, E> const& logits) {
    auto const hidden = weights.weight.extent(1);
    std::vector<double> w = widened(weights.weight);
    std::vector<double> const bias = widened(weights.bias);
    auto const expected = reference::router_logits(x, w, bias, hidden);
    std::vector<double> x_abs = x, b_abs = bias;
    for (double& v : x_abs) v = std::abs(v);
    for (double& v : w) v = std::abs(v);
    for (double& v : b_abs) v = std::abs(v);
    auto const size = reference::router_logits(x_abs, w, b_abs, hidden);
    auto const got = to_host(logits);
    ASSERT_EQ(got.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      double const bound = unit_roundoff<float> * std::abs(expected[i]) +
                           tolerance<accumulate_t<T>>(double(hidden), size[i]);
      ASSERT_NEAR(got.data()[i], expected[i], bound) << "logit " << i;
    }
  }
};
TYPED_TEST_SUITE(RouterLogits, Cases, TypeNames);

TYPED_TEST(RouterLogits, MatchReference) {
  using T = typename TypeParam::T;
  using E = typename TypeParam::E;
  for (index_t const hidden : {1, 7, 33, 256, 257, 1030}) {
    for (index_t const columns : {1, 7, 8, 65, 128}) {
      for (index_t const tokens : {1, 5, 64, 131}) {
        SCOPED_TRACE("H " + std::to_string(hidden) + " C " + std::to_string(columns) + " T " +
                     std::to_string(tokens));
        auto const weights = TestFixture::random_weights(columns, hidden, columns % 2 == 1);
        auto const x = random_matrix<T, E>(tokens, hidden, 13, Values::normal);
        TestFixture::expect_reference(widened(x), weights, TestFixture::logits_of(x, weights));
      }
    }
  }
}

TYPED_TEST(RouterLogits, LongSumsKeepSixDigits) {
  using T = typename TypeParam::T;
  using E = typename TypeParam::E;
  index_t const hidden = 7168;
  auto const weights = TestFixture::random_weights(16, hidden, false);
  auto const x = random_matrix<T, E>(64, hidden, 14, Values::normal);
  auto const got = widened(TestFixture::logits_of(x, weights));
  auto const expected = reference::router_logits(widened(x), widened(weights.weight), {}, hidden);
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - expected[i]) * (got[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  EXPECT_LT(std::sqrt(error / norm), 1e-6);
}

TYPED_TEST(RouterLogits, BitsDoNotDependOnTheNumberOfTokensOrThePosition) {
  using T = typename TypeParam::T;
  using E = typename TypeParam::E;
  constexpr index_t tokens = 200;
  using Shapes = std::vector<std::pair<index_t, index_t>>;
  Shapes const shapes = {{1, 40}, {9, 300}, {64, 256}, {70, 33}, {256, 520}};
  for_each_isa([&](device::Isa) {
    for (auto const& [columns, hidden] : shapes) {
      SCOPED_TRACE("C " + std::to_string(columns) + " H " + std::to_string(hidden));
      auto const weights = TestFixture::random_weights(columns, hidden, true);
      auto const x = random_matrix<T, E>(tokens, hidden, 15);
      auto const whole = to_host(TestFixture::logits_of(x, weights));
      auto const expect_same = [&, w = weights](index_t begin, index_t end) {
        Matrix<T const, E> const some = Kokkos::subview(x, std::pair(begin, end), Kokkos::ALL);
        auto const part = to_host(TestFixture::logits_of(some, w));
        ASSERT_EQ(std::memcmp(part.data(), &whole(begin, 0), part.size() * sizeof(float)), 0)
            << "tokens " << begin << " to " << end;
      };
      index_t const step = columns * hidden < 3000 ? 1 : 13;
      for (index_t t = 1; t <= tokens; t += step) expect_same(0, t);
      for (index_t t = 0; t < tokens; t += 3) expect_same(t, t + 1);
      for (index_t t = 1; t < 64; t += 4 + step) expect_same(t, tokens);
    }
  });
}

TYPED_TEST(RouterLogits, EqualTokensHaveEqualBits) {
  using T = typename TypeParam::T;
  using E = typename TypeParam::E;
  auto const weights = TestFixture::random_weights(37, 515, true);
  Matrix<T, E> const x("x", 150, 515);
  set_entries(x, [](T& v, std::size_t i) { v = T(random_value(16, i % 515, Values::normal)); });
  auto const logits = to_host(TestFixture::logits_of(x, weights));
  for (index_t t = 1; t < 150; ++t) {
    ASSERT_EQ(std::memcmp(&logits(t, 0), &logits(0, 0), 37 * sizeof(float)), 0) << t;
  }
}

TYPED_TEST(RouterLogits, NanStaysInItsRow) {
  using T = typename TypeParam::T;
  using E = typename TypeParam::E;
  auto const weights = TestFixture::random_weights(12, 20, false);
  auto const x = random_matrix<T, E>(70, 20, 17);
  auto const clean = to_host(TestFixture::logits_of(x, weights));
  set_entries(x, [](T& v, std::size_t i) {
    v = i == 66 * 20 + 3 ? T(std::numeric_limits<float>::quiet_NaN())
                         : T(random_value(17, i, Values::uniform));
  });
  auto const logits = to_host(TestFixture::logits_of(x, weights));
  for (index_t t = 0; t < 70; ++t) {
    for (index_t e = 0; e < 12; ++e) {
      if (t == 66) {
        EXPECT_TRUE(std::isnan(logits(t, e)));
      } else {
        EXPECT_EQ(logits(t, e), clean(t, e));
      }
    }
  }
}

TYPED_TEST(RouterLogits, DeviceAndTileKernelsAddInTheSameOrder) {
  using T = typename TypeParam::T;
  using E = typename TypeParam::E;
  auto const weights = TestFixture::random_weights(75, 700, true);
  auto const x = random_matrix<T, E>(70, 700, 18, Values::normal);
  auto const logits = poisoned_matrix<float, E>(70, 75);
  E const exec;
  Kokkos::parallel_for("kmoe::test_logit_per_thread", Kokkos::RangePolicy<E>(exec, 0, 70 * 75),
                       routing::LogitPerThread<E, T>{x, weights, logits});
  exec.fence();
  TestFixture::expect_reference(widened(x), weights, logits);
  if constexpr (std::is_same_v<typename E::memory_space, Kokkos::HostSpace>) {
    using Tiles = routing::LogitTiles<E, T>;
    for_each_isa([&](device::Isa isa) {
      auto const tiles_of = [&](index_t num_workers) {
        auto const out = poisoned_matrix<float, E>(70, 75);
        Vector<accumulate_t<T>, E> const scratch("scratch", num_workers * Tiles::scratch_size());
        poison(scratch);
        Kokkos::parallel_for("kmoe::test_tiles", Kokkos::RangePolicy<E>(exec, 0, num_workers),
                             Tiles{x, weights, out, scratch, num_workers});
        exec.fence();
        return out;
      };
      auto const tiled = tiles_of(3), alone = tiles_of(1);
      TestFixture::expect_reference(widened(x), weights, tiled);
      ASSERT_EQ(std::memcmp(tiled.data(), alone.data(), tiled.size() * sizeof(float)), 0);
#if !defined(__FMA__)  // The device kernel, compiled here, does not fuse; of the others portable.
      if (isa != device::Isa::portable) return;
      for (std::size_t i = 0; i < tiled.size(); ++i) ASSERT_EQ(tiled.data()[i], logits.data()[i]);
#endif
    });
  }
}

TYPED_TEST(RouterLogits, KernelsRunOnTheInstancePassedAndAllocateNothing) {
  using T = typename TypeParam::T;
  using E = typename TypeParam::E;
  auto const instance = Kokkos::Experimental::partition_space(E(), 1, 1)[1];
  auto const weights = TestFixture::random_weights(8, 30, true);
  auto const x = random_matrix<T, E>(70, 30, 19);
  RouterScratch<E, T> scratch;
  auto const workspace = TestFixture::scratch_for(8, 30, scratch);
  auto const logits = poisoned_matrix<float, E>(70, 8);
  Routing<E> const out{poisoned_matrix<index_t, E>(70, 2), poisoned_matrix<float, E>(70, 2)};
  Kokkos::fence();
  LaunchRecorder const recorder;
  router_logits(instance, x, weights, scratch, logits);
  route(instance, logits, RouterOptions{}, {}, out);
  instance.fence();
  EXPECT_GE(LaunchRecorder::launches().size(), 2U);
  EXPECT_EQ(LaunchRecorder::allocations(), 0);
  for (Launch const& launch : LaunchRecorder::launches()) {
    EXPECT_EQ(launch.label.find("kmoe::"), 0U) << launch.label;
    EXPECT_EQ(launch.device, Kokkos::Tools::Experimental::device_id(instance)) << launch.label;
  }
}

TYPED_TEST(RouterLogits, EmptyAndWrongArguments) {
  using T = typename TypeParam::T;
  using E = typename TypeParam::E;
  auto const weights = TestFixture::random_weights(8, 30, true);
  EXPECT_EQ(TestFixture::logits_of(Matrix<T, E>("x", 0, 30), weights).size(), 0U);
  auto const message = [&](std::size_t hidden, std::size_t columns, std::size_t tokens,
                           std::size_t bias, bool bound) -> std::string {
    RouterScratch<E, T> scratch;
    auto const workspace = TestFixture::scratch_for(8, 30, scratch);
    RouterWeights<E, T> changed = weights;
    changed.bias = Vector<float, E>("bias", bias);
    try {
      router_logits(E(), Matrix<T, E>("x", 4, hidden), changed,
                    bound ? scratch : RouterScratch<E, T>{},
                    Matrix<float, E>("logits", tokens, columns));
    } catch (InvalidArgument const& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message(30, 8, 4, 8, true), "accepted");
  EXPECT_EQ(message(30, 8, 4, 0, true), "accepted");
  EXPECT_NE(message(29, 8, 4, 8, true).find("x.extent(1) = 29, found 30"), std::string::npos);
  EXPECT_NE(message(30, 9, 4, 8, true).find("found 9 (View \"logits\")"), std::string::npos);
  EXPECT_NE(message(30, 8, 5, 8, true).find("found 5"), std::string::npos);
  EXPECT_NE(message(30, 8, 4, 7, true).find("bias.extent(0)"), std::string::npos);
  if (std::is_same_v<typename E::memory_space, Kokkos::HostSpace>) {
    EXPECT_NE(message(30, 8, 4, 8, false).find("scratch must be bound"), std::string::npos);
  }
}

}  // namespace
}  // namespace kmoe::test
