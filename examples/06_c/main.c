/* SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors */
/* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception */

/* A layer in a C program, with an expert of the program's own beside the trained ones.
 *
 *   mpirun -n 2 c
 *
 * 1. Initialize, describe the layer, ask how much memory it will take.
 * 2. Hand over the weights of this rank's experts where they lie.
 * 3. In each step: route, send the cells on which the gate is not confident to the program's own
 *    expert (here it only relaxes them), run the layer.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <mpi.h>

#include <kmoe/kmoe.h>

enum { hidden = 8, inner = 16, trained = 6, top_k = 2, max_cells = 50, steps = 3 };

static void check(int status, const char* what) {
  if (status == KMOE_SUCCESS) return;
  fprintf(stderr, "%s: %s: %s\n", what, kmoe_strerror(status), kmoe_last_error());
  MPI_Abort(MPI_COMM_WORLD, 1);
}
#define CHECK(call) check((call), #call)

/* Numbers in [-1, 1) that depend on their arguments alone: the same model on any number of ranks.
 */
static float number(int tensor, int expert, int i) {
  unsigned long long z = 1000003ULL * (unsigned)tensor + 8191ULL * (unsigned)expert + (unsigned)i;
  z = (z + 1) * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 31)) * 0xbf58476d1ce4e5b9ULL;
  return (float)((double)(z >> 11) / 4503599627370496.0 - 1.0);
}

/* The program's expert: y = x / 2. `context` counts its cells. */
static int relax(void* context, int32_t expert, size_t rows, const void* x, void* y) {
  size_t i;
  (void)expert;
  *(long*)context += (long)rows;
  for (i = 0; i < rows * hidden; ++i) ((float*)y)[i] = 0.5F * ((const float*)x)[i];
  return 0;
}

int main(int argc, char** argv) {
  static float router[trained][hidden], gate_up[trained][2 * inner][hidden];
  static float down[trained][hidden][inner], x[max_cells][hidden], y[max_cells][hidden];
  static float scores[max_cells][top_k];
  static int32_t ids[max_cells][top_k];
  kmoe_comm comm;
  kmoe_layer layer;
  kmoe_layer_options options;
  kmoe_layer_weights weights;
  int32_t mine[trained], rank, ranks, step, *rank_of_expert;
  size_t count, e, device_bytes, host_bytes;
  long relaxed = 0, wanted = 0;
  int i, t, wrong = 0;

  MPI_Init(&argc, &argv);
  CHECK(kmoe_initialize_mpi(MPI_COMM_WORLD));
  CHECK(kmoe_comm_create(MPI_COMM_WORLD, &comm));
  CHECK(kmoe_comm_rank(comm, &rank));
  CHECK(kmoe_comm_size(comm, &ranks));

  CHECK(kmoe_layer_options_init(&options, sizeof(options)));
  options.space = KMOE_SPACE_HOST;
  options.hidden_size = hidden;
  options.intermediate_size = inner;
  options.num_experts = trained + ranks; /* expert trained + r is the program's, on rank r */
  options.num_user_experts = ranks;
  options.top_k = top_k;
  options.max_tokens_per_rank = max_cells;
  rank_of_expert = malloc((size_t)options.num_experts * sizeof(*rank_of_expert));
  for (i = 0; i < trained; ++i) rank_of_expert[i] = i % ranks;
  for (i = 0; i < ranks; ++i) rank_of_expert[trained + i] = i;
  options.placement = KMOE_PLACEMENT_CUSTOM;
  options.rank_of_expert = rank_of_expert;

  CHECK(kmoe_workspace_query(&options, rank, ranks, &device_bytes, &host_bytes));
  CHECK(kmoe_local_experts(&options, rank, ranks, trained, mine, &count));
  for (i = 0; i < trained * hidden; ++i) (&router[0][0])[i] = number(0, 0, i);
  for (e = 0; e < count; ++e) {
    for (i = 0; i < 2 * inner * hidden; ++i) (&gate_up[e][0][0])[i] = number(1, mine[e], i);
    for (i = 0; i < inner * hidden; ++i) (&down[e][0][0])[i] = 0.2F * number(2, mine[e], i);
  }
  CHECK(kmoe_layer_weights_init(&weights, sizeof(weights)));
  weights.router = router;
  weights.router_experts = trained;
  weights.gate_up = gate_up;
  weights.down = down;
  CHECK(kmoe_layer_create(comm, &options, &weights, &layer));
  CHECK(kmoe_layer_set_expert_function(layer, relax, &relaxed));
  free(rank_of_expert);

  for (step = 0; step < steps; ++step) {
    int const cells = (rank + step) % 2 == 0 ? max_cells : 0; /* the work moves between ranks */
    for (i = 0; i < cells * hidden; ++i) (&x[0][0])[i] = number(3 + step, rank, i);
    CHECK(kmoe_layer_route(layer, (size_t)cells, x, &ids[0][0], &scores[0][0]));
    for (t = 0; t < cells; ++t) {
      if (scores[t][0] > 0.35F) continue;
      ids[t][0] = trained + rank; /* stays on this rank */
      scores[t][0] = 1.0F;
      ids[t][1] = -1;
      ++wanted;
    }
    CHECK(kmoe_layer_forward_routed(layer, (size_t)cells, x, &ids[0][0], &scores[0][0], y));
    CHECK(kmoe_layer_fence(layer));
    for (t = 0; t < cells; ++t) {
      for (i = 0; i < hidden; ++i) {
        wrong += ids[t][0] >= trained ? y[t][i] != 0.5F * x[t][i] : !isfinite(y[t][i]);
      }
    }
  }
  wrong += relaxed != wanted;
  MPI_Allreduce(MPI_IN_PLACE, &wrong, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  MPI_Allreduce(MPI_IN_PLACE, &wanted, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
  if (rank == 0) {
    printf("%d steps on %d ranks, %lu bytes of workspace; %ld cells by the program's expert; %s\n",
           (int)steps, (int)ranks, (unsigned long)(device_bytes + host_bytes), wanted,
           wrong == 0 ? "all as expected" : "WRONG");
  }
  CHECK(kmoe_layer_destroy(layer));
  CHECK(kmoe_comm_destroy(comm));
  CHECK(kmoe_finalize());
  MPI_Finalize();
  return wrong == 0 && wanted > 0 ? 0 : 1;
}
