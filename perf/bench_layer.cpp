// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The layer and its phases on one rank of the default execution space: the shapes of peers.json,
// cold and warm, beside what the device can do.
//
// A case is phase/shape/T:n/type/routing/cold|warm; its time is the median of its repetitions, on
// GPUs of replays of a recorded graph. Before a cold one a buffer larger than the last cache is
// written (or read), outside of the time. Counters, times in microseconds:
//   floor, fraction        least work at the rates measured in this run; floor / median
//   floor_fixed, ..._fixed the same at 3.0 TB/s and 798 TFLOP/s, as in peers.json (16-bit types,
//   GPUs) min, p90, spread       of the repetitions; spread = (p90 - p10) / median unwritten, error
//   elements of the poisoned output that are not finite; largest relative
//                          error of a few tokens against float64 (whole only)
// The exit code is 1 if a check of these failed.

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <CLI/CLI.hpp>
#include <kmoe/core/config.hpp>

#include "cases.hpp"
#include "device/isa.hpp"
#include "kmoe_git_hash.hpp"
#include "layer_under_test.hpp"
#include "rulers.hpp"

namespace perf {
namespace {

constexpr bool on_gpu =
    !Kokkos::SpaceAccessibility<Kokkos::HostSpace, Space::memory_space>::accessible;

struct Settings {
  std::vector<std::string> shapes;
  std::vector<std::string> dtypes{"bf16"};
  std::vector<std::string> routings{"uniform"};
  std::vector<std::string> phases{perf::phases.begin(), perf::phases.end()};
  std::vector<std::string> caches{"cold", "warm"};
  std::vector<index_t> tokens;
  std::vector<index_t> custom;  // H, I, E, K
  index_t max_tokens = 0;
  std::string flush = "read";
  double budget = on_gpu ? 0.05 : 0.2;
};

/// 0: the program goes on.
int parse(int argc, char** argv, Settings& settings, std::vector<char*>& rest) {
  CLI::App app("Measures the layer and its phases; also takes --benchmark_* options.");
  app.allow_extras();
  auto const list = [&](char const* name, std::vector<std::string>& value, char const* help,
                        std::set<std::string> const& allowed) {
    app.add_option(name, value, help)->delimiter(',')->check(CLI::IsMember(allowed));
  };
  std::set<std::string> shapes{"custom"};
  for (auto const& shape : peers_table()) shapes.emplace(shape.size.name);
  list("--shapes", settings.shapes, "Default: all of peers.json, or custom if --custom is given",
       shapes);
  list("--dtypes", settings.dtypes, "Default: bf16", {"bf16", "f16", "f32", "f64"});
  list("--routings", settings.routings, "Default: uniform", {"uniform", "zipf", "one"});
  list("--phases", settings.phases, "Default: all", {perf::phases.begin(), perf::phases.end()});
  list("--caches", settings.caches, "Default: cold,warm", {"cold", "warm"});
  app.add_option("--tokens", settings.tokens, "Default: the table's")->delimiter(',');
  app.add_option("--max-tokens", settings.max_tokens, "Leave out larger numbers of tokens");
  app.add_option("--custom", settings.custom, "H,I,E,K of the shape named custom")
      ->delimiter(',')
      ->expected(4)
      ->check(CLI::PositiveNumber);
  app.add_option("--flush", settings.flush, "What makes the cache cold: write or read a buffer")
      ->check(CLI::IsMember({"write", "read"}));
  app.add_option("--budget", settings.budget,
                 "Seconds of repetitions per case; at least 5 are made");
  try {
    app.parse(argc, argv);
  } catch (CLI::ParseError const& error) {
    app.exit(error);
    return error.get_exit_code() == 0 ? -1 : 2;
  }
  static auto extras = app.remaining();
  rest = {argv[0]};
  for (auto& extra : extras) rest.push_back(extra.data());
  return 0;
}

std::vector<Shape> chosen_shapes(Settings const& settings) {
  std::vector<Shape> shapes;
  auto table = peers_table();
  if (settings.custom.size() == 4) {
    auto const& c = settings.custom;
    table.push_back({{"custom", c[0], c[1], c[2], c[3]}, {{1}, {64}, {1024}}});
  }
  std::vector<std::string> names = settings.shapes;
  if (names.empty() && !settings.custom.empty()) names = {"custom"};
  for (auto& shape : table) {
    if (!names.empty() && std::find(names.begin(), names.end(), shape.size.name) == names.end()) {
      continue;
    }
    if (!settings.tokens.empty()) {
      auto const known = shape.tokens;
      shape.tokens.clear();
      for (auto const count : settings.tokens) {
        auto const same = std::find_if(known.begin(), known.end(),
                                       [&](auto const& t) { return t.count == count; });
        shape.tokens.push_back(same != known.end() ? *same : Tokens{count});
      }
    }
    if (settings.max_tokens > 0) {
      std::erase_if(shape.tokens, [&](auto const& t) { return t.count > settings.max_tokens; });
    }
    if (!shape.tokens.empty()) shapes.push_back(shape);
  }
  return shapes;
}

/// What lives as long as Kokkos does.
struct Session {
  Space exec = make_instance();
  DeviceFacts device = device_facts();
  std::unique_ptr<Sampler> sampler;
  Before cold = Before::flush_write;
  Ceilings memory;
  std::map<std::string, GemmCeiling> gemm;  // by element type

  std::string built;  // what `layer` is
  std::shared_ptr<void> layer;
  std::string routed;
  HostRouting routing;
  std::size_t failed = 0;
};

struct Case {
  Shape shape;
  Tokens tokens;
  std::string dtype, routing, phase, cache;

  [[nodiscard]] std::string name() const {
    return phase + "/" + std::string(shape.size.name) + "/T:" + std::to_string(tokens.count) + "/" +
           dtype + "/" + routing + "/" + cache;
  }
};

template <class T>
double tolerance() {
  if (std::is_same_v<T, double>) return 1e-12;
  return std::is_same_v<T, float> ? 1e-5 : 5e-3;
}

/// The layer of the case, kept until a case needs another one: one at a time is in memory.
template <class T>
LayerUnderTest<T>& layer_of(Session& session, Case const& c) {
  std::string const wanted = std::string(c.shape.size.name) + c.dtype;
  if (session.built != wanted) {
    session.layer.reset();
    session.built.clear();
    session.routed.clear();
    index_t most = 0;
    for (auto const& t : c.shape.tokens) most = std::max(most, t.count);
    session.layer = std::make_shared<LayerUnderTest<T>>(session.exec, c.shape.size, most);
    session.built = wanted;
  }
  auto& layer = *std::static_pointer_cast<LayerUnderTest<T>>(session.layer);
  std::string const routed = c.routing + std::to_string(c.tokens.count);
  if (session.routed != routed) {
    session.routing = make_routing(c.shape.size, c.tokens, c.routing);
    layer.set_routing(session.routing);
    session.routed = routed;
  }
  return layer;
}

template <class T>
void measure(benchmark::State& state, Session& session, Case const& c) {
  constexpr double us = 1e6;
  auto& layer = layer_of<T>(session, c);
  auto const task = layer.task(c.phase);
  Replay const replay(session.exec, task.run);
  auto const samples =
      session.sampler->run(replay, c.cache == "cold" ? session.cold : Before::nothing);
  for (auto _ : state) state.SetIterationTime(samples.median());

  auto const& routing = session.routing;
  auto const work = least_work(c.shape.size, c.tokens.count, routing.active, c.phase, sizeof(T));
  double const floor = work.floor_seconds(session.memory.memory(), session.gemm[c.dtype].flops);
  auto& out = state.counters;
  out["min"] = samples.min() * us;
  out["p90"] = samples.quantile(0.9) * us;
  out["spread"] = samples.spread();
  out["samples"] = static_cast<double>(samples.seconds.size());
  out["graph"] = replay.captured();
  out["bytes"] = work.bytes;
  out["flops"] = work.flops;
  out["floor"] = floor * us;
  out["fraction"] = floor / samples.median();
  if (on_gpu && sizeof(T) == 2) {
    double const fixed = work.floor_seconds(3.0e12, 798e12);
    out["floor_fixed"] = fixed * us;
    out["fraction_fixed"] = fixed / samples.median();
  }
  out["active"] = routing.active;
  out["most_rows"] = static_cast<double>(routing.most);
  out["seed"] = static_cast<double>(routing.seed);

  if (task.out.size() == 0) return;
  Kokkos::deep_copy(session.exec, task.out, T(std::numeric_limits<float>::quiet_NaN()));
  replay.launch();
  session.exec.fence("perf::check");
  auto const unwritten = count_bad<T>(session.exec, task.out);
  out["unwritten"] = static_cast<double>(unwritten);
  bool good = unwritten == 0;
  if (c.phase == "whole") {
    double const error = layer.error(on_gpu ? 8 : 2);
    out["error"] = error;
    good = good && error <= tolerance<T>();
  }
  if (good) return;
  ++session.failed;
  state.SetLabel("WRONG RESULT");
}

template <class F>
void with_type(std::string const& dtype, F const& f) {
  if (dtype == "f64") return f(double());
  if (dtype == "f32") return f(float());
  if (dtype == "f16") return f(kmoe::half());
  f(kmoe::bfloat16());
}

std::string rate(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

void measure_rulers(Session& session, Settings const& settings) {
  constexpr std::size_t mib = std::size_t{1} << 20;
  std::size_t const flush =
      std::clamp<std::size_t>(4 * session.device.last_level_cache, 64 * mib, 256 * mib);
  session.sampler = std::make_unique<Sampler>(session.exec, settings.budget, flush);
  session.cold = settings.flush == "read" ? Before::flush_read : Before::flush_write;
  session.memory = measure_memory(session.exec, *session.sampler, on_gpu ? 1024 * mib : 128 * mib);
  benchmark::AddCustomContext("copy_bytes_per_second", rate(session.memory.copy));
  benchmark::AddCustomContext("read_bytes_per_second", rate(session.memory.read));
  for (auto const& dtype : settings.dtypes) {
    with_type(dtype, [&]<class T>(T) {
      session.gemm[dtype] = measure_gemm<T>(session.exec, *session.sampler);
    });
    auto const& gemm = session.gemm[dtype];
    benchmark::AddCustomContext("gemm_flops_per_second_" + dtype, rate(gemm.flops));
    benchmark::AddCustomContext("gemm_library_" + dtype,
                                gemm.library.empty() ? "none" : gemm.library);
  }
}

void add_context(Session const& session, Settings const& settings) {
  auto const version = [](int v) {
    return std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." +
           std::to_string(v % 100);
  };
  benchmark::AddCustomContext("kmoe_version", KMOE_VERSION_STRING);
  benchmark::AddCustomContext("git_hash", KMOE_GIT_HASH);
  benchmark::AddCustomContext("kokkos_version", version(KOKKOS_VERSION));
  benchmark::AddCustomContext("execution_space", Space::name());
  benchmark::AddCustomContext("host_instruction_set",
                              std::string(kmoe::device::to_string(kmoe::device::host_isa())));
  benchmark::AddCustomContext("device", session.device.name);
  benchmark::AddCustomContext("driver", session.device.driver);
  benchmark::AddCustomContext("last_level_cache_bytes",
                              std::to_string(session.device.last_level_cache));
  benchmark::AddCustomContext(
      "flush", settings.flush + " of " + std::to_string(session.sampler->flush_bytes()) + " bytes");
}

void add_cases(Session& session, Settings const& settings) {
  constexpr double most_scratch = 16e9;
  for (auto const& dtype : settings.dtypes) {
    for (auto const& shape : chosen_shapes(settings)) {
      for (auto const& routing : settings.routings) {
        for (auto const& tokens : shape.tokens) {
          for (auto const& phase : settings.phases) {
            for (auto const& cache : settings.caches) {
              Case const c{shape, tokens, dtype, routing, phase, cache};
              with_type(dtype, [&]<class T>(T) {
                auto const scratch =
                    LayerUnderTest<T>::scratch_bytes(shape.size, tokens.count, phase);
                if (phase != "whole" && scratch > most_scratch) return;
                benchmark::RegisterBenchmark(
                    c.name().c_str(),
                    [&session, c](benchmark::State& state) { measure<T>(state, session, c); })
                    ->UseManualTime()
                    ->Iterations(1)
                    ->Unit(benchmark::kMicrosecond);
              });
            }
          }
        }
      }
    }
  }
}

int program(int argc, char** argv) {
  Settings settings;
  std::vector<char*> rest;
  if (int const stop = parse(argc, argv, settings, rest); stop != 0) return std::max(stop, 0);
  int count = static_cast<int>(rest.size());
  benchmark::Initialize(&count, rest.data());
  if (benchmark::ReportUnrecognizedArguments(count, rest.data())) return 2;
  Session session;
  measure_rulers(session, settings);
  add_context(session, settings);
  add_cases(session, settings);
  benchmark::RunSpecifiedBenchmarks();
  if (session.failed > 0) std::fprintf(stderr, "%zu cases gave wrong results\n", session.failed);
  return session.failed > 0 ? 1 : 0;
}

}  // namespace
}  // namespace perf

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  return perf::program(argc, argv);
}
