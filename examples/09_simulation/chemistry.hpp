// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Which cells react in this step, and their direct integration.

#include "flow.hpp"
#include "kinetics.hpp"

namespace sim {

using CellList = Kokkos::View<int*, Space>;

// The state of one cell as the integrator wants it.
KOKKOS_INLINE_FUNCTION void load_state(double const* n, double t, double* y) {
  for (int s = 0; s < num_reactive; ++s) y[s] = n[s];
  y[num_reactive] = t;
}

// The largest change of a mass fraction, or a thousandth of the relative change of T, that the
// present rates would make in `dt`.
KOKKOS_INLINE_FUNCTION double activity(Mechanism const& m, double const* n, double t, double dt) {
  double y[num_unknowns], f[num_unknowns];
  load_state(n, t, y);
  evaluate<false>(m, y, n[N2], f, nullptr);
  double most = 1e-3 * Kokkos::fabs(f[num_reactive]) / t;
  for (int s = 0; s < num_reactive; ++s) {
    most = Kokkos::fmax(most, Kokkos::fabs(f[s]) * m.weight[s]);
  }
  return most * dt;
}

// Writes the indices of the cells for which keep(cell) holds, in ascending order, and returns how
// many there are.
template <class Keep>
int select_cells(int cells, Keep const& keep, CellList const& list) {
  int count = 0;
  Kokkos::parallel_scan(
      "sim::select", Kokkos::RangePolicy<Space>(0, cells),
      KOKKOS_LAMBDA(int cell, int& at, bool final) {
        bool const kept = keep(cell);
        if (kept && final) list(at) = cell;
        if (kept) ++at;
      },
      count);
  return count;
}

struct IsActive {
  Mechanism m;
  Field u;
  Cells t;
  int n;
  double dt, threshold;
  KOKKOS_INLINE_FUNCTION bool operator()(int cell) const {
    return activity(m, &u(cell / n + 1, cell % n, 0), t(cell), dt) > threshold;
  }
};

// Integrates the first `count` cells of `list`. `step` keeps each cell's last step size, where the
// next call begins. Returns the steps taken.
inline long direct_chemistry(Mechanism const& m, Grid const& g, Tolerance const& tolerance,
                             double dt, CellList const& list, int count, Field const& u,
                             Cells const& t, Cells const& step) {
  int const n = g.n;
  long steps = 0;
  Kokkos::parallel_reduce(
      "sim::direct", Kokkos::RangePolicy<Space, Kokkos::Schedule<Kokkos::Dynamic>>(0, count),
      KOKKOS_LAMBDA(int k, long& sum) {
        int const cell = list(k);
        double* const c = &u(cell / n + 1, cell % n, 0);
        double y[num_unknowns];
        load_state(c, t(cell), y);
        sum += integrate(m, y, c[N2], dt, tolerance, step(cell));
        for (int s = 0; s < num_reactive; ++s) c[s] = y[s];
        t(cell) = y[num_reactive];
      },
      steps);
  return steps;
}

}  // namespace sim
