// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What a dispatcher shows of itself: map, mask, payloads, statistics, hooks and errors.

#include <mpi.h>

#include <functional>
#include <set>
#include <utility>

#include <gtest/gtest.h>

#include <kmoe/core/error.hpp>

#include "mpi/dispatch_model.hpp"

namespace {

using namespace kmoe;
using namespace kmoe::test;
using E = Kokkos::DefaultExecutionSpace;
using T = float;

Communicator const& world() {
  static Communicator const comm(MPI_COMM_WORLD);
  return comm;
}

Batch make_batch(Ids kind = Ids::distinct, index_t experts = 9, index_t top_k = 3) {
  Batch b;
  b.config.hidden_size = 6;
  b.config.num_experts = experts;
  b.config.top_k = top_k;
  b.tokens = 21;
  b.kind = kind;
  return b;
}

/// A dispatcher over all ranks with its share of a batch.
struct Rig {
  Rig(DispatcherKind kind, Batch const& b, Placing placing = Placing::round_robin)
      : batch(b),
        dispatcher(make_dispatcher<E, T>(kind, world(),
                                         make_placement(placing, b.config, world().size()),
                                         {b.config, world().size(), b.tokens})) {
    dispatcher->allocate(exec);
    auto const first = make_split(Split::ragged, batch.tokens, world().size());
    bool const replicated = batch.config.token_layout == TokenLayout::replicated;
    begin = replicated ? 0 : first[static_cast<std::size_t>(world().rank())];
    end = replicated ? batch.tokens : first[static_cast<std::size_t>(world().rank()) + 1];
    x = batch.matrix<E, T>(0, begin, end);
    routing = batch.routing<E>(begin, end);
    y = poisoned_matrix<T, E>(x.extent(0), x.extent(1));
  }
  [[nodiscard]] std::vector<T> result() const {
    exec.fence();
    auto const host = to_host(y);
    return {host.data(), host.data() + host.size()};
  }

  E exec;
  Batch batch;
  std::unique_ptr<BaseDispatcher<E, T>> dispatcher;
  index_t begin = 0, end = 0;
  Matrix<T, E> x, y;
  Routing<E> routing;
};

constexpr std::array kinds{DispatcherKind::standard, DispatcherKind::all_to_all};

TEST(DispatchTables, map_and_mask_follow_the_placement) {
  for (auto const placing : {Placing::contiguous, Placing::round_robin, Placing::random}) {
    for (index_t const experts : {1, 2, 5, 16}) {
      for (index_t const shared : {0, 2}) {
        auto batch = make_batch(Ids::distinct, experts, 1);
        batch.config.router.num_fused_shared_experts = shared;
        Rig const s(DispatcherKind::standard, batch, placing);
        auto const& d = *s.dispatcher;
        auto const hosted = d.placement().experts_of(world().rank());
        auto const map = to_host(d.expert_map().local_slots());
        auto const mask = to_host(d.expert_mask().flags());
        ASSERT_EQ(map.extent(0), static_cast<std::size_t>(experts + shared));
        ASSERT_EQ(mask.extent(0), map.extent(0));
        EXPECT_EQ(d.num_local_experts(), static_cast<index_t>(hosted.size()));
        EXPECT_EQ(d.expert_map().num_local_experts(), d.num_local_experts());
        EXPECT_EQ(d.expert_mask().num_local_experts(), d.num_local_experts());
        for (index_t e = 0; e < experts + shared; ++e) {
          auto const at = std::find(hosted.begin(), hosted.end(), e);
          bool const here = at != hosted.end();
          EXPECT_EQ(map(e), here ? static_cast<index_t>(at - hosted.begin()) : no_expert);
          EXPECT_EQ(mask(e), here ? 1 : 0);
        }
      }
    }
  }
}

/// Each slot with weights is computed on exactly one rank; both id spaces say the same.
TEST(DispatchPayload, every_slot_is_computed_once) {
  for (auto const layout : {TokenLayout::replicated, TokenLayout::data_parallel}) {
    for (auto const kind : kinds) {
      if (layout == TokenLayout::replicated && kind == DispatcherKind::all_to_all) continue;
      for (Ids const ids : all_ids) {
        auto batch = make_batch(ids);
        batch.config.router.num_fused_shared_experts = 2;
        batch.config.token_layout = layout;
        std::vector<std::vector<index_t>> slots;
        for (auto const space : {IdSpace::local, IdSpace::masked}) {
          batch.config.id_space = space;
          Rig s(kind, batch);
          Grouped<E> const grouped(*s.dispatcher);
          auto const payload = s.dispatcher->dispatch(s.exec, s.x, s.routing);
          EXPECT_EQ(payload.format, kind);
          EXPECT_EQ(std::holds_alternative<LocalExpertIds<E>>(payload.expert_ids),
                    space == IdSpace::local);
          EXPECT_LE(payload.hidden_states.extent(0),
                    static_cast<std::size_t>(s.dispatcher->max_dispatched_tokens()));
          auto const rows = run_experts(*s.dispatcher, payload, grouped);
          auto const offsets = to_host(grouped.permutation.expert_offsets);
          offset_t const computed = offsets(offsets.extent(0) - 1);
          auto const slot_of_row = to_host(grouped.permutation.slot_of_row);
          slots.emplace_back(slot_of_row.data(), slot_of_row.data() + computed);

          std::array<offset_t, 1> total{computed};
          world().all_reduce_sum(total);
          offset_t expected = 0;
          for (index_t t = 0; t < batch.tokens; ++t) {
            for (index_t k = 0; k < batch.slots(); ++k) {
              index_t const id = batch.id(t, k);
              if (id >= 0 && id < batch.config.num_placed_experts()) ++expected;
            }
          }
          EXPECT_EQ(total[0], expected);
          s.dispatcher->combine(s.exec, rows, {}, s.y);
        }
        EXPECT_EQ(slots[0], slots[1]);
      }
    }
  }
}

TEST(DispatchStatistics, a_token_crosses_once_per_rank) {
  for (auto const kind : kinds) {
    for (Ids const ids : all_ids) {
      auto const batch = make_batch(ids, 9, 5);
      Rig s(kind, batch);
      auto& d = *s.dispatcher;
      Grouped<E> const grouped(d);
      auto const payload = d.dispatch(s.exec, s.x, s.routing);
      d.combine(s.exec, run_experts(d, payload, grouped), {}, s.y);

      index_t const ranks = world().size(), me = world().rank();
      auto const first = make_split(Split::ragged, batch.tokens, ranks);
      auto const rank_of = d.placement().rank_of_expert();
      offset_t sent = 0, received = 0, rows_sent = 0;
      for (index_t home = 0; home < ranks; ++home) {
        for (index_t t = first[static_cast<std::size_t>(home)];
             t < first[static_cast<std::size_t>(home) + 1]; ++t) {
          std::set<index_t> visited;
          for (index_t k = 0; k < batch.slots(); ++k) {
            index_t const id = batch.id(t, k);
            if (id < 0 || id >= batch.config.num_experts) continue;
            index_t const rank = rank_of[static_cast<std::size_t>(id)];
            visited.insert(rank);
            if (home != me && rank == me) ++rows_sent;
          }
          if (kind == DispatcherKind::standard) {
            for (index_t p = 0; p < ranks; ++p) visited.insert(p);
          }
          visited.erase(home);
          if (home == me) sent += static_cast<offset_t>(visited.size());
          if (home != me && visited.count(me) != 0) ++received;
        }
      }
      EXPECT_EQ(d.statistics().tokens_sent, sent);
      EXPECT_EQ(d.statistics().tokens_received, received);
      offset_t const row = batch.config.hidden_size * static_cast<offset_t>(sizeof(T));
      EXPECT_EQ(d.statistics().bytes_sent, sent * (row + 8 * batch.slots()) + rows_sent * row);
    }
  }
}

TEST(DispatchHooks, run_in_order_may_replace_and_can_be_removed) {
  auto const batch = make_batch();
  for (auto const kind : kinds) {
    Rig s(kind, batch);
    auto& d = *s.dispatcher;
    Grouped<E> const grouped(d);
    std::vector<int> calls;
    auto const other_x = batch.matrix<E, T>(5, s.begin, s.end);

    auto const forward = [&](Matrix<T, E> const& x) {
      calls.clear();
      poison(s.y);
      auto const payload = d.dispatch(s.exec, x, s.routing);
      d.combine(s.exec, run_experts(d, payload, grouped), {}, s.y);
      return s.result();
    };
    auto const plain = forward(s.x);

    auto one = d.register_pre_dispatch_hook([&](auto& self, E const&, DispatchInput<E, T>& in) {
      EXPECT_EQ(&self, &d);
      EXPECT_EQ(in.x.data(), s.x.data());
      calls.push_back(1);
      in.x = other_x;
    });
    auto two = d.register_pre_dispatch_hook([&](auto&, E const&, DispatchInput<E, T>& in) {
      EXPECT_EQ(in.x.data(), other_x.data());  // what the hook before it left
      calls.push_back(2);
    });
    auto three = d.register_post_dispatch_hook(
        [&](auto&, E const&, DispatchOutput<E, T>&) { calls.push_back(3); });
    auto four = d.register_pre_combine_hook(
        [&](auto&, E const&, CombineInput<E, T>&) { calls.push_back(4); });
    auto five = d.register_post_combine_hook([&](auto&, E const&, Matrix<T, E> const& y) {
      EXPECT_EQ(y.data(), s.y.data());
      calls.push_back(5);
    });
    auto const replaced = forward(s.x);
    EXPECT_EQ(calls, (std::vector{1, 2, 3, 4, 5}));

    one.remove();
    one.remove();
    three.remove();
    auto const direct = forward(other_x);
    EXPECT_EQ(calls, (std::vector{2, 4, 5}));
    EXPECT_EQ(replaced, direct);
    EXPECT_EQ(direct == plain, s.end == s.begin);
    two.remove();
    four.remove();

    // Rows doubled before combine, y negated after it.
    auto six = d.register_pre_combine_hook([](auto&, E const& exec, CombineInput<E, T>& in) {
      Matrix<T, E> const rows("doubled", in.rows.extent(0), in.rows.extent(1));
      Kokkos::deep_copy(exec, rows, in.rows);
      set_entries(rows, [host = to_host(in.rows)](T& v, std::size_t i) { v = 2 * host.data()[i]; });
      in.rows = rows;
    });
    auto seven = d.register_post_combine_hook([](auto&, E const& exec, Matrix<T, E> const& y) {
      exec.fence();
      auto const before = to_host(y);
      std::vector<T> const copy(before.data(), before.data() + before.size());
      set_entries(y, [&](T& v, std::size_t i) { v = -copy[i]; });
    });
    auto const changed = forward(other_x);
    EXPECT_EQ(calls, std::vector{5});
    for (std::size_t i = 0; i < changed.size(); ++i) EXPECT_EQ(changed[i], -2 * direct[i]);
    six.remove();
    seven.remove();
    five.remove();
    EXPECT_EQ(forward(other_x), direct);
    EXPECT_TRUE(calls.empty());
  }
  HookHandle orphan;
  {
    Rig const s(DispatcherKind::standard, batch);
    orphan = s.dispatcher->register_pre_dispatch_hook([](auto&, E const&, auto&) {});
  }
  orphan.remove();
}

/// What a hook takes away from the experts arrives as zeros: both sides count by the routing.
TEST(DispatchHooks, slots_without_row_count_as_zeros) {
  for (auto const kind : kinds) {
    auto const batch = make_batch();
    Rig s(kind, batch);
    auto& d = *s.dispatcher;
    Grouped<E> const grouped(d);
    Matrix<index_t, E> dropped;
    auto hook = d.register_post_dispatch_hook([&](auto&, E const&, DispatchOutput<E, T>& out) {
      auto& ids = std::get<LocalExpertIds<E>>(out.expert_ids);
      dropped = Matrix<index_t, E>("dropped", ids.ids.extent(0), ids.ids.extent(1));
      Kokkos::deep_copy(dropped, no_expert);
      ids.ids = dropped;
    });
    auto const payload = d.dispatch(s.exec, s.x, s.routing);
    d.combine(s.exec, run_experts(d, payload, grouped), {}, s.y);
    for (T const value : s.result()) EXPECT_EQ(value, 0);
  }
}

/// The message of the error, or "".
std::string error_of(std::function<void()> const& call) {
  try {
    call();
  } catch (Error const& error) {
    return error.what();
  }
  return {};
}
bool mentions(std::string const& text, std::string const& part) {
  return text.find(part) != std::string::npos;
}

TEST(DispatchErrors, arguments_are_checked_before_anything_is_sent) {
  for (auto const kind : kinds) {
    Rig s(kind, make_batch());
    auto& d = *s.dispatcher;
    std::string const name =
        kind == DispatcherKind::standard ? "kmoe::StandardDispatcher" : "kmoe::AllToAllDispatcher";
    Matrix<T, E> const narrow("narrow", 4, 5), good("good", 4, 6), long_x("long", 22, 6);
    Routing<E> const fits{Matrix<index_t, E>("ids", 4, 3), Matrix<float, E>("weights", 4, 3)};
    Routing<E> const thin{Matrix<index_t, E>("thin", 4, 2), Matrix<float, E>("weights", 4, 3)};
    Routing<E> const lost{Matrix<index_t, E>("ids", 4, 3), Matrix<float, E>("lost", 3, 3)};

    auto message = error_of([&] { d.dispatch(s.exec, narrow, fits); });
    EXPECT_TRUE(mentions(message, name +
                                      "::dispatch: x.extent(1) must equal hidden_size 6, found 5 "
                                      "(View \"narrow\")"))
        << message;
    message = error_of([&] { d.dispatch(s.exec, long_x, fits); });
    EXPECT_TRUE(mentions(message, "x.extent(0) must be at most max_tokens 21, found 22"))
        << message;
    message = error_of([&] { d.dispatch(s.exec, good, thin); });
    EXPECT_TRUE(mentions(message, "topk_ids.extent(1)") && mentions(message, "found 2")) << message;
    message = error_of([&] { d.dispatch(s.exec, good, lost); });
    EXPECT_TRUE(mentions(message, "topk_weights.extent(0)") && mentions(message, "\"lost\""))
        << message;
    message = error_of([&] { d.combine(s.exec, {kind, s.x, {}}, {}, s.y); });
    EXPECT_TRUE(mentions(message, name + "::combine: needs a dispatch() before it")) << message;

    Grouped<E> const grouped(d);
    auto const payload = d.dispatch(s.exec, s.x, s.routing);
    auto const rows = run_experts(d, payload, grouped);
    auto wrong_kind = rows;
    wrong_kind.format = kind == kinds[0] ? kinds[1] : kinds[0];
    message = error_of([&] { d.combine(s.exec, wrong_kind, {}, s.y); });
    EXPECT_TRUE(mentions(message, "input.format must be " + std::string(to_string(kind))))
        << message;
    message = error_of([&] { d.combine(s.exec, rows, {}, long_x); });
    EXPECT_TRUE(mentions(message, "y.extent(0) must equal T =")) << message;
    auto wrong_rows = rows;
    wrong_rows.rows = narrow;
    message = error_of([&] { d.combine(s.exec, wrong_rows, {}, s.y); });
    EXPECT_TRUE(mentions(message, "input.rows.extent(1) must equal hidden_size 6, found 5"))
        << message;
    message = error_of([&] { d.combine(s.exec, rows, long_x, s.y); });
    EXPECT_TRUE(mentions(message, "addend.extent(0) must equal T =")) << message;
    auto wrong_slots = rows;
    wrong_slots.permutation.row_of_slot = {};
    message = error_of([&] { d.combine(s.exec, wrong_slots, {}, s.y); });
    EXPECT_TRUE(
        payload.hidden_states.extent(0) == 0 ||
        mentions(message, "row_of_slot.extent(0) must be at least the number of dispatched"))
        << message;
    if (payload.hidden_states.extent(0) != 0) d.combine(s.exec, rows, {}, s.y);
    // Nothing was lost by the errors, and a dispatch serves one combine.
    for (T const value : s.result()) EXPECT_FALSE(std::isnan(value));
    message = error_of([&] { d.combine(s.exec, rows, {}, s.y); });
    EXPECT_TRUE(mentions(message, "needs a dispatch()")) << message;
  }
}

TEST(DispatchErrors, shapes_that_do_not_fit) {
  auto const batch = make_batch();
  index_t const ranks = world().size();
  auto const placement = make_placement(Placing::contiguous, batch.config, ranks);
  using Standard = StandardDispatcher<E, T>;
  auto const make = [&](DispatchShape const& shape) {
    return error_of([&] { Standard(world(), placement, shape); });
  };
  EXPECT_EQ(make({batch.config, ranks, 5}), "");
  EXPECT_TRUE(mentions(make({batch.config, ranks + 1, 5}), "shape.num_ranks must equal the size"));
  EXPECT_TRUE(mentions(make({batch.config, ranks, (1 << 30)}), "must be below 2^31"));
  EXPECT_TRUE(mentions(make({batch.config, ranks, -1}), "max_tokens must be at least 0"));
  auto config = batch.config;
  config.num_experts = 8;
  EXPECT_TRUE(mentions(make({config, ranks, 5}),
                       "placement.num_experts() must equal num_experts 8, found 9"));
  config = batch.config;
  config.router.num_fused_shared_experts = 1;
  EXPECT_TRUE(mentions(make({config, ranks, 5}), "placement.num_shared()"));
  config = batch.config;
  config.token_layout = TokenLayout::replicated;
  EXPECT_TRUE(mentions(error_of([&] {
                         AllToAllDispatcher<E, T>(world(), placement, {config, ranks, 5});
                       }),
                       "kmoe::AllToAllDispatcher: replicated tokens"));
  Standard unbound(world(), placement, {batch.config, ranks, 5});
  EXPECT_TRUE(mentions(error_of([&] { unbound.dispatch(E(), {}, {}); }), "needs bind()"));
}

TEST(DispatchErrors, no_combine_takes_no_addend) {
  auto batch = make_batch();
  batch.config.no_combine = true;
  batch.config.token_layout = TokenLayout::replicated;
  Rig s(DispatcherKind::standard, batch);
  Grouped<E> const grouped(*s.dispatcher);
  auto const rows =
      run_experts(*s.dispatcher, s.dispatcher->dispatch(s.exec, s.x, s.routing), grouped);
  EXPECT_TRUE(mentions(error_of([&] { s.dispatcher->combine(s.exec, rows, s.x, s.y); }),
                       "no_combine takes no addend"));
}

/// A dispatch whose combine never came is forgotten.
TEST(DispatchState, dispatch_twice) {
  for (auto const kind : kinds) {
    auto const batch = make_batch();
    Rig s(kind, batch);
    auto& d = *s.dispatcher;
    Grouped<E> const grouped(d);
    auto payload = d.dispatch(s.exec, s.x, s.routing);
    d.combine(s.exec, run_experts(d, payload, grouped), {}, s.y);
    auto const expected = s.result();
    d.dispatch(s.exec, {}, {});
    payload = d.dispatch(s.exec, s.x, s.routing);
    poison(s.y);
    d.combine(s.exec, run_experts(d, payload, grouped), {}, s.y);
    EXPECT_EQ(s.result(), expected);
  }
}

}  // namespace
