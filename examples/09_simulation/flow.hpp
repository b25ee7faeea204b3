// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The flow: a periodic square of n x n cells, of which each rank owns some rows, with one halo row
// below and above. Advection by a fixed field of vortices and diffusion, in flux form, so that what
// leaves a cell enters its neighbour.
//
// A field is a view [row][column][component]. Components: n of all species [mol/kg], enthalpy
// [J/kg]. No result depends on the number of ranks: each cell is computed from its neighbours by
// the same instructions everywhere, and sums are taken row by row.

#include <array>
#include <utility>
#include <vector>

#include <mpi.h>

#include "mechanism.hpp"

namespace sim {

using Space = Kokkos::DefaultExecutionSpace;
using Field = Kokkos::View<double***, Kokkos::LayoutRight, Space>;
using Cells = Kokkos::View<double*, Space>;

inline constexpr int num_components = num_species + 1;
inline constexpr int enthalpy_component = num_species;

struct Grid {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, ranks = 1;
  int n = 0;          // cells in each direction
  int first_row = 0;  // of this rank
  int rows = 0;       // of this rank
  double width = 0;   // of the square, m
  [[nodiscard]] double dx() const { return width / n; }
  [[nodiscard]] int cells() const { return rows * n; }
};

inline Grid make_grid(MPI_Comm comm, int n, double width) {
  Grid g;
  g.comm = comm;
  MPI_Comm_rank(comm, &g.rank);
  MPI_Comm_size(comm, &g.ranks);
  g.n = n;
  g.width = width;
  g.first_row = static_cast<int>(static_cast<long long>(n) * g.rank / g.ranks);
  g.rows = static_cast<int>(static_cast<long long>(n) * (g.rank + 1) / g.ranks) - g.first_row;
  return g;
}

// Fills the halo rows 0 and rows + 1 from the ranks below and above (periodic).
inline void exchange_halo(Grid const& g, Field const& u) {
  Space().fence("sim::exchange_halo");
  auto const row = [&](int i) { return Kokkos::subview(u, i, Kokkos::ALL, Kokkos::ALL); };
  if (g.ranks == 1) {
    Kokkos::deep_copy(row(0), row(g.rows));
    Kokkos::deep_copy(row(g.rows + 1), row(1));
    return;
  }
  // Staged through the host: works with any MPI.
  int const count = g.n * num_components;
  static std::vector<double> out[2], in[2];
  using HostRow = Kokkos::View<double**, Kokkos::LayoutRight, Kokkos::HostSpace,
                               Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  auto const host = [&](std::vector<double>& v) {
    v.resize(static_cast<std::size_t>(count));
    return HostRow(v.data(), g.n, num_components);
  };
  Kokkos::deep_copy(host(out[0]), row(1));
  Kokkos::deep_copy(host(out[1]), row(g.rows));
  for (auto& buffer : in) buffer.resize(static_cast<std::size_t>(count));
  int const below = (g.rank + g.ranks - 1) % g.ranks, above = (g.rank + 1) % g.ranks;
  MPI_Sendrecv(out[0].data(), count, MPI_DOUBLE, below, 0, in[1].data(), count, MPI_DOUBLE, above,
               0, g.comm, MPI_STATUS_IGNORE);
  MPI_Sendrecv(out[1].data(), count, MPI_DOUBLE, above, 1, in[0].data(), count, MPI_DOUBLE, below,
               1, g.comm, MPI_STATUS_IGNORE);
  Kokkos::deep_copy(row(0), host(in[0]));
  Kokkos::deep_copy(row(g.rows + 1), host(in[1]));
}

// Velocities through the left and the lower face of each cell [row][column][2], of this rank's rows
// and one more. They are differences of a stream function at the corners, so that their divergence
// vanishes cell by cell.
using Velocity = Kokkos::View<double***, Kokkos::LayoutRight, Space>;
inline Velocity vortices(Grid const& g, double speed) {
  Velocity velocity("velocity", g.rows + 1, g.n, 2);
  int const n = g.n, first = g.first_row;
  double const amplitude = speed * g.width, dx = g.dx();
  Kokkos::parallel_for(
      "sim::vortices", Kokkos::RangePolicy<Space>(0, (g.rows + 1) * n), KOKKOS_LAMBDA(int face) {
        auto const stream = [=](int row, int column) {
          double const k = 2 * 3.14159265358979323846;
          // The same corner gives the same number, whichever period it is reached through.
          double const x = k * (column % n) / n, y = k * (row % n) / n;
          return amplitude / k *
                 (Kokkos::sin(x) * Kokkos::sin(y) +
                  0.5 * Kokkos::sin(2 * x + 1) * Kokkos::cos(y + 0.5));
        };
        int const i = face / n, j = face % n, row = first + i;
        velocity(i, j, 0) = (stream(row + 1, j) - stream(row, j)) / dx;
        velocity(i, j, 1) = -(stream(row, j + 1) - stream(row, j)) / dx;
      });
  return velocity;
}

// Central differences, with at least as much diffusion as keeps new extremes from appearing (the
// hybrid scheme): species never become negative.
KOKKOS_INLINE_FUNCTION double face_flux(double low, double high, double velocity,
                                        double d_over_dx) {
  double const d = Kokkos::fmax(d_over_dx, 0.5 * Kokkos::fabs(velocity));
  return velocity * 0.5 * (low + high) - d * (high - low);
}

// One explicit step of advection and diffusion: next = u - dt div(flux).
inline void transport(Grid const& g, Velocity const& flow, double diffusivity, double dt,
                      Field const& u, Field const& next) {
  exchange_halo(g, u);
  int const n = g.n;
  double const r = dt / g.dx(), d = diffusivity / g.dx();
  Kokkos::parallel_for(
      "sim::transport", Kokkos::RangePolicy<Space>(0, g.cells()), KOKKOS_LAMBDA(int cell) {
        int const i = cell / n + 1, j = cell % n;
        int const left = (j + n - 1) % n, right = (j + 1) % n;
        double const ul = flow(i - 1, j, 0), ur = flow(i - 1, right, 0);
        double const vl = flow(i - 1, j, 1), vu = flow(i, j, 1);
        for (int c = 0; c < num_components; ++c) {
          double const here = u(i, j, c);
          double const in =
              face_flux(u(i, left, c), here, ul, d) + face_flux(u(i - 1, j, c), here, vl, d);
          double const out =
              face_flux(here, u(i, right, c), ur, d) + face_flux(here, u(i + 1, j, c), vu, d);
          next(i, j, c) = here + r * (in - out);
        }
      });
}

// Temperatures from species and enthalpy; the old value is where Newton's method starts.
inline void update_temperature(Grid const& g, Mechanism const& m, Field const& u, Cells const& t) {
  int const n = g.n;
  Kokkos::parallel_for(
      "sim::temperature", Kokkos::RangePolicy<Space>(0, g.cells()), KOKKOS_LAMBDA(int cell) {
        double const* const c = &u(cell / n + 1, cell % n, 0);
        t(cell) = temperature(m, c, c[enthalpy_component], t(cell));
      });
}

// Totals over all cells, added row by row in the order of the rows: H, O and N atoms [mol/kg],
// enthalpy [J/kg]; of the whole square, so they are sums, not means.
inline std::array<double, num_elements + 1> totals(Grid const& g, Mechanism const& m,
                                                   Field const& u) {
  constexpr int width = num_elements + 1;
  Kokkos::View<double**, Kokkos::LayoutRight, Space> sums("sums", g.n, width);
  int const n = g.n, first = g.first_row;
  Kokkos::parallel_for(
      "sim::totals", Kokkos::RangePolicy<Space>(0, g.rows), KOKKOS_LAMBDA(int row) {
        for (int j = 0; j < n; ++j) {
          for (int e = 0; e < num_elements; ++e) {
            for (int s = 0; s < num_species; ++s) {
              sums(first + row, e) += m.atoms[e][s] * u(row + 1, j, s);
            }
          }
          sums(first + row, num_elements) += u(row + 1, j, enthalpy_component);
        }
      });
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), sums);
  std::vector<double> all(host.data(), host.data() + host.size());
  // Each row is zero on all ranks but one: these sums are exact.
  MPI_Allreduce(MPI_IN_PLACE, all.data(), static_cast<int>(all.size()), MPI_DOUBLE, MPI_SUM,
                g.comm);
  std::array<double, width> result{};
  for (std::size_t k = 0; k < all.size(); ++k) result[k % width] += all[k];
  return result;
}

// All rows of all ranks on rank 0 (empty elsewhere): [row][column][component], then T.
inline std::vector<double> gather(Grid const& g, Field const& u, Cells const& t) {
  constexpr int width = num_components + 1;
  auto const hu = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), u);
  auto const ht = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), t);
  std::vector<double> mine, all;
  mine.reserve(static_cast<std::size_t>(g.cells()) * width);
  for (int cell = 0; cell < g.cells(); ++cell) {
    for (int c = 0; c < num_components; ++c) mine.push_back(hu(cell / g.n + 1, cell % g.n, c));
    mine.push_back(ht(cell));
  }
  std::vector<int> counts, offsets;
  for (int r = 0, at = 0; r < g.ranks; ++r) {
    long long const n = g.n;
    counts.push_back(static_cast<int>(n * (r + 1) / g.ranks - n * r / g.ranks) * g.n * width);
    offsets.push_back(at);
    at += counts.back();
  }
  if (g.rank == 0) all.resize(static_cast<std::size_t>(g.n) * g.n * width);
  MPI_Gatherv(mine.data(), static_cast<int>(mine.size()), MPI_DOUBLE, all.data(), counts.data(),
              offsets.data(), MPI_DOUBLE, 0, g.comm);
  return all;
}

}  // namespace sim
