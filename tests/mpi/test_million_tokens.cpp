// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// 2^20 tokens of a small surrogate in bounded memory that is told beforehand.

#include <gtest/gtest.h>
#include <mpi.h>
#include <sys/resource.h>

#include <kmoe/layer/moe_layer.hpp>

#include "support/layer_model.hpp"

namespace {

using Space = Kokkos::DefaultExecutionSpace;
using Element = kmoe::bfloat16;
using Layer = kmoe::MoeLayer<Space, Element>;

std::size_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

/// Numbers `first` .. of a stream, the same on any number of ranks.
void fill(Space const& exec, kmoe::Matrix<Element, Space> const& x, std::uint64_t first) {
  Kokkos::parallel_for(
      "test::fill", Kokkos::RangePolicy<Space>(exec, 0, x.size()),
      KOKKOS_LAMBDA(std::size_t i) { x.data()[i] = Element(kmoe::test::uniform(5, first + i)); });
}

std::size_t count_different(Space const& exec, kmoe::Matrix<Element, Space> const& a,
                            kmoe::Matrix<Element, Space> const& b) {
  std::size_t different = 0;
  Kokkos::parallel_reduce(
      "test::compare", Kokkos::RangePolicy<Space>(exec, 0, a.size()),
      KOKKOS_LAMBDA(std::size_t i, std::size_t & count) {
        count += a.data()[i].bits != b.data()[i].bits ? 1 : 0;
      },
      different);
  return different;
}

TEST(MillionTokens, run_in_the_memory_that_was_told) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  Space const exec;
  kmoe::test::LayerModel model;
  model.config.hidden_size = 256;
  model.config.intermediate_size = 1024;
  model.config.num_experts = 16;
  model.config.top_k = 2;
  model.config.dispatcher = kmoe::DispatcherKind::all_to_all;
  model.config.workspace_limit_bytes = std::size_t{96} << 20;

  auto const total = kmoe::index_t{1} << 20;
  auto const tokens = total / comm.size();
  std::size_t const hidden = model.config.hidden_size;
  auto const placement = kmoe::ExpertPlacement::contiguous(16, comm.size());
  auto const told =
      Layer::workspace_bytes(exec, model.config, placement, comm.rank(), tokens, true);
  EXPECT_LE(told, model.config.workspace_limit_bytes);
  auto const mine = placement.experts_of(comm.rank());
  Layer layer(exec, comm, model.config, placement, model.weights<Space, Element>(mine), tokens);
  EXPECT_EQ(layer.workspace_bytes(), told);
  EXPECT_LT(layer.chunk_tokens(), tokens);

  kmoe::Matrix<Element, Space> const x("x", tokens, hidden), y("y", tokens, hidden);
  std::uint64_t const first = std::uint64_t(comm.rank()) * std::uint64_t(tokens) * hidden;
  fill(exec, x, first);
  Kokkos::deep_copy(exec, y, Element(std::nan("")));
  exec.fence();

  auto const before = peak_resident_bytes();
  layer.forward(exec, x, y);
  exec.fence();
  auto const grown = peak_resident_bytes() - before;
  EXPECT_LE(grown, told + (std::size_t{64} << 20)) << "beyond the workspace: MPI's own buffers";

  // A sample of the tokens, alone on one rank: the same bits.
  auto alone_config = model.config;
  alone_config.dispatcher = kmoe::DispatcherKind::standard;
  std::vector<kmoe::index_t> all(16);
  for (kmoe::index_t e = 0; e < 16; ++e) all[e] = e;
  std::size_t const sample = 64;
  Layer alone(exec, kmoe::Communicator(), alone_config, kmoe::ExpertPlacement::contiguous(16, 1),
              model.weights<Space, Element>(all), sample);
  for (std::size_t const begin : {std::size_t{0}, std::size_t(tokens) / 3, tokens - sample}) {
    kmoe::Matrix<Element, Space> const again("again", sample, hidden);
    alone.forward(exec, row_range(x, begin, begin + sample), again);
    exec.fence();
    EXPECT_EQ(count_different(exec, row_range(y, begin, begin + sample), again), 0U)
        << "tokens from " << begin;
  }
}

}  // namespace
