! SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
! SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

! A layer whose weights are all 1/2, on tokens of ones: every element of y is the same known value.
! Then one of real64 with an expert of the program, by arrays and by pointers into its memory.
module consumer_expert
  use, intrinsic :: iso_c_binding
  implicit none

contains

  !> Expert e, counted from 0: y = (e + 2) x.
  integer(c_int) function stretch(context, expert, rows, x, y) bind(c)
    type(c_ptr), value :: context, x, y
    integer(c_int32_t), value :: expert
    integer(c_size_t), value :: rows
    real(c_double), pointer :: from(:, :), to(:, :)
    call c_f_pointer(x, from, [4_c_size_t, rows])
    call c_f_pointer(y, to, [4_c_size_t, rows])
    to = (expert + 2) * from
    stretch = 0
  end function
end module

program consumer
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: real32, real64
#ifdef WITH_MPI
  use mpi_f08
#endif
  use kmoe
  use consumer_expert
  implicit none
  integer :: rank, stat
  logical :: right

  rank = 0
#ifdef WITH_MPI
  call MPI_Init()
  call MPI_Comm_rank(MPI_COMM_WORLD, rank)
  call kmoe_initialize(MPI_COMM_WORLD)
#else
  call kmoe_initialize()
#endif
  call run()
  call run_pointers()
  call kmoe_finalize()
  call kmoe_finalize(stat)
  right = right .and. stat == KMOE_ERROR_NOT_INITIALIZED
#ifdef WITH_MPI
  call MPI_Finalize()
#endif
  if (.not. right) error stop "WRONG"
  if (rank == 0) print "(a)", "Fortran: right"

contains

  subroutine run()
    type(kmoe_options) :: options
    type(kmoe_weights) :: weights
    type(kmoe_layer) :: layer
    real(real32), target :: half(5 * 6 * 4), x(4, 7), y(4, 7), narrow(3, 7)
    character(len=100) :: text
    half = 0.5
    x = 1
    call kmoe_options_init(options)
    options%hidden_size = 4
    options%intermediate_size = 3
    options%num_experts = 5
    options%top_k = 2
    options%scoring = KMOE_SCORING_TOPK_SOFTMAX
    options%max_tokens_per_rank = 7
    call kmoe_weights_init(weights)
    weights%memory = KMOE_MEMORY_HOST
    weights%copy = 1
    weights%router = c_loc(half)
    weights%gate_up = c_loc(half)
    weights%down = c_loc(half)
#ifdef WITH_MPI
    call layer%create(MPI_COMM_WORLD, options, weights)
#else
    call layer%create(options, weights)
#endif
    call layer%forward(x, y)
    right = all(abs(y - 3 * 0.5 * 2 / (1 + exp(-2.0)) * 2) < 1e-5)
    call layer%forward(x, narrow, stat, text)
    right = right .and. stat == KMOE_ERROR_INVALID_ARGUMENT .and. index(text, "hidden_size") > 0
  end subroutine

  subroutine run_pointers()
    type(kmoe_options) :: options
    type(kmoe_weights) :: weights
    type(kmoe_layer) :: layer
    real(real64), target :: router(4, 2), x(4, 7), y(4, 7), again(4, 7)
    real(real32), target :: scores(2, 7)
    integer(c_int32_t), target :: ids(2, 7)
    integer :: i
    router = reshape([(sin(real(i, real64)), i=1, 8)], shape(router))
    x = reshape([(cos(real(3 * i, real64)), i=1, 28)], shape(x))
    call kmoe_options_init(options)
    options%dtype = KMOE_F64
    options%space = KMOE_SPACE_HOST
    options%hidden_size = 4
    options%intermediate_size = 3
    options%num_experts = 2
    options%num_user_experts = 2
    options%top_k = 2
    options%max_tokens_per_rank = 7
    call kmoe_weights_init(weights)
    weights%router = c_loc(router)
#ifdef WITH_MPI
    call layer%create(MPI_COMM_WORLD, options, weights)
#else
    call layer%create(options, weights)
#endif
    call layer%set_expert_function(stretch)
    call layer%route(7, c_loc(x), c_loc(ids), c_loc(scores))
    call layer%forward(x, y)
    do i = 1, 7
      right = right .and. &
        all(abs(y(:, i) - sum(real(scores(:, i), real64) * (ids(:, i) + 2)) * x(:, i)) < 1e-12)
    end do
    again = 0
    call layer%forward(7, c_loc(x), c_loc(again))
    call layer%fence()
    right = right .and. all(again == y)
    again = 0
    call layer%forward(x, ids, scores, again)
    right = right .and. all(again == y)
    again = 0
    call layer%forward(7, c_loc(x), c_loc(ids), c_loc(scores), c_loc(again))
    call layer%fence()
    right = right .and. all(again == y)
  end subroutine
end program
