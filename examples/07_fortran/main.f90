! SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
! SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

! A layer in the time loop of a Fortran MPI program whose number of cells changes.
!
!   mpirun -n 2 fortran
!
! The state of each cell goes through a layer of small experts; u(variable, cell) is what the layer
! takes and returns. Cells move to other ranks from step to step, some ranks own none, and the
! result of every cell is compared with plain loops in this program.
program fortran_example
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: int64, real64
  use mpi_f08
  use kmoe
  implicit none

  integer, parameter :: hidden = 6, inner = 10, experts = 5, top_k = 2
  integer, parameter :: cells_in_all = 120, steps = 4
  real(real64), parameter :: tolerance = 1e-5_real64 ! routers weigh in single precision
  integer :: rank, ranks, step, wrong, wrong_in_all

  call MPI_Init()
  call MPI_Comm_rank(MPI_COMM_WORLD, rank)
  call MPI_Comm_size(MPI_COMM_WORLD, ranks)
  call kmoe_initialize(MPI_COMM_WORLD)
  wrong = 0
  call simulate()
  call check_errors()
  call kmoe_finalize()
  call MPI_Allreduce(wrong, wrong_in_all, 1, MPI_INTEGER, MPI_SUM, MPI_COMM_WORLD)
  if (rank == 0) then
    if (wrong_in_all == 0) then
      print "(i0, a, i0, a)", steps, " steps on ", ranks, " ranks: every cell as expected"
    else
      print "(i0, a)", wrong_in_all, " values are WRONG"
    end if
  end if
  call MPI_Finalize()
  if (wrong_in_all /= 0) error stop 1

contains

  !> In [-1, 1), a function of its arguments alone: the same model on any number of ranks.
  pure real(real64) function number(tensor, expert, i)
    integer, intent(in) :: tensor, expert, i
    integer(int64) :: z
    integer :: round
    z = 1000003_int64 * tensor + 8191_int64 * expert + i + 12345_int64
    do round = 1, 3
      z = mod(z * 48271_int64 + 11_int64, 2147483647_int64)
    end do
    number = real(z, real64) / 1073741823.5_real64 - 1
  end function

  subroutine simulate()
    type(kmoe_options) :: options
    type(kmoe_weights) :: weights
    type(kmoe_layer) :: layer ! freed at the end of this subroutine
    integer(c_int32_t), allocatable :: mine(:)
    real(real64), allocatable, target :: router(:, :), gate_up(:, :, :), down(:, :, :)
    real(real64), allocatable :: u(:, :), u_new(:, :)
    integer :: first, last, e, i, cell

    call kmoe_options_init(options)
    options%dtype = KMOE_F64
    options%hidden_size = hidden
    options%intermediate_size = inner
    options%num_experts = experts
    options%top_k = top_k
    options%scoring = KMOE_SCORING_TOPK_SOFTMAX
    options%max_tokens_per_rank = cells_in_all

    ! The weights of this rank's experts, in the program's layout: C's last index is the first here.
    call kmoe_local_experts(options, rank, ranks, mine)
    allocate (router(hidden, experts), gate_up(hidden, 2 * inner, size(mine)), &
              down(inner, hidden, size(mine)))
    router = reshape([(number(1, 0, i), i=1, size(router))], shape(router))
    do e = 1, size(mine)
      gate_up(:, :, e) = reshape([(number(2, mine(e), i), i=1, hidden * 2 * inner)], &
                                 [hidden, 2 * inner])
      down(:, :, e) = reshape([(number(3, mine(e), i), i=1, inner * hidden)], [inner, hidden])
    end do
    call kmoe_weights_init(weights)
    weights%memory = KMOE_MEMORY_HOST
    weights%copy = 1
    weights%router = c_loc(router)
    if (size(mine) > 0) then
      weights%gate_up = c_loc(gate_up)
      weights%down = c_loc(down)
    end if
    call layer%create(MPI_COMM_WORLD, options, weights)

    do step = 1, steps
      call my_cells(first, last)
      allocate (u(hidden, first:last), u_new(hidden, first:last))
      do cell = first, last
        u(:, cell) = [(number(10 + step, cell, i), i=1, hidden)]
      end do
      call layer%forward(u, u_new)
      do cell = first, last
        wrong = wrong + count(.not. abs(u_new(:, cell) - expected(u(:, cell))) < tolerance)
      end do
      deallocate (u, u_new)
    end do
  end subroutine

  !> Blocks of cells whose borders move with the steps; in the last step rank 0 owns them all.
  subroutine my_cells(first, last)
    integer, intent(out) :: first, last
    first = border(rank) + 1
    last = border(rank + 1)
  end subroutine

  pure integer function border(r)
    integer, intent(in) :: r
    if (r == 0) then
      border = 0
    else if (r == ranks .or. step == steps) then
      border = cells_in_all
    else
      border = min(cells_in_all, cells_in_all * r / ranks + 7 * step)
    end if
  end function

  !> What the layer must make of one cell, in plain loops: the two best experts by their softmax.
  function expected(cell) result(sum)
    real(real64), intent(in) :: cell(hidden)
    real(real64) :: sum(hidden), logits(experts), weight(2)
    integer :: e, i, best(2)
    do e = 1, experts
      logits(e) = dot_product([(number(1, 0, (e - 1) * hidden + i), i=1, hidden)], cell)
    end do
    best(1) = maxloc(logits, 1)
    best(2) = maxloc(logits, 1, [(e /= best(1), e=1, experts)])
    weight(1) = 1 / (1 + exp(logits(best(2)) - logits(best(1))))
    weight(2) = 1 - weight(1)
    sum = weight(1) * expert(best(1) - 1, cell) + weight(2) * expert(best(2) - 1, cell)
  end function

  function expert(e, cell) result(y)
    integer, intent(in) :: e
    real(real64), intent(in) :: cell(hidden)
    real(real64) :: y(hidden), gate, up, h(inner)
    integer :: i, j
    do j = 1, inner
      gate = dot_product([(number(2, e, (j - 1) * hidden + i), i=1, hidden)], cell)
      up = dot_product([(number(2, e, (inner + j - 1) * hidden + i), i=1, hidden)], cell)
      h(j) = gate / (1 + exp(-gate)) * up
    end do
    do j = 1, hidden
      y(j) = dot_product([(number(3, e, (j - 1) * inner + i), i=1, inner)], h)
    end do
  end function

  !> An error of one rank is an error, and the same text, on every rank.
  subroutine check_errors()
    type(kmoe_options) :: options
    type(kmoe_weights) :: weights
    type(kmoe_layer) :: layer
    integer :: stat
    character(len=200) :: text
    call kmoe_options_init(options)
    call kmoe_weights_init(weights)
    options%hidden_size = hidden
    options%intermediate_size = inner
    options%num_experts = experts
    options%top_k = top_k
    if (rank == ranks - 1) options%top_k = experts + 1
    call layer%create(MPI_COMM_WORLD, options, weights, stat, text)
    if (stat /= KMOE_ERROR_INVALID_ARGUMENT .or. index(text, "top_k") == 0) wrong = wrong + 1
    if (rank == 0) print "(2a)", "a wrong option: ", trim(text)
  end subroutine
end program
