/* SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors */
/* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception */
#ifndef KMOE_KMOE_H
#define KMOE_KMOE_H

/**
 * \file
 * The C interface: layers behind opaque handles. Valid C99 and C++; the Fortran module `kmoe` is
 * made of the same functions.
 *
 * Errors. Every function that returns int returns a kmoe_status; nothing throws, prints or exits.
 * kmoe_last_error() has the text. Where a call is collective and its handles are alive, an error on
 * any rank is the same error on every rank, and no rank waits for ever. Outputs are written on
 * success only.
 *
 * Handles. A handle is a number in the form of a pointer and is never followed: one that is null,
 * was destroyed or never existed gives KMOE_ERROR_INVALID_HANDLE. That is found on the calling rank
 * alone: the ranks of a job must create and destroy in the same order.
 *
 * Memory. Pointers are wrapped, not copied; a layer on a host repacks its experts' weights for the
 * kernels when it is created. "In the layer's memory" means memory that the layer's
 * execution space can read: device memory where Kokkos has a device and options.space is
 * KMOE_SPACE_DEFAULT, else host memory. Matrices are row-major: x[token][hidden].
 *
 * Threads. One call at a time per layer; different layers and kmoe_last_error() are independent,
 * as far as the MPI thread level allows.
 */

#include <stddef.h>
#include <stdint.h>

#include <kmoe/core/config.hpp>

#ifdef KMOE_HAVE_MPI
#include <mpi.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** What a function returns; the first ones are also the exit codes of the kmoe command. */
typedef enum kmoe_status {
  KMOE_SUCCESS = 0,
  KMOE_ERROR_INVALID_ARGUMENT = 2, /**< a rule that the caller broke */
  KMOE_ERROR_IO = 3,               /**< a file that is missing, truncated or inconsistent */
  KMOE_ERROR_UNSUPPORTED = 4,      /**< known, but not in this build or not implemented */
  KMOE_ERROR_MPI = 5,              /**< an MPI call failed */
  KMOE_ERROR_NOT_INITIALIZED = 6,  /**< kmoe_initialize was not called, or kmoe_finalize was */
  KMOE_ERROR_INVALID_HANDLE = 7,   /**< null, destroyed, or never created */
  KMOE_ERROR_CALLBACK = 8,         /**< an expert function returned something other than 0 */
  KMOE_ERROR_OUT_OF_MEMORY = 9,
  KMOE_ERROR_INTERNAL = 70
} kmoe_status;

/** Element type of x, y and the weights. Biases are float (double for KMOE_F64). */
typedef enum kmoe_dtype { KMOE_F64, KMOE_F32, KMOE_BF16, KMOE_F16 } kmoe_dtype;

/** Where a layer computes. */
typedef enum kmoe_space {
  KMOE_SPACE_DEFAULT, /**< Kokkos' default execution space: the device where there is one */
  KMOE_SPACE_HOST     /**< Kokkos' default host execution space */
} kmoe_space;

/** How logits become weights; see kmoe::Scoring in kmoe/core/options.hpp. */
typedef enum kmoe_scoring {
  KMOE_SCORING_SOFTMAX,
  KMOE_SCORING_SIGMOID,
  KMOE_SCORING_TOPK_SOFTMAX,
  KMOE_SCORING_TOPK_SIGMOID,
  KMOE_SCORING_SPARSE_MIXER
} kmoe_scoring;

typedef enum kmoe_group_score { KMOE_GROUP_SCORE_MAX, KMOE_GROUP_SCORE_TOP2_SUM } kmoe_group_score;

typedef enum kmoe_activation {
  KMOE_ACTIVATION_SILU,
  KMOE_ACTIVATION_GELU_ERF,
  KMOE_ACTIVATION_GELU_TANH,
  KMOE_ACTIVATION_RELU,
  KMOE_ACTIVATION_RELU2,
  KMOE_ACTIVATION_SWIGLU_OAI
} kmoe_activation;

/** Order of the 2I output features of gate_up, or I of them without gate. */
typedef enum kmoe_gate_up_layout {
  KMOE_GATE_FIRST,
  KMOE_UP_FIRST,
  KMOE_INTERLEAVED,
  KMOE_PLAIN
} kmoe_gate_up_layout;

typedef enum kmoe_dispatcher {
  KMOE_DISPATCHER_STANDARD,
  KMOE_DISPATCHER_ALL_TO_ALL
} kmoe_dispatcher;

typedef enum kmoe_id_space { KMOE_IDS_LOCAL, KMOE_IDS_MASKED } kmoe_id_space;

typedef enum kmoe_token_layout {
  KMOE_TOKENS_REPLICATED,
  KMOE_TOKENS_DATA_PARALLEL
} kmoe_token_layout;

typedef enum kmoe_placement {
  KMOE_PLACEMENT_CONTIGUOUS,
  KMOE_PLACEMENT_ROUND_ROBIN,
  KMOE_PLACEMENT_CUSTOM /**< by rank_of_expert */
} kmoe_placement;

/** What a pointer of kmoe_layer_weights points to. */
typedef enum kmoe_memory {
  KMOE_MEMORY_LAYER, /**< the layer's memory */
  KMOE_MEMORY_HOST   /**< host memory: copied where the layer computes on a device */
} kmoe_memory;

typedef struct kmoe_comm_handle* kmoe_comm;             /**< a group of ranks */
typedef struct kmoe_checkpoint_handle* kmoe_checkpoint; /**< an open checkpoint */
typedef struct kmoe_layer_handle* kmoe_layer;           /**< a Mixture-of-Experts layer */

/**
 * Everything about a layer but its weights: the same on every rank, pointers and workspaces apart.
 * kmoe_layer_options_init() fills in the defaults; the fields are those of kmoe::MoeConfig
 * (kmoe/core/options.hpp), where their meaning is documented.
 */
typedef struct kmoe_layer_options {
  size_t size;                      /**< sizeof(kmoe_layer_options), set by the init function */
  int32_t dtype;                    /**< kmoe_dtype, default KMOE_F32 */
  int32_t space;                    /**< kmoe_space, default KMOE_SPACE_DEFAULT */
  int32_t hidden_size;              /**< H */
  int32_t intermediate_size;        /**< I */
  int32_t num_experts;              /**< E, user experts included */
  int32_t num_zero_experts;         /**< Z: ids E .. E+Z-1 return the token itself */
  int32_t num_user_experts;         /**< U: ids E-U .. E-1 are computed by an expert function */
  int32_t top_k;                    /**< K */
  int32_t max_tokens_per_rank;      /**< the most tokens that any rank will pass */
  int32_t gate_up_layout;           /**< kmoe_gate_up_layout, default KMOE_GATE_FIRST */
  int32_t activation;               /**< kmoe_activation, default silu */
  float swiglu_alpha;               /**< 1.702 */
  float swiglu_limit;               /**< 7 */
  int32_t router_weight_on_input;   /**< 0 */
  int32_t shared_intermediate_size; /**< 0: no shared expert */
  int32_t shared_expert_gate;       /**< 0 */
  int32_t scoring;                  /**< kmoe_scoring, default softmax */
  int32_t group_score;              /**< kmoe_group_score */
  int32_t num_groups;               /**< 1 */
  int32_t topk_groups;              /**< 1 */
  float masked_score;               /**< 0 */
  int32_t zero_masked_weights;      /**< 0 */
  int32_t renormalize;              /**< 0 */
  float renormalize_epsilon;        /**< 0 */
  float renormalize_min_sum;        /**< 0 */
  float routed_scaling_factor;      /**< 1 */
  float jitter_epsilon;             /**< 0.01 */
  int32_t num_fused_shared_experts; /**< S, 0 */
  int32_t dispatcher;               /**< kmoe_dispatcher, default all-to-all */
  int32_t id_space;                 /**< kmoe_id_space */
  int32_t token_layout;             /**< kmoe_token_layout, default data-parallel */
  int32_t no_combine;               /**< 1: y[T * K][H], the outputs of the slots unweighted */
  int32_t placement;                /**< kmoe_placement, default contiguous */
  const int32_t* rank_of_expert;    /**< [E], KMOE_PLACEMENT_CUSTOM only */
  size_t workspace_limit_bytes;     /**< per rank, 1 GiB; forward works in chunks that fit */
  /**
   * The caller's workspace, see kmoe_workspace_query(): both blocks aligned to 128 bytes, used by
   * the layer alone until it is destroyed. Both null: the layer allocates its own.
   */
  void* device_workspace;        /**< in the layer's memory */
  size_t device_workspace_bytes; /**< size of that block */
  void* host_workspace;          /**< in host memory; null where no byte is needed */
  size_t host_workspace_bytes;   /**< size of that block */
} kmoe_layer_options;

/**
 * This rank's weights, in the caller's layout. Experts are in local order: ascending global ids of
 * those that the placement gives this rank, user experts left out, fused shared experts last. With
 * El of them:
 *
 *     gate_up  [El][2I][H], gate_up_transposed [El][H][2I]   (KMOE_PLAIN: I for 2I)
 *     down     [El][H][I],  down_transposed    [El][I][H]
 *     router   [E+Z][H],    router_transposed  [H][E+Z]      (also [E-U][H], with router_experts)
 *
 * Null pointers are absent tensors. The arrays must stay as they are until the layer is destroyed,
 * except those that are copied: all of them with `copy`, transposed ones, and host memory for a
 * layer on a device.
 */
typedef struct kmoe_layer_weights {
  size_t size;                     /**< sizeof(kmoe_layer_weights), set by the init function */
  int32_t memory;                  /**< kmoe_memory, default KMOE_MEMORY_LAYER */
  int32_t copy;                    /**< 1: the arrays are the caller's again after the call */
  int32_t router_transposed;       /**< see above */
  int32_t gate_up_transposed;      /**< see above */
  int32_t down_transposed;         /**< see above */
  int32_t router_experts;          /**< rows of router and its biases; 0 means E + Z */
  const void* router;              /**< null: the layer takes only given routings */
  const float* router_bias;        /**< [E+Z], added to the logits */
  const float* correction_bias;    /**< [E+Z], for the selection alone */
  const void* gate_up;             /**< element type of the layer */
  const void* down;                /**< element type of the layer */
  const void* gate_up_bias;        /**< [El][2I], float (double for KMOE_F64) */
  const void* down_bias;           /**< [El][H], as gate_up_bias */
  const void* shared_gate_up;      /**< [2Is][H], layout and transposition as gate_up */
  const void* shared_down;         /**< [H][Is] */
  const void* shared_gate_up_bias; /**< [2Is] */
  const void* shared_down_bias;    /**< [H] */
  const void* shared_gate;         /**< [H], with shared_expert_gate */
} kmoe_layer_weights;

/** What a layer did on this rank since it was built; see kmoe::LayerReport. */
typedef struct kmoe_layer_report {
  size_t size;             /**< sizeof(kmoe_layer_report), set by the caller */
  int64_t tokens;          /**< tokens passed to forward */
  int64_t tokens_sent;     /**< copies of tokens sent to other ranks */
  int64_t tokens_received; /**< copies of tokens received from other ranks */
  int64_t bytes_sent;      /**< payload bytes sent to other ranks */
  int64_t rows_computed;   /**< rows computed by the experts of this rank */
  int64_t rows_with_nan;   /**< tokens whose logits had a NaN */
  int64_t rows_with_inf;   /**< tokens whose logits had an infinity */
} kmoe_layer_report;

/**
 * An expert of the program. Computes y[r][h] for `rows` rows (at least 1) of one expert; x and y
 * lie in the layer's memory and are [rows][H] of its element type. Called once per expert that has
 * rows, in ascending ids, in the thread that calls forward, which it must not call. The rows
 * arrive grouped from all ranks: a result must depend on its row and the expert alone. Work on a
 * device must be on the layer's stream or complete on return. Returns 0, or an error: then forward
 * returns KMOE_ERROR_CALLBACK on every rank.
 */
typedef int (*kmoe_expert_fn)(void* context, int32_t expert, size_t rows, const void* x, void* y);

/** \name Texts
 * These need no kmoe_initialize and return static or thread-local strings, never null. @{ */

/** One sentence about a kmoe_status. */
KMOE_API const char* kmoe_strerror(int status);
/** The text of this thread's latest error, valid until its next one; "" before the first. */
KMOE_API const char* kmoe_last_error(void);
/** KMOE_VERSION of the library, which may differ from that of this header. */
KMOE_API int kmoe_version(void);
/** @} */

/** \name Start and end
 * @{ */

/**
 * Starts Kokkos unless it runs already. May be called again; each call needs its kmoe_finalize.
 * Kokkos reads its KOKKOS_* variables; which device a process gets is Kokkos' own choice.
 * Errors: UNSUPPORTED if Kokkos was finalized before (it can not start twice).
 */
KMOE_API int kmoe_initialize(void);
#ifdef KMOE_HAVE_MPI
/**
 * The same; where Kokkos has devices and neither KOKKOS_DEVICE_ID nor KOKKOS_MAP_DEVICE_ID_BY
 * chooses one, the process that is number r of comm's on its node takes device r modulo the number
 * of devices that it sees. Pass all processes of the job. Collective over comm.
 */
KMOE_API int kmoe_initialize_mpi(MPI_Comm comm);
/** The same with a Fortran communicator. */
KMOE_API int kmoe_initialize_mpi_f(MPI_Fint comm);
#endif
/**
 * The last call destroys all handles that are left, in the order of their creation (collective
 * where they are), and ends Kokkos if kmoe started it. Must come before MPI_Finalize.
 */
KMOE_API int kmoe_finalize(void);
/** *initialized = 1 between kmoe_initialize and the last kmoe_finalize, else 0. */
KMOE_API int kmoe_is_initialized(int* initialized);
/** @} */

/** \name Groups of ranks
 * @{ */

/** A group of one rank that needs no MPI. */
KMOE_API int kmoe_comm_create_self(kmoe_comm* comm);
#ifdef KMOE_HAVE_MPI
/** Duplicates the communicator. Collective over it. */
KMOE_API int kmoe_comm_create(MPI_Comm mpi_comm, kmoe_comm* comm);
/** The same with a Fortran communicator. */
KMOE_API int kmoe_comm_create_f(MPI_Fint mpi_comm, kmoe_comm* comm);
#endif
KMOE_API int kmoe_comm_rank(kmoe_comm comm, int32_t* rank);
KMOE_API int kmoe_comm_size(kmoe_comm comm, int32_t* size);
/** Layers that were built on it keep the group. Collective where it is the last use. */
KMOE_API int kmoe_comm_destroy(kmoe_comm comm);
/** @} */

/** \name Layers
 * @{ */

/** Defaults; `size` is sizeof(kmoe_layer_options) of the caller. */
KMOE_API int kmoe_layer_options_init(kmoe_layer_options* options, size_t size);
/** No weights; `size` is sizeof(kmoe_layer_weights) of the caller. */
KMOE_API int kmoe_layer_weights_init(kmoe_layer_weights* weights, size_t size);

/**
 * Global ids of the experts whose weights `rank` of `num_ranks` holds, in local order: ids[i] for
 * i < *count. A null `ids` asks for the count alone. Needs no communicator.
 * \param capacity length of ids; INVALID_ARGUMENT if it is smaller than the count
 */
KMOE_API int kmoe_local_experts(const kmoe_layer_options* options, int32_t rank, int32_t num_ranks,
                                size_t capacity, int32_t* ids, size_t* count);

/**
 * Bytes that a layer's workspace takes on `rank` of `num_ranks`, before anything is allocated; the
 * layer takes no more. Both need Kokkos, neither a communicator nor weights.
 * \param device_bytes in the layer's memory \param host_bytes in host memory
 */
KMOE_API int kmoe_workspace_query(const kmoe_layer_options* options, int32_t rank,
                                  int32_t num_ranks, size_t* device_bytes, size_t* host_bytes);

/** A layer from the caller's weights. Collective. */
KMOE_API int kmoe_layer_create(kmoe_comm comm, const kmoe_layer_options* options,
                               const kmoe_layer_weights* weights, kmoe_layer* layer);

/**
 * y = MoE(x): x[tokens][H], y[tokens][H] (no_combine: [tokens * K][H]) in the layer's memory. Any
 * number of tokens up to max_tokens_per_rank, also 0, then x and y may be null. x and y must not
 * overlap. Collective. Allocates nothing. On a device asynchronous: see kmoe_layer_fence().
 */
KMOE_API int kmoe_layer_forward(kmoe_layer layer, size_t tokens, const void* x, void* y);

/**
 * The same with the caller's routing instead of the router's.
 * \param topk_ids [tokens][K+S] global ids; one that is no expert, such as -1, is an empty slot
 * \param topk_weights [tokens][K+S] both in the layer's memory
 */
KMOE_API int kmoe_layer_forward_routed(kmoe_layer layer, size_t tokens, const void* x,
                                       const int32_t* topk_ids, const float* topk_weights, void* y);

/**
 * kmoe_layer_forward for x and y in host memory, whatever the layer's: complete on return. A layer
 * on a device copies them both ways and allocates the room for it.
 */
KMOE_API int kmoe_layer_forward_host(kmoe_layer layer, size_t tokens, const void* x, void* y);
/** The same with the caller's routing, also in host memory. */
KMOE_API int kmoe_layer_forward_routed_host(kmoe_layer layer, size_t tokens, const void* x,
                                            const int32_t* topk_ids, const float* topk_weights,
                                            void* y);

/**
 * Takes the place of a forward call on a rank that can not make it: forward returns
 * INVALID_ARGUMENT with this text on every rank, this one included, and none waits for ever.
 */
KMOE_API int kmoe_layer_abandon_forward(kmoe_layer layer, const char* text);

/**
 * The routing that forward would use: topk_ids, topk_weights [tokens][K+S], in the layer's memory.
 * A program may change it before kmoe_layer_forward_routed. Not collective; any number of tokens.
 */
KMOE_API int kmoe_layer_route(kmoe_layer layer, size_t tokens, const void* x, int32_t* topk_ids,
                              float* topk_weights);

/**
 * The function that computes the user experts (options.num_user_experts) of this rank; needed
 * before forward on ranks that host some. Null takes it away. Not collective.
 */
KMOE_API int kmoe_layer_set_expert_function(kmoe_layer layer, kmoe_expert_fn function,
                                            void* context);

/**
 * The stream (cudaStream_t, hipStream_t) that the layer works on from now on; null: that of Kokkos.
 * Errors: UNSUPPORTED where the layer's space has no streams.
 */
KMOE_API int kmoe_layer_set_stream(kmoe_layer layer, void* stream);
/** Waits until the layer's work on the device is complete. */
KMOE_API int kmoe_layer_fence(kmoe_layer layer);

/**
 * Bytes of the layer's workspace on this rank, and of its experts' weights: as repacked on a host,
 * as given on a device, also where they are the caller's.
 */
KMOE_API int kmoe_layer_bytes(kmoe_layer layer, size_t* workspace_bytes, size_t* weight_bytes);
/** The options it was built with; pointers and workspaces are null. */
KMOE_API int kmoe_layer_get_options(kmoe_layer layer, kmoe_layer_options* options);
/** Counters; fences. `report->size` must be set. */
KMOE_API int kmoe_layer_get_report(kmoe_layer layer, kmoe_layer_report* report);
/** Frees the layer. Collective where it is the last use of its group. */
KMOE_API int kmoe_layer_destroy(kmoe_layer layer);
/** @} */

/** \name Checkpoints
 * @{ */

/** Opens a Hugging Face directory (config.json, safetensors). Not collective. */
KMOE_API int kmoe_checkpoint_open(const char* directory, kmoe_checkpoint* checkpoint);
/** The decoder layers that have experts, ascending: layers[i], i < *count, as kmoe_local_experts.
 */
KMOE_API int kmoe_checkpoint_layers(kmoe_checkpoint checkpoint, size_t capacity, int32_t* layers,
                                    size_t* count);
/**
 * Sizes and semantics of the block of decoder layer `decoder_layer`; fields that are no property of
 * a model are left as they are, so `options` must be initialized.
 */
KMOE_API int kmoe_checkpoint_options(kmoe_checkpoint checkpoint, int32_t decoder_layer,
                                     kmoe_layer_options* options);
/**
 * A layer from a checkpoint: each rank reads its own experts' weights, converted to options->dtype.
 * num_experts may exceed the block's by num_user_experts. Collective.
 */
KMOE_API int kmoe_layer_create_from_checkpoint(kmoe_comm comm, kmoe_checkpoint checkpoint,
                                               int32_t decoder_layer,
                                               const kmoe_layer_options* options,
                                               kmoe_layer* layer);
/** Layers that were built from it stay. */
KMOE_API int kmoe_checkpoint_destroy(kmoe_checkpoint checkpoint);
/** @} */

#ifdef __cplusplus
}
#endif

#endif
