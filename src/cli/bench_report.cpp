// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cli/bench_report.hpp"

#include <algorithm>
#include <cstdio>

#include <Kokkos_Core.hpp>
#include <nlohmann/json.hpp>

#include "cli/commands.hpp"

namespace kmoe::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Summary {
  double min, median, max;
};

Summary summary(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  auto const n = values.size();
  return {values.front(), (values[(n - 1) / 2] + values[n / 2]) / 2, values.back()};
}

Json times_json(std::vector<double> const& seconds) {
  auto const [min, median, max] = summary(seconds);
  return {{"min", min}, {"median", median}, {"max", max}, {"all", seconds}};
}

template <class... Arguments>
std::string format(char const* pattern, Arguments... arguments) {
  std::array<char, 256> text{};
  std::snprintf(text.data(), text.size(), pattern, arguments...);
  return text.data();
}

std::string times_line(char const* name, std::vector<double> const& seconds, double whole) {
  auto const [min, median, max] = summary(seconds);
  return format("%-10s %12.1f %12.1f %12.1f %7.1f %%\n", name, median * 1e6, min * 1e6, max * 1e6,
                100 * median / whole);
}

}  // namespace

double BenchReport::flops() const {
  auto const& size = options.size;
  return 6.0 * static_cast<double>(options.tokens) * size.top_k * size.hidden_size *
         size.intermediate_size;
}

double BenchReport::bytes() const {
  auto const& size = options.size;
  double const weights = 3.0 * active_experts * size.hidden_size * size.intermediate_size;
  double const tokens = 2.0 * static_cast<double>(options.tokens) * size.hidden_size;
  return (weights + tokens) * static_cast<double>(element_bytes);
}

std::string to_json(BenchReport const& report) {
  auto const& options = report.options;
  Json json;
  for (auto const& [name, version] : versions()) json["versions"][name] = version;
  json["device_space"] = Kokkos::DefaultExecutionSpace::name();
  json["preset"] = options.preset;
  json["hidden_size"] = options.size.hidden_size;
  json["intermediate_size"] = options.size.intermediate_size;
  json["num_experts"] = options.size.num_experts;
  json["top_k"] = options.size.top_k;
  json["tokens"] = options.tokens;
  json["dtype"] = report.dtype;
  json["ranks"] = report.ranks;
  json["dispatcher"] = report.dispatcher;
  json["token_layout"] = to_string(report.layout);
  json["warmup"] = options.warmup;
  json["repetitions"] = options.repetitions;
  json["seconds"]["layer"] = times_json(report.layer_seconds);
  for (std::size_t p = 0; p < bench_phases.size(); ++p) {
    json["seconds"][bench_phases[p]] = times_json(report.phase_seconds[p]);
  }
  double const seconds = summary(report.layer_seconds).median;
  json["tokens_per_second"] = static_cast<double>(options.tokens) / seconds;
  json["flops"] = report.flops();
  json["flops_per_second"] = report.flops() / seconds;
  json["bytes"] = report.bytes();
  json["bytes_per_second"] = report.bytes() / seconds;
  json["active_experts"] = report.active_experts;
  json["bytes_sent"] = report.bytes_sent;
  json["workspace_bytes"] = report.workspace_bytes;
  json["ceilings"] = {{"copy_bytes_per_second", report.ceilings.copy_bytes},
                      {"gemm_flops_per_second", report.ceilings.gemm_flops},
                      {"gemm_size", report.ceilings.gemm_size}};
  json["fraction_of_copy"] = report.bytes() / seconds / report.ceilings.copy_bytes;
  json["fraction_of_gemm"] = report.flops() / seconds / report.ceilings.gemm_flops;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string to_text(BenchReport const& report) {
  auto const& options = report.options;
  auto const& size = options.size;
  double const seconds = summary(report.layer_seconds).median;
  auto const share = [](double rate, double ceiling) { return 100 * rate / ceiling; };
  std::string text =
      format("%s: H %d, I %d, E %d, K %d; ", options.preset.c_str(), size.hidden_size,
             size.intermediate_size, size.num_experts, size.top_k) +
      format("%lld tokens, %s, %d rank%s, %s\n\n", static_cast<long long>(options.tokens),
             report.dtype.c_str(), report.ranks, report.ranks == 1 ? "" : "s",
             report.dispatcher.c_str()) +
      format("%-10s %12s %12s %12s %9s\n", "", "median us", "min us", "max us", "of layer") +
      times_line("layer", report.layer_seconds, seconds);
  for (std::size_t p = 0; p < bench_phases.size(); ++p) {
    text += times_line(bench_phases[p], report.phase_seconds[p], seconds);
  }
  double const flops = report.flops() / seconds;
  double const bytes = report.bytes() / seconds;
  text += format("\ntokens/s   %12.4g\n", static_cast<double>(options.tokens) / seconds);
  text +=
      format("TFLOP/s    %12.4g  %5.1f %% of a dense GEMM, %lld^3 by kmoe: %.4g\n", flops * 1e-12,
             share(flops, report.ceilings.gemm_flops),
             static_cast<long long>(report.ceilings.gemm_size), report.ceilings.gemm_flops * 1e-12);
  text +=
      format("GB/s       %12.4g  %5.1f %% of a copy: %.4g (weights of %.0f experts, x, y once)\n",
             bytes * 1e-9, share(bytes, report.ceilings.copy_bytes),
             report.ceilings.copy_bytes * 1e-9, report.active_experts);
  return text;
}

}  // namespace kmoe::cli
