// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cli/report.hpp"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <numeric>
#include <sstream>

#include <nlohmann/json.hpp>

#include "cli/commands.hpp"
#include "cli/terminal.hpp"

namespace kmoe::cli {
namespace {

using Json = nlohmann::ordered_json;

/// Calls visit(value) for every number of a report that travels between ranks, in a fixed order.
template <class Report, class Visit>
void for_each_number(Report& report, Visit const& visit) {
  for (auto* value : {&report.tokens, &report.tokens_sent, &report.tokens_received,
                      &report.bytes_sent, &report.rows_with_nan, &report.rows_with_inf,
                      &report.workspace_bytes, &report.weight_bytes, &report.computed}) {
    visit(*value);
  }
  for (auto& value : report.seconds) visit(value);
  visit(report.forward_seconds);
  for (auto& value : report.routed) visit(value);
  for (auto& value : report.by_expert) visit(value);
}

template <class F>
auto of_ranks(RunReport const& report, F const& get) {
  std::vector<std::decay_t<decltype(get(report.ranks[0]))>> values;
  for (auto const& rank : report.ranks) values.push_back(get(rank));
  return values;
}

struct Spread {
  double min = 0;
  double median = 0;
  double max = 0;
};

Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  auto const n = values.size();
  return {values.front(), (values[(n - 1) / 2] + values[n / 2]) / 2, values.back()};
}

/// The fields of to_string(MoeConfig), as numbers and booleans where they are that.
Json config_json(MoeConfig const& config) {
  Json json;
  std::istringstream lines(to_string(config));
  for (std::string line; std::getline(lines, line);) {
    auto const equals = line.find('=');
    if (equals == std::string::npos) continue;
    std::string const value = line.substr(equals + 1);
    auto const parsed = Json::parse(value, nullptr, false);
    json[line.substr(0, equals)] = parsed.is_primitive() ? parsed : Json(value);
  }
  return json;
}

Json times_json(std::vector<double> const& seconds) {
  auto const [min, median, max] = spread(seconds);
  return {{"min", min}, {"median", median}, {"max", max}, {"per_rank", seconds}};
}

template <class... Arguments>
std::string format(char const* pattern, Arguments... arguments) {
  std::array<char, 256> text{};
  std::snprintf(text.data(), text.size(), pattern, arguments...);
  return text.data();
}

std::string bytes_text(offset_t bytes) {
  auto value = static_cast<double>(bytes);
  if (bytes < 1024) return format("%lld B", static_cast<long long>(bytes));
  for (char const* unit : {"KiB", "MiB", "GiB"}) {
    value /= 1024;
    if (value < 999.5) return format("%.3g %s", value, unit);
  }
  return format("%.3g TiB", value / 1024);
}

std::string seconds_text(double seconds) {
  return seconds < 1e-3  ? format("%.3g us", seconds * 1e6)
         : seconds < 1.0 ? format("%.3g ms", seconds * 1e3)
                         : format("%.4g s", seconds);
}

std::vector<offset_t> loads_of_ranks(RunReport const& report) {
  return of_ranks(report, [](auto const& r) { return r.computed; });
}

std::string headline(RunReport const& report) {
  auto const& config = report.config;
  auto const ranks = report.ranks.size();
  auto const zero = config.num_zero_experts;
  return format("%lld tokens, top-%d of %d experts%s, %zu rank%s; imbalance (max / mean): ",
                static_cast<long long>(report.tokens), config.top_k, config.num_experts,
                zero == 0 ? "" : (" and " + std::to_string(zero) + " zero experts").c_str(), ranks,
                ranks == 1 ? "" : "s") +
         format("experts %.2f, ranks %.2f", imbalance(report.tokens_of_experts()),
                imbalance(loads_of_ranks(report)));
}

std::string rank_table(RunReport const& report) {
  std::string text = "rank    tokens     slots  load/mean       sent  workspace    weights\n";
  double const mean = [&] {
    auto const loads = loads_of_ranks(report);
    return static_cast<double>(std::accumulate(loads.begin(), loads.end(), offset_t{0})) /
           static_cast<double>(loads.size());
  }();
  for (std::size_t r = 0; r < report.ranks.size(); ++r) {
    auto const& rank = report.ranks[r];
    text += format("%4zu %9s %9s %10.2f ", r, short_number(rank.tokens).c_str(),
                   short_number(rank.computed).c_str(),
                   mean > 0 ? static_cast<double>(rank.computed) / mean : 0.0) +
            format("%10s %10s %10s\n", bytes_text(rank.bytes_sent).c_str(),
                   bytes_text(rank.workspace_bytes).c_str(), bytes_text(rank.weight_bytes).c_str());
  }
  return text;
}

}  // namespace

std::vector<offset_t> RunReport::tokens_of_experts() const {
  std::vector<offset_t> sums(static_cast<std::size_t>(config.num_placed_experts()));
  for (auto const& rank : ranks) {
    for (std::size_t e = 0; e < sums.size(); ++e) sums[e] += rank.by_expert[e];
  }
  return sums;
}

double imbalance(std::vector<offset_t> const& loads) {
  auto const total = std::accumulate(loads.begin(), loads.end(), offset_t{0});
  if (total == 0) return 1;
  return static_cast<double>(*std::max_element(loads.begin(), loads.end())) *
         static_cast<double>(loads.size()) / static_cast<double>(total);
}

RankReport make_rank_report(LayerReport const& layer, ExpertPlacement const& placement,
                            index_t rank, std::size_t workspace_bytes, std::size_t weight_bytes) {
  RankReport report;
  report.tokens = layer.tokens;
  report.tokens_sent = layer.tokens_sent;
  report.tokens_received = layer.tokens_received;
  report.bytes_sent = layer.bytes_sent;
  report.rows_with_nan = layer.rows_with_nan;
  report.rows_with_inf = layer.rows_with_inf;
  report.workspace_bytes = static_cast<offset_t>(workspace_bytes);
  report.weight_bytes = static_cast<offset_t>(weight_bytes);
  report.seconds = {layer.route_seconds, layer.dispatch_seconds, layer.experts_seconds,
                    layer.combine_seconds, layer.shared_seconds};
  report.routed = layer.routed_per_expert;
  report.by_expert.resize(static_cast<std::size_t>(placement.num_placed()));
  auto const experts = placement.experts_of(rank);
  for (std::size_t slot = 0; slot < experts.size(); ++slot) {
    report.by_expert[static_cast<std::size_t>(experts[slot])] = layer.tokens_per_expert[slot];
    report.computed += layer.tokens_per_expert[slot];
  }
  return report;
}

std::vector<RankReport> gather_reports(Communicator const& comm, RankReport const& mine) {
  static_assert(sizeof(double) == sizeof(offset_t));
  std::vector<offset_t> packed;
  for_each_number(mine, [&](auto value) { packed.push_back(std::bit_cast<offset_t>(value)); });
  std::vector<offset_t> all(packed.size() * static_cast<std::size_t>(comm.size()));
  comm.all_gather(packed, all);
  std::vector<RankReport> reports(static_cast<std::size_t>(comm.size()), mine);
  auto next = all.begin();
  for (auto& report : reports) {
    for_each_number(report, [&](auto& value) {
      value = std::bit_cast<std::decay_t<decltype(value)>>(*next++);
    });
  }
  return reports;
}

LoadMap make_load_map(RunReport const& report) {
  LoadMap map;
  map.title = "Tokens per expert, " + report.module;
  map.subtitle = headline(report);
  map.rank_of_expert = report.rank_of_expert;
  map.ranks = static_cast<index_t>(report.ranks.size());
  auto const experts = report.rank_of_expert.size();
  for (std::size_t r = 0; r < report.ranks.size(); ++r) {
    auto const& routed = report.ranks[r].routed;
    map.row_names.push_back(report.replicated() ? "all ranks" : "rank " + std::to_string(r));
    map.tokens.emplace_back(routed.begin(), routed.begin() + static_cast<std::ptrdiff_t>(experts));
    if (report.replicated()) break;  // every rank holds the same tokens
  }
  return map;
}

std::string to_json(RunReport const& report) {
  auto const& config = report.config;
  auto const placed = static_cast<std::ptrdiff_t>(config.num_placed_experts());
  auto const get = [&](auto member) {
    return of_ranks(report, [member](auto const& rank) { return rank.*member; });
  };
  Json json;
  for (auto const& [name, version] : versions()) json["versions"][name] = version;
  json["model_type"] = report.model_type;
  json["module"] = report.module;
  json["input"] = report.input;
  json["output"] = report.output;
  json["dtype"] = report.dtype;
  json["tokens"] = report.tokens;
  json["ranks"] = report.ranks.size();
  json["config"] = config_json(config);
  json["rank_of_expert"] = report.rank_of_expert;

  auto const of_experts = report.tokens_of_experts();
  json["tokens_per_expert"] = of_experts;
  json["tokens_per_rank"] = get(&RankReport::computed);
  json["imbalance"] = {{"experts", imbalance(of_experts)},
                       {"ranks", imbalance(loads_of_ranks(report))}};
  json["tokens_from_rank_to_expert"] = of_ranks(report, [&](auto const& rank) {
    return std::vector<offset_t>(rank.routed.begin(), rank.routed.begin() + placed);
  });
  json["zero_expert_tokens_from_rank"] = of_ranks(report, [&](auto const& rank) {
    return std::accumulate(rank.routed.begin() + placed, rank.routed.end(), offset_t{0});
  });
  json["own_tokens_per_rank"] = get(&RankReport::tokens);
  json["tokens_sent_per_rank"] = get(&RankReport::tokens_sent);
  json["tokens_received_per_rank"] = get(&RankReport::tokens_received);
  json["bytes_sent_per_rank"] = get(&RankReport::bytes_sent);
  json["rows_with_nan_per_rank"] = get(&RankReport::rows_with_nan);
  json["rows_with_inf_per_rank"] = get(&RankReport::rows_with_inf);
  json["workspace_bytes_per_rank"] = get(&RankReport::workspace_bytes);
  json["weight_bytes_per_rank"] = get(&RankReport::weight_bytes);

  auto& seconds = json["seconds"];
  for (std::size_t p = 0; p < phase_names.size(); ++p) {
    seconds[phase_names[p]] =
        times_json(of_ranks(report, [p](auto const& rank) { return rank.seconds[p]; }));
  }
  seconds["forward"] = times_json(get(&RankReport::forward_seconds));
  seconds["read"] = report.read_seconds;
  seconds["write"] = report.write_seconds;
  seconds["total"] = report.total_seconds;

  // A line per entry: whole arrays stay together, and tools such as grep and diff are of use.
  std::string text;
  for (auto const& [name, value] : json.items()) {
    text += (text.empty() ? "{\n " : ",\n ") + Json(name).dump() + ": " +
            value.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  return text + "\n}\n";
}

std::string to_text(RunReport const& report, std::size_t width, bool color) {
  std::string text = report.module + ": " + headline(report) + "\n\n";
  text += to_text(make_load_map(report), width, color) + "\n";
  if (report.ranks.size() <= 64) text += rank_table(report) + "\n";
  text += "time over ranks      min     median        max\n";
  auto const line = [&](char const* name, std::vector<double> const& seconds) {
    auto const [min, median, max] = spread(seconds);
    text += format("%-13s %10s %10s %10s\n", name, seconds_text(min).c_str(),
                   seconds_text(median).c_str(), seconds_text(max).c_str());
  };
  for (std::size_t p = 0; p < phase_names.size(); ++p) {
    line(phase_names[p], of_ranks(report, [p](auto const& rank) { return rank.seconds[p]; }));
  }
  line("forward", of_ranks(report, [](auto const& rank) { return rank.forward_seconds; }));
  text += format("read %s, write %s, total %s\n", seconds_text(report.read_seconds).c_str(),
                 seconds_text(report.write_seconds).c_str(),
                 seconds_text(report.total_seconds).c_str());
  return text;
}

void print_report(RunReport const& report, std::string const& color) {
  bool const colored = color == "always" || (color == "auto" && terminal_has_color());
  std::fputs(to_text(report, terminal_width(), colored).c_str(), stdout);
}

}  // namespace kmoe::cli
