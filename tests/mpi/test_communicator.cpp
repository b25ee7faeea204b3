// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <mpi.h>

#include <cstdlib>
#include <functional>
#include <new>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <kmoe/comm/communicator.hpp>

#include "comm/exchange.hpp"
#include "comm/node_rank.hpp"
#include "support/random.hpp"

namespace kmoe {
namespace {

using Counts = std::vector<offset_t>;

std::size_t at(index_t p) {
  return static_cast<std::size_t>(p);
}

/// Part of MPI_COMM_WORLD in which this rank is, freed at the end of the scope.
class Split {
 public:
  Split(int color, int key) { MPI_Comm_split(MPI_COMM_WORLD, color, key, &comm_); }
  ~Split() { MPI_Comm_free(&comm_); }
  Split(Split const&) = delete;
  Split& operator=(Split const&) = delete;
  [[nodiscard]] MPI_Comm get() const { return comm_; }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
};

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

/// Calls test(comm) on the world, on halves of it with ranks reversed, on a group of one from MPI
/// and on one without MPI.
template <class Test>
void on_each_group(Test&& test) {
  {
    SCOPED_TRACE("world");
    test(Communicator(MPI_COMM_WORLD));
  }
  {
    SCOPED_TRACE("odd or even ranks");
    Split const half(world_rank() % 2, -world_rank());
    test(Communicator(half.get()));
  }
  {
    SCOPED_TRACE("self");
    test(Communicator(MPI_COMM_SELF));
  }
  {
    SCOPED_TRACE("no MPI");
    test(Communicator());
  }
}

TEST(Communicator, DuplicatesAndFreesWithTheLastCopy) {
  static int freed = 0;
  freed = 0;
  int key = MPI_KEYVAL_INVALID;
  MPI_Comm_create_keyval(
      MPI_COMM_NULL_COPY_FN,
      [](MPI_Comm, int, void*, void*) {
        ++freed;
        return static_cast<int>(MPI_SUCCESS);
      },
      &key, nullptr);
  {
    std::optional<Communicator> copy;
    {
      Communicator const comm(MPI_COMM_WORLD);
      int compared = MPI_UNEQUAL;
      MPI_Comm_compare(comm.mpi_comm(), MPI_COMM_WORLD, &compared);
      EXPECT_EQ(compared, MPI_CONGRUENT);
      EXPECT_EQ(comm.rank(), world_rank());
      MPI_Comm_set_attr(comm.mpi_comm(), key, nullptr);
      copy = comm;
    }
    EXPECT_EQ(freed, 0);
    copy->barrier();
  }
  EXPECT_EQ(freed, 1);
  MPI_Comm_free_keyval(&key);
}

// Destroyed when the program ends, after main has finalized MPI: freeing it then would abort.
TEST(Communicator, MayOutliveMpi) {
  static Communicator const late(MPI_COMM_WORLD);
  EXPECT_EQ(late.rank(), world_rank());
}

TEST(Communicator, RefusesWhatIsNoGroup) {
  EXPECT_THROW(Communicator(MPI_COMM_NULL), InvalidArgument);
  EXPECT_EQ(Communicator().mpi_comm(), MPI_COMM_NULL);
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (size < 2) return;
  Split const half(world_rank() % 2, 0);
  MPI_Comm inter = MPI_COMM_NULL;
  MPI_Intercomm_create(half.get(), 0, MPI_COMM_WORLD, 1 - world_rank() % 2, 0, &inter);
  EXPECT_THROW(Communicator{inter}, InvalidArgument);
  MPI_Comm_free(&inter);
}

TEST(Communicator, MessagesDoNotMeetTheCallers) {
  Split const mine(0, 0);
  Communicator const comm(mine.get());
  int caught = -1;
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Irecv(&caught, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, mine.get(), &request);
  Counts const one(at(comm.size()), 1);
  Counts offsets(at(comm.size()));
  std::iota(offsets.begin(), offsets.end(), 0);
  std::vector<int> const send(at(comm.size()), comm.rank());
  std::vector<int> recv(at(comm.size()), -1);
  comm.all_to_all_rows(send.data(), one, offsets, recv.data(), one, offsets, sizeof(int));
  for (index_t p = 0; p < comm.size(); ++p) EXPECT_EQ(recv[at(p)], p);
  MPI_Send(&send[0], 1, MPI_INT, (comm.rank() + 1) % comm.size(), 3, mine.get());
  MPI_Wait(&request, MPI_STATUS_IGNORE);
  EXPECT_EQ(caught, (comm.rank() + comm.size() - 1) % comm.size());
}

TEST(Communicator, ReducesAndGathersCounts) {
  on_each_group([](Communicator const& comm) {
    offset_t const r = comm.rank();
    offset_t const p = comm.size();
    offset_t const big = offset_t{1} << 40;
    Counts values{r, -r, big * (r + 1)};
    comm.all_reduce_max(values);
    EXPECT_EQ(values, (Counts{p - 1, 0, big * p}));
    values = {r, -r, big * (r + 1)};
    comm.all_reduce_sum(values);
    EXPECT_EQ(values, (Counts{p * (p - 1) / 2, -p * (p - 1) / 2, big * (p * (p + 1) / 2)}));
    comm.all_reduce_sum({});

    Counts gathered(at(comm.size()) * 2, -1);
    comm.all_gather(Counts{r, big + r}, gathered);
    Counts exchanged(at(comm.size()), -1);
    Counts to_each(at(comm.size()));
    for (index_t q = 0; q < comm.size(); ++q) to_each[at(q)] = big * r + q;
    comm.all_to_all(to_each, exchanged);
    for (index_t q = 0; q < comm.size(); ++q) {
      EXPECT_EQ(gathered[2 * at(q)], q);
      EXPECT_EQ(gathered[2 * at(q) + 1], big + q);
      EXPECT_EQ(exchanged[at(q)], big * q + r);
    }
    EXPECT_THROW(comm.all_gather(Counts{r}, gathered), InvalidArgument);
    EXPECT_THROW(comm.all_to_all(gathered, exchanged), InvalidArgument);
    comm.barrier();
  });
}

/// Rows that p sends to q: some pairs none.
offset_t rows_between(index_t p, index_t q, std::uint64_t seed) {
  auto const random = test::random_bits(seed, at(p) * 64 + at(q));
  return random % 3 == 0 ? 0 : static_cast<offset_t>(random % 29);
}

std::uint8_t byte_of(index_t from, index_t to, std::size_t i) {
  return static_cast<std::uint8_t>(test::random_bits(at(from) * 8 + at(to), i));
}

/// One random exchange with gaps between the blocks; `exchange` moves the rows.
template <class Exchange>
void check_exchange(Communicator const& comm, std::uint64_t seed, std::size_t row_bytes,
                    Exchange&& exchange) {
  index_t const me = comm.rank();
  auto const n = at(comm.size());
  Counts send_rows(n), recv_rows(n), send_offsets(n), recv_offsets(n);
  offset_t send_end = 2;
  offset_t recv_end = 1;
  for (std::size_t i = 0; i < n; ++i) {  // blocks in descending order of the ranks
    std::size_t const p = n - 1 - i;
    send_rows[p] = rows_between(me, static_cast<index_t>(p), seed);
    recv_rows[p] = rows_between(static_cast<index_t>(p), me, seed);
    send_offsets[p] = send_end;
    recv_offsets[p] = recv_end;
    send_end += send_rows[p] + 1;
    recv_end += recv_rows[p] + 3;
  }
  constexpr std::uint8_t untouched = 0xa5;
  std::vector<std::uint8_t> send(static_cast<std::size_t>(send_end) * row_bytes, 0x11);
  std::vector<std::uint8_t> recv(static_cast<std::size_t>(recv_end) * row_bytes, untouched);
  auto expected = recv;
  for (std::size_t p = 0; p < n; ++p) {
    auto const other = static_cast<index_t>(p);
    for (std::size_t i = 0; i < static_cast<std::size_t>(send_rows[p]) * row_bytes; ++i) {
      send[static_cast<std::size_t>(send_offsets[p]) * row_bytes + i] = byte_of(me, other, i);
    }
    for (std::size_t i = 0; i < static_cast<std::size_t>(recv_rows[p]) * row_bytes; ++i) {
      expected[static_cast<std::size_t>(recv_offsets[p]) * row_bytes + i] = byte_of(other, me, i);
    }
  }
  exchange(send.data(), send_rows, send_offsets, recv.data(), recv_rows, recv_offsets);
  ASSERT_EQ(recv, expected);
}

TEST(Communicator, ExchangesRows) {
  on_each_group([](Communicator const& comm) {
    std::uint64_t seed = 0;
    for (std::size_t const row_bytes : {1, 7, 256, 4096, 0}) {
      for (int repeat = 0; repeat < 4; ++repeat) {
        check_exchange(comm, ++seed, row_bytes,
                       [&](auto const* send, auto& send_rows, auto& send_offsets, auto* recv,
                           auto& recv_rows, auto& recv_offsets) {
                         comm.all_to_all_rows(send, send_rows, send_offsets, recv, recv_rows,
                                              recv_offsets, row_bytes);
                       });
      }
    }
  });
}

// What happens beyond 2^30 bytes, with a limit that small messages reach: pieces that divide the
// block, that do not, and that cut rows.
TEST(Communicator, ExchangesInPieces) {
  Communicator const comm(MPI_COMM_WORLD);
  std::vector<MPI_Request> requests;
  std::uint64_t seed = 100;
  for (std::size_t const piece_bytes : {1, 5, 7, 14, 1000}) {
    for (bool const copy_own : {true, false}) {
      constexpr std::size_t row_bytes = 7;
      check_exchange(comm, ++seed, row_bytes,
                     [&](auto const* send, auto& send_rows, auto& send_offsets, auto* recv,
                         auto& recv_rows, auto& recv_offsets) {
                       detail::exchange(comm.mpi_comm(),
                                        {send, send_rows.data(), send_offsets.data()},
                                        {recv, recv_rows.data(), recv_offsets.data()}, row_bytes,
                                        copy_own, requests, piece_bytes);
                       std::size_t pieces = 0;
                       for (auto const* rows : {&send_rows, &recv_rows}) {
                         for (index_t p = 0; p < comm.size(); ++p) {
                           if (copy_own && p == comm.rank()) continue;
                           auto const bytes = static_cast<std::size_t>((*rows)[at(p)]) * row_bytes;
                           pieces += (bytes + piece_bytes - 1) / piece_bytes;
                         }
                       }
                       EXPECT_EQ(requests.size(), pieces);
                     });
    }
  }
}

TEST(Communicator, GathersRows) {
  on_each_group([](Communicator const& comm) {
    for (std::size_t const row_bytes : {1, 12, 0}) {
      for (index_t const empty : {-1, 0, comm.size() - 1}) {
        auto const n = at(comm.size());
        auto const rows_of = [&](index_t p) { return p == empty ? 0 : 3 + 2 * p; };
        Counts rows(n), offsets(n);
        offset_t end = 1;
        for (index_t p = comm.size() - 1; p >= 0; --p) {
          rows[at(p)] = rows_of(p);
          offsets[at(p)] = end;
          end += rows[at(p)] + 1;
        }
        std::vector<std::uint8_t> recv(static_cast<std::size_t>(end) * row_bytes, 0xa5);
        auto expected = recv;
        std::vector<std::uint8_t> send(at(rows_of(comm.rank())) * row_bytes);
        for (std::size_t i = 0; i < send.size(); ++i) send[i] = byte_of(comm.rank(), 0, i);
        for (index_t p = 0; p < comm.size(); ++p) {
          for (std::size_t i = 0; i < at(rows_of(p)) * row_bytes; ++i) {
            expected[static_cast<std::size_t>(offsets[at(p)]) * row_bytes + i] = byte_of(p, 0, i);
          }
        }
        comm.all_gather_rows(send.data(), rows_of(comm.rank()), recv.data(), rows, offsets,
                             row_bytes);
        ASSERT_EQ(recv, expected);
      }
    }
  });
}

TEST(Communicator, NothingToExchange) {
  on_each_group([](Communicator const& comm) {
    Counts const none(at(comm.size()), 0);
    Counts const anywhere(at(comm.size()), 77);
    comm.all_to_all_rows(nullptr, none, anywhere, nullptr, none, anywhere, 16);
    comm.all_gather_rows(nullptr, 0, nullptr, none, anywhere, 16);
    Counts const some(at(comm.size()), 5);
    comm.all_to_all_rows(nullptr, some, anywhere, nullptr, some, anywhere, 0);
    comm.all_gather_rows(nullptr, 5, nullptr, some, anywhere, 0);
    comm.barrier();
  });
}

TEST(Communicator, RefusesWrongBlocks) {
  Communicator const comm(MPI_COMM_WORLD);
  auto const n = at(comm.size());
  Counts const one(n, 1);
  Counts const zero(n, 0);
  Counts const longer(n + 1, 0);
  Counts const negative(n, -1);
  Counts const two(n, 2);
  std::vector<char> memory(64);
  auto const expect_refusal = [&](std::string const& what, void const* send,
                                  Counts const& send_rows, Counts const& send_offsets, void* recv,
                                  Counts const& recv_rows, Counts const& recv_offsets) {
    try {
      comm.all_to_all_rows(send, send_rows, send_offsets, recv, recv_rows, recv_offsets, 4);
      ADD_FAILURE() << "no error: " << what;
    } catch (InvalidArgument const& e) {
      EXPECT_EQ(e.what(), "kmoe::Communicator::all_to_all_rows: " + what);
    }
  };
  char* const m = memory.data();
  auto const number = [](std::size_t i) { return std::to_string(i); };
  expect_refusal("send_rows.size() must equal " + number(n) + ", found " + number(n + 1), m, longer,
                 zero, m, one, zero);
  expect_refusal("recv_offsets.size() must equal " + number(n) + ", found " + number(n + 1), m, one,
                 zero, m, one, longer);
  expect_refusal("send_rows[0] must not be negative, found -1", m, negative, zero, m, one, zero);
  expect_refusal("recv_offsets[0] must not be negative, found -1", m, one, zero, m, one, negative);
  expect_refusal("send must not be null with send_rows[0], found 1 rows", nullptr, one, zero, m,
                 one, zero);
  expect_refusal("recv must not be null with recv_rows[0], found 1 rows", m, one, zero, nullptr,
                 one, zero);
  expect_refusal("recv_rows of this rank must equal its send_rows = 1, found 2", m, one, zero, m,
                 two, zero);
  EXPECT_THROW(comm.all_gather_rows(m, 2, m, one, zero, 4), InvalidArgument);
  EXPECT_THROW(comm.all_gather_rows(nullptr, 1, m, one, zero, 4), InvalidArgument);
}

TEST(Communicator, MpiErrorsAreThrown) {
  Communicator const comm(MPI_COMM_WORLD);
  if (comm.size() < 2) GTEST_SKIP() << "needs two ranks";
  // Rank 0 sends rank 1 more than rank 1 expects.
  auto const n = at(comm.size());
  Counts const none(n, 0);
  Counts sent(n, 0);
  Counts expected(n, 0);
  if (comm.rank() == 0) sent[1] = 4;
  if (comm.rank() == 1) expected[0] = 2;
  std::vector<char> memory(64);
  std::string message;
  try {
    comm.all_to_all_rows(memory.data(), sent, none, memory.data() + 32, expected, none, 4);
  } catch (MpiError const& e) {
    message = e.what();
  }
  if (comm.rank() == 1) {
    EXPECT_EQ(message.rfind("kmoe::Communicator: MPI_Wait failed: ", 0), 0U) << message;
    EXPECT_NE(message.find("trunc"), std::string::npos) << message;
  } else {
    EXPECT_EQ(message, "");
  }
}

// All ranks of the tests are on one node.
TEST(Communicator, NodeRankIsTheRankOnOneNode) {
  on_each_group([](Communicator const& comm) {
    EXPECT_EQ(detail::node_rank(comm), comm.mpi_comm() == MPI_COMM_NULL ? -1 : comm.rank());
  });
}

TEST(Communicator, BroadcastsTextOfAnyLength) {
  on_each_group([](Communicator const& comm) {
    for (index_t root = 0; root < comm.size(); ++root) {
      for (std::size_t const length : {0, 1, 100, 3000000}) {
        std::string const sent(length, static_cast<char>('a' + root));
        std::string text = comm.rank() == root ? sent : "something else";
        comm.broadcast(text, root);
        ASSERT_EQ(text, sent);
      }
    }
    std::string text;
    EXPECT_THROW(comm.broadcast(text, comm.size()), InvalidArgument);
    EXPECT_THROW(comm.broadcast(text, -1), InvalidArgument);
  });
}

TEST(Communicator, GpuAwarenessFollowsTheEnvironmentFirst) {
  setenv("KMOE_GPU_AWARE_MPI", "1", 1);
  Communicator const yes(MPI_COMM_WORLD);
  EXPECT_TRUE(yes.gpu_aware());
  EXPECT_EQ(yes.gpu_aware_reason(), "KMOE_GPU_AWARE_MPI=1");
  check_exchange(yes, 500, 24,
                 [&](auto const* send, auto& send_rows, auto& send_offsets, auto* recv,
                     auto& recv_rows, auto& recv_offsets) {
                   yes.all_to_all_rows(send, send_rows, send_offsets, recv, recv_rows, recv_offsets,
                                       24);
                 });
  setenv("KMOE_GPU_AWARE_MPI", "0", 1);
  Communicator const no(MPI_COMM_WORLD);
  EXPECT_FALSE(no.gpu_aware());
  EXPECT_EQ(no.gpu_aware_reason(), "KMOE_GPU_AWARE_MPI=0");
  setenv("KMOE_GPU_AWARE_MPI", "maybe", 1);
  Communicator const odd(MPI_COMM_WORLD);
  EXPECT_EQ(odd.gpu_aware_reason().rfind("KMOE_GPU_AWARE_MPI=maybe is ignored", 0), 0U);
  unsetenv("KMOE_GPU_AWARE_MPI");
  Communicator const asked(MPI_COMM_WORLD);
  EXPECT_EQ(asked.gpu_aware(), odd.gpu_aware());
  EXPECT_EQ(asked.gpu_aware_reason().rfind("the MPI library says: ", 0), 0U);
  EXPECT_FALSE(Communicator().gpu_aware());
}

/// Kind and message of what agree() throws, or nothing.
std::optional<std::pair<ErrorKind, std::string>> agreed(Communicator const& comm,
                                                        std::function<void()> const& check) {
  try {
    agree(comm, check);
  } catch (Error const& e) {
    return std::pair{e.kind(), std::string(e.what())};
  }
  return std::nullopt;
}

std::string on_rank(Communicator const& comm, index_t rank, std::string const& message) {
  return comm.size() == 1 ? message : "rank " + std::to_string(rank) + ": " + message;
}

TEST(Agree, TheLowestFailingRankDecides) {
  on_each_group([](Communicator const& comm) {
    EXPECT_EQ(agreed(comm, [] {}), std::nullopt);
    for (index_t failing = 0; failing < comm.size(); ++failing) {
      // One rank alone, then that one and all above it, each with its own error.
      EXPECT_EQ(agreed(comm,
                       [&] {
                         if (comm.rank() == failing) throw IoError("file x is truncated");
                       }),
                std::pair(ErrorKind::io, on_rank(comm, failing, "file x is truncated")));
      auto const kind_of = [](index_t rank) { return static_cast<ErrorKind>(2 + rank % 4); };
      EXPECT_EQ(
          agreed(comm,
                 [&] {
                   if (comm.rank() < failing) return;
                   throw_error(kind_of(comm.rank()), std::string(at(comm.rank()) + 3, 'm'));
                 }),
          std::pair(kind_of(failing), on_rank(comm, failing, std::string(at(failing) + 3, 'm'))));
    }
    EXPECT_EQ(agreed(comm, [] {}), std::nullopt);  // the group still works
  });
}

TEST(Agree, ThrowsTheClassOfTheError) {
  Communicator const comm(MPI_COMM_WORLD);
  index_t const last = comm.size() - 1;
  auto const fail = [&](auto const& error) {
    agree(comm, [&] {
      if (comm.rank() == last) throw error;
    });
  };
  EXPECT_THROW(fail(InvalidArgument("m")), InvalidArgument);
  EXPECT_THROW(fail(Unsupported("m")), Unsupported);
  EXPECT_THROW(fail(MpiError("m")), MpiError);
  EXPECT_THROW(fail(IoError("m")), IoError);
}

TEST(Agree, ForeignExceptionsAndOddMessages) {
  Communicator const comm(MPI_COMM_WORLD);
  index_t const last = comm.size() - 1;
  auto const check = [&](auto const& error, ErrorKind kind, std::string const& message) {
    EXPECT_EQ(agreed(comm,
                     [&] {
                       if (comm.rank() == last) throw error;
                     }),
              std::pair(kind, on_rank(comm, last, message)));
  };
  check(std::out_of_range("beyond"), ErrorKind::invalid_argument, "beyond");
  check(std::runtime_error("late"), ErrorKind::io, "late");
  check(std::bad_alloc(), ErrorKind::io, std::bad_alloc().what());
  check(42, ErrorKind::io, "unknown exception");
  check(Unsupported(""), ErrorKind::unsupported, "");
  std::string const long_message = std::string(2000000, 'x') + "end";
  check(Unsupported(long_message), ErrorKind::unsupported, long_message);
}

std::string disagreement(Communicator const& comm, std::string const& text) {
  try {
    agree_equal(comm, "kmoe::MoeLayer", text);
  } catch (InvalidArgument const& e) {
    return e.what();
  }
  return "";
}

TEST(AgreeEqual, NamesTheFirstDifferingFieldOfTheLowestRank) {
  std::string const text = "hidden_size=8\ntop_k=2\nscoring=softmax\n";
  on_each_group([&](Communicator const& comm) {
    EXPECT_EQ(disagreement(comm, text), "");
    EXPECT_EQ(disagreement(comm, ""), "");
    for (index_t odd = 1; odd < comm.size(); ++odd) {
      std::string const rank = std::to_string(odd);
      auto const with = [&](std::string const& other) {
        return disagreement(comm, comm.rank() == odd ? other : text);
      };
      std::string const prefix = "kmoe::MoeLayer: ranks disagree: rank 0 has ";
      EXPECT_EQ(with("hidden_size=8\ntop_k=4\nscoring=sigmoid\n"),
                prefix + "top_k=2, rank " + rank + " has top_k=4");
      EXPECT_EQ(with("hidden_size=8\ntop_k=2\n"),
                prefix + "scoring=softmax, rank " + rank + " has nothing");
      EXPECT_EQ(with(text + "extra=1"), prefix + "nothing, rank " + rank + " has extra=1");
      EXPECT_EQ(with(""), prefix + "hidden_size=8, rank " + rank + " has nothing");
      // Every rank from `odd` on differs, each in its own way: the lowest is named.
      EXPECT_EQ(
          disagreement(
              comm, comm.rank() < odd ? text : "hidden_size=" + std::to_string(comm.rank() + 100)),
          prefix + "hidden_size=8, rank " + rank + " has hidden_size=" + std::to_string(odd + 100));
    }
    std::string long_text;
    for (int e = 0; e < 50000; ++e) long_text += "rank_of_expert[" + std::to_string(e) + "]=1\n";
    EXPECT_EQ(disagreement(comm, long_text), "");
    if (comm.size() > 1) {
      EXPECT_EQ(disagreement(comm, long_text + (comm.rank() == 1 ? "last=2\n" : "last=1\n")),
                "kmoe::MoeLayer: ranks disagree: rank 0 has last=1, rank 1 has last=2");
    }
    EXPECT_EQ(disagreement(comm, text), "");
  });
}

}  // namespace
}  // namespace kmoe
