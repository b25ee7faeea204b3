// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The surrogate: two Mixture-of-Experts blocks of kmoe that take the state of a cell to the change
// of its species over one time step.
//
//   features(state) -> x [tokens, H];  x += block0(x);  y = block1(x);  change = inverse_scale(y)
//
// The input layer is part of block0's gate_up weights and the output layer part of block1's down
// weights, so there is nothing else to multiply. Enthalpy does not change and T follows from it;
// the atoms of each element are restored by scaling species, and how much that takes says how far
// to trust the result: cells beyond a limit, or whose inputs or outputs are outside of the range of
// the training data, go to the direct integration.

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <kmoe/kmoe.hpp>

#include "chemistry.hpp"

namespace sim {

inline constexpr int num_features = 2 * num_reactive + 4;

// Of one state: h, T, 1/T, 1, and of each reactive species the mass fraction and its fourth root.
KOKKOS_INLINE_FUNCTION void features(Mechanism const& m, double const* n, double t, double* x) {
  x[0] = 1;
  x[1] = n[enthalpy_component] * 1e-6;
  x[2] = t * 1e-3;
  x[3] = 1e3 / t;
  for (int s = 0; s < num_reactive; ++s) {
    double const mass = Kokkos::fmax(n[s] * m.weight[s], 0.0);
    x[4 + s] = mass;
    x[4 + num_reactive + s] = Kokkos::sqrt(Kokkos::sqrt(mass));
  }
}

// Normalisation of inputs and outputs, from the checkpoint; small enough to travel with a kernel.
struct Scaling {
  double mean[num_features], scale[num_features];
  double low[num_features], high[num_features];  // of the training data
  // Of a major species the network says asinh(change / floor), of the others, whose floor is 0, the
  // change of the fourth root of the mass fraction: these span many decades.
  double output[num_reactive], floor[num_reactive];
  double least[num_reactive], most[num_reactive];  // that it was taught to say
};

// Gives species (all but N2) the H and O atoms of `before` by factors 1 + a_H H(s) + a_O O(s), and
// returns the larger |a|, or a number above 1 if no such factors are found.
KOKKOS_INLINE_FUNCTION double restore_elements(Mechanism const& m, double const* before,
                                               double* n) {
  double worst = 0;
  for (int pass = 0; pass < 2; ++pass) {  // the second removes the first one's rounding
    double b0 = 0, b1 = 0, a00 = 0, a01 = 0, a11 = 0;
    for (int s = 0; s < num_reactive; ++s) {
      double const ah = m.atoms[0][s], ao = m.atoms[1][s], missing = before[s] - n[s];
      b0 += ah * missing;
      b1 += ao * missing;
      a00 += ah * ah * n[s];
      a01 += ah * ao * n[s];
      a11 += ao * ao * n[s];
    }
    double const det = a00 * a11 - a01 * a01;
    if (!(det > 1e-12 * a00 * a11)) return 2;
    double const x0 = (b0 * a11 - b1 * a01) / det, x1 = (b1 * a00 - b0 * a01) / det;
    worst = Kokkos::fmax(worst, Kokkos::fmax(Kokkos::fabs(x0), Kokkos::fabs(x1)));
    if (!(worst < 0.25)) return 2;
    for (int s = 0; s < num_reactive; ++s) n[s] *= 1 + x0 * m.atoms[0][s] + x1 * m.atoms[1][s];
  }
  return worst;
}

class Surrogate {
 public:
  struct Conditions {
    double dt, pressure;
  };

  // Collective. Reads this rank's experts from the checkpoint folder.
  Surrogate(MPI_Comm mpi_comm, std::filesystem::path const& folder, int max_cells)
      : comm_(mpi_comm) {
    kmoe::io::Checkpoint const checkpoint(folder);
    for (auto const& block : checkpoint.blocks()) {
      auto config = block.config;
      config.dispatcher = kmoe::DispatcherKind::all_to_all;
      auto const placement = kmoe::ExpertPlacement::contiguous(config.num_experts, comm_.size());
      auto const weights = kmoe::io::load_weights<Space, float>(exec_, checkpoint, block,
                                                                placement.experts_of(comm_.rank()));
      layers_.emplace_back(exec_, comm_, config, placement, weights, max_cells);
      hidden_ = config.hidden_size;
    }
    auto const read = [&](char const* name, double* to, int count) {
      auto const m = kmoe::io::read_matrix<double>(folder / "model.safetensors", name);
      if (m.size() != static_cast<std::size_t>(count)) {
        throw kmoe::IoError(std::string("surrogate: wrong size of tensor ") + name);
      }
      for (int k = 0; k < count; ++k) to[k] = m.data()[k];
    };
    read("surrogate.mean", scaling_.mean, num_features);
    read("surrogate.scale", scaling_.scale, num_features);
    read("surrogate.low", scaling_.low, num_features);
    read("surrogate.high", scaling_.high, num_features);
    read("surrogate.output", scaling_.output, num_reactive);
    read("surrogate.floor", scaling_.floor, num_reactive);
    read("surrogate.least", scaling_.least, num_reactive);
    read("surrogate.most", scaling_.most, num_reactive);
    double conditions[2];
    read("surrogate.conditions", conditions, 2);
    conditions_ = {conditions[0], conditions[1]};
    auto const cells = static_cast<std::size_t>(max_cells);
    x_ = Tokens("x", cells, hidden_);
    y_ = Tokens("y", cells, hidden_);
    trusted_ = Kokkos::View<char*, Space>("trusted", cells);
  }

  // What the weights were trained for.
  [[nodiscard]] Conditions conditions() const { return conditions_; }
  [[nodiscard]] std::vector<kmoe::MoeLayer<Space, float>>& layers() { return layers_; }

  // Advances the first `count` cells of `list`, which may be none on this rank. Cells that are not
  // trusted stay as they are; `untrusted` receives them. Returns their number. Collective.
  int advance(Mechanism const& m, Grid const& g, double limit, CellList const& list, int count,
              Field const& u, Cells const& t, CellList const& untrusted) {
    std::size_t const tokens = static_cast<std::size_t>(count);
    std::pair<std::size_t, std::size_t> const range(0, tokens);
    auto const x = Kokkos::subview(x_, range, Kokkos::ALL);
    auto const y = Kokkos::subview(y_, range, Kokkos::ALL);
    embed(m, g, list, count, u, t);
    for (std::size_t k = 0; k < layers_.size(); ++k) {
      layers_[k].forward(exec_, x, y);
      if (k + 1 < layers_.size()) add(count);
    }
    apply(m, g, limit, list, count, u, t);
    auto const trusted = trusted_;
    int const rejected = select_cells(
        count, KOKKOS_LAMBDA(int k) { return trusted(k) == 0; }, untrusted);
    Kokkos::parallel_for(
        "sim::untrusted", Kokkos::RangePolicy<Space>(0, rejected),
        KOKKOS_LAMBDA(int k) { untrusted(k) = list(untrusted(k)); });
    return rejected;
  }

  void embed(Mechanism const& m, Grid const& g, CellList const& list, int count, Field const& u,
             Cells const& t) {
    auto const x = x_;
    auto const trusted = trusted_;
    Scaling const sc = scaling_;
    int const n = g.n, hidden = hidden_;
    Kokkos::parallel_for(
        "sim::embed", Kokkos::RangePolicy<Space>(0, count), KOKKOS_LAMBDA(int k) {
          int const cell = list(k);
          double f[num_features];
          features(m, &u(cell / n + 1, cell % n, 0), t(cell), f);
          bool inside = true;
          for (int i = 0; i < num_features; ++i) {
            inside = inside && f[i] >= sc.low[i] && f[i] <= sc.high[i];
            x(k, i) = static_cast<float>((f[i] - sc.mean[i]) * sc.scale[i]);
          }
          for (int i = num_features; i < hidden; ++i) x(k, i) = 0;  // add() has filled it
          trusted(k) = inside ? 1 : 0;
        });
  }

  void add(int count) {
    auto const x = x_, y = y_;
    int const hidden = hidden_;
    Kokkos::parallel_for(
        "sim::residual", Kokkos::RangePolicy<Space>(0, count), KOKKOS_LAMBDA(int k) {
          for (int i = 0; i < hidden; ++i) x(k, i) += y(k, i);
        });
  }

  void apply(Mechanism const& m, Grid const& g, double limit, CellList const& list, int count,
             Field const& u, Cells const& t) {
    auto const y = y_;
    auto const trusted = trusted_;
    Scaling const sc = scaling_;
    int const n = g.n;
    Kokkos::parallel_for(
        "sim::apply", Kokkos::RangePolicy<Space>(0, count), KOKKOS_LAMBDA(int k) {
          if (trusted(k) == 0) return;
          int const cell = list(k);
          double* const before = &u(cell / n + 1, cell % n, 0);
          double after[num_species];
          bool inside = true;
          for (int s = 0; s < num_reactive; ++s) {
            inside = inside && y(k, s) >= sc.least[s] && y(k, s) <= sc.most[s];
            double const said = static_cast<double>(y(k, s)) * sc.output[s];
            double const mass = Kokkos::fmax(before[s] * m.weight[s], 0.0);
            double next = mass + sc.floor[s] * Kokkos::sinh(said);
            if (sc.floor[s] == 0) {
              next = Kokkos::fmax(Kokkos::sqrt(Kokkos::sqrt(mass)) + said, 0.0);
              next *= next;
              next *= next;
            }
            after[s] = Kokkos::fmax(next, 0.0) / m.weight[s];
          }
          after[N2] = before[N2];
          if (!inside || !(restore_elements(m, before, after) <= limit)) {
            trusted(k) = 0;
            return;
          }
          for (int s = 0; s < num_reactive; ++s) before[s] = after[s];
          t(cell) = temperature(m, after, before[enthalpy_component], t(cell));
        });
  }

 private:
  using Tokens = kmoe::Matrix<float, Space>;
  Space exec_;
  kmoe::Communicator comm_;
  std::vector<kmoe::MoeLayer<Space, float>> layers_;
  Scaling scaling_{};
  Conditions conditions_{};
  int hidden_ = 0;
  Tokens x_, y_;
  Kokkos::View<char*, Space> trusted_;
};

}  // namespace sim
