! SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
! SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

!> Mixture-of-Experts layers for Fortran (2008) programs: the C interface, kmoe.h, with types that
!> free themselves.
!>
!> Arrays: x(hidden, token), y(hidden, token), topk_ids(k, token). Host arrays of real32 or real64
!> go by their kind, which must be the layer's; c_ptr arguments are in the layer's memory, so device
!> pointers (c_loc of an array in an OpenACC host_data or OpenMP use_device_addr region) where the
!> layer computes on a device.
!>
!> Errors: `stat` is 0 or a status of kmoe.h, `errmsg` gets the text. Without `stat` an error stops
!> the program, as it does in an ALLOCATE statement. forward() gives an error of any rank to all.
module kmoe
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: error_unit, real32, real64
#ifdef KMOE_HAVE_MPI
  use mpi_f08, only: MPI_Comm
#endif
  use kmoe_bindings
  implicit none
  private

  public :: kmoe_initialize, kmoe_finalize, kmoe_version
  public :: kmoe_options, kmoe_options_init, kmoe_weights, kmoe_weights_init, kmoe_report
  public :: kmoe_local_experts, kmoe_workspace_query
  public :: kmoe_layer, kmoe_checkpoint, kmoe_expert_function

  !> Values of the fields of kmoe_options and kmoe_weights, as in kmoe.h.
  integer(c_int32_t), parameter, public :: &
    KMOE_F64 = 0, KMOE_F32 = 1, KMOE_BF16 = 2, KMOE_F16 = 3, &
    KMOE_SPACE_DEFAULT = 0, KMOE_SPACE_HOST = 1, &
    KMOE_SCORING_SOFTMAX = 0, KMOE_SCORING_SIGMOID = 1, KMOE_SCORING_TOPK_SOFTMAX = 2, &
    KMOE_SCORING_TOPK_SIGMOID = 3, KMOE_SCORING_SPARSE_MIXER = 4, &
    KMOE_GROUP_SCORE_MAX = 0, KMOE_GROUP_SCORE_TOP2_SUM = 1, &
    KMOE_ACTIVATION_SILU = 0, KMOE_ACTIVATION_GELU_ERF = 1, KMOE_ACTIVATION_GELU_TANH = 2, &
    KMOE_ACTIVATION_RELU = 3, KMOE_ACTIVATION_RELU2 = 4, KMOE_ACTIVATION_SWIGLU_OAI = 5, &
    KMOE_GATE_FIRST = 0, KMOE_UP_FIRST = 1, KMOE_INTERLEAVED = 2, KMOE_PLAIN = 3, &
    KMOE_DISPATCHER_STANDARD = 0, KMOE_DISPATCHER_ALL_TO_ALL = 1, &
    KMOE_IDS_LOCAL = 0, KMOE_IDS_MASKED = 1, &
    KMOE_TOKENS_REPLICATED = 0, KMOE_TOKENS_DATA_PARALLEL = 1, &
    KMOE_PLACEMENT_CONTIGUOUS = 0, KMOE_PLACEMENT_ROUND_ROBIN = 1, KMOE_PLACEMENT_CUSTOM = 2, &
    KMOE_MEMORY_LAYER = 0, KMOE_MEMORY_HOST = 1
  !> Values of stat.
  integer, parameter, public :: &
    KMOE_SUCCESS = 0, KMOE_ERROR_INVALID_ARGUMENT = 2, KMOE_ERROR_IO = 3, &
    KMOE_ERROR_UNSUPPORTED = 4, KMOE_ERROR_MPI = 5, KMOE_ERROR_NOT_INITIALIZED = 6, &
    KMOE_ERROR_INVALID_HANDLE = 7, KMOE_ERROR_CALLBACK = 8, KMOE_ERROR_OUT_OF_MEMORY = 9, &
    KMOE_ERROR_INTERNAL = 70

  !> A checkpoint directory. Freed when it goes out of scope; assignment shares it, so that of two
  !> copies the first to go frees it.
  type :: kmoe_checkpoint
    private
    type(c_ptr) :: handle = c_null_ptr
  contains
    procedure :: open => checkpoint_open
    procedure :: layers => checkpoint_layers
    procedure :: options => checkpoint_options
    procedure :: destroy => checkpoint_destroy
    final :: checkpoint_finalize
  end type

  !> A layer. Freed when it goes out of scope, which then is collective; assignment shares it, as
  !> with a checkpoint. Variables of the main program do not go out of scope: call destroy, or leave
  !> them to kmoe_finalize.
  type :: kmoe_layer
    private
    type(c_ptr) :: handle = c_null_ptr
    integer(c_int32_t) :: dtype = -1
    integer(c_int32_t) :: hidden = 0
    integer(c_int32_t) :: slots = 0
    logical :: no_combine = .false.
  contains
    !> create([comm,] options, weights) or create([comm,] checkpoint, decoder_layer, options).
    !> Collective over comm; without it a layer of one rank.
    generic :: create => layer_create, layer_create_checkpoint
    procedure, private :: layer_create, layer_create_checkpoint
#ifdef KMOE_HAVE_MPI
    generic :: create => layer_create_mpi, layer_create_checkpoint_mpi
    procedure, private :: layer_create_mpi, layer_create_checkpoint_mpi
#endif
    !> forward(x, y), forward(x, topk_ids, topk_weights, y) with host arrays, complete on return;
    !> forward(tokens, x, y), forward(tokens, x, topk_ids, topk_weights, y) with c_ptr, see fence.
    !> Collective; any number of tokens, also none.
    generic :: forward => forward_real32, forward_real64, forward_pointer
    generic :: forward => forward_routed_real32, forward_routed_real64, forward_routed_pointer
    procedure, private :: forward_real32, forward_real64, forward_pointer
    procedure, private :: forward_routed_real32, forward_routed_real64, forward_routed_pointer
    procedure :: abandon_forward => layer_abandon_forward
    !> The routing that forward would use: pointers in the layer's memory. Not collective.
    procedure :: route => layer_route
    procedure :: set_expert_function => layer_set_expert_function
    procedure :: set_stream => layer_set_stream
    procedure :: fence => layer_fence
    procedure :: bytes => layer_bytes
    procedure :: report => layer_report
    procedure :: destroy => layer_destroy
    final :: layer_finalize
  end type

  !> kmoe_initialize([comm]): starts Kokkos unless it runs. With comm (collective) each process of a
  !> node takes another device.
  interface kmoe_initialize
    module procedure initialize_alone
#ifdef KMOE_HAVE_MPI
    module procedure initialize_mpi
#endif
  end interface

contains

  !> Hands a status to the caller, or stops.
  subroutine deliver(status, stat, errmsg, text)
    integer(c_int), intent(in) :: status
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    character(len=*), intent(in), optional :: text !< instead of kmoe_last_error
    character(kind=c_char), pointer :: chars(:)
    type(c_ptr) :: c_text
    character(len=:), allocatable :: message
    integer :: i
    if (present(stat)) stat = int(status)
    if (status == 0) return
    if (present(text)) then
      message = text
    else
      c_text = c_last_error()
      call c_f_pointer(c_text, chars, [c_strlen(c_text)])
      allocate (character(len=size(chars)) :: message)
      do i = 1, size(chars)
        message(i:i) = chars(i)
      end do
    end if
    if (present(errmsg)) errmsg = message
    if (present(stat)) return
    write (error_unit, "(2a)") "kmoe: ", message
    error stop 1
  end subroutine

  integer function kmoe_version()
    kmoe_version = int(c_version())
  end function

  subroutine initialize_alone(stat, errmsg)
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    call deliver(c_initialize(), stat, errmsg)
  end subroutine

#ifdef KMOE_HAVE_MPI
  subroutine initialize_mpi(comm, stat, errmsg)
    type(MPI_Comm), intent(in) :: comm
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    call deliver(c_initialize_mpi(int(comm%MPI_VAL, c_int)), stat, errmsg)
  end subroutine
#endif

  !> Frees what is left, and ends Kokkos if kmoe started it. Before MPI_Finalize.
  subroutine kmoe_finalize(stat, errmsg)
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    call deliver(c_finalize(), stat, errmsg)
  end subroutine

  !> Defaults of every field.
  subroutine kmoe_options_init(options, stat, errmsg)
    type(kmoe_options), intent(out) :: options
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    call deliver(c_options_init(options, c_sizeof(options)), stat, errmsg)
  end subroutine

  !> No weights.
  subroutine kmoe_weights_init(weights, stat, errmsg)
    type(kmoe_weights), intent(out) :: weights
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    call deliver(c_weights_init(weights, c_sizeof(weights)), stat, errmsg)
  end subroutine

  !> Global ids (from 0) of the experts whose weights `rank` holds, in local order.
  subroutine kmoe_local_experts(options, rank, num_ranks, ids, stat, errmsg)
    type(kmoe_options), intent(in) :: options
    integer, intent(in) :: rank, num_ranks
    integer(c_int32_t), allocatable, target, intent(out) :: ids(:)
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    integer(c_size_t) :: count
    integer(c_int) :: status
    count = 0
    status = c_local_experts(options, rank, num_ranks, 0_c_size_t, c_null_ptr, count)
    allocate (ids(count))
    if (status == 0 .and. count > 0) then
      status = c_local_experts(options, rank, num_ranks, count, c_loc(ids), count)
    end if
    call deliver(status, stat, errmsg)
  end subroutine

  !> Bytes of a layer's workspace before anything is allocated.
  subroutine kmoe_workspace_query(options, rank, num_ranks, device_bytes, host_bytes, stat, errmsg)
    type(kmoe_options), intent(in) :: options
    integer, intent(in) :: rank, num_ranks
    integer(c_size_t), intent(out) :: device_bytes, host_bytes
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    device_bytes = 0
    host_bytes = 0
    call deliver(c_workspace_query(options, rank, num_ranks, device_bytes, host_bytes), stat, &
                 errmsg)
  end subroutine

  subroutine checkpoint_open(self, directory, stat, errmsg)
    class(kmoe_checkpoint), intent(inout) :: self
    character(len=*), intent(in) :: directory
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    call checkpoint_destroy(self)
    call deliver(c_checkpoint_open(trim(directory) // c_null_char, self%handle), stat, errmsg)
  end subroutine

  !> The decoder layers that have experts.
  subroutine checkpoint_layers(self, layers, stat, errmsg)
    class(kmoe_checkpoint), intent(in) :: self
    integer(c_int32_t), allocatable, target, intent(out) :: layers(:)
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    integer(c_size_t) :: count
    integer(c_int) :: status
    count = 0
    status = c_checkpoint_layers(self%handle, 0_c_size_t, c_null_ptr, count)
    allocate (layers(count))
    if (status == 0 .and. count > 0) then
      status = c_checkpoint_layers(self%handle, count, c_loc(layers), count)
    end if
    call deliver(status, stat, errmsg)
  end subroutine

  !> Sizes and semantics of a block; `options` must be initialized.
  subroutine checkpoint_options(self, decoder_layer, options, stat, errmsg)
    class(kmoe_checkpoint), intent(in) :: self
    integer, intent(in) :: decoder_layer
    type(kmoe_options), intent(inout) :: options
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    call deliver(c_checkpoint_options(self%handle, decoder_layer, options), stat, errmsg)
  end subroutine

  subroutine checkpoint_destroy(self)
    class(kmoe_checkpoint), intent(inout) :: self
    integer(c_int) :: status
    if (c_associated(self%handle)) status = c_checkpoint_destroy(self%handle)
    self%handle = c_null_ptr
  end subroutine

  subroutine checkpoint_finalize(self)
    type(kmoe_checkpoint), intent(inout) :: self
    call checkpoint_destroy(self)
  end subroutine

  !> Builds a layer on a group, which it takes over.
  subroutine build(self, comm, options, status, weights, checkpoint, decoder_layer)
    class(kmoe_layer), intent(inout) :: self
    type(c_ptr), intent(in) :: comm
    type(kmoe_options), intent(in) :: options
    integer(c_int), intent(out) :: status
    type(kmoe_weights), intent(in), optional :: weights
    type(c_ptr), intent(in), optional :: checkpoint
    integer, intent(in), optional :: decoder_layer
    integer(c_int) :: ignored
    call layer_destroy(self)
    if (present(weights)) then
      status = c_layer_create(comm, options, weights, self%handle)
    else
      status = c_layer_from_checkpoint(comm, checkpoint, decoder_layer, options, self%handle)
    end if
    ignored = c_comm_destroy(comm)
    if (status /= 0) return
    self%dtype = options%dtype
    self%hidden = options%hidden_size
    self%slots = options%top_k + options%num_fused_shared_experts
    self%no_combine = options%no_combine /= 0
  end subroutine

  subroutine layer_create(self, options, weights, stat, errmsg)
    class(kmoe_layer), intent(inout) :: self
    type(kmoe_options), intent(in) :: options
    type(kmoe_weights), intent(in) :: weights
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    type(c_ptr) :: comm
    integer(c_int) :: status
    comm = c_null_ptr
    status = c_comm_create_self(comm)
    if (status == 0) call build(self, comm, options, status, weights=weights)
    call deliver(status, stat, errmsg)
  end subroutine

  subroutine layer_create_checkpoint(self, checkpoint, decoder_layer, options, stat, errmsg)
    class(kmoe_layer), intent(inout) :: self
    type(kmoe_checkpoint), intent(in) :: checkpoint
    integer, intent(in) :: decoder_layer
    type(kmoe_options), intent(in) :: options
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    type(c_ptr) :: comm
    integer(c_int) :: status
    comm = c_null_ptr
    status = c_comm_create_self(comm)
    if (status == 0) then
      call build(self, comm, options, status, checkpoint=checkpoint%handle, &
                 decoder_layer=decoder_layer)
    end if
    call deliver(status, stat, errmsg)
  end subroutine

#ifdef KMOE_HAVE_MPI
  subroutine layer_create_mpi(self, comm, options, weights, stat, errmsg)
    class(kmoe_layer), intent(inout) :: self
    type(MPI_Comm), intent(in) :: comm
    type(kmoe_options), intent(in) :: options
    type(kmoe_weights), intent(in) :: weights
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    type(c_ptr) :: group
    integer(c_int) :: status
    group = c_null_ptr
    status = c_comm_create(int(comm%MPI_VAL, c_int), group)
    if (status == 0) call build(self, group, options, status, weights=weights)
    call deliver(status, stat, errmsg)
  end subroutine

  subroutine layer_create_checkpoint_mpi(self, comm, checkpoint, decoder_layer, options, stat, &
                                         errmsg)
    class(kmoe_layer), intent(inout) :: self
    type(MPI_Comm), intent(in) :: comm
    type(kmoe_checkpoint), intent(in) :: checkpoint
    integer, intent(in) :: decoder_layer
    type(kmoe_options), intent(in) :: options
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    type(c_ptr) :: group
    integer(c_int) :: status
    group = c_null_ptr
    status = c_comm_create(int(comm%MPI_VAL, c_int), group)
    if (status == 0) then
      call build(self, group, options, status, checkpoint=checkpoint%handle, &
                 decoder_layer=decoder_layer)
    end if
    call deliver(status, stat, errmsg)
  end subroutine
#endif

  !> "" if the arrays of a forward fit the layer, else what is wrong. Negative: no ids and weights.
  function misfit(self, dtype, x, y, ids, weights) result(text)
    class(kmoe_layer), intent(in) :: self
    integer(c_int32_t), intent(in) :: dtype
    integer, intent(in) :: x(2), y(2), ids(2), weights(2)
    character(len=:), allocatable :: text
    integer :: columns
    columns = x(2)
    if (self%no_combine) columns = columns * self%slots
    text = ""
    if (dtype /= self%dtype) then
      text = "kmoe: the kind of x and y is not that of the layer's dtype"
    else if (x(1) /= self%hidden .or. y(1) /= self%hidden) then
      text = "kmoe: size(x, 1) and size(y, 1) must be hidden_size"
    else if (y(2) /= columns) then
      text = "kmoe: size(y, 2) must be the number of tokens, size(x, 2)"
    else if (ids(1) >= 0) then
      if (any(ids /= [self%slots, x(2)]) .or. any(weights /= [self%slots, x(2)])) then
        text = "kmoe: topk_ids and topk_weights must have the shape (top_k, tokens)"
      end if
    end if
  end function

  !> Runs forward on host arrays, or gives the others the reason why not.
  subroutine run_host(self, text, tokens, x, y, ids, weights, routed, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    character(len=*), intent(in) :: text
    integer, intent(in) :: tokens
    type(c_ptr), intent(in) :: x, y, ids, weights
    logical, intent(in) :: routed
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    integer(c_int) :: status
    if (len(text) > 0 .and. c_associated(self%handle)) then
      status = c_abandon_forward(self%handle, text // c_null_char)
    else if (routed) then
      status = c_forward_routed_host(self%handle, int(tokens, c_size_t), x, ids, weights, y)
    else
      status = c_forward_host(self%handle, int(tokens, c_size_t), x, y)
    end if
    call deliver(status, stat, errmsg)
  end subroutine

  subroutine forward_real32(self, x, y, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    real(real32), contiguous, target, intent(in) :: x(:, :)
    real(real32), contiguous, target, intent(inout) :: y(:, :)
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    type(c_ptr) :: x_ptr, y_ptr
    x_ptr = c_null_ptr
    y_ptr = c_null_ptr
    if (size(x) > 0) x_ptr = c_loc(x)
    if (size(y) > 0) y_ptr = c_loc(y)
    call run_host(self, misfit(self, KMOE_F32, shape(x), shape(y), [-1, 0], [-1, 0]), size(x, 2), &
                  x_ptr, y_ptr, c_null_ptr, c_null_ptr, .false., stat, errmsg)
  end subroutine

  subroutine forward_real64(self, x, y, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    real(real64), contiguous, target, intent(in) :: x(:, :)
    real(real64), contiguous, target, intent(inout) :: y(:, :)
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    type(c_ptr) :: x_ptr, y_ptr
    x_ptr = c_null_ptr
    y_ptr = c_null_ptr
    if (size(x) > 0) x_ptr = c_loc(x)
    if (size(y) > 0) y_ptr = c_loc(y)
    call run_host(self, misfit(self, KMOE_F64, shape(x), shape(y), [-1, 0], [-1, 0]), size(x, 2), &
                  x_ptr, y_ptr, c_null_ptr, c_null_ptr, .false., stat, errmsg)
  end subroutine

  subroutine forward_routed_real32(self, x, topk_ids, topk_weights, y, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    real(real32), contiguous, target, intent(in) :: x(:, :)
    integer(c_int32_t), contiguous, target, intent(in) :: topk_ids(:, :)
    real(real32), contiguous, target, intent(in) :: topk_weights(:, :)
    real(real32), contiguous, target, intent(inout) :: y(:, :)
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    type(c_ptr) :: x_ptr, y_ptr, ids_ptr, weights_ptr
    x_ptr = c_null_ptr
    y_ptr = c_null_ptr
    ids_ptr = c_null_ptr
    weights_ptr = c_null_ptr
    if (size(x) > 0) x_ptr = c_loc(x)
    if (size(y) > 0) y_ptr = c_loc(y)
    if (size(topk_ids) > 0) ids_ptr = c_loc(topk_ids)
    if (size(topk_weights) > 0) weights_ptr = c_loc(topk_weights)
    call run_host(self, misfit(self, KMOE_F32, shape(x), shape(y), shape(topk_ids), &
                               shape(topk_weights)), &
                  size(x, 2), x_ptr, y_ptr, ids_ptr, weights_ptr, .true., stat, errmsg)
  end subroutine

  subroutine forward_routed_real64(self, x, topk_ids, topk_weights, y, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    real(real64), contiguous, target, intent(in) :: x(:, :)
    integer(c_int32_t), contiguous, target, intent(in) :: topk_ids(:, :)
    real(real32), contiguous, target, intent(in) :: topk_weights(:, :)
    real(real64), contiguous, target, intent(inout) :: y(:, :)
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    type(c_ptr) :: x_ptr, y_ptr, ids_ptr, weights_ptr
    x_ptr = c_null_ptr
    y_ptr = c_null_ptr
    ids_ptr = c_null_ptr
    weights_ptr = c_null_ptr
    if (size(x) > 0) x_ptr = c_loc(x)
    if (size(y) > 0) y_ptr = c_loc(y)
    if (size(topk_ids) > 0) ids_ptr = c_loc(topk_ids)
    if (size(topk_weights) > 0) weights_ptr = c_loc(topk_weights)
    call run_host(self, misfit(self, KMOE_F64, shape(x), shape(y), shape(topk_ids), &
                               shape(topk_weights)), &
                  size(x, 2), x_ptr, y_ptr, ids_ptr, weights_ptr, .true., stat, errmsg)
  end subroutine

  subroutine forward_pointer(self, tokens, x, y, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    integer, intent(in) :: tokens
    type(c_ptr), intent(in) :: x, y
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    call deliver(c_forward(self%handle, int(tokens, c_size_t), x, y), stat, errmsg)
  end subroutine

  subroutine forward_routed_pointer(self, tokens, x, topk_ids, topk_weights, y, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    integer, intent(in) :: tokens
    type(c_ptr), intent(in) :: x, topk_ids, topk_weights, y
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    call deliver(c_forward_routed(self%handle, int(tokens, c_size_t), x, topk_ids, topk_weights, &
                                  y), stat, errmsg)
  end subroutine

  !> Takes the place of forward on a rank that can not call it, see kmoe_layer_abandon_forward.
  subroutine layer_abandon_forward(self, text, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    character(len=*), intent(in) :: text
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    call deliver(c_abandon_forward(self%handle, trim(text) // c_null_char), stat, errmsg)
  end subroutine

  subroutine layer_route(self, tokens, x, topk_ids, topk_weights, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    integer, intent(in) :: tokens
    type(c_ptr), intent(in) :: x, topk_ids, topk_weights
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    call deliver(c_route(self%handle, int(tokens, c_size_t), x, topk_ids, topk_weights), stat, &
                 errmsg)
  end subroutine

  !> The function of the user experts; `context` is handed to it.
  subroutine layer_set_expert_function(self, function, context, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    procedure(kmoe_expert_function) :: function
    type(c_ptr), intent(in), optional :: context
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    type(c_ptr) :: ptr
    ptr = c_null_ptr
    if (present(context)) ptr = context
    call deliver(c_set_expert_function(self%handle, c_funloc(function), ptr), stat, errmsg)
  end subroutine

  !> The stream that the layer works on (of acc_get_cuda_stream, for example).
  subroutine layer_set_stream(self, stream, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    type(c_ptr), intent(in) :: stream
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    call deliver(c_set_stream(self%handle, stream), stat, errmsg)
  end subroutine

  !> Waits for the layer's work on the device.
  subroutine layer_fence(self, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    call deliver(c_fence(self%handle), stat, errmsg)
  end subroutine

  subroutine layer_bytes(self, workspace_bytes, weight_bytes, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    integer(c_size_t), intent(out) :: workspace_bytes, weight_bytes
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    workspace_bytes = 0
    weight_bytes = 0
    call deliver(c_layer_bytes(self%handle, workspace_bytes, weight_bytes), stat, errmsg)
  end subroutine

  !> Counters of this rank.
  subroutine layer_report(self, report, stat, errmsg)
    class(kmoe_layer), intent(in) :: self
    type(kmoe_report), intent(out) :: report
    integer, intent(out), optional :: stat
    character(len=*), intent(inout), optional :: errmsg
    report%size = c_sizeof(report)
    call deliver(c_get_report(self%handle, report), stat, errmsg)
  end subroutine

  !> Frees the layer; collective. Does nothing to a layer that was not created.
  subroutine layer_destroy(self)
    class(kmoe_layer), intent(inout) :: self
    integer(c_int) :: status
    if (c_associated(self%handle)) status = c_layer_destroy(self%handle)
    self%handle = c_null_ptr
  end subroutine

  subroutine layer_finalize(self)
    type(kmoe_layer), intent(inout) :: self
    call layer_destroy(self)
  end subroutine
end module kmoe
