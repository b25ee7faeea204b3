// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <optional>

#include <kmoe/comm/communicator.hpp>

namespace kmoe {
namespace {

/// The lowest rank on which `here` holds, or nothing. Collective.
std::optional<index_t> lowest_rank_where(Communicator const& comm, bool here) {
  std::array<offset_t, 1> distance{here ? comm.size() - comm.rank() : 0};
  comm.all_reduce_max(distance);
  if (distance[0] == 0) return std::nullopt;
  return comm.size() - static_cast<index_t>(distance[0]);
}

std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (char const c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return hash;
}

/// Takes the first line off `text`; "nothing" at its end.
std::string_view next_line(std::string_view& text) {
  if (text.empty()) return "nothing";
  auto const end = std::min(text.find('\n'), text.size());
  auto const line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return line;
}

}  // namespace

void agree(Communicator const& comm, std::function<void()> const& check) {
  std::optional<ErrorKind> kind;
  std::string message;
  auto const fail = [&](ErrorKind k, char const* what) {
    kind = k;
    message = what;
  };
  try {
    check();
  } catch (Error const& e) {
    fail(e.kind(), e.what());
  } catch (std::logic_error const& e) {
    fail(ErrorKind::invalid_argument, e.what());
  } catch (std::exception const& e) {
    fail(ErrorKind::io, e.what());
  } catch (...) {
    fail(ErrorKind::io, "unknown exception");
  }
  auto const failing = lowest_rank_where(comm, kind.has_value());
  if (!failing) return;
  // The kind travels as the first character.
  if (kind) message.insert(message.begin(), static_cast<char>(*kind));
  comm.broadcast(message, *failing);
  auto const agreed = static_cast<ErrorKind>(message.front());
  message.erase(message.begin());
  if (comm.size() > 1) message = "rank " + std::to_string(*failing) + ": " + message;
  throw_error(agreed, message);
}

void agree_equal(Communicator const& comm, std::string_view function, std::string const& text) {
  // All hashes are equal if and only if the largest is also the smallest.
  auto const hash = std::bit_cast<offset_t>(fnv1a(text));
  std::array<offset_t, 2> range{hash, ~hash};
  comm.all_reduce_max(range);
  if (range[0] == ~range[1]) return;

  std::string first = text;
  comm.broadcast(first, 0);
  index_t const rank = lowest_rank_where(comm, first != text).value();
  std::string_view mine = text;
  std::string_view theirs = first;
  std::string_view a;
  std::string_view b;
  while (a == b && !(mine.empty() && theirs.empty())) {
    a = next_line(theirs);
    b = next_line(mine);
  }
  std::string message(function);
  message.append(": ranks disagree: rank 0 has ").append(a);
  message.append(", rank " + std::to_string(rank) + " has ").append(b);
  comm.broadcast(message, rank);
  throw InvalidArgument(message);
}

}  // namespace kmoe
