// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Training data: what the direct integration makes of the states that a run meets, and of states
// beside them.

#include <cstdint>
#include <vector>

#include "simulation.hpp"

namespace sim {

// A row of the data: n of all species, h and T before; the reactive species after.
inline constexpr int sample_width = num_species + 2 + num_reactive;

// Uniform in [0, 1), a pure function of its arguments.
inline double uniform(std::uint64_t a, std::uint64_t b) {
  std::uint64_t z = a * 0x9e3779b97f4a7c15ULL + b + 0x632be59bd9b4e019ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

// Adds active cells of a step, each with probability `chance`, and of each a neighbour in
// state space: intermediate species multiplied by random factors, with the same atoms.
class Sampler {
 public:
  Sampler(double dt, double chance, std::uint64_t seed) : dt_(dt), chance_(chance), seed_(seed) {}

  void operator()(int step, Simulation& s) {
    auto const u = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), s.u());
    auto const t = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), s.temperatures());
    auto const list = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), s.active());
    Grid const& g = s.grid();
    for (int k = 0; k < s.num_active(); ++k) {
      int const cell = list(k);
      auto const global = static_cast<std::uint64_t>(g.first_row) * g.n + cell;
      std::uint64_t const key = (seed_ * 100003 + step) * 1000003 + global;
      double const* const n = &u(cell / g.n + 1, cell % g.n, 0);
      // Most cells are near equilibrium and much alike: fewer of these.
      bool const calm = activity(s.mechanism(), n, t(cell), dt_) < 1e-3;
      if (uniform(key, 0) >= (calm ? 0.2 : 1.0) * chance_) continue;
      add(s.mechanism(), n, n[enthalpy_component], t(cell));
      double other[num_species];
      neighbour(n, key, other);
      if (other[H2] < 0 || other[O2] < 0) continue;
      add(s.mechanism(), other, n[enthalpy_component],
          temperature(s.mechanism(), other, n[enthalpy_component], t(cell)));
    }
  }

  [[nodiscard]] std::vector<double> const& rows() const { return rows_; }

 private:
  static void neighbour(double const* n, std::uint64_t key, double* out) {
    for (int s = 0; s < num_species; ++s) out[s] = n[s];
    double const size = 0.6 * uniform(key, 1) * uniform(key, 2);
    for (int s : {H, O, OH, HO2, H2O2}) {
      out[s] *= std::exp(size * (2 * uniform(key, 10 + s) - 1));
    }
    out[H2O] *= 1 + 0.05 * size * (2 * uniform(key, 3) - 1);
    // H2 and O2 take up the difference.
    double h = 0, o = 0;
    for (int s : {H, O, OH, H2O, HO2, H2O2}) {
      int const atoms_h[] = {2, 0, 1, 0, 1, 2, 1, 2}, atoms_o[] = {0, 2, 0, 1, 1, 1, 2, 2};
      h += atoms_h[s] * (n[s] - out[s]);
      o += atoms_o[s] * (n[s] - out[s]);
    }
    out[H2] += h / 2;
    out[O2] += o / 2;
  }

  void add(Mechanism const& m, double const* n, double h, double t) {
    double y[num_unknowns], step = 0;
    load_state(n, t, y);
    integrate(m, y, n[N2], dt_, {1e-6, 1e-11}, step);
    rows_.insert(rows_.end(), n, n + num_species);
    rows_.push_back(h);
    rows_.push_back(t);
    rows_.insert(rows_.end(), y, y + num_reactive);
  }

  double dt_, chance_;
  std::uint64_t seed_;
  std::vector<double> rows_;
};

}  // namespace sim
