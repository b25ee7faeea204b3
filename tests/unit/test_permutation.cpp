// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <kmoe/core/error.hpp>
#include <kmoe/permute/permutation.hpp>

#include "reference/permutation.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "support/typed.hpp"

namespace kmoe {
namespace {

/// A poisoned permutation and the memory it lives in.
template <class E>
struct Bound {
  Permutation<E> p;
  Workspace<E> workspace;

  Bound(index_t tokens, index_t k, index_t groups)
      : workspace(make_workspace<E>([&](Workspace<E>& ws) { p.bind(ws, tokens, k, groups); })) {
    test::poison(p.expert_offsets);
    test::poison(p.slot_of_row);
    test::poison(p.row_of_slot);
    test::poison(p.scratch);
  }
};

template <class V>
auto host_vector(V const& view) {
  auto const host = test::to_host(view);
  return std::vector<typename V::non_const_value_type>(host.data(), host.data() + host.size());
}

template <class E>
class Grouping : public ::testing::Test {
 protected:
  using Ids = Matrix<index_t, E>;

  /// Global ids with a mask, against the reference on the local slots that it implies.
  static void check_masked(Ids const& ids, std::vector<index_t> const& flags) {
    std::vector<index_t> local(flags.size());
    index_t groups = 0;
    for (std::size_t e = 0; e < flags.size(); ++e) local[e] = flags[e] != 0 ? groups++ : no_expert;
    auto const tokens = static_cast<index_t>(ids.extent(0));
    auto const k = static_cast<index_t>(ids.extent(1));
    Bound<E> bound(tokens, k, groups);
    Vector<index_t, E> const mask("mask", flags.size()), map("map", flags.size());
    test::set_entries(mask, [&](index_t& flag, std::size_t e) { flag = flags[e]; });
    Vector<offset_t, E> const rows("rows", static_cast<std::size_t>(groups));
    Kokkos::deep_copy(rows, 5);
    E const exec;
    make_permutation<E>(exec, ids, ExpertMask<E>(mask, groups), map, bound.p, rows);
    exec.fence();
    auto slots = host_vector(ids);
    for (index_t& id : slots) {
      id = static_cast<std::size_t>(id) < local.size() ? local[static_cast<std::size_t>(id)] : -1;
    }
    auto const expected = reference::group_slots(slots, groups);
    ASSERT_EQ(host_vector(bound.p.expert_offsets), expected.expert_offsets);
    auto slot_of_row = host_vector(bound.p.slot_of_row);
    slot_of_row.resize(expected.slot_of_row.size());
    ASSERT_EQ(slot_of_row, expected.slot_of_row);
    ASSERT_EQ(host_vector(bound.p.row_of_slot), expected.row_of_slot);
    auto const counted = host_vector(rows);
    for (std::size_t g = 0; g < counted.size(); ++g) {
      ASSERT_EQ(counted[g], 5 + expected.expert_offsets[g + 1] - expected.expert_offsets[g]);
    }
  }

  /// Groups `ids` in arrays bound for `spare` more tokens, and compares with the reference.
  static void check(Ids const& ids, index_t groups, index_t spare = 0) {
    auto const tokens = static_cast<index_t>(ids.extent(0));
    auto const k = static_cast<index_t>(ids.extent(1));
    SCOPED_TRACE("T " + std::to_string(tokens) + " K " + std::to_string(k) + " G " +
                 std::to_string(groups));
    Bound<E> bound(tokens + spare, k, groups);
    auto const untouched = host_vector(bound.p.slot_of_row);
    E const exec;
    make_permutation(exec, ids, bound.p);
    exec.fence();
    auto const expected = reference::group_slots(host_vector(ids), groups);
    ASSERT_EQ(host_vector(bound.p.expert_offsets), expected.expert_offsets);
    auto slots = expected.slot_of_row;
    slots.insert(slots.end(), untouched.begin() + static_cast<std::ptrdiff_t>(slots.size()),
                 untouched.end());
    ASSERT_EQ(host_vector(bound.p.slot_of_row), slots);
    auto rows = host_vector(bound.p.row_of_slot);
    rows.resize(ids.size());
    ASSERT_EQ(rows, expected.row_of_slot);
  }
};
TYPED_TEST_SUITE(Grouping, test::Spaces, test::TypeNames);

TYPED_TEST(Grouping, EqualsAStableSort) {
  using Ids = typename TestFixture::Ids;
  std::uint64_t seed = 100;
  for (index_t const tokens : {0, 1, 17, 4096}) {
    for (index_t const k : {1, 2, 8}) {
      for (index_t const groups : {0, 1, 7, 8, 60, 384, 1025}) {
        Ids const ids("ids", static_cast<std::size_t>(tokens), static_cast<std::size_t>(k));
        test::fill_ids(ids, ++seed, 0, groups);
        TestFixture::check(ids, groups, static_cast<index_t>(seed % 3) * 50);
        test::fill_ids(ids, ++seed, -groups - 2, groups + 2);  // half of them elsewhere
        TestFixture::check(ids, groups);
      }
    }
  }
}

TYPED_TEST(Grouping, AdversarialIds) {
  using Ids = typename TestFixture::Ids;
  constexpr index_t groups = 60;
  Ids const ids("ids", 3001, 7);
  auto const check = [&](auto&& id_of_slot) {
    test::set_entries(
        ids, [&](index_t& id, std::size_t slot) { id = id_of_slot(static_cast<index_t>(slot)); });
    TestFixture::check(ids, groups);
  };
  check([](index_t) { return 0; });  // all to one expert, duplicates in every token
  check([](index_t) { return groups - 1; });
  check([](index_t) { return -1; });  // only padding
  check([](index_t slot) { return slot % 2 == 0 ? slot % groups : -1; });
  check([](index_t slot) { return slot % groups; });
  check([](index_t slot) { return groups - 1 - slot % groups; });
  check([](index_t slot) { return slot == 20999 ? 5 : groups + slot % 2; });  // ids E and E + 1
  check([](index_t slot) {
    return slot % 2 == 0 ? std::numeric_limits<index_t>::min()
                         : std::numeric_limits<index_t>::max();
  });
}

// Long enough for the largest number of blocks, with blocks that get no tokens.
TYPED_TEST(Grouping, ManyBlocks) {
  using Ids = typename TestFixture::Ids;
  Ids const ids("ids", 70001, 8);
  test::fill_ids(ids, 7, -3, 17);
  TestFixture::check(ids, 16);
  test::fill_ids(ids, 8, 0, 300);
  TestFixture::check(ids, 257, 1000);
  Ids const wide("wide", 5, 40000);  // more slots per token than a block holds
  test::fill_ids(wide, 9, 0, 11);
  TestFixture::check(wide, 11);
  // More slots than the teams of a device take at once, and a last tile that is not whole.
  for (index_t const groups : {1, 15, 16, 40}) {
    Ids const many("many", 330001, 7);
    test::fill_ids(many, 10, -1, groups + 1);
    TestFixture::check(many, groups);
  }
  test::set_entries(ids, [](index_t& id, std::size_t) { id = 15; });
  TestFixture::check(ids, 16);
}

TYPED_TEST(Grouping, MaskedIdsAndCountedRows) {
  using Ids = typename TestFixture::Ids;
  std::uint64_t seed = 500;
  for (index_t const tokens : {0, 1, 64, 700, 9000}) {
    for (index_t const experts : {1, 8, 60, 700, 1500, 3000}) {
      Ids const ids("ids", static_cast<std::size_t>(tokens), 6);
      test::fill_ids(ids, ++seed, -2, experts + 2);
      std::vector<index_t> flags(static_cast<std::size_t>(experts));
      for (std::size_t e = 0; e < flags.size(); ++e) flags[e] = test::random_bits(seed, e) % 3 == 0;
      TestFixture::check_masked(ids, flags);
      TestFixture::check_masked(ids, std::vector<index_t>(flags.size(), 1));
    }
  }
}

TYPED_TEST(Grouping, RefusesWhatItIsNotBoundFor) {
  using E = TypeParam;
  E const exec;
  Workspace<E> counting;
  Permutation<E> p;
  EXPECT_THROW(p.bind(counting, -1, 2, 3), InvalidArgument);
  EXPECT_THROW(p.bind(counting, 1, -2, 3), InvalidArgument);
  EXPECT_THROW(p.bind(counting, 1, 2, -3), InvalidArgument);
  EXPECT_THROW(p.bind(counting, 1 << 28, 8, 3), InvalidArgument);  // 2^31 slots
  EXPECT_NO_THROW(p.bind(counting, (1 << 28) - 1, 8, 3));

  Bound<E> const bound(4, 2, 3);
  auto const expect_refusal = [&](std::size_t tokens, std::size_t k, std::string const& what) {
    Matrix<index_t, E> const ids("ids", tokens, k);
    try {
      make_permutation(exec, ids, bound.p);
      ADD_FAILURE() << "no error";
    } catch (InvalidArgument const& e) {
      EXPECT_EQ(e.what(), "kmoe::make_permutation: " + what);
    }
  };
  expect_refusal(4, 3,
                 "topk_ids.extent(1) must equal out.row_of_slot.extent(1) = 2, found 3 "
                 "(View \"ids\")");
  expect_refusal(5, 2, "T * K must be at most what `out` is bound for, 8, found 10");
}

template <class Case>
class MovingRows : public ::testing::Test {
 protected:
  using E = typename Case::E;
  using T = typename Case::T;

  static double value(T x) { return static_cast<double>(x); }
};
TYPED_TEST_SUITE(MovingRows, test::Cases, test::TypeNames);

TYPED_TEST(MovingRows, PermuteCopiesRowsAndLeavesTheOthersAlone) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  E const exec;
  for (index_t const tokens : {0, 1, 17, 300}) {
    for (std::size_t const width : {0, 1, 7, 33, 130, 256, 600}) {
      constexpr index_t k = 3;
      auto const n = static_cast<std::size_t>(tokens);
      Bound<E> const bound(tokens + 5, k, 10);
      Matrix<index_t, E> const ids("ids", n, k);
      test::fill_ids(ids, 3 + width, -4, 12);
      auto const x = test::random_matrix<T, E>(n, width, 4);
      auto const rows = test::poisoned_matrix<T, E>(n * k + 2, width);
      make_permutation(exec, ids, bound.p);
      permute(exec, x, bound.p, rows);
      exec.fence();
      auto const expected = reference::group_slots(host_vector(ids), 10);
      auto const in = test::to_host(x);
      auto const out = test::to_host(rows);
      for (std::size_t r = 0; r < out.extent(0); ++r) {
        for (std::size_t h = 0; h < width; ++h) {
          if (r < expected.slot_of_row.size()) {
            auto const token = static_cast<std::size_t>(expected.slot_of_row[r] / k);
            ASSERT_EQ(this->value(out(r, h)), this->value(in(token, h)));
          } else {
            ASSERT_TRUE(std::isnan(this->value(out(r, h))));
          }
        }
      }
    }
  }
}

// Slots without a row have NaN weights, unused rows are NaN: neither may matter.
TYPED_TEST(MovingRows, UnpermuteSumsTheRowsOfEachToken) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  using A = accumulate_t<T>;
  E const exec;
  for (auto const& [tokens, k] : {std::pair{0, 2}, {1, 1}, {17, 8}, {300, 3}, {9, 60}}) {
    for (std::size_t const width : {0, 1, 7, 33, 130, 256, 600}) {
      auto const n = static_cast<std::size_t>(tokens);
      auto const slots = static_cast<std::size_t>(k);
      Bound<E> const bound(tokens + 5, k, 10);
      Matrix<index_t, E> const ids("ids", n, slots);
      test::fill_ids(ids, 5 + width, -4, 12);
      auto const group = reference::group_slots(host_vector(ids), 10);
      auto const num_rows = group.slot_of_row.size();
      Matrix<T, E> const rows("rows", n * slots + 2, width);
      test::set_entries(rows, [&](T& entry, std::size_t i) {
        entry = i < num_rows * width ? static_cast<T>(test::random_value(6, i, test::Values::wide))
                                     : static_cast<T>(std::numeric_limits<float>::quiet_NaN());
      });
      Matrix<float, E> const weights("weights", n, slots);
      test::set_entries(weights, [&](float& w, std::size_t slot) {
        w = group.row_of_slot[slot] < 0
                ? std::numeric_limits<float>::quiet_NaN()
                : static_cast<float>(test::random_value(7, slot, test::Values::normal));
      });
      auto const y = test::poisoned_matrix<T, E>(n, width);
      auto const plain = test::poisoned_matrix<T, E>(n, width);
      make_permutation(exec, ids, bound.p);
      unpermute(exec, rows, bound.p, weights, y);
      unpermute(exec, rows, bound.p, {}, plain);
      exec.fence();
      auto const in = test::to_host(rows);
      auto const w = test::to_host(weights);
      auto const weighted_out = test::to_host(y);
      auto const plain_out = test::to_host(plain);
      for (std::size_t t = 0; t < n; ++t) {
        for (std::size_t h = 0; h < width; ++h) {
          reference::Sum sum;
          A in_order = 0;
          for (std::size_t j = 0; j < slots; ++j) {
            int const row = group.row_of_slot[t * slots + j];
            if (row < 0) continue;
            T const entry = in(static_cast<std::size_t>(row), h);
            sum.add(static_cast<double>(w(t, j)), this->value(entry));
            in_order += static_cast<A>(entry);
          }
          ASSERT_NEAR(this->value(weighted_out(t, h)), sum.value,
                      test::sum_tolerance<T>(k, sum.magnitude, sum.value));
          ASSERT_EQ(this->value(plain_out(t, h)), this->value(static_cast<T>(in_order)));
        }
      }
    }
  }
}

TYPED_TEST(MovingRows, UnpermuteOfPermuteIsKTimesX) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  E const exec;
  constexpr index_t k = 8;
  Bound<E> const bound(2000, k, 33);
  Matrix<index_t, E> const ids("ids", 2000, k);
  test::fill_ids(ids, 21, 0, 33);
  auto const x = test::random_matrix<T, E>(2000, 47, 22, test::Values::integers);
  auto const rows = test::poisoned_matrix<T, E>(2000 * k, 47);
  auto const y = test::poisoned_matrix<T, E>(2000, 47);
  make_permutation(exec, ids, bound.p);
  permute(exec, x, bound.p, rows);
  unpermute(exec, rows, bound.p, {}, y);
  exec.fence();
  auto const in = test::to_host(x);
  auto const out = test::to_host(y);
  for (std::size_t i = 0; i < in.size(); ++i) {
    ASSERT_EQ(this->value(out.data()[i]), k * this->value(in.data()[i]));
  }
}

TYPED_TEST(MovingRows, RefuseWrongShapes) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  E const exec;
  Bound<E> const bound(4, 2, 3);
  Matrix<T, E> const x("x", 4, 6);
  Matrix<T, E> const tall("tall", 5, 6);
  Matrix<T, E> const rows("rows", 8, 6);
  Matrix<T, E> const narrow("narrow", 8, 5);
  Matrix<float, E> const weights("weights", 4, 3);
  EXPECT_THROW(permute(exec, x, bound.p, narrow), InvalidArgument);
  EXPECT_THROW(permute(exec, tall, bound.p, rows), InvalidArgument);
  EXPECT_THROW(unpermute(exec, narrow, bound.p, {}, x), InvalidArgument);
  EXPECT_THROW(unpermute(exec, rows, bound.p, {}, tall), InvalidArgument);
  EXPECT_THROW(unpermute(exec, rows, bound.p, weights, x), InvalidArgument);
  try {
    unpermute(exec, rows, bound.p, weights, x);
  } catch (InvalidArgument const& e) {
    EXPECT_STREQ(e.what(),
                 "kmoe::unpermute: weights.extent(1) must equal K = 2, found 3 (View \"weights\")");
  }
}

// Row times width beyond 2^31: only the last rows of x are ever touched.
TYPED_TEST(Grouping, OffsetsBeyond32Bits) {
  using E = TypeParam;
  using T = bfloat16;
  E const exec;
  constexpr std::size_t tokens = 70000;
  constexpr std::size_t width = 32768;
  static_assert(tokens * width > std::size_t{1} << 31);
  Matrix<T, E> const x(Kokkos::view_alloc("x", Kokkos::WithoutInitializing), tokens, width);
  auto const last = Kokkos::subview(x, std::pair{tokens - 2, tokens}, Kokkos::ALL);
  test::fill_random(last, 31);
  Matrix<index_t, E> const ids("ids", tokens, 1);
  test::set_entries(ids, [](index_t& id, std::size_t t) {
    id = t == tokens - 1 ? 0 : t == tokens - 2 ? 1 : -1;
  });
  Bound<E> const bound(tokens, 1, 2);
  auto const rows = test::poisoned_matrix<T, E>(2, width);
  make_permutation(exec, ids, bound.p);
  permute(exec, x, bound.p, rows);
  exec.fence();
  auto const in = test::to_host(last);
  auto const out = test::to_host(rows);
  for (std::size_t h = 0; h < width; ++h) {
    ASSERT_EQ(out(0, h).bits, in(1, h).bits);
    ASSERT_EQ(out(1, h).bits, in(0, h).bits);
  }
}

}  // namespace
}  // namespace kmoe
