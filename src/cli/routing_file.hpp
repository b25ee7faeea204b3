// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The routing of a run in a file: `kmoe run --record-routing` writes it, `kmoe replay` reads it.
///
/// A safetensors file with topk_ids I32 [T, K], topk_weights F32 [T, K], in the order of the
/// input's tokens, and sizes I64 [5]: hidden_size, intermediate_size, num_experts,
/// num_zero_experts, and the number of fused shared experts.

#include <filesystem>
#include <string>
#include <vector>

#include <kmoe/comm/communicator.hpp>
#include <kmoe/core/options.hpp>

#include "cli/layer_setup.hpp"

namespace kmoe::cli {

/// Collects the routing of this rank's tokens, batch by batch.
class RoutingRecord {
 public:
  /// Appends a batch of tokens. Fences `exec`.
  void add(Space const& exec, Routing<Space> const& routing);
  /// All ranks' tokens as one file, written by rank 0; with replicated tokens those of rank 0.
  /// Collective.
  void write(Communicator const& comm, std::filesystem::path const& path,
             MoeConfig const& config) const;

 private:
  std::vector<index_t> ids_;
  std::vector<float> weights_;
};

/// A recorded routing, whole, on the host.
struct RecordedRouting {
  MoeConfig config;  ///< sizes, top_k and fused shared experts
  offset_t tokens = 0;
  std::vector<index_t> ids;    ///< [T, K]
  std::vector<float> weights;  ///< [T, K]
};

/// \throws IoError naming the path if it is no such file or an id is outside of the experts
RecordedRouting read_routing(std::filesystem::path const& path);

}  // namespace kmoe::cli
