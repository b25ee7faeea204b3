/* SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors */
/* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception */

/* A C program that makes every mistake, and one layer against plain loops. Needs no MPI. Run under
 * the address sanitizer, it shows that a dead handle touches no memory. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kmoe/kmoe.h>

static int failures = 0;

static void fail(int line, const char* what, const char* found) {
  fprintf(stderr, "c_api.c:%d: %s, found \"%s\"\n", line, what, found);
  ++failures;
}

/* `call` must return `status` with a text that contains `part`. */
#define EXPECT_ERROR(status, part, call)                                       \
  do {                                                                         \
    int const returned = (call);                                               \
    if (returned != (status)) fail(__LINE__, #call, kmoe_strerror(returned));  \
    if (strstr(kmoe_last_error(), (part)) == NULL) {                           \
      fail(__LINE__, "the text must contain \"" part "\"", kmoe_last_error()); \
    }                                                                          \
  } while (0)

#define EXPECT_OK(call)                                                   \
  do {                                                                    \
    if ((call) != KMOE_SUCCESS) fail(__LINE__, #call, kmoe_last_error()); \
  } while (0)

#define EXPECT(condition)                                  \
  do {                                                     \
    if (!(condition)) fail(__LINE__, #condition, "false"); \
  } while (0)

enum { H = 5, I = 3, E = 4, K = 2, T = 6 };

static float router[E][H], gate_up[E][2 * I][H], down[E][H][I], x[T][H], y[T][H];

static float number(unsigned* state) {
  *state = *state * 1664525U + 1013904223U;
  return (float)(*state >> 8) / 8388608.0F - 1.0F;
}

static void fill(void) {
  unsigned state = 7;
  size_t i;
  for (i = 0; i < sizeof(router) / sizeof(float); ++i) (&router[0][0])[i] = 2 * number(&state);
  for (i = 0; i < sizeof(gate_up) / sizeof(float); ++i) (&gate_up[0][0][0])[i] = number(&state);
  for (i = 0; i < sizeof(down) / sizeof(float); ++i) (&down[0][0][0])[i] = number(&state);
  for (i = 0; i < sizeof(x) / sizeof(float); ++i) (&x[0][0])[i] = number(&state);
}

static kmoe_layer_options small_options(void) {
  kmoe_layer_options options;
  EXPECT_OK(kmoe_layer_options_init(&options, sizeof(options)));
  options.hidden_size = H;
  options.intermediate_size = I;
  options.num_experts = E;
  options.top_k = K;
  options.scoring = KMOE_SCORING_TOPK_SOFTMAX;
  options.max_tokens_per_rank = T;
  return options;
}

static kmoe_layer_weights small_weights(void) {
  kmoe_layer_weights weights;
  EXPECT_OK(kmoe_layer_weights_init(&weights, sizeof(weights)));
  weights.memory = KMOE_MEMORY_HOST;
  weights.router = router;
  weights.gate_up = gate_up;
  weights.down = down;
  return weights;
}

/* One expert on one token, in double. */
static double expert(int e, const float* token, int h) {
  double sum = 0;
  int i, j;
  for (i = 0; i < I; ++i) {
    double gate = 0, up = 0;
    for (j = 0; j < H; ++j) {
      gate += (double)gate_up[e][i][j] * token[j];
      up += (double)gate_up[e][I + i][j] * token[j];
    }
    sum += gate / (1 + exp(-gate)) * up * down[e][h][i];
  }
  return sum;
}

/* What the layer must give for token t, element h: the two best experts by softmax. */
static double expected(int t, int h) {
  double logits[E], first, second;
  int e, j, a = 0, b = -1;
  for (e = 0; e < E; ++e) {
    logits[e] = 0;
    for (j = 0; j < H; ++j) logits[e] += (double)router[e][j] * x[t][j];
    if (logits[e] > logits[a]) a = e;
  }
  for (e = 0; e < E; ++e) {
    if (e != a && (b < 0 || logits[e] > logits[b])) b = e;
  }
  first = 1 / (1 + exp(logits[b] - logits[a]));
  second = 1 - first;
  return first * expert(a, x[t], h) + second * expert(b, x[t], h);
}

static void check_output(void) {
  int t, h;
  for (t = 0; t < T; ++t) {
    for (h = 0; h < H; ++h) EXPECT(fabs(y[t][h] - expected(t, h)) < 1e-5);
  }
}

static int double_rows(void* context, int32_t id, size_t rows, const void* in, void* out) {
  size_t i;
  ++*(int*)context;
  for (i = 0; i < rows * H; ++i) ((float*)out)[i] = (float)id * ((const float*)in)[i];
  return 0;
}

static int give_up(void* context, int32_t id, size_t rows, const void* in, void* out) {
  (void)context, (void)rows, (void)in, (void)out;
  return id;
}

static void before_initialize(void) {
  kmoe_layer_options options = small_options();
  kmoe_layer_weights weights = small_weights();
  kmoe_layer layer = NULL;
  kmoe_comm comm = NULL;
  kmoe_checkpoint checkpoint = NULL;
  size_t bytes = 0;
  int initialized = 1;
  EXPECT(strcmp(kmoe_last_error(), "") == 0);
  EXPECT_OK(kmoe_is_initialized(&initialized));
  EXPECT(initialized == 0);
  EXPECT_ERROR(KMOE_ERROR_NOT_INITIALIZED, "kmoe_initialize", kmoe_finalize());
  EXPECT_ERROR(KMOE_ERROR_NOT_INITIALIZED, "kmoe_initialize", kmoe_comm_create_self(&comm));
  EXPECT_ERROR(KMOE_ERROR_NOT_INITIALIZED, "kmoe_initialize",
               kmoe_layer_create(comm, &options, &weights, &layer));
  EXPECT_ERROR(KMOE_ERROR_NOT_INITIALIZED, "kmoe_initialize", kmoe_layer_forward(layer, T, x, y));
  EXPECT_ERROR(KMOE_ERROR_NOT_INITIALIZED, "kmoe_initialize", kmoe_layer_destroy(layer));
  EXPECT_ERROR(KMOE_ERROR_NOT_INITIALIZED, "kmoe_initialize",
               kmoe_checkpoint_open("nowhere", &checkpoint));
  EXPECT_ERROR(KMOE_ERROR_NOT_INITIALIZED, "kmoe_initialize",
               kmoe_workspace_query(&options, 0, 1, &bytes, &bytes));
#ifdef KMOE_HAVE_MPI
  EXPECT_ERROR(KMOE_ERROR_MPI, "MPI", kmoe_initialize_mpi(MPI_COMM_WORLD));
  EXPECT_ERROR(KMOE_ERROR_MPI, "MPI", kmoe_initialize_mpi_f(0));
  EXPECT_ERROR(KMOE_ERROR_MPI, "MPI", kmoe_comm_create(MPI_COMM_WORLD, &comm));
  EXPECT_ERROR(KMOE_ERROR_MPI, "MPI", kmoe_comm_create_f(0, &comm));
#endif
  EXPECT(layer == NULL && comm == NULL && checkpoint == NULL && bytes == 0);
}

static void null_handles(void) {
  kmoe_layer_options options = small_options();
  kmoe_layer_weights weights = small_weights();
  kmoe_layer_report report;
  kmoe_layer layer = NULL;
  kmoe_comm comm = NULL;
  int32_t n = 0;
  size_t size = 0;
  report.size = sizeof(report);
  EXPECT_OK(kmoe_comm_create_self(&comm));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "comm is null",
               kmoe_layer_create(NULL, &options, &weights, &layer));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "comm is null", kmoe_comm_rank(NULL, &n));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "comm is null", kmoe_comm_size(NULL, &n));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "comm is null", kmoe_comm_destroy(NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer is null", kmoe_layer_forward(NULL, T, x, y));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer is null", kmoe_layer_forward_host(NULL, T, x, y));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer is null",
               kmoe_layer_forward_routed(NULL, 0, NULL, NULL, NULL, NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer is null",
               kmoe_layer_forward_routed_host(NULL, 0, NULL, NULL, NULL, NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer is null",
               kmoe_layer_abandon_forward(NULL, "reason"));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer is null",
               kmoe_layer_route(NULL, 0, NULL, NULL, NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer is null",
               kmoe_layer_set_expert_function(NULL, double_rows, NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer is null", kmoe_layer_set_stream(NULL, NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer is null", kmoe_layer_fence(NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer is null", kmoe_layer_bytes(NULL, &size, &size));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer is null", kmoe_layer_get_options(NULL, &options));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer is null", kmoe_layer_get_report(NULL, &report));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer is null", kmoe_layer_destroy(NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "checkpoint is null",
               kmoe_checkpoint_layers(NULL, 0, NULL, &size));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "checkpoint is null",
               kmoe_checkpoint_options(NULL, 0, &options));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "checkpoint is null", kmoe_checkpoint_destroy(NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "not a handle", kmoe_layer_destroy((kmoe_layer)x));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "another kind", kmoe_layer_destroy((kmoe_layer)comm));

  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "null", kmoe_comm_create_self(NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "null", kmoe_comm_rank(comm, NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "options must not be null",
               kmoe_layer_create(comm, NULL, &weights, &layer));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "weights must not be null",
               kmoe_layer_create(comm, &options, NULL, &layer));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "layer must not be null",
               kmoe_layer_create(comm, &options, &weights, NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "null", kmoe_layer_options_init(NULL, sizeof(options)));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "null", kmoe_checkpoint_open(NULL, NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "null", kmoe_is_initialized(NULL));
  EXPECT_ERROR(KMOE_ERROR_IO, "no_such_folder",
               (kmoe_checkpoint_open("no_such_folder", (kmoe_checkpoint*)&size)));
  EXPECT(layer == NULL);
  EXPECT_OK(kmoe_comm_destroy(comm));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "comm has been destroyed", kmoe_comm_destroy(comm));
}

#define EXPECT_REFUSED(part, field, value)                          \
  do {                                                              \
    kmoe_layer_options wrong = small_options();                     \
    kmoe_layer none = NULL;                                         \
    wrong.field = (value);                                          \
    EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, part,                 \
                 kmoe_layer_create(comm, &wrong, &weights, &none)); \
    EXPECT(none == NULL);                                           \
  } while (0)

static void wrong_options(kmoe_comm comm) {
  kmoe_layer_options options = small_options();
  kmoe_layer_weights weights = small_weights();
  kmoe_layer layer = NULL;
  int32_t ids[E];
  size_t count = 0, device = 0, host = 0;
  EXPECT_REFUSED("size", size, 8);
  EXPECT_REFUSED("size", size, 0);
  EXPECT_REFUSED("hidden_size", hidden_size, 0);
  EXPECT_REFUSED("hidden_size", hidden_size, -5);
  EXPECT_REFUSED("num_experts", num_experts, 0);
  EXPECT_REFUSED("top_k", top_k, E + 1);
  EXPECT_REFUSED("dtype", dtype, 4);
  EXPECT_REFUSED("dtype", dtype, -1);
  EXPECT_REFUSED("dispatcher", dispatcher, 256);
  EXPECT_REFUSED("scoring", scoring, 77);
  EXPECT_REFUSED("renormalize", renormalize, 2);
  EXPECT_REFUSED("space", space, 2);
  EXPECT_REFUSED("placement", placement, 3);
  EXPECT_REFUSED("rank_of_expert", placement, KMOE_PLACEMENT_CUSTOM);
  EXPECT_REFUSED("max_tokens_per_rank", max_tokens_per_rank, -1);
  EXPECT_REFUSED("num_user_experts", num_user_experts, E + 1);
  EXPECT_REFUSED("workspace", device_workspace, y);
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "size",
               kmoe_layer_options_init(&options, sizeof(options) - 4));
  weights.gate_up = NULL;
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "gate_up",
               kmoe_layer_create(comm, &options, &weights, &layer));
  weights = small_weights();
  weights.router_experts = E - 1;
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "router",
               kmoe_layer_create(comm, &options, &weights, &layer));
  weights = small_weights();
  weights.copy = 3;
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "copy",
               kmoe_layer_create(comm, &options, &weights, &layer));
  weights = small_weights();
  weights.size = 1;
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "size",
               kmoe_layer_create(comm, &options, &weights, &layer));
  EXPECT(layer == NULL);

  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "rank",
               kmoe_local_experts(&options, 3, 3, E, ids, &count));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "ranks",
               kmoe_local_experts(&options, 0, 0, E, ids, &count));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "capacity",
               kmoe_local_experts(&options, 0, 3, 1, ids, &count));
  EXPECT_OK(kmoe_local_experts(&options, 0, 3, E, ids, &count));
  EXPECT(count == 2 && ids[0] == 0 && ids[1] == 1);
  options.num_user_experts = 1;
  EXPECT_OK(kmoe_local_experts(&options, 2, 3, 0, NULL, &count));
  EXPECT(count == 0);
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "rank",
               kmoe_workspace_query(&options, -1, 3, &device, &host));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "null",
               kmoe_workspace_query(&options, 0, 3, NULL, &host));
}

static void one_layer(kmoe_comm comm) {
  kmoe_layer_options options = small_options(), given;
  kmoe_layer_weights weights = small_weights();
  kmoe_layer_report report;
  kmoe_layer layer = NULL;
  size_t device = 0, host = 0, workspace = 0, held = 0;
  char *device_block, *host_block;
  int32_t ids[T][K];
  float scores[T][K];
  memset(y, 0xff, sizeof(y)); /* NaN */

  /* A workspace of the program, which a layer on the host can take. */
  options.space = KMOE_SPACE_HOST;
  EXPECT_OK(kmoe_workspace_query(&options, 0, 1, &device, &host));
  device_block = malloc(device + 128);
  host_block = malloc(host + 128);
  options.device_workspace = device_block + (128 - (size_t)device_block % 128);
  options.host_workspace = host_block + (128 - (size_t)host_block % 128);
  options.device_workspace_bytes = device;
  options.host_workspace_bytes = host;
  EXPECT_OK(kmoe_layer_create(comm, &options, &weights, &layer));
  EXPECT_OK(kmoe_layer_bytes(layer, &workspace, &held));
  EXPECT(workspace == device + host);
  EXPECT_OK(kmoe_layer_forward(layer, T, x, y));
  EXPECT_OK(kmoe_layer_fence(layer));
  check_output();

  memset(y, 0xff, sizeof(y));
  EXPECT_OK(kmoe_layer_route(layer, T, x, &ids[0][0], &scores[0][0]));
  EXPECT_OK(kmoe_layer_forward_routed(layer, T, x, &ids[0][0], &scores[0][0], y));
  check_output();
  memset(y, 0xff, sizeof(y));
  EXPECT_OK(kmoe_layer_forward_host(layer, T, x, y));
  check_output();
  EXPECT_OK(kmoe_layer_forward(layer, 0, NULL, NULL));
  EXPECT_OK(kmoe_layer_forward_routed(layer, 0, NULL, NULL, NULL, NULL));

  EXPECT_OK(kmoe_layer_options_init(&given, sizeof(given)));
  EXPECT_OK(kmoe_layer_get_options(layer, &given));
  EXPECT(given.hidden_size == H && given.top_k == K && given.device_workspace == NULL);
  report.size = sizeof(report);
  EXPECT_OK(kmoe_layer_get_report(layer, &report));
  EXPECT(report.tokens == 3 * T && report.rows_computed == 3 * T * K);
  report.size = 3;
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "size", kmoe_layer_get_report(layer, &report));

  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "max_tokens", kmoe_layer_forward(layer, T + 1, x, y));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "max_tokens",
               kmoe_layer_forward(layer, (size_t)-1, x, y));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "null", kmoe_layer_forward(layer, T, NULL, y));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "null", kmoe_layer_forward(layer, T, x, NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "null",
               kmoe_layer_forward_routed(layer, T, x, NULL, &scores[0][0], y));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "overlap", kmoe_layer_forward(layer, T, y, y));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "null",
               kmoe_layer_route(layer, T, x, NULL, &scores[0][0]));
  EXPECT_ERROR(KMOE_ERROR_UNSUPPORTED, "stream", kmoe_layer_set_stream(layer, &options));
  EXPECT_OK(kmoe_layer_set_stream(layer, NULL));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "why not",
               kmoe_layer_abandon_forward(layer, "why not"));

  EXPECT_OK(kmoe_layer_destroy(layer));
  free(device_block);
  free(host_block);
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer has been destroyed",
               kmoe_layer_forward(layer, T, x, y));
  EXPECT_ERROR(KMOE_ERROR_INVALID_HANDLE, "layer has been destroyed", kmoe_layer_destroy(layer));
}

static void expert_function(kmoe_comm comm) {
  kmoe_layer_options options = small_options();
  kmoe_layer_weights weights = small_weights();
  kmoe_layer layer = NULL;
  int32_t ids[T][K];
  float scores[T][K];
  int calls = 0, t, h;
  options.space = KMOE_SPACE_HOST;
  options.num_experts = E + 1;
  options.num_user_experts = 1;
  weights.router_experts = E;
  weights.copy = 1;
  EXPECT_OK(kmoe_layer_create(comm, &options, &weights, &layer));
  EXPECT_ERROR(KMOE_ERROR_INVALID_ARGUMENT, "set_user_experts", kmoe_layer_forward(layer, T, x, y));
  EXPECT_OK(kmoe_layer_set_expert_function(layer, double_rows, &calls));
  EXPECT_OK(kmoe_layer_forward(layer, T, x, y));
  check_output();
  EXPECT(calls == 0);
  EXPECT_OK(kmoe_layer_route(layer, T, x, &ids[0][0], &scores[0][0]));
  for (t = 0; t < T; t += 2) {
    ids[t][0] = E;
    scores[t][0] = 0.5F;
    ids[t][1] = -1;
  }
  EXPECT_OK(kmoe_layer_forward_routed(layer, T, x, &ids[0][0], &scores[0][0], y));
  EXPECT(calls == 1);
  for (t = 0; t < T; ++t) {
    for (h = 0; h < H; ++h) {
      double const wanted = t % 2 == 0 ? 0.5 * E * x[t][h] : expected(t, h);
      EXPECT(fabs(y[t][h] - wanted) < 1e-5);
    }
  }
  EXPECT_OK(kmoe_layer_set_expert_function(layer, give_up, NULL));
  EXPECT_ERROR(KMOE_ERROR_CALLBACK, "returned 4 for expert 4",
               kmoe_layer_forward_routed(layer, T, x, &ids[0][0], &scores[0][0], y));
  /* Left alive: kmoe_finalize frees it. */
}

int main(void) {
  kmoe_comm comm = NULL;
  int initialized = 0;
  fill();
  EXPECT(kmoe_version() == KMOE_VERSION);
  EXPECT(strcmp(kmoe_strerror(KMOE_SUCCESS), "success") == 0);
  EXPECT(strcmp(kmoe_strerror(12345), "") != 0);
  before_initialize();
  EXPECT_OK(kmoe_initialize());
  EXPECT_OK(kmoe_initialize());
  EXPECT_OK(kmoe_finalize());
  EXPECT_OK(kmoe_is_initialized(&initialized));
  EXPECT(initialized == 1);
  null_handles();
  EXPECT_OK(kmoe_comm_create_self(&comm));
  wrong_options(comm);
  one_layer(comm);
  expert_function(comm);
  EXPECT_OK(kmoe_finalize());
  EXPECT_ERROR(KMOE_ERROR_NOT_INITIALIZED, "kmoe_initialize", kmoe_comm_destroy(comm));
  EXPECT_ERROR(KMOE_ERROR_UNSUPPORTED, "second time", kmoe_initialize());
  if (failures == 0) puts("every mistake has its code and its text");
  return failures == 0 ? 0 : 1;
}
