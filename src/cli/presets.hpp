// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Sizes of well-known layers, for measuring.

#include <array>
#include <string_view>

#include <kmoe/core/types.hpp>

namespace kmoe::cli {

struct Preset {
  std::string_view name;
  index_t hidden_size;        ///< H
  index_t intermediate_size;  ///< I
  index_t num_experts;        ///< E
  index_t top_k;              ///< K
};

inline constexpr std::array presets{
    Preset{"mixtral-8x7b", 4096, 14336, 8, 2},
    Preset{"qwen3-30b-a3b", 2048, 768, 128, 8},
    Preset{"deepseek-v3", 7168, 2048, 256, 8},
    Preset{"deepseek-v3-ep8", 7168, 2048, 32, 1},  // one of eight ranks, after its dispatch
    Preset{"gpt-oss-120b", 2880, 2880, 128, 4},
    Preset{"surrogate", 256, 1024, 16, 2},  // a small network called for every cell of a simulation
};

/// The preset of that name, or null.
constexpr Preset const* find_preset(std::string_view name) {
  for (auto const& preset : presets) {
    if (preset.name == name) return &preset;
  }
  return nullptr;
}

}  // namespace kmoe::cli
