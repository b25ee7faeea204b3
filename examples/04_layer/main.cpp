// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A layer from the program's own weights, with a different number of tokens on each rank.
//
//   mpirun -n 3 layer
//
// 1. Describe the layer: sizes, router, activation.
// 2. Place the experts on the ranks.
// 3. Fill this rank's weights (here from a counter, so that every rank count makes the same model).
// 4. Build the layer, once; run it in every step with whatever tokens the rank has, also none.

#include <cmath>
#include <cstdint>
#include <cstdio>

#include <mpi.h>

#include <kmoe/kmoe.hpp>

using Space = Kokkos::DefaultExecutionSpace;

// Uniform in [-1, 1), a pure function of its arguments.
KOKKOS_INLINE_FUNCTION double value(std::uint64_t stream, std::uint64_t index) {
  std::uint64_t z = (stream << 40) + index + 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1.0;
}

template <class View>
void fill(View const& view, std::uint64_t stream, double scale) {
  auto* const data = view.data();
  Kokkos::parallel_for(
      "example::fill", Kokkos::RangePolicy<Space>(0, view.size()),
      KOKKOS_LAMBDA(std::size_t n) { data[n] = static_cast<float>(scale * value(stream, n)); });
}

int run(MPI_Comm mpi_comm) {
  Space const exec;
  kmoe::Communicator const comm(mpi_comm);

  kmoe::MoeConfig config;
  config.hidden_size = 64;
  config.intermediate_size = 128;
  config.num_experts = 6;
  config.top_k = 2;
  config.router.scoring = kmoe::Scoring::topk_softmax;
  config.experts.activation = kmoe::Activation::silu;
  config.dispatcher = kmoe::DispatcherKind::all_to_all;

  auto const placement = kmoe::ExpertPlacement::contiguous(config.num_experts, comm.size());
  auto const mine = placement.experts_of(comm.rank());

  std::size_t const h = 64, i = 128;
  kmoe::Matrix<float, Space> router("router", config.num_experts, h);
  fill(router, 1, 1.0);
  kmoe::Tensor3<float, Space> gate_up("gate_up", mine.size(), 2 * i, h);
  kmoe::Tensor3<float, Space> down("down", mine.size(), h, i);
  for (std::size_t slot = 0; slot < mine.size(); ++slot) {
    auto const stream = 100 + 2 * static_cast<std::uint64_t>(mine[slot]);
    fill(Kokkos::subview(gate_up, slot, Kokkos::ALL, Kokkos::ALL), stream, 0.2);
    fill(Kokkos::subview(down, slot, Kokkos::ALL, Kokkos::ALL), stream + 1, 0.2);
  }
  kmoe::LayerWeights<Space, float> weights;
  weights.router.weight = router;
  weights.experts.gate_up = gate_up;
  weights.experts.down = down;

  kmoe::index_t const max_tokens = 1000;
  kmoe::MoeLayer<Space, float> layer(exec, comm, config, placement, weights, max_tokens);

  double sum = 0;
  for (kmoe::index_t step = 0; step < 3; ++step) {
    // The work moves: in step s, rank r holds 400 tokens if (r + s) is even, else none.
    std::size_t const tokens = (comm.rank() + step) % 2 == 0 ? 400 : 0;
    kmoe::Matrix<float, Space> x("x", tokens, h), y("y", tokens, h);
    fill(x, 1000 + static_cast<std::uint64_t>(step * comm.size() + comm.rank()), 1.0);
    layer.forward(exec, x, y);
    double local = 0;
    Kokkos::parallel_reduce(
        "example::norm", Kokkos::RangePolicy<Space>(exec, 0, y.size()),
        KOKKOS_LAMBDA(std::size_t n, double& s) { s += std::abs(double(y.data()[n])); }, local);
    sum += local;
  }
  double total = 0;
  MPI_Allreduce(&sum, &total, 1, MPI_DOUBLE, MPI_SUM, mpi_comm);
  auto const report = layer.report();
  if (comm.rank() == 0) {
    std::printf("sum |y| = %.6f on %d ranks; rank 0 sent %lld tokens and %lld bytes\n", total,
                comm.size(), static_cast<long long>(report.tokens_sent),
                static_cast<long long>(report.bytes_sent));
  }
  return std::isfinite(total) && total > 0 ? 0 : 1;
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int status = 1;
  {
    Kokkos::ScopeGuard const kokkos(argc, argv);
    status = run(MPI_COMM_WORLD);
  }
  MPI_Finalize();
  return status;
}
