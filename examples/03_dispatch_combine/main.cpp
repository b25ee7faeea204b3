// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Dispatch and combine without kmoe's experts: the "expert" e here multiplies a token by e + 1.
//
//   mpirun -n 3 dispatch_combine
//
// 1. Describe what travels, place the experts, let the dispatcher allocate its buffers.
// 2. dispatch() brings each token to the ranks of its experts.
// 3. group_by_expert() sorts the (token, k) slots by local expert; fill one row per slot.
// 4. combine() brings the rows home and adds them.

#include <cstdio>
#include <vector>

#include <mpi.h>

#include <kmoe/kmoe.hpp>

using Space = Kokkos::DefaultExecutionSpace;

int run(MPI_Comm mpi_comm) {
  Space const exec;
  kmoe::Communicator const comm(mpi_comm);
  std::size_t const hidden = 4, experts = 5, top_k = 2, tokens = 3;

  kmoe::MoeConfig config;
  config.hidden_size = hidden;
  config.intermediate_size = 1;
  config.num_experts = experts;
  config.top_k = top_k;
  config.dispatcher = kmoe::DispatcherKind::all_to_all;
  auto const placement = kmoe::ExpertPlacement::round_robin(experts, comm.size());
  kmoe::DispatchShape const shape{config, comm.size(), tokens};
  kmoe::AllToAllDispatcher<Space, float> dispatcher(comm, placement, shape);
  dispatcher.allocate(exec);

  // Token t goes to the experts t and t + 1 (mod 5), each with weight 1/2.
  kmoe::Matrix<float, Space> const x("x", tokens, hidden), y("y", tokens, hidden);
  kmoe::Routing<Space> const routing{kmoe::Matrix<kmoe::index_t, Space>("topk_ids", tokens, top_k),
                                     kmoe::Matrix<float, Space>("topk_weights", tokens, top_k)};
  Kokkos::deep_copy(exec, x, 1.0F + static_cast<float>(comm.rank()));
  Kokkos::deep_copy(exec, routing.topk_weights, 0.5F);
  Kokkos::parallel_for(
      "example::ids", Kokkos::RangePolicy<Space>(exec, 0, tokens), KOKKOS_LAMBDA(std::size_t t) {
        for (std::size_t k = 0; k < top_k; ++k) {
          routing.topk_ids(t, k) = static_cast<kmoe::index_t>((t + k) % experts);
        }
      });

  auto const arrived = dispatcher.dispatch(exec, x, routing);

  kmoe::Permutation<Space> by_expert;
  auto const workspace = kmoe::make_workspace<Space>([&](kmoe::Workspace<Space>& ws) {
    by_expert.bind(ws, dispatcher.max_dispatched_tokens(), top_k, dispatcher.num_local_experts());
  });
  kmoe::group_by_expert<Space>(exec, arrived.expert_ids, {}, by_expert);

  kmoe::Matrix<float, Space> const rows("rows", dispatcher.max_dispatched_rows(), hidden);
  auto const mine = placement.experts_of(comm.rank());
  auto const offsets =
      Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), by_expert.expert_offsets);
  for (std::size_t slot = 0; slot < mine.size(); ++slot) {
    auto const factor = static_cast<float>(mine[slot] + 1);
    Kokkos::parallel_for(
        "example::expert", Kokkos::RangePolicy<Space>(exec, offsets(slot), offsets(slot + 1)),
        KOKKOS_LAMBDA(std::size_t row) {
          auto const from = static_cast<std::size_t>(by_expert.slot_of_row(row));
          float const weight = arrived.topk_weights(from / top_k, from % top_k);
          for (std::size_t h = 0; h < hidden; ++h) {
            rows(row, h) = weight * factor * arrived.hidden_states(from / top_k, h);
          }
        });
  }
  dispatcher.combine(exec, {arrived.format, rows, by_expert}, {}, y);

  auto const result = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), y);
  int wrong = 0;
  for (std::size_t t = 0; t < tokens; ++t) {
    auto const factors = static_cast<float>((t % experts + 1) + ((t + 1) % experts + 1));
    float const expected = 0.5F * factors * (1.0F + static_cast<float>(comm.rank()));
    for (std::size_t h = 0; h < hidden; ++h) wrong += result(t, h) == expected ? 0 : 1;
  }
  MPI_Allreduce(MPI_IN_PLACE, &wrong, 1, MPI_INT, MPI_SUM, mpi_comm);
  if (comm.rank() == 0) std::printf("%d wrong numbers on %d ranks\n", wrong, comm.size());
  return wrong == 0 ? 0 : 1;
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
