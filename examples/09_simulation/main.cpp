// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A flame in vortices, its chemistry computed by a Mixture-of-Experts surrogate: cells are tokens.
//
//   mpirun -n 4 simulation --model examples/09_simulation/model --out out
//
// Runs the same flame with the surrogate and with direct integration at several tolerances, and
// compares each with a direct integration at a tight one. README.md tells more.

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "picture.hpp"
#include "plot.hpp"
#include "samples.hpp"
#include "simulation.hpp"

namespace {

struct Options {
  sim::Case c;
  std::string model, out, sample;
  double tolerance = 1e-4;    // of --sample, and of cells that the surrogate leaves
  double reference = 1e-6;    // of the run that the others are compared with
  double max_error = 0;       // exit with 1 above it; 0: no limit
  double max_fallback = 1;    // the same, of the part of active cells left to the integrator
  int quick = 0, frames = 8;  // quick: one direct integration, no more
  double chance = 0.12;
  long seed = 1;
};

Options parse(int argc, char** argv) {
  Options o;
  std::map<std::string, std::function<void(char const*)>> known;
  auto const number = [&known](char const* name, auto& value) {
    known[name] = [&value, name](char const* text) {
      char* end = nullptr;
      value = static_cast<std::remove_reference_t<decltype(value)>>(std::strtod(text, &end));
      if (end == text || *end != 0) throw std::runtime_error(std::string(name) + ": not a number");
    };
  };
  auto const text = [&known](char const* name, std::string& value) {
    known[name] = [&value](char const* t) { value = t; };
  };
  number("--n", o.c.n);
  number("--steps", o.c.steps);
  number("--speed", o.c.speed);
  number("--fresh", o.c.fresh);
  number("--kernel-x", o.c.kernel_x);
  number("--kernel-y", o.c.kernel_y);
  number("--active", o.c.active);
  number("--trust", o.c.trust);
  number("--tolerance", o.tolerance);
  number("--reference", o.reference);
  number("--max-error", o.max_error);
  number("--max-fallback", o.max_fallback);
  number("--quick", o.quick);
  number("--frames", o.frames);
  number("--chance", o.chance);
  number("--seed", o.seed);
  text("--model", o.model);
  text("--out", o.out);
  text("--sample", o.sample);
  for (int k = 1; k < argc; k += 2) {
    auto const option = known.find(argv[k]);
    if (option == known.end() || k + 1 == argc) {
      throw std::runtime_error(std::string("unknown option, or one without value: ") + argv[k]);
    }
    option->second(argv[k + 1]);
  }
  // The vortices are at most twice as fast; explicit central differences bear no more than this.
  double const u = 2 * o.c.speed, dt = o.c.dt / o.c.substeps;
  if (u * u * dt > 2 * o.c.diffusivity || 4 * o.c.diffusivity * dt > o.c.cell * o.c.cell) {
    throw std::runtime_error("--speed is too large for the time step");
  }
  if (o.c.n < 8 || o.c.steps < 1) throw std::runtime_error("--n or --steps is too small");
  return o;
}

// Of the absolute tolerances that were tried, the one with the least time at a given error.
sim::Tolerance tolerance(double relative) {
  return {relative, relative * 1e-2};
}

// Of one component, over all cells: root of the mean square and largest difference, both over the
// range of the reference.
struct Error {
  double l2 = 0, largest = 0;
};
Error error_of(std::vector<double> const& field, std::vector<double> const& reference, int c) {
  std::size_t const width = sim::num_components + 1;
  double low = reference[static_cast<std::size_t>(c)], high = low, square = 0, largest = 0;
  for (std::size_t k = static_cast<std::size_t>(c); k < field.size(); k += width) {
    low = std::min(low, reference[k]);
    high = std::max(high, reference[k]);
    double const d = std::abs(field[k] - reference[k]);
    square += d * d;
    largest = std::max(largest, d);
  }
  auto const cells = static_cast<double>(field.size() / width);
  return {std::sqrt(square / cells) / (high - low), largest / (high - low)};
}

constexpr struct {
  char const* name;
  int component;
} monitored[] = {{"T", sim::num_components}, {"H2O", sim::H2O}, {"OH", sim::OH}, {"H", sim::H}};

// Prints a line of the table and returns it for the plot. On rank 0.
sim::Result tell(sim::Grid const& g, std::string const& method, double tol, sim::Outcome const& o,
                 std::vector<double> const& reference) {
  std::string name = method;
  if (method == "direct") {
    char text[32];
    std::snprintf(text, sizeof text, "direct %g", tol);
    name = text;
  }
  double const us = o.chemistry_seconds * 1e6 * g.ranks / std::max(o.cells_per_step, 1.0);
  std::printf("%-13s %9.3f %9.3f %9.2f", name.c_str(), o.chemistry_seconds * 1e3,
              o.step_seconds * 1e3, us);
  double first = 0;
  for (auto const& field : monitored) {
    auto const e = error_of(o.field, reference, field.component);
    if (field.component == sim::num_components) first = e.l2;
    std::printf("  %.1e %.0e", e.l2, e.largest);
  }
  std::printf("  %.0e\n", *std::max_element(o.drift.begin(), o.drift.end()));
  return {g.ranks, method, tol, o.chemistry_seconds * 1e3, o.step_seconds * 1e3, us, first};
}

void write_field(std::filesystem::path const& path, std::vector<double> const& field) {
  constexpr std::size_t width = sim::num_components + 1;
  kmoe::io::HostMatrix<double> rows("field", field.size() / width, width);
  std::copy(field.begin(), field.end(), rows.data());
  kmoe::io::write_matrix<double>(path, rows, "field");
}

void write_samples(Options const& o, sim::Simulation& s, sim::Surrogate* surrogate) {
  if (s.grid().ranks > 1) throw std::runtime_error("--sample runs on one rank");
  sim::Sampler sampler(o.c.dt, o.chance, static_cast<std::uint64_t>(o.seed));
  s.run(surrogate, tolerance(o.tolerance), std::ref(sampler));
  auto const& rows = sampler.rows();
  kmoe::io::HostMatrix<double> m("samples", rows.size() / sim::sample_width, sim::sample_width);
  std::copy(rows.begin(), rows.end(), m.data());
  kmoe::io::write_matrix<double>(o.sample, m);
  std::printf("%zu samples\n", m.extent(0));
}

int run(Options const& o) {
  sim::Simulation s(MPI_COMM_WORLD, o.c);
  sim::Grid const& g = s.grid();
  bool const root = g.rank == 0;
  std::unique_ptr<sim::Surrogate> surrogate;
  if (!o.model.empty()) {
    int largest = g.cells();
    MPI_Allreduce(MPI_IN_PLACE, &largest, 1, MPI_INT, MPI_MAX, g.comm);
    surrogate = std::make_unique<sim::Surrogate>(g.comm, o.model, largest);
    auto const [dt, pressure] = surrogate->conditions();
    if (dt != o.c.dt || pressure != o.c.pressure) {
      throw std::runtime_error("the surrogate was trained for another time step or pressure");
    }
  }
  if (!o.sample.empty()) {
    write_samples(o, s, surrogate.get());
    return 0;
  }
  std::filesystem::path const out = o.out;
  if (root && !o.out.empty()) std::filesystem::create_directories(out);

  if (root) {
    std::printf(
        "%d x %d cells on %d ranks, %d steps of %g us; times per step of the slowest rank; us per "
        "active cell\nand rank; errors against the reference over the range of the field: L2, "
        "largest; drift of totals\n"
        "chemistry     chem. ms   step ms   us/cell  %-15s%-15s%-15s%-15sdrift\n",
        o.c.n, o.c.n, g.ranks, o.c.steps, o.c.dt * 1e6, "T", "H2O", "OH", "H");
  }
  auto const reference = s.run(nullptr, {o.reference, o.reference * 1e-4});
  std::vector<sim::Result> results;
  if (root) tell(g, "reference", o.reference, reference, reference.field);
  std::vector<double> levels{1e-2, 1e-3, 1e-4};
  if (o.quick != 0) levels = {1e-2};
  for (double level : levels) {
    s.start();
    auto const direct = s.run(nullptr, tolerance(level));
    if (root) results.push_back(tell(g, "direct", level, direct, reference.field));
  }
  int status = 0;
  if (surrogate) {
    s.start();
    double oh = 1e-12;
    if (root) {
      for (std::size_t k = sim::OH; k < reference.field.size(); k += sim::num_components + 1) {
        oh = std::max(oh, reference.field[k]);
      }
    }
    auto const draw = [&](int step, sim::Simulation& now) {
      int const every = std::max(1, o.c.steps / std::max(o.frames, 1));
      if (o.out.empty() || o.frames < 1 || (step + 1) % every != 0) return;
      auto const field = gather(now.grid(), now.u(), now.temperatures());
      char name[32];
      std::snprintf(name, sizeof name, "frame_%04d.png", step + 1);
      if (root) sim::write_frame(out / name, field, o.c.n, oh);
    };
    auto const learned = s.run(surrogate.get(), tolerance(o.tolerance), {}, draw);
    if (root) {
      auto const result = tell(g, "surrogate", 0, learned, reference.field);
      std::printf(
          "active cells: %.0f per step in all, %d to %d per rank and step; %.2f %% of them "
          "left to the integrator\n",
          learned.cells_per_step, learned.least, learned.most, 100 * learned.fallback);
      auto const ratio = [&](sim::Result const& r) {
        return std::abs(std::log(r.error / result.error));
      };
      auto const like =
          *std::min_element(results.begin(), results.end(),
                            [&](auto const& a, auto const& b) { return ratio(a) < ratio(b); });
      results.push_back(result);
      std::printf(
          "surrogate: error of T %.1e in %.1f ms; nearest, direct at %g: %.1e in %.1f ms, "
          "%.1f times as long\n",
          result.error, result.chemistry_ms, like.tolerance, like.error, like.chemistry_ms,
          like.chemistry_ms / result.chemistry_ms);
      if (!o.out.empty()) write_field(out / "field.npy", learned.field);
      double const worst = *std::max_element(learned.drift.begin(), learned.drift.end());
      if (o.max_error > 0 && (!(result.error <= o.max_error) || !(worst < 1e-12))) {
        std::printf("FAILED: error of T %.2e (at most %.2e), drift %.1e (at most 1e-12)\n",
                    result.error, o.max_error, worst);
        status = 1;
      }
      if (!(learned.fallback <= o.max_fallback)) {
        std::printf("FAILED: more than %g %% of the cells left to the integrator\n",
                    100 * o.max_fallback);
        status = 1;
      }
    }
  }
  if (root && !o.out.empty()) {
    write_field(out / "reference.npy", reference.field);
    sim::write_plot(out / "simulation.svg", sim::merge_results(out / "results.csv", results));
  }
  MPI_Bcast(&status, 1, MPI_INT, 0, g.comm);
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int status = 1;
  {
    Kokkos::ScopeGuard const kokkos(argc, argv);
    try {
      status = run(parse(argc, argv));
    } catch (std::exception const& error) {
      std::fprintf(stderr, "simulation: %s\n", error.what());
      MPI_Abort(MPI_COMM_WORLD, 2);
    }
  }
  MPI_Finalize();
  return status;
}
