// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "layer/summary.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#include <kmoe/core/config.hpp>
#include <kmoe/core/error.hpp>
#include <nlohmann/json.hpp>

#include "core/log.hpp"

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

/// All that is written and to be written. Never destroyed: layers may outlive static objects.
struct Summaries {
  std::mutex mutex;
  std::vector<PendingSummary*> pending;  // in the order of their layers' construction
  std::map<std::string, Json> files;

  static Summaries& get() {
    static auto& instance = *new Summaries;
    return instance;
  }

  /// Adds a layer and writes the file anew, so that it is complete when the last layer has gone.
  /// "%r" in the path becomes the rank; without it only rank 0 writes.
  void write(PendingSummary& summary) noexcept {
    std::erase(pending, &summary);
    // After Kokkos::finalize the counters are gone.
    if (!Kokkos::is_initialized()) return;
    index_t rank = 0;
    try {
      auto const layer = summary.describe_();
      rank = layer.rank;
      auto path = summary.path_;
      if (auto const at = path.find("%r"); at != std::string::npos) {
        path.replace(at, 2, std::to_string(rank));
      } else if (rank != 0) {
        return;
      }
      auto& json = files[path];
      if (json.is_null())
        json = {{"kmoe", KMOE_VERSION}, {"rank", rank}, {"layers", Json::array()}};
      json["layers"].push_back(to_json(layer));
      std::ofstream file(path);
      file << json.dump(1) << "\n";
      file.close();
      if (!file) throw IoError("KMOE_SUMMARY: " + path + " can not be written");
    } catch (std::exception const& error) {
      log_line(rank, error.what());
    }
  }

  static void write_all() noexcept {
    auto& all = get();
    std::scoped_lock const lock(all.mutex);
    while (!all.pending.empty()) all.write(*all.pending.front());
  }
};

bool PendingSummary::open(std::function<LayerSummary()> describe) {
  char const* const path = std::getenv("KMOE_SUMMARY");
  if (path == nullptr || *path == '\0') return false;
  path_ = path;
  describe_ = std::move(describe);
  auto& all = Summaries::get();
  std::scoped_lock const lock(all.mutex);
  [[maybe_unused]] static bool const hooked = [] {
    Kokkos::push_finalize_hook(Summaries::write_all);
    std::atexit(Summaries::write_all);
    return true;
  }();
  all.pending.push_back(this);
  return true;
}

PendingSummary::~PendingSummary() {
  auto& all = Summaries::get();
  std::scoped_lock const lock(all.mutex);
  if (std::ranges::count(all.pending, this) > 0) all.write(*this);
}

}  // namespace kmoe::detail
