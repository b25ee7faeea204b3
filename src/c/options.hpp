// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The structs of the C interface and the C++ ones.

#include <string>

#include <kmoe/kmoe.h>
#include <kmoe/core/expert_placement.hpp>
#include <kmoe/core/options.hpp>

namespace kmoe::c {

/// Checks a struct that a caller passed: not null, and of this version's size.
template <class Struct>
void expect_struct(Struct const* given, char const* function, char const* name);

/// What kmoe_layer_options say, checked.
struct LayerPlan {
  kmoe_layer_options options;
  MoeConfig config;
  DataType dtype = DataType::f32;
  GateUpLayout layout = GateUpLayout::gate_first;

  /// \throws InvalidArgument
  LayerPlan(kmoe_layer_options const* given, char const* function);

  [[nodiscard]] ExpertPlacement placement(index_t num_ranks, char const* function) const;
  /// Global ids of the experts of `rank` that have weights.
  [[nodiscard]] std::vector<index_t> mlp_experts(ExpertPlacement const& placement,
                                                 index_t rank) const;
  [[nodiscard]] bool gated() const { return layout != GateUpLayout::plain; }
};

/// Writes the fields of `config` that are properties of a model.
void set_model(MoeConfig const& config, bool gated, kmoe_layer_options& options);

/// Hands out a list by the rules of kmoe_local_experts.
void copy_list(std::vector<index_t> const& values, std::size_t capacity, int32_t* out,
               std::size_t* count, char const* function);

}  // namespace kmoe::c
