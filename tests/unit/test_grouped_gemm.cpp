// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Grouped GEMM: values against plain loops, bits against itself, on every instruction set that this
// machine offers.

#include <kmoe/gemm/grouped_gemm.hpp>

#include <cstring>

#include <gtest/gtest.h>

#include <kmoe/core/error.hpp>

#include "gemm/tile_gemm.hpp"
#include "reference/gemm.hpp"
#include "support/each_isa.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "support/typed.hpp"

namespace {

using kmoe::offset_t;
using kmoe::test::for_each_isa;
using kmoe::test::on_host;

template <class V>
std::vector<double> to_doubles(V const& view) {
  auto const host = kmoe::test::to_host(view);
  std::vector<double> out(host.size());
  for (std::size_t i = 0; i < host.size(); ++i) out[i] = static_cast<double>(host.data()[i]);
  return out;
}

template <class V>
bool same_bits(V const& a, V const& b) {
  auto const x = kmoe::test::to_host(a), y = kmoe::test::to_host(b);
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(*x.data())) == 0;
}

template <class C>
class GroupedGemm : public ::testing::Test {
 public:
  using E = typename C::E;
  using T = typename C::T;
  using A = kmoe::accumulate_t<T>;

  static kmoe::Vector<offset_t, E> make_offsets(std::vector<offset_t> const& values) {
    kmoe::Vector<offset_t, E> view("offsets", values.size());
    kmoe::test::set_entries(view, [&](offset_t& entry, std::size_t i) { entry = values[i]; });
    return view;
  }
  static kmoe::Tensor3<T, E> make_b(std::size_t groups, std::size_t n, std::size_t k) {
    kmoe::Tensor3<T, E> b("b", groups, n, k);
    kmoe::test::fill_random(b, 17);
    return b;
  }

  /// One problem, packed, on the fly and by the portable kernel, against plain loops.
  static void check(std::vector<offset_t> const& offsets, std::size_t rows, std::size_t n,
                    std::size_t k) {
    SCOPED_TRACE("M " + std::to_string(rows) + " N " + std::to_string(n) + " K " +
                 std::to_string(k) + " G " + std::to_string(offsets.size() - 1));
    E const exec;
    auto const a = kmoe::test::random_matrix<T, E>(rows, k, 3);
    auto const b = make_b(offsets.size() - 1, n, k);
    auto const views = make_offsets(offsets);
    auto const c = kmoe::test::poisoned_matrix<T, E>(rows, n);
    auto const raw = kmoe::test::poisoned_matrix<T, E>(rows, n);
    kmoe::grouped_gemm(exec, a, kmoe::PackedWeights<E, T>(exec, b), views, c);
    kmoe::grouped_gemm(exec, a, b, views, raw);
    exec.fence();
    auto const want = reference::grouped_gemm(to_doubles(a), to_doubles(b),
                                              {offsets.begin(), offsets.end()}, rows, n, k);
    expect_near(want, to_doubles(c), offsets, n, k);
    EXPECT_TRUE(same_bits(c, raw));

    auto const tiled = kmoe::test::poisoned_matrix<T, E>(rows, n);
    kmoe::detail::DeviceGemm<T> g;
    g.groups = static_cast<kmoe::index_t>(offsets.size() - 1);
    g.offsets = views.data();
    g.row_end = rows;
    g.x = a.data();
    g.x_rows = rows;
    g.k = k;
    g.columns = n;
    g.b = b.data();
    g.out = tiled.data();
    kmoe::detail::tile_gemm<E, T>(exec, "kmoe::test::tile_gemm", g);
    exec.fence();
    expect_near(want, to_doubles(tiled), offsets, n, k);
  }

  static void expect_near(reference::Product const& want, std::vector<double> const& got,
                          std::vector<offset_t> const& offsets, std::size_t n, std::size_t k) {
    for (std::size_t i = 0; i < got.size(); ++i) {
      auto const row = static_cast<offset_t>(i / n);
      if (row < offsets.front() || row >= offsets.back()) {
        ASSERT_TRUE(std::isnan(got[i])) << "row " << row << " is outside the groups";
        continue;
      }
      ASSERT_NEAR(got[i], want.value[i],
                  kmoe::test::sum_tolerance<T>(double(k), want.magnitude[i], want.value[i]))
          << "row " << row << " column " << i % n;
    }
  }
};
TYPED_TEST_SUITE(GroupedGemm, kmoe::test::Cases, kmoe::test::TypeNames);

TYPED_TEST(GroupedGemm, OddSizesMatchPlainLoops) {
  for_each_isa<typename TypeParam::E>([] {
    for (std::size_t const n : {1, 7, 31, 33, 127, 128, 130}) {
      for (std::size_t const k : {1, 7, 31, 33, 127, 128, 130}) {
        TestFixture::check({0, 3, 3, 20, 37}, 37, n, k);
      }
    }
  });
}

TYPED_TEST(GroupedGemm, LongSumsCrossBlocks) {
  for_each_isa<typename TypeParam::E>([] {
    for (std::size_t const k : {255, 256, 257, 512, 513, 1030}) {
      TestFixture::check({0, 33, 35}, 35, 34, k);
    }
  });
}

TYPED_TEST(GroupedGemm, GroupsOfAnyShape) {
  for_each_isa<typename TypeParam::E>([] {
    TestFixture::check({0}, 5, 9, 8);                      // no groups at all
    TestFixture::check({0, 0}, 0, 9, 8);                   // no rows
    TestFixture::check({0, 0, 0, 0}, 4, 9, 8);             // every group empty
    TestFixture::check({0, 0, 300, 300, 300}, 300, 9, 8);  // all rows in one group
    TestFixture::check({2, 3, 3, 9, 700}, 710, 33, 65);    // rows before and after, several blocks
  });
}

TYPED_TEST(GroupedGemm, BitsDependOnNothingButRowAndColumn) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  for_each_isa<typename TypeParam::E>([] {
    E const exec;
    std::size_t const most = 300, n = 70, k = 530;
    auto const a = kmoe::test::random_matrix<T, E>(most, k, 5);
    auto const b = TestFixture::make_b(2, n, k);
    kmoe::PackedWeights<E, T> const packed(exec, b);
    auto const whole = kmoe::test::poisoned_matrix<T, E>(most, n);
    kmoe::grouped_gemm(exec, a, packed, TestFixture::make_offsets({0, 0, offset_t(most)}), whole);
    std::vector<std::size_t> sizes{100, 256, 257};
    for (std::size_t m = 1; m <= 70; ++m) sizes.push_back(m);
    for (std::size_t const m : sizes) {
      std::size_t const begin = (most - m) * 7 % (most - m + 1);
      auto const range = std::pair(begin, begin + m);
      auto const part = kmoe::test::poisoned_matrix<T, E>(m, n);
      kmoe::Matrix<T, E> const rows(Kokkos::subview(a, range, Kokkos::ALL));
      kmoe::grouped_gemm(exec, rows, packed, TestFixture::make_offsets({0, 0, offset_t(m)}), part);
      ASSERT_TRUE(same_bits(part, kmoe::Matrix<T, E>(Kokkos::subview(whole, range, Kokkos::ALL))))
          << m << " rows";
      kmoe::test::poison(part);
      kmoe::grouped_gemm(exec, rows, b, TestFixture::make_offsets({0, 0, offset_t(m)}), part);
      ASSERT_TRUE(same_bits(part, kmoe::Matrix<T, E>(Kokkos::subview(whole, range, Kokkos::ALL))))
          << m << " rows, packed on the fly";
    }
  });
}

TYPED_TEST(GroupedGemm, BitsDoNotDependOnThreads) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  E const exec;
  if (exec.concurrency() < 2) GTEST_SKIP() << "one thread";
  auto const parts = Kokkos::Experimental::partition_space(exec, 1, exec.concurrency() - 1);
  for (std::size_t const m : {1, 5, 64, 600}) {
    std::size_t const n = 100, k = 300;
    auto const a = kmoe::test::random_matrix<T, E>(m, k, 5);
    kmoe::PackedWeights<E, T> const packed(exec, TestFixture::make_b(1, n, k));
    auto const offsets = TestFixture::make_offsets({0, offset_t(m)});
    auto const all = kmoe::test::poisoned_matrix<T, E>(m, n);
    kmoe::grouped_gemm(exec, a, packed, offsets, all);
    for (auto const& part : parts) {
      auto const c = kmoe::test::poisoned_matrix<T, E>(m, n);
      kmoe::grouped_gemm(part, a, packed, offsets, c);
      EXPECT_TRUE(same_bits(all, c)) << m << " rows, " << part.concurrency() << " threads";
    }
  }
}

TYPED_TEST(GroupedGemm, BiasIsAdded) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  for_each_isa<typename TypeParam::E>([] {
    E const exec;
    std::size_t const n = 67, k = 3;
    auto const a = kmoe::test::random_matrix<T, E>(4, k, 5, kmoe::test::Values::integers);
    kmoe::Tensor3<T, E> b("b", 2, n, k);
    kmoe::test::fill_random(b, 6, kmoe::test::Values::integers);
    auto const bias =
        kmoe::test::random_matrix<kmoe::accumulate_t<T>, E>(2, n, 7, kmoe::test::Values::integers);
    auto const c = kmoe::test::poisoned_matrix<T, E>(4, n);
    kmoe::grouped_gemm(exec, a, kmoe::PackedWeights<E, T>(exec, b, kmoe::GateUpLayout::plain, bias),
                       TestFixture::make_offsets({0, 1, 4}), c);
    auto const got = to_doubles(c), biases = to_doubles(bias);
    auto const want = reference::grouped_gemm(to_doubles(a), to_doubles(b), {0, 1, 4}, 4, n, k);
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i], want.value[i] + biases[(i / n > 0 ? n : 0) + i % n]);
    }
  });
}

TYPED_TEST(GroupedGemm, RefusesWhatDoesNotFit) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  E const exec;
  kmoe::Matrix<T, E> const a("a", 4, 8), c("c", 4, 6), narrow("narrow", 4, 5), low("low", 3, 6);
  kmoe::Tensor3<T, E> const b("b", 2, 6, 8), deep("deep", 2, 6, 9);
  auto const good = TestFixture::make_offsets({0, 1, 4});
  EXPECT_NO_THROW(kmoe::grouped_gemm(exec, a, b, good, c));
  EXPECT_THROW(kmoe::grouped_gemm(exec, a, deep, good, c), kmoe::InvalidArgument);
  EXPECT_THROW(kmoe::grouped_gemm(exec, a, b, good, narrow), kmoe::InvalidArgument);
  EXPECT_THROW(kmoe::grouped_gemm(exec, a, b, good, low), kmoe::InvalidArgument);
  EXPECT_THROW(kmoe::grouped_gemm(exec, a, b, TestFixture::make_offsets({0, 4}), c),
               kmoe::InvalidArgument);
  for (auto const& bad : {std::vector<offset_t>{0, 3, 2}, {0, 1, 5}, {-1, 1, 4}}) {
    if (!on_host<E>) break;  // devices do not look into them
    EXPECT_THROW(kmoe::grouped_gemm(exec, a, b, TestFixture::make_offsets(bad), c),
                 kmoe::InvalidArgument);
  }
  using Packed = kmoe::PackedWeights<E, T>;
  EXPECT_THROW(Packed(exec, kmoe::Tensor3<T, E>("odd", 1, 5, 8), kmoe::GateUpLayout::gate_first),
               kmoe::InvalidArgument);
  EXPECT_THROW(kmoe::grouped_gemm(exec, a, Packed(exec, b, kmoe::GateUpLayout::up_first), good, c),
               kmoe::InvalidArgument);
}

TEST(Isa, NamesAreParsedAndUnavailableOnesRefused) {
  using namespace kmoe::device;
  EXPECT_EQ(choose_isa("portable"), Isa::portable);
  EXPECT_EQ(choose_isa(nullptr), choose_isa(""));
  EXPECT_THROW(choose_isa("avx9000"), kmoe::Unsupported);
  for (auto const isa : all_isas) {
    std::string const name(to_string(isa));
    if (isa_available(isa)) {
      EXPECT_EQ(choose_isa(name.c_str()), isa);
      EXPECT_GE(choose_isa(nullptr), isa);
    } else {
      EXPECT_THROW(choose_isa(name.c_str()), kmoe::Unsupported);
    }
  }
}

}  // namespace
