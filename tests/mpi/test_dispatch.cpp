// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What comes out of dispatch -> experts -> combine: close to the float64 reference on one rank, and
// from there bit for bit the same for every dispatcher, layout, id space, placement and split.

#include <mpi.h>

#include <gtest/gtest.h>

#include "mpi/dispatch_model.hpp"
#include "reference/dispatch.hpp"
#include "support/tolerance.hpp"
#include "support/typed.hpp"

namespace {

using namespace kmoe::test;
using kmoe::Communicator;
using kmoe::DispatcherKind;
using kmoe::IdSpace;
using kmoe::index_t;
using kmoe::TokenLayout;

struct Way {
  DispatcherKind kind;
  TokenLayout layout;
};
constexpr std::array ways{Way{DispatcherKind::standard, TokenLayout::replicated},
                          Way{DispatcherKind::standard, TokenLayout::data_parallel},
                          Way{DispatcherKind::all_to_all, TokenLayout::data_parallel}};

template <class C>
class Dispatch : public ::testing::Test {
 protected:
  using E = typename C::E;
  using T = typename C::T;

  static Communicator const& world() {
    static Communicator const comm(MPI_COMM_WORLD);
    return comm;
  }

  /// The result on one rank against the specification.
  static void expect_reference(Batch const& batch, std::vector<T> const& y, bool with_addend) {
    auto const hidden = static_cast<std::size_t>(batch.config.hidden_size);
    std::vector<int> ids;
    std::vector<double> weights, x, addend;
    for (index_t t = 0; t < batch.tokens; ++t) {
      for (index_t k = 0; k < batch.slots(); ++k) {
        ids.push_back(batch.id(t, k));
        weights.push_back(batch.weight(t, k));
      }
      for (index_t h = 0; h < batch.config.hidden_size; ++h) {
        x.push_back(static_cast<double>(batch.template entry<T>(0, t, h)));
        if (with_addend) addend.push_back(static_cast<double>(batch.template entry<T>(1, t, h)));
      }
    }
    auto const values = reference::slot_values(
        {batch.config.num_placed_experts(), batch.config.num_zero_experts}, ids, batch.slots(), x,
        hidden, [&](int id, std::size_t t, std::size_t h) {
          auto const token = [&](index_t at) {
            return x[t * hidden + static_cast<std::size_t>(at)];
          };
          return FakeExpert{id}.operator()<double>(token, static_cast<index_t>(h),
                                                   batch.config.hidden_size);
        });
    // Rows and y are rounded to T; an expert's a x + b and the sum are computed in accumulate_t<T>,
    // where |a x| + |b| < 3 even if the two cancel.
    using A = kmoe::accumulate_t<T>;
    if (batch.config.no_combine) {
      ASSERT_EQ(y.size(), values.size());
      for (std::size_t i = 0; i < y.size(); ++i) {
        ASSERT_NEAR(static_cast<double>(y[i]), values[i],
                    tolerance<T>(1, std::abs(values[i])) + tolerance<A>(2, 3))
            << "entry " << i;
      }
      return;
    }
    auto const sums = reference::weighted_sum(values, weights, batch.slots(), addend, hidden);
    ASSERT_EQ(y.size(), sums.size());
    for (std::size_t i = 0; i < y.size(); ++i) {
      double const terms = 3.0 * batch.slots() + 1;
      ASSERT_NEAR(static_cast<double>(y[i]), sums[i].value,
                  tolerance<T>(1, sums[i].magnitude) + tolerance<A>(2 * batch.slots(), terms))
          << "token " << i / hidden << " column " << i % hidden;
    }
  }

  static void expect_same(Batch const& batch, std::vector<T> const& alone, Way way,
                          IdSpace id_space, Placing placing, Split split, bool with_addend,
                          Communicator const& comm = world()) {
    auto config = batch.config;
    config.id_space = id_space;
    config.token_layout = way.layout;
    auto const rank = static_cast<std::size_t>(comm.rank());
    auto first = make_split(split, batch.tokens, comm.size());
    if (way.layout == TokenLayout::replicated) {
      first.assign(first.size(), batch.tokens);
      first[rank] = 0;
    }
    auto const dispatcher =
        make_dispatcher<E, T>(way.kind, comm, make_placement(placing, config, comm.size()),
                              {config, comm.size(), batch.tokens});
    auto const ws = bind_poisoned<E, T>(E(), *dispatcher);
    kmoe::Workspace<E> counted;
    if (way.kind == DispatcherKind::standard) {
      kmoe::StandardDispatcher<E, T>::bind_shape(counted, dispatcher->shape());
    } else {
      kmoe::AllToAllDispatcher<E, T>::bind_shape(counted, dispatcher->shape());
    }
    EXPECT_EQ(counted.device_bytes(), ws.device_bytes());
    EXPECT_EQ(counted.host_bytes(), ws.host_bytes());

    for (int repeat = 0; repeat < 2; ++repeat) {  // a used workspace must not show
      auto const y = run_batch<E, T>(*dispatcher, batch, first[rank], first[rank + 1], with_addend);
      std::size_t const width =
          batch.tokens == 0 ? 0 : alone.size() / static_cast<std::size_t>(batch.tokens);
      ASSERT_EQ(y.size(), width * static_cast<std::size_t>(first[rank + 1] - first[rank]));
      if (y.empty()) continue;
      EXPECT_EQ(std::memcmp(y.data(), alone.data() + width * static_cast<std::size_t>(first[rank]),
                            y.size() * sizeof(T)),
                0)
          << to_string(way.kind) << " " << to_string(way.layout) << " " << to_string(id_space)
          << " placing " << static_cast<int>(placing) << " split " << static_cast<int>(split)
          << " ids " << static_cast<int>(batch.kind) << " E " << config.num_experts << " K "
          << config.top_k << " S " << config.router.num_fused_shared_experts << " Z "
          << config.num_zero_experts << " repeat " << repeat;
    }
  }

  /// Every way and id space; placement and split are drawn anew for each.
  static void expect_all_ways(Batch const& batch, bool with_addend = false) {
    auto const alone = run_alone<E, T>(batch, with_addend);
    expect_reference(batch, alone, with_addend);
    static std::uint64_t turn = 0;
    for (Way const way : ways) {
      for (IdSpace const id_space : {IdSpace::local, IdSpace::masked}) {
        auto const draw = random_bits(12, turn++);
        expect_same(batch, alone, way, id_space, static_cast<Placing>(draw % 3),
                    static_cast<Split>(draw / 3 % 4), with_addend);
      }
    }
  }

  static Batch batch(index_t experts, index_t top_k, index_t tokens, Ids kind = Ids::distinct,
                     index_t hidden = 7) {
    Batch b;
    b.config.hidden_size = hidden;
    b.config.num_experts = experts;
    b.config.top_k = top_k;
    b.tokens = tokens;
    b.kind = kind;
    b.seed = static_cast<std::uint64_t>(experts * 100 + top_k);
    return b;
  }
};

TYPED_TEST_SUITE(Dispatch, Cases, TypeNames);

TYPED_TEST(Dispatch, every_number_of_experts_and_slots) {
  index_t const ranks = this->world().size();
  for (index_t const experts : {index_t{1}, ranks - 1, ranks, ranks + 1, index_t{8}, index_t{60}}) {
    if (experts < 1) continue;
    for (index_t const top_k : {index_t{1}, index_t{2}, index_t{8}, experts}) {
      for (Ids const kind : all_ids) this->expect_all_ways(this->batch(experts, top_k, 17, kind));
    }
  }
}

TYPED_TEST(Dispatch, every_placement_and_split) {
  auto const batch = this->batch(9, 3, 23, Ids::half_padded);
  auto const alone = run_alone<typename TypeParam::E, typename TypeParam::T>(batch, false);
  for (Way const way : ways) {
    for (int placing = 0; placing < 3; ++placing) {
      for (int split = 0; split < 4; ++split) {
        this->expect_same(batch, alone, way, IdSpace::local, static_cast<Placing>(placing),
                          static_cast<Split>(split), false);
      }
    }
  }
}

TYPED_TEST(Dispatch, few_tokens_and_wide_rows) {
  for (index_t const tokens : {0, 1, 2, 3, 5}) {
    for (index_t const hidden : {1, 255, 256, 257, 600}) {
      this->expect_all_ways(this->batch(5, 2, tokens, Ids::repeated, hidden));
    }
  }
}

TYPED_TEST(Dispatch, many_tokens) {
  this->expect_all_ways(this->batch(16, 4, 5000, Ids::distinct, 3));
}

TYPED_TEST(Dispatch, addend) {
  for (Ids const kind : all_ids) this->expect_all_ways(this->batch(6, 2, 13, kind), true);
}

TYPED_TEST(Dispatch, fused_shared_experts) {
  for (index_t const shared : {1, 2}) {
    for (Ids const kind : all_ids) {
      auto batch = this->batch(5, 2, 19, kind);
      batch.config.router.num_fused_shared_experts = shared;
      this->expect_all_ways(batch);
    }
  }
}

TYPED_TEST(Dispatch, zero_experts) {
  for (index_t const zero : {1, 4}) {
    for (Ids const kind : all_ids) {
      auto batch = this->batch(5, 3, 19, kind);
      batch.config.num_zero_experts = zero;
      this->expect_all_ways(batch);
      this->expect_all_ways(batch, true);
    }
  }
}

TYPED_TEST(Dispatch, no_combine) {
  for (Ids const kind : all_ids) {
    auto batch = this->batch(6, 3, 14, kind);
    batch.config.no_combine = true;
    this->expect_all_ways(batch);
    batch.config.num_zero_experts = 3;
    this->expect_all_ways(batch);
    batch.config.num_zero_experts = 0;
    batch.config.router.num_fused_shared_experts = 1;
    this->expect_all_ways(batch);
  }
}

TYPED_TEST(Dispatch, sub_communicators_and_two_dispatchers_at_once) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  // Odd and even ranks form groups of their own, in reverse order.
  MPI_Comm half = MPI_COMM_NULL;
  int const rank = this->world().rank();
  MPI_Comm_split(MPI_COMM_WORLD, rank % 2, -rank, &half);
  Communicator const group(half);
  MPI_Comm_free(&half);
  auto const batch = this->batch(7, 3, 15);
  auto const alone = run_alone<E, T>(batch, false);
  for (Way const way : ways) {
    this->expect_same(batch, alone, way, IdSpace::local, Placing::random, Split::even, false,
                      group);
  }

  E const exec;
  auto const other = this->batch(4, 2, 11, Ids::half_padded);
  auto const other_alone = run_alone<E, T>(other, false);
  kmoe::AllToAllDispatcher<E, T> a(group,
                                   make_placement(Placing::contiguous, batch.config, group.size()),
                                   {batch.config, group.size(), batch.tokens});
  kmoe::StandardDispatcher<E, T> b(
      this->world(), make_placement(Placing::round_robin, other.config, this->world().size()),
      {other.config, this->world().size(), other.tokens});
  a.allocate(exec);
  b.allocate(exec);
  auto const me = static_cast<std::size_t>(group.rank());
  auto const first = make_split(Split::even, batch.tokens, group.size());
  auto const x = batch.template matrix<E, T>(0, first[me], first[me + 1]);
  auto const routing = batch.template routing<E>(first[me], first[me + 1]);
  Grouped<E> const grouped(a);
  auto const payload = a.dispatch(exec, x, routing);
  auto const other_first = make_split(Split::ragged, other.tokens, this->world().size());
  auto const at = static_cast<std::size_t>(rank);
  auto const other_y = run_batch<E, T>(b, other, other_first[at], other_first[at + 1], false);
  auto const rows = run_experts(a, payload, grouped);
  auto const y = poisoned_matrix<T, E>(x.extent(0), x.extent(1));
  a.combine(exec, rows, {}, y);
  exec.fence();
  auto const host = to_host(y);
  if (host.size() > 0) {
    EXPECT_EQ(std::memcmp(host.data(),
                          alone.data() + static_cast<std::size_t>(first[me]) * host.extent(1),
                          host.size() * sizeof(T)),
              0);
  }
  if (!other_y.empty()) {
    EXPECT_EQ(std::memcmp(other_y.data(),
                          other_alone.data() + static_cast<std::size_t>(other_first[at]) * 7,
                          other_y.size() * sizeof(T)),
              0);
  }
}

}  // namespace
