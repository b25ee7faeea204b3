// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The chemistry of one cell as a system of ordinary differential equations, and its direct
// integration: a Rosenbrock method with the exact Jacobian and an error estimate.

#include "mechanism.hpp"

namespace sim {

inline constexpr int num_unknowns = num_reactive + 1;  // n of the reactive species, then T

// Right-hand side f and, on request, its exact Jacobian, of y = (n_H2 .. n_H2O2, T).
template <bool WithJacobian>
KOKKOS_INLINE_FUNCTION void evaluate(Mechanism const& m, double const* y, double n_n2, double* f,
                                     double (*jacobian)[num_unknowns]) {
  double const t = y[num_reactive], log_t = Kokkos::log(t), inv_t = 1 / t;
  double sum_n = n_n2;
  for (int s = 0; s < num_reactive; ++s) sum_n += y[s];
  double const rho = m.pressure / (gas_constant * t * sum_n);

  double c[num_species], total_c = 0;
  double cp[num_species], dcp[num_species], h[num_species], boltzmann[num_species];
  for (int s = 0; s < num_species; ++s) {
    c[s] = rho * (s == N2 ? n_n2 : y[s]);
    total_c += c[s];
    Thermo const th = thermo(m, s, t, log_t);
    cp[s] = th.cp;
    dcp[s] = th.dcp;
    h[s] = th.h;
    boltzmann[s] = Kokkos::exp(th.minus_g);
  }
  double const c0 = 101325.0 / (gas_constant * t);  // concentration of the standard state

  double w[num_species] = {};  // mol / (m^3 s)
  // Derivatives of w by concentrations, by T at fixed concentrations, and sum_j c_j dw/dc_j.
  double dc[WithJacobian ? num_reactive : 1][num_reactive] = {};
  double dt[num_reactive] = {}, scaled[num_reactive] = {};

  for (int i = 0; i < Mechanism::num_reactions; ++i) {
    Reaction const& r = m.reactions[i];
    int const r0 = r.reactant[0], r1 = r.reactant[1], p0 = r.product[0], p1 = r.product[1];
    double k = r.a * Kokkos::exp(r.n * log_t - r.ta * inv_t);
    double dlog_k = (r.n + r.ta * inv_t) * inv_t;
    bool const falloff = r.a0 > 0;
    double third = 1, dlog_k_third = 0;
    if (falloff || r.third_body) {
      third = total_c + (r.h2 - 1) * c[H2] + (r.h2o - 1) * c[H2O] + (r.o2 - 1) * c[O2];
    }
    if (falloff) {
      double const k0 = r.a0 * Kokkos::exp(r.n0 * log_t - r.ta0 * inv_t);
      double const pr = k0 * third / k;
      double const log_f = Kokkos::log10(r.centre);
      double const width = 0.75 - 1.27 * log_f;
      double const u = Kokkos::log10(Kokkos::fmax(pr, 1e-300)) - 0.4 - 0.67 * log_f;
      double const g = u / (width - 0.14 * u);
      double const dg = width / ((width - 0.14 * u) * (width - 0.14 * u));
      double const q = 1 / (1 + g * g);
      double const blend = pr / (1 + pr) * Kokkos::exp(2.302585092994046 * log_f * q);
      // d log(blend) / d log(pr)
      double const slope = 1 / (1 + pr) - 2 * log_f * g * dg * q * q;
      dlog_k += slope * ((r.n0 + r.ta0 * inv_t) * inv_t - dlog_k);
      dlog_k_third = slope / third;
      k *= blend;
    } else if (r.third_body) {
      k *= third;
      dlog_k_third = 1 / third;
    }
    // Equilibrium: K_c = prod(boltzmann) c0^(products - reactants)
    double kc = boltzmann[p0] / boltzmann[r0];
    double order = 0, dlog_kc = h[p0] - h[r0];
    if (r1 >= 0) {
      kc /= boltzmann[r1] * c0;
      dlog_kc -= h[r1];
      order -= 1;
    }
    if (p1 >= 0) {
      kc *= boltzmann[p1] * c0;
      dlog_kc += h[p1];
      order += 1;
    }
    double const kr = k / kc;
    double const forward = k * c[r0] * (r1 < 0 ? 1.0 : c[r1]);
    double const reverse = kr * c[p0] * (p1 < 0 ? 1.0 : c[p1]);
    double const rate = forward - reverse;
    w[r0] -= rate;
    w[p0] += rate;
    if (r1 >= 0) w[r1] -= rate;
    if (p1 >= 0) w[p1] += rate;

    if constexpr (WithJacobian) {
      dlog_kc = (dlog_kc * inv_t - order) * inv_t;
      double const d_t = rate * dlog_k + reverse * dlog_kc;
      double sum = (r1 < 0 ? 1 : 2) * forward - (p1 < 0 ? 1 : 2) * reverse;
      if (dlog_k_third != 0) sum += rate * dlog_k_third * third;
      auto const add = [&](int s, double sign) {
        dt[s] += sign * d_t;
        scaled[s] += sign * sum;
        dc[s][r0] += sign * k * (r1 < 0 ? 1.0 : c[r1]);
        if (r1 >= 0) dc[s][r1] += sign * k * c[r0];
        dc[s][p0] -= sign * kr * (p1 < 0 ? 1.0 : c[p1]);
        if (p1 >= 0) dc[s][p1] -= sign * kr * c[p0];
        if (dlog_k_third != 0) {
          double const d = sign * rate * dlog_k_third;
          for (int j = 0; j < num_reactive; ++j) dc[s][j] += d;
          dc[s][H2] += d * (r.h2 - 1);
          dc[s][H2O] += d * (r.h2o - 1);
          dc[s][O2] += d * (r.o2 - 1);
        }
      };
      add(r0, -1);
      add(p0, 1);
      if (r1 >= 0) add(r1, -1);
      if (p1 >= 0) add(p1, 1);
    }
  }

  double sum_cp = n_n2 * cp[N2], sum_dcp = n_n2 * dcp[N2], heat = 0;
  for (int s = 0; s < num_reactive; ++s) {
    f[s] = w[s] / rho;
    sum_cp += y[s] * cp[s];
    sum_dcp += y[s] * dcp[s];
    heat -= h[s] * f[s];
  }
  f[num_reactive] = heat / sum_cp;
  if constexpr (WithJacobian) {
    double* const last = jacobian[num_reactive];
    double const f_t = f[num_reactive];
    for (int j = 0; j < num_unknowns; ++j) last[j] = 0;
    for (int s = 0; s < num_reactive; ++s) {
      // rho depends on all n and on T: c_j = rho n_j.
      double const common = (f[s] - scaled[s] / rho) / sum_n;
      for (int j = 0; j < num_reactive; ++j) {
        jacobian[s][j] = dc[s][j] + common;
        last[j] -= h[s] * jacobian[s][j];
      }
      jacobian[s][num_reactive] = (dt[s] - scaled[s] * inv_t) / rho + f[s] * inv_t;
      last[num_reactive] -= cp[s] * f[s] + h[s] * jacobian[s][num_reactive];
    }
    for (int j = 0; j < num_reactive; ++j) last[j] = (last[j] - f_t * cp[j]) / sum_cp;
    last[num_reactive] = (last[num_reactive] - f_t * sum_dcp) / sum_cp;
  }
}

// In-place LU factors with row exchanges.
KOKKOS_INLINE_FUNCTION void factor(double (*a)[num_unknowns], int* pivot) {
  for (int k = 0; k < num_unknowns; ++k) {
    int best = k;
    for (int i = k + 1; i < num_unknowns; ++i) {
      if (Kokkos::fabs(a[i][k]) > Kokkos::fabs(a[best][k])) best = i;
    }
    pivot[k] = best;
    if (best != k) {
      for (int j = 0; j < num_unknowns; ++j) {
        double const held = a[k][j];
        a[k][j] = a[best][j];
        a[best][j] = held;
      }
    }
    double const inverse = 1 / a[k][k];
    a[k][k] = inverse;
    for (int i = k + 1; i < num_unknowns; ++i) {
      double const l = a[i][k] *= inverse;
      for (int j = k + 1; j < num_unknowns; ++j) a[i][j] -= l * a[k][j];
    }
  }
}
KOKKOS_INLINE_FUNCTION void solve(double const (*a)[num_unknowns], int const* pivot, double* b) {
  for (int k = 0; k < num_unknowns; ++k) {
    double const held = b[pivot[k]];
    b[pivot[k]] = b[k];
    b[k] = held;
  }
  for (int i = 1; i < num_unknowns; ++i) {
    for (int j = 0; j < i; ++j) b[i] -= a[i][j] * b[j];
  }
  for (int i = num_unknowns - 1; i >= 0; --i) {
    for (int j = i + 1; j < num_unknowns; ++j) b[i] -= a[i][j] * b[j];
    b[i] *= a[i][i];
  }
}

struct Tolerance {
  double relative = 1e-4;
  double moles = 1e-6;  // absolute, mol/kg
};

// Advances y by `span` seconds. `h` is the first step to try, and afterwards the one to try next.
// Returns the number of steps taken, rejected ones too.
//
// RODAS3 (A. Sandu et al., Atmos. Environ. 31 (1997) 3459): four stages, three evaluations, order
// 3, L-stable, with an embedded solution of order 2 as the error estimate.
KOKKOS_INLINE_FUNCTION int integrate(Mechanism const& m, double* y, double n_n2, double span,
                                     Tolerance const& tolerance, double& h) {
  constexpr int n = num_unknowns;
  double at = 0;
  int steps = 0;
  h = h > 0 ? Kokkos::fmin(h, span) : 0.1 * span;
  bool fresh = true;
  double f[n], jacobian[n][n];
  while (at < span && steps < 20000) {
    ++steps;
    // Two equal last steps rather than a tiny one.
    double const left = span - at;
    double const step = h >= left ? left : (h > 0.5 * left ? 0.5 * left : h);
    if (fresh) evaluate<true>(m, y, n_n2, f, jacobian);
    double a[n][n];
    int pivot[n];
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) a[i][j] = -jacobian[i][j];
      a[i][i] += 2 / step;  // gamma = 1/2
    }
    factor(a, pivot);
    double k1[n], k2[n], k3[n], k4[n], z[n];
    for (int i = 0; i < n; ++i) k1[i] = f[i];
    solve(a, pivot, k1);
    for (int i = 0; i < n; ++i) k2[i] = f[i] + 4 / step * k1[i];
    solve(a, pivot, k2);
    for (int i = 0; i < n; ++i) z[i] = y[i] + 2 * k1[i];
    evaluate<false>(m, z, n_n2, k3, nullptr);
    for (int i = 0; i < n; ++i) k3[i] += (k1[i] - k2[i]) / step;
    solve(a, pivot, k3);
    for (int i = 0; i < n; ++i) z[i] = y[i] + 2 * k1[i] + k3[i];
    evaluate<false>(m, z, n_n2, k4, nullptr);
    for (int i = 0; i < n; ++i) k4[i] += (k1[i] - k2[i] - 8.0 / 3.0 * k3[i]) / step;
    solve(a, pivot, k4);
    double square = 0;
    bool positive = true;
    for (int i = 0; i < n; ++i) {
      z[i] += k4[i];
      positive = positive && z[i] > -10 * tolerance.moles;
      double const scale =
          (i < num_reactive ? tolerance.moles : 0.0) +
          tolerance.relative * Kokkos::fmax(Kokkos::fabs(y[i]), Kokkos::fabs(z[i]));
      square += (k4[i] / scale) * (k4[i] / scale);
    }
    // Kinetics of negative amounts may run away: such a step counts as a failed one.
    double const error = positive ? Kokkos::sqrt(square / n) : 1e3;
    double const factor_h =
        error > 0 ? Kokkos::fmin(6.0, Kokkos::fmax(0.2, 0.9 / Kokkos::cbrt(error))) : 6.0;
    fresh = error <= 1;
    if (fresh) {
      at = step == left ? span : at + step;
      for (int i = 0; i < n; ++i) y[i] = z[i];
      // A step cut short by the end says little about the next.
      double const next = step * factor_h;
      h = step < h && next < h ? h : next;
    } else {
      h = step * (error == error ? Kokkos::fmin(factor_h, 0.9) : 0.1);
    }
  }
  return steps;
}

}  // namespace sim
