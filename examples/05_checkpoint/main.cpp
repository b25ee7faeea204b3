// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A layer of a Hugging Face checkpoint over all ranks: each rank maps the files and reads only its
// own experts.
//
//   mpirun -n 4 checkpoint tests/golden/qwen3_moe
//
// The README shows this program (tests/docs compares).

#include <cstdio>

#include <mpi.h>

#include <kmoe/kmoe.hpp>

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  {
    Kokkos::ScopeGuard kokkos(argc, argv);
    using Space = Kokkos::DefaultExecutionSpace;
    Space exec;
    kmoe::Communicator comm(MPI_COMM_WORLD);
    kmoe::io::Checkpoint checkpoint(argv[1]);
    auto const& block = checkpoint.blocks().front();
    auto placement = kmoe::ExpertPlacement::contiguous(block.config.num_experts, comm.size());
    auto weights = kmoe::io::load_weights<Space, float>(exec, checkpoint, block,
                                                        placement.experts_of(comm.rank()));
    std::size_t const tokens = 100, hidden = block.config.hidden_size;
    kmoe::MoeLayer<Space, float> layer(exec, comm, block.config, placement, weights, tokens);

    kmoe::Matrix<float, Space> x("x", tokens, hidden), y("y", tokens, hidden);
    Kokkos::deep_copy(exec, x, 0.5F);
    layer.forward(exec, x, y);  // collective; any number of tokens per rank, also none
    exec.fence();
    if (comm.rank() == 0) std::printf("%s: done\n", block.module.c_str());
  }
  MPI_Finalize();
}
