! SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
! SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

! A layer whose weights are all 1/2, on tokens of ones: every element of y is the same known value.
program consumer
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: real32
#ifdef WITH_MPI
  use mpi_f08
#endif
  use kmoe
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
end program
