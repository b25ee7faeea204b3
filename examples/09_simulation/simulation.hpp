// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The time loop: transport, then chemistry in the cells that react.

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "surrogate.hpp"

namespace sim {

struct Case {
  int n = 64;  // cells in each direction
  int steps = 60;
  double dt = 5e-6;  // s, of one step; transport takes it in `substeps` parts
  int substeps = 6;
  double pressure = 506625;               // Pa
  double cell = 50e-6;                    // m
  double diffusivity = 2e-4;              // m^2/s, the same for all species and for heat
  double speed = 3;                       // m/s, of the vortices
  double equivalence = 0.5;               // fuel per oxygen; 1 burns both completely
  double fresh = 400;                     // K
  double kernel_x = 0.5, kernel_y = 0.2;  // of the hot spot that ignites, as fractions of the width
  double active = 1e-5;                   // activity() above which a cell reacts
  double trust = 0.02;  // restore_elements() up to which the surrogate is believed
};

// What one run did.
struct Outcome {
  std::vector<double> field;     // on rank 0: gather()
  double chemistry_seconds = 0;  // per step, of the slowest rank in each step
  double step_seconds = 0;       // the same of the whole step
  double cells_per_step = 0;     // that reacted
  double fallback = 0;           // fraction of these that the surrogate left to the integrator
  double integrator_steps = 0;   // per directly integrated cell
  int least = 0, most = 0;       // active cells of a rank in a step
  std::array<double, num_elements + 1> drift{};  // of the totals: H, O, N atoms and enthalpy
};

class Simulation {
 public:
  Simulation(MPI_Comm comm, Case const& c)
      : case_(c),
        grid_(make_grid(comm, c.n, c.n * c.cell)),
        mechanism_(hydrogen_air(c.pressure)),
        u_("u", grid_.rows + 2, c.n, num_components),
        next_("next", grid_.rows + 2, c.n, num_components),
        t_("t", grid_.cells()),
        step_("step", grid_.cells()),
        velocity_(vortices(grid_, c.speed)),
        list_("active", grid_.cells()),
        untrusted_("untrusted", grid_.cells()) {
    start();
  }

  using Watch = std::function<void(int step, Simulation&)>;

  // Runs with the surrogate, or directly where it is null. `before_chemistry` and `after_step` may
  // be empty; their time is not counted.
  Outcome run(Surrogate* surrogate, Tolerance const& tolerance, Watch const& before_chemistry = {},
              Watch const& after_step = {}) {
    Outcome out;
    auto const before = totals(grid_, mechanism_, u_);
    double cells = 0, rejected = 0, integrated = 0, steps = 0;
    out.least = grid_.cells() * grid_.ranks;
    for (int k = 0; k < case_.steps; ++k) {
      double const begin = MPI_Wtime();
      for (int part = 0; part < case_.substeps; ++part) {
        transport(grid_, velocity_, case_.diffusivity, case_.dt / case_.substeps, u_, next_);
        std::swap(u_, next_);
      }
      update_temperature(grid_, mechanism_, u_, t_);
      count_ = select_cells(grid_.cells(),
                            IsActive{mechanism_, u_, t_, case_.n, case_.dt, case_.active}, list_);
      double watched = MPI_Wtime();
      double const transported = watched - begin;
      if (before_chemistry) before_chemistry(k, *this);
      MPI_Barrier(grid_.comm);  // so that chemistry's time is its own
      watched = MPI_Wtime();
      int direct = count_;
      if (surrogate != nullptr) {
        direct =
            surrogate->advance(mechanism_, grid_, case_.trust, list_, count_, u_, t_, untrusted_);
        rejected += direct;
      }
      steps += double(direct_chemistry(mechanism_, grid_, tolerance, case_.dt,
                                       surrogate != nullptr ? untrusted_ : list_, direct, u_, t_,
                                       step_));
      double seconds[2] = {MPI_Wtime() - watched, 0};
      seconds[1] = seconds[0] + transported;
      MPI_Allreduce(MPI_IN_PLACE, seconds, 2, MPI_DOUBLE, MPI_MAX, grid_.comm);
      out.chemistry_seconds += seconds[0] / case_.steps;
      out.step_seconds += seconds[1] / case_.steps;
      cells += count_;
      integrated += direct;
      int extremes[2] = {-count_, count_};
      MPI_Allreduce(MPI_IN_PLACE, extremes, 2, MPI_INT, MPI_MAX, grid_.comm);
      out.least = std::min(out.least, -extremes[0]);
      out.most = std::max(out.most, extremes[1]);
      if (after_step) after_step(k, *this);
    }
    double sums[4] = {cells, rejected, integrated, steps};
    MPI_Allreduce(MPI_IN_PLACE, sums, 4, MPI_DOUBLE, MPI_SUM, grid_.comm);
    out.cells_per_step = sums[0] / std::max(case_.steps, 1);
    out.fallback = sums[1] / std::max(sums[0], 1.0);
    out.integrator_steps = sums[3] / std::max(sums[2], 1.0);
    auto const after = totals(grid_, mechanism_, u_);
    for (std::size_t e = 0; e < after.size(); ++e) {
      out.drift[e] = std::abs(after[e] - before[e]) / std::abs(before[e]);
    }
    out.field = gather(grid_, u_, t_);
    return out;
  }

  [[nodiscard]] Grid const& grid() const { return grid_; }
  [[nodiscard]] Mechanism const& mechanism() const { return mechanism_; }
  [[nodiscard]] Field const& u() const { return u_; }
  [[nodiscard]] Cells const& temperatures() const { return t_; }
  [[nodiscard]] CellList const& active() const { return list_; }
  [[nodiscard]] int num_active() const { return count_; }

  // Fresh gas and a kernel of burnt gas of the same enthalpy.
  void start() {
    double fresh[num_species] = {2 * case_.equivalence, 1, 0, 0, 0, 0, 0, 0, 3.76};
    double mass = 0;
    for (int s = 0; s < num_species; ++s) mass += fresh[s] * mechanism_.weight[s];
    for (double& n : fresh) n /= mass;
    double y[num_unknowns], h = 0;
    load_state(fresh, 1500, y);
    integrate(mechanism_, y, fresh[N2], 1.0, {1e-8, 1e-12}, h);
    auto const hu = Kokkos::create_mirror_view(u_);
    auto const ht = Kokkos::create_mirror_view(t_);
    for (int cell = 0; cell < grid_.cells(); ++cell) {
      int const i = cell / case_.n, j = cell % case_.n;
      double const px = (j + 0.5) / case_.n, py = (grid_.first_row + i + 0.5) / case_.n;
      double const dx = (px - case_.kernel_x) * grid_.width;
      double const dy = (py - case_.kernel_y) * grid_.width;
      double const burnt = 0.5 * (1 - std::tanh((std::sqrt(dx * dx + dy * dy) - 4e-4) / 1e-4));
      for (int s = 0; s < num_species; ++s) {
        hu(i + 1, j, s) = burnt * (s == N2 ? fresh[s] : y[s]) + (1 - burnt) * fresh[s];
      }
      hu(i + 1, j, enthalpy_component) = enthalpy(mechanism_, fresh, case_.fresh);
      ht(cell) = case_.fresh + burnt * 1300;
    }
    Kokkos::deep_copy(u_, hu);
    Kokkos::deep_copy(t_, ht);
    Kokkos::deep_copy(step_, 0.0);
    update_temperature(grid_, mechanism_, u_, t_);
  }

 private:
  Case case_;
  Grid grid_;
  Mechanism mechanism_;
  Field u_, next_;
  Cells t_, step_;
  Velocity velocity_;
  CellList list_, untrusted_;
  int count_ = 0;
};

}  // namespace sim
