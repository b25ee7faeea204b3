! SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
! SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

!> The functions and structs of kmoe.h as the Fortran module kmoe needs them. Programs use that.
module kmoe_bindings
  use, intrinsic :: iso_c_binding
  implicit none
  public

  !> kmoe_layer_options of kmoe.h, which documents the fields.
  type, bind(c) :: kmoe_options
    integer(c_size_t) :: size = 0
    integer(c_int32_t) :: dtype
    integer(c_int32_t) :: space
    integer(c_int32_t) :: hidden_size
    integer(c_int32_t) :: intermediate_size
    integer(c_int32_t) :: num_experts
    integer(c_int32_t) :: num_zero_experts
    integer(c_int32_t) :: num_user_experts
    integer(c_int32_t) :: top_k
    integer(c_int32_t) :: max_tokens_per_rank
    integer(c_int32_t) :: gate_up_layout
    integer(c_int32_t) :: activation
    real(c_float) :: swiglu_alpha
    real(c_float) :: swiglu_limit
    integer(c_int32_t) :: router_weight_on_input
    integer(c_int32_t) :: shared_intermediate_size
    integer(c_int32_t) :: shared_expert_gate
    integer(c_int32_t) :: scoring
    integer(c_int32_t) :: group_score
    integer(c_int32_t) :: num_groups
    integer(c_int32_t) :: topk_groups
    real(c_float) :: masked_score
    integer(c_int32_t) :: zero_masked_weights
    integer(c_int32_t) :: renormalize
    real(c_float) :: renormalize_epsilon
    real(c_float) :: renormalize_min_sum
    real(c_float) :: routed_scaling_factor
    real(c_float) :: jitter_epsilon
    integer(c_int32_t) :: num_fused_shared_experts
    integer(c_int32_t) :: dispatcher
    integer(c_int32_t) :: id_space
    integer(c_int32_t) :: token_layout
    integer(c_int32_t) :: no_combine
    integer(c_int32_t) :: placement
    type(c_ptr) :: rank_of_expert
    integer(c_size_t) :: workspace_limit_bytes
    type(c_ptr) :: device_workspace
    integer(c_size_t) :: device_workspace_bytes
    type(c_ptr) :: host_workspace
    integer(c_size_t) :: host_workspace_bytes
  end type

  !> kmoe_layer_weights of kmoe.h. C's last index is the first here: gate_up(H, 2I, El),
  !> down(I, H, El), router(H, E); transposed gate_up(2I, H, El), down(H, I, El), router(E, H).
  type, bind(c) :: kmoe_weights
    integer(c_size_t) :: size = 0
    integer(c_int32_t) :: memory
    integer(c_int32_t) :: copy
    integer(c_int32_t) :: router_transposed
    integer(c_int32_t) :: gate_up_transposed
    integer(c_int32_t) :: down_transposed
    integer(c_int32_t) :: router_experts
    type(c_ptr) :: router
    type(c_ptr) :: router_bias
    type(c_ptr) :: correction_bias
    type(c_ptr) :: gate_up
    type(c_ptr) :: down
    type(c_ptr) :: gate_up_bias
    type(c_ptr) :: down_bias
    type(c_ptr) :: shared_gate_up
    type(c_ptr) :: shared_down
    type(c_ptr) :: shared_gate_up_bias
    type(c_ptr) :: shared_down_bias
    type(c_ptr) :: shared_gate
  end type

  !> kmoe_layer_report of kmoe.h.
  type, bind(c) :: kmoe_report
    integer(c_size_t) :: size = 0
    integer(c_int64_t) :: tokens
    integer(c_int64_t) :: tokens_sent
    integer(c_int64_t) :: tokens_received
    integer(c_int64_t) :: bytes_sent
    integer(c_int64_t) :: rows_computed
    integer(c_int64_t) :: rows_with_nan
    integer(c_int64_t) :: rows_with_inf
  end type

  abstract interface
    !> kmoe_expert_fn of kmoe.h: x and y are [rows][hidden], in Fortran (hidden, rows).
    function kmoe_expert_function(context, expert, rows, x, y) result(status) bind(c)
      import :: c_ptr, c_int, c_int32_t, c_size_t
      type(c_ptr), value :: context
      integer(c_int32_t), value :: expert
      integer(c_size_t), value :: rows
      type(c_ptr), value :: x, y
      integer(c_int) :: status
    end function
  end interface

  interface
    function c_last_error() result(text) bind(c, name="kmoe_last_error")
      import :: c_ptr
      type(c_ptr) :: text
    end function
    function c_strlen(text) result(length) bind(c, name="strlen")
      import :: c_ptr, c_size_t
      type(c_ptr), value :: text
      integer(c_size_t) :: length
    end function
    function c_version() result(version) bind(c, name="kmoe_version")
      import :: c_int
      integer(c_int) :: version
    end function
    function c_initialize() result(status) bind(c, name="kmoe_initialize")
      import :: c_int
      integer(c_int) :: status
    end function
    function c_finalize() result(status) bind(c, name="kmoe_finalize")
      import :: c_int
      integer(c_int) :: status
    end function
    function c_comm_create_self(comm) result(status) bind(c, name="kmoe_comm_create_self")
      import :: c_int, c_ptr
      type(c_ptr), intent(inout) :: comm
      integer(c_int) :: status
    end function
#ifdef KMOE_HAVE_MPI
    function c_initialize_mpi(comm) result(status) bind(c, name="kmoe_initialize_mpi_f")
      import :: c_int
      integer(c_int), value :: comm
      integer(c_int) :: status
    end function
    function c_comm_create(mpi, comm) result(status) bind(c, name="kmoe_comm_create_f")
      import :: c_int, c_ptr
      integer(c_int), value :: mpi
      type(c_ptr), intent(inout) :: comm
      integer(c_int) :: status
    end function
#endif
    function c_comm_destroy(comm) result(status) bind(c, name="kmoe_comm_destroy")
      import :: c_int, c_ptr
      type(c_ptr), value :: comm
      integer(c_int) :: status
    end function

    function c_options_init(options, bytes) result(status) bind(c, name="kmoe_layer_options_init")
      import :: c_int, c_size_t, kmoe_options
      type(kmoe_options), intent(inout) :: options
      integer(c_size_t), value :: bytes
      integer(c_int) :: status
    end function
    function c_weights_init(weights, bytes) result(status) bind(c, name="kmoe_layer_weights_init")
      import :: c_int, c_size_t, kmoe_weights
      type(kmoe_weights), intent(inout) :: weights
      integer(c_size_t), value :: bytes
      integer(c_int) :: status
    end function
    function c_local_experts(options, rank, num_ranks, capacity, ids, count) result(status) &
        bind(c, name="kmoe_local_experts")
      import :: c_int, c_int32_t, c_ptr, c_size_t, kmoe_options
      type(kmoe_options), intent(in) :: options
      integer(c_int32_t), value :: rank, num_ranks
      integer(c_size_t), value :: capacity
      type(c_ptr), value :: ids
      integer(c_size_t), intent(inout) :: count
      integer(c_int) :: status
    end function
    function c_workspace_query(options, rank, num_ranks, device_bytes, host_bytes) &
        result(status) bind(c, name="kmoe_workspace_query")
      import :: c_int, c_int32_t, c_size_t, kmoe_options
      type(kmoe_options), intent(in) :: options
      integer(c_int32_t), value :: rank, num_ranks
      integer(c_size_t), intent(inout) :: device_bytes, host_bytes
      integer(c_int) :: status
    end function

    function c_layer_create(comm, options, weights, layer) result(status) &
        bind(c, name="kmoe_layer_create")
      import :: c_int, c_ptr, kmoe_options, kmoe_weights
      type(c_ptr), value :: comm
      type(kmoe_options), intent(in) :: options
      type(kmoe_weights), intent(in) :: weights
      type(c_ptr), intent(inout) :: layer
      integer(c_int) :: status
    end function
    function c_layer_from_checkpoint(comm, checkpoint, decoder_layer, options, layer) &
        result(status) bind(c, name="kmoe_layer_create_from_checkpoint")
      import :: c_int, c_int32_t, c_ptr, kmoe_options
      type(c_ptr), value :: comm, checkpoint
      integer(c_int32_t), value :: decoder_layer
      type(kmoe_options), intent(in) :: options
      type(c_ptr), intent(inout) :: layer
      integer(c_int) :: status
    end function
    function c_forward(layer, tokens, x, y) result(status) bind(c, name="kmoe_layer_forward")
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), value :: layer, x, y
      integer(c_size_t), value :: tokens
      integer(c_int) :: status
    end function
    function c_forward_host(layer, tokens, x, y) result(status) &
        bind(c, name="kmoe_layer_forward_host")
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), value :: layer, x, y
      integer(c_size_t), value :: tokens
      integer(c_int) :: status
    end function
    function c_forward_routed(layer, tokens, x, ids, weights, y) result(status) &
        bind(c, name="kmoe_layer_forward_routed")
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), value :: layer, x, ids, weights, y
      integer(c_size_t), value :: tokens
      integer(c_int) :: status
    end function
    function c_forward_routed_host(layer, tokens, x, ids, weights, y) result(status) &
        bind(c, name="kmoe_layer_forward_routed_host")
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), value :: layer, x, ids, weights, y
      integer(c_size_t), value :: tokens
      integer(c_int) :: status
    end function
    function c_abandon_forward(layer, text) result(status) &
        bind(c, name="kmoe_layer_abandon_forward")
      import :: c_char, c_int, c_ptr
      type(c_ptr), value :: layer
      character(kind=c_char), intent(in) :: text(*)
      integer(c_int) :: status
    end function
    function c_route(layer, tokens, x, ids, weights) result(status) &
        bind(c, name="kmoe_layer_route")
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), value :: layer, x, ids, weights
      integer(c_size_t), value :: tokens
      integer(c_int) :: status
    end function
    function c_set_expert_function(layer, function, context) result(status) &
        bind(c, name="kmoe_layer_set_expert_function")
      import :: c_funptr, c_int, c_ptr
      type(c_ptr), value :: layer, context
      type(c_funptr), value :: function
      integer(c_int) :: status
    end function
    function c_set_stream(layer, stream) result(status) bind(c, name="kmoe_layer_set_stream")
      import :: c_int, c_ptr
      type(c_ptr), value :: layer, stream
      integer(c_int) :: status
    end function
    function c_fence(layer) result(status) bind(c, name="kmoe_layer_fence")
      import :: c_int, c_ptr
      type(c_ptr), value :: layer
      integer(c_int) :: status
    end function
    function c_layer_bytes(layer, workspace_bytes, weight_bytes) result(status) &
        bind(c, name="kmoe_layer_bytes")
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), value :: layer
      integer(c_size_t), intent(inout) :: workspace_bytes, weight_bytes
      integer(c_int) :: status
    end function
    function c_get_options(layer, options) result(status) bind(c, name="kmoe_layer_get_options")
      import :: c_int, c_ptr, kmoe_options
      type(c_ptr), value :: layer
      type(kmoe_options), intent(inout) :: options
      integer(c_int) :: status
    end function
    function c_get_report(layer, report) result(status) bind(c, name="kmoe_layer_get_report")
      import :: c_int, c_ptr, kmoe_report
      type(c_ptr), value :: layer
      type(kmoe_report), intent(inout) :: report
      integer(c_int) :: status
    end function
    function c_layer_destroy(layer) result(status) bind(c, name="kmoe_layer_destroy")
      import :: c_int, c_ptr
      type(c_ptr), value :: layer
      integer(c_int) :: status
    end function

    function c_checkpoint_open(directory, checkpoint) result(status) &
        bind(c, name="kmoe_checkpoint_open")
      import :: c_char, c_int, c_ptr
      character(kind=c_char), intent(in) :: directory(*)
      type(c_ptr), intent(inout) :: checkpoint
      integer(c_int) :: status
    end function
    function c_checkpoint_layers(checkpoint, capacity, layers, count) result(status) &
        bind(c, name="kmoe_checkpoint_layers")
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), value :: checkpoint, layers
      integer(c_size_t), value :: capacity
      integer(c_size_t), intent(inout) :: count
      integer(c_int) :: status
    end function
    function c_checkpoint_options(checkpoint, decoder_layer, options) result(status) &
        bind(c, name="kmoe_checkpoint_options")
      import :: c_int, c_int32_t, c_ptr, kmoe_options
      type(c_ptr), value :: checkpoint
      integer(c_int32_t), value :: decoder_layer
      type(kmoe_options), intent(inout) :: options
      integer(c_int) :: status
    end function
    function c_checkpoint_destroy(checkpoint) result(status) &
        bind(c, name="kmoe_checkpoint_destroy")
      import :: c_int, c_ptr
      type(c_ptr), value :: checkpoint
      integer(c_int) :: status
    end function
  end interface
end module kmoe_bindings
