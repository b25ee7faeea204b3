// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "layer/summary.hpp"

#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <tuple>

#include <kmoe/core/config.hpp>
#include <kmoe/core/error.hpp>
#include <nlohmann/json.hpp>

namespace kmoe::detail {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(LayerSummary const& layer) {
  auto const& [config, report] = std::tie(layer.config, layer.report);
  Json json{{"hidden_size", config.hidden_size},
            {"intermediate_size", config.intermediate_size},
            {"num_experts", config.num_experts},
            {"top_k", config.top_k},
            {"dtype", layer.dtype},
            {"dispatcher", to_string(config.dispatcher)},
            {"ranks", layer.ranks},
            {"workspace_bytes", layer.workspace_bytes},
            {"weight_bytes", layer.weight_bytes},
            {"forward_calls", layer.forward_calls},
            {"tokens", report.tokens},
            {"tokens_sent", report.tokens_sent},
            {"tokens_received", report.tokens_received},
            {"bytes_sent", report.bytes_sent},
            {"rows_with_nan", report.rows_with_nan},
            {"rows_with_inf", report.rows_with_inf},
            {"tokens_per_local_expert", report.tokens_per_expert}};
  for (std::size_t p = 0; p < phase_names.size(); ++p) {
    auto const& phase = layer.phases[p];
    json["phases"][phase_names[p]] = {{"count", phase.count}, {"seconds", phase.seconds}};
  }
  return json;
}

}  // namespace

std::string summary_path() {
  char const* const value = std::getenv("KMOE_SUMMARY");
  return value == nullptr ? "" : value;
}

void add_to_summary(std::string path, LayerSummary const& layer) {
  if (auto const at = path.find("%r"); at != std::string::npos) {
    path.replace(at, 2, std::to_string(layer.rank));
  } else if (layer.rank != 0) {
    return;
  }
  static std::mutex mutex;
  static std::map<std::string, Json> files;
  std::scoped_lock const lock(mutex);
  auto& json = files[path];
  if (json.is_null())
    json = {{"kmoe", KMOE_VERSION}, {"rank", layer.rank}, {"layers", Json::array()}};
  json["layers"].push_back(to_json(layer));
  std::ofstream file(path);
  file << json.dump(1) << "\n";
  file.close();
  if (!file) throw IoError("KMOE_SUMMARY: " + path + " can not be written");
}

}  // namespace kmoe::detail
