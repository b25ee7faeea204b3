// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A layer whose weights are all 1/2, on tokens of ones: every element of y is the same known value.

#include <cmath>
#include <cstdio>

#include <kmoe/kmoe.hpp>

using Space = Kokkos::DefaultExecutionSpace;

int run(kmoe::Communicator const& comm) {
  Space const exec;
  kmoe::MoeConfig config;
  config.hidden_size = 4;
  config.intermediate_size = 3;
  config.num_experts = 5;
  config.top_k = 2;
  config.router.scoring = kmoe::Scoring::topk_softmax;
  config.dispatcher = kmoe::DispatcherKind::all_to_all;
  auto const placement = kmoe::ExpertPlacement::contiguous(5, comm.size());
  std::size_t const local = placement.num_local(comm.rank());
  kmoe::Matrix<float, Space> const router("router", 5, 4), x("x", 7, 4), y("y", 7, 4);
  kmoe::Tensor3<float, Space> const gate_up("gate_up", local, 6, 4), down("down", local, 4, 3);
  Kokkos::deep_copy(router, 0.5F);
  Kokkos::deep_copy(gate_up, 0.5F);
  Kokkos::deep_copy(down, 0.5F);
  Kokkos::deep_copy(x, 1.0F);
  kmoe::LayerWeights<Space, float> weights;
  weights.router.weight = router;
  weights.experts.gate_up = gate_up;
  weights.experts.down = down;
  kmoe::MoeLayer<Space, float> layer(exec, comm, config, placement, weights, 7);
  layer.forward(exec, x, y);
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), y);
  double const expected = 3 * 0.5 * 2 / (1 + std::exp(-2.0)) * 2;
  bool right = true;
  for (std::size_t i = 0; i < host.size(); ++i) {
    right = right && std::abs(host.data()[i] - expected) < 1e-5;
  }
  try {
    layer.forward(exec, x, x);
    right = false;
  } catch (kmoe::InvalidArgument const&) {  // thrown inside the library, caught outside
  }
  if (comm.rank() == 0) {
    std::printf("C++: kmoe %s on %s, %d ranks: %s\n", KMOE_VERSION_STRING, Space::name(),
                comm.size(), right ? "right" : "WRONG");
  }
  return right ? 0 : 1;
}

int main(int argc, char** argv) {
#ifdef KMOE_HAVE_MPI
  MPI_Init(&argc, &argv);
#endif
  int status = 1;
  {
    Kokkos::ScopeGuard const kokkos(argc, argv);
#ifdef KMOE_HAVE_MPI
    status = run(kmoe::Communicator(MPI_COMM_WORLD));
#else
    status = run(kmoe::Communicator());
#endif
  }
#ifdef KMOE_HAVE_MPI
  MPI_Finalize();
#endif
  return status;
}
