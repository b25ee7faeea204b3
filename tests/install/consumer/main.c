/* SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors */
/* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception */

/* A layer whose weights are all 1/2, on tokens of ones: every element of y is the same known value.
 */

#include <math.h>
#include <stdio.h>

#include <kmoe/kmoe.h>

#define CHECK(call) \
  if ((call) != KMOE_SUCCESS) return fprintf(stderr, "%s\n", kmoe_last_error()), 1

static float half[5 * 6 * 4], x[7][4], y[7][4];

static int run(void) {
  kmoe_comm comm;
  kmoe_layer layer;
  kmoe_layer_options options;
  kmoe_layer_weights weights;
  int32_t rank, ranks;
  size_t i;
  int right = 1;
#ifdef KMOE_HAVE_MPI
  CHECK(kmoe_initialize_mpi(MPI_COMM_WORLD));
  CHECK(kmoe_comm_create(MPI_COMM_WORLD, &comm));
#else
  CHECK(kmoe_initialize());
  CHECK(kmoe_comm_create_self(&comm));
#endif
  CHECK(kmoe_comm_rank(comm, &rank));
  CHECK(kmoe_comm_size(comm, &ranks));
  CHECK(kmoe_layer_options_init(&options, sizeof(options)));
  options.hidden_size = 4;
  options.intermediate_size = 3;
  options.num_experts = 5;
  options.top_k = 2;
  options.scoring = KMOE_SCORING_TOPK_SOFTMAX;
  options.max_tokens_per_rank = 7;
  for (i = 0; i < sizeof(half) / sizeof(half[0]); ++i) half[i] = 0.5F;
  for (i = 0; i < 28; ++i) (&x[0][0])[i] = 1;
  CHECK(kmoe_layer_weights_init(&weights, sizeof(weights)));
  weights.memory = KMOE_MEMORY_HOST;
  weights.router = weights.gate_up = weights.down = half;
  CHECK(kmoe_layer_create(comm, &options, &weights, &layer));
  CHECK(kmoe_layer_forward_host(layer, 7, x, y));
  for (i = 0; i < 28; ++i) {
    right = right && fabs((&y[0][0])[i] - 3 * 0.5 * 2 / (1 + exp(-2.0)) * 2) < 1e-5;
  }
  right = right && kmoe_layer_forward_host(layer, 7, x, NULL) == KMOE_ERROR_INVALID_ARGUMENT;
  CHECK(kmoe_layer_destroy(layer));
  CHECK(kmoe_finalize());
  if (rank == 0) printf("C: %d ranks: %s\n", (int)ranks, right ? "right" : "WRONG");
  return right ? 0 : 1;
}

int main(int argc, char** argv) {
  int status;
#ifdef KMOE_HAVE_MPI
  MPI_Init(&argc, &argv);
#endif
  status = run();
#ifdef KMOE_HAVE_MPI
  MPI_Finalize();
#endif
  return (void)argc, (void)argv, status;
}
