// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Hydrogen and air: 9 species, 21 reversible reactions, at constant pressure and enthalpy.
//
// Rate constants: J. Li, Z. Zhao, A. Kazakov, F. L. Dryer, Int. J. Chem. Kinet. 36 (2004) 566.
// Thermodynamics: the NASA polynomials of GRI-Mech 3.0. Units are SI: mol, m^3, kg, J, K.
//
// A state is the vector of specific mole numbers n_s [mol/kg] and the temperature.

#include <cmath>

#include <Kokkos_Core.hpp>

namespace sim {

enum Species : int { H2, O2, H, O, OH, H2O, HO2, H2O2, N2, num_species };
inline constexpr int num_reactive = N2;  // N2 only lends its mass and heat
inline constexpr int num_elements = 3;
inline constexpr double gas_constant = 8.314462618;

struct Reaction {
  int reactant[2];
  int product[2];      // -1: none
  bool third_body;     // the rate carries a factor [M]
  double a, n, ta;     // k = a T^n exp(-ta / T)
  double a0, n0, ta0;  // low-pressure limit of a falloff reaction; a0 = 0: none
  double centre;       // Troe's F_cent, which does not depend on T in this mechanism
  double h2, h2o, o2;  // efficiencies as third body; 1 for all others
};

// Everything a kernel needs, by value: no pointers.
struct Mechanism {
  static constexpr int num_reactions = 21;
  double nasa[num_species][2][7];
  Reaction reactions[num_reactions];
  double weight[num_species];  // kg/mol
  int atoms[num_elements][num_species];
  double pressure = 101325.0;
};

namespace detail {
// k in cm, mol, s and cal as published; `order` counts all collision partners, [M] included.
inline Reaction arrhenius(int r0, int r1, int p0, int p1, double a, double n, double ea) {
  double const cm = r1 < 0 ? 1.0 : 1e-6;
  return {{r0, r1}, {p0, p1}, false, a * cm, n, ea / 1.987204259, 0, 0, 0, 1, 1, 1, 1};
}
inline Reaction third_body(int r0, int r1, int p0, int p1, double a, double n, double ea) {
  Reaction r = arrhenius(r0, r1, p0, p1, a * 1e-6, n, ea);
  r.third_body = true;
  r.h2 = 2.5;
  r.h2o = 12;
  return r;
}
}  // namespace detail

inline Mechanism hydrogen_air(double pressure) {
  using detail::arrhenius;
  using detail::third_body;
  Mechanism m{
      {{{2.34433112, 7.98052075e-3, -1.94781510e-5, 2.01572094e-8, -7.37611761e-12, -917.935173,
         0.683010238},
        {3.33727920, -4.94024731e-5, 4.99456778e-7, -1.79566394e-10, 2.00255376e-14, -950.158922,
         -3.20502331}},
       {{3.78245636, -2.99673416e-3, 9.84730201e-6, -9.68129509e-9, 3.24372837e-12, -1063.94356,
         3.65767573},
        {3.28253784, 1.48308754e-3, -7.57966669e-7, 2.09470555e-10, -2.16717794e-14, -1088.45772,
         5.45323129}},
       {{2.5, 7.05332819e-13, -1.99591964e-15, 2.30081632e-18, -9.27732332e-22, 25473.6599,
         -0.446682853},
        {2.50000001, -2.30842973e-11, 1.61561948e-14, -4.73515235e-18, 4.98197357e-22, 25473.6599,
         -0.446682914}},
       {{3.16826710, -3.27931884e-3, 6.64306396e-6, -6.12806624e-9, 2.11265971e-12, 29122.2592,
         2.05193346},
        {2.56942078, -8.59741137e-5, 4.19484589e-8, -1.00177799e-11, 1.22833691e-15, 29217.5791,
         4.78433864}},
       {{3.99201543, -2.40131752e-3, 4.61793841e-6, -3.88113333e-9, 1.36411470e-12, 3615.08056,
         -0.103925458},
        {3.09288767, 5.48429716e-4, 1.26505228e-7, -8.79461556e-11, 1.17412376e-14, 3858.65700,
         4.47669610}},
       {{4.19864056, -2.03643410e-3, 6.52040211e-6, -5.48797062e-9, 1.77197817e-12, -30293.7267,
         -0.849032208},
        {3.03399249, 2.17691804e-3, -1.64072518e-7, -9.70419870e-11, 1.68200992e-14, -30004.2971,
         4.96677010}},
       {{4.30179801, -4.74912051e-3, 2.11582891e-5, -2.42763894e-8, 9.29225124e-12, 294.808040,
         3.71666245},
        {4.01721090, 2.23982013e-3, -6.33658150e-7, 1.14246370e-10, -1.07908535e-14, 111.856713,
         3.78510215}},
       {{4.27611269, -5.42822417e-4, 1.67335701e-5, -2.15770813e-8, 8.62454363e-12, -17702.5821,
         3.43505074},
        {4.16500285, 4.90831694e-3, -1.90139225e-6, 3.71185986e-10, -2.87908305e-14, -17861.7877,
         2.91615662}},
       {{3.29867700, 1.40824040e-3, -3.96322200e-6, 5.64151500e-9, -2.44485400e-12, -1020.89990,
         3.95037200},
        {2.92664000, 1.48797680e-3, -5.68476000e-7, 1.00970380e-10, -6.75335100e-15, -922.797700,
         5.98052800}}},
      {arrhenius(H, O2, O, OH, 3.547e15, -0.406, 16599),
       arrhenius(O, H2, H, OH, 5.08e4, 2.67, 6290),
       arrhenius(H2, OH, H2O, H, 2.16e8, 1.51, 3430),
       arrhenius(O, H2O, OH, OH, 2.97e6, 2.02, 13400),
       third_body(H2, -1, H, H, 4.577e19, -1.40, 104380),
       third_body(O, O, O2, -1, 6.165e15, -0.50, 0),
       third_body(O, H, OH, -1, 4.714e18, -1.0, 0),
       third_body(H, OH, H2O, -1, 3.800e22, -2.0, 0),
       arrhenius(H, O2, HO2, -1, 1.475e12, 0.60, 0),
       arrhenius(HO2, H, H2, O2, 1.66e13, 0, 823),
       arrhenius(HO2, H, OH, OH, 7.079e13, 0, 295),
       arrhenius(HO2, O, O2, OH, 3.25e13, 0, 0),
       arrhenius(HO2, OH, H2O, O2, 2.89e13, 0, -497),
       arrhenius(HO2, HO2, H2O2, O2, 4.2e14, 0, 11982),
       arrhenius(HO2, HO2, H2O2, O2, 1.3e11, 0, -1629.3),
       arrhenius(H2O2, -1, OH, OH, 2.951e14, 0, 48430),
       arrhenius(H2O2, H, H2O, OH, 2.41e13, 0, 3970),
       arrhenius(H2O2, H, HO2, H2, 4.82e13, 0, 7950),
       arrhenius(H2O2, O, OH, HO2, 9.55e6, 2, 3970),
       arrhenius(H2O2, OH, HO2, H2O, 1.0e12, 0, 0),
       arrhenius(H2O2, OH, HO2, H2O, 5.8e14, 0, 9557)},
      {2.01588e-3, 31.9988e-3, 1.00794e-3, 15.9994e-3, 17.00734e-3, 18.01528e-3, 33.00674e-3,
       34.01468e-3, 28.0134e-3},
      {{2, 0, 1, 0, 1, 2, 1, 2, 0}, {0, 2, 0, 1, 1, 1, 2, 2, 0}, {0, 0, 0, 0, 0, 0, 0, 0, 2}},
      pressure};
  auto const falloff = [](Reaction& r, double a0, double n0, double ea0, double centre, double h2,
                          double h2o, double o2) {
    r.a0 = a0 * (r.reactant[1] < 0 ? 1e-6 : 1e-12);
    r.n0 = n0;
    r.ta0 = ea0 / 1.987204259;
    r.centre = centre;
    r.h2 = h2;
    r.h2o = h2o;
    r.o2 = o2;
  };
  falloff(m.reactions[8], 6.366e20, -1.72, 524.8, 0.8, 2, 11, 0.78);
  falloff(m.reactions[15], 1.202e17, 0, 45500, 0.5, 2.5, 12, 1);
  return m;
}

// Molar heat capacity, its derivative, enthalpy (all over R; enthalpy in K) and minus the Gibbs
// energy over RT, of one species.
struct Thermo {
  double cp, dcp, h, minus_g;
};
KOKKOS_INLINE_FUNCTION Thermo thermo(Mechanism const& m, int s, double t, double log_t) {
  double const* const a = m.nasa[s][t < 1000.0 ? 0 : 1];
  double const cp = a[0] + t * (a[1] + t * (a[2] + t * (a[3] + t * a[4])));
  double const dcp = a[1] + t * (2 * a[2] + t * (3 * a[3] + t * 4 * a[4]));
  double const h =
      a[5] + t * (a[0] + t * (a[1] / 2 + t * (a[2] / 3 + t * (a[3] / 4 + t * (a[4] / 5)))));
  double const entropy =
      a[6] + a[0] * log_t + t * (a[1] + t * (a[2] / 2 + t * (a[3] / 3 + t * (a[4] / 4))));
  return {cp, dcp, h, entropy - h / t};
}

// Enthalpy of a mixture [J/kg].
KOKKOS_INLINE_FUNCTION double enthalpy(Mechanism const& m, double const* n, double t) {
  double h = 0;
  for (int s = 0; s < num_species; ++s) {
    double const* const a = m.nasa[s][t < 1000.0 ? 0 : 1];
    h += n[s] *
         (a[5] + t * (a[0] + t * (a[1] / 2 + t * (a[2] / 3 + t * (a[3] / 4 + t * (a[4] / 5))))));
  }
  return gas_constant * h;
}

// The temperature at which the mixture has enthalpy h, by Newton's method from `guess`.
KOKKOS_INLINE_FUNCTION double temperature(Mechanism const& m, double const* n, double h,
                                          double guess) {
  double t = guess;
  for (int iteration = 0; iteration < 30; ++iteration) {
    double hr = 0, cp = 0;
    for (int s = 0; s < num_species; ++s) {
      double const* const a = m.nasa[s][t < 1000.0 ? 0 : 1];
      hr += n[s] *
            (a[5] + t * (a[0] + t * (a[1] / 2 + t * (a[2] / 3 + t * (a[3] / 4 + t * (a[4] / 5))))));
      cp += n[s] * (a[0] + t * (a[1] + t * (a[2] + t * (a[3] + t * a[4]))));
    }
    double const step = (h / gas_constant - hr) / cp;
    t += step;
    if (Kokkos::fabs(step) < 1e-9 * t) break;
  }
  return t;
}

}  // namespace sim
