// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Umbrella header.

#include <kmoe/comm/communicator.hpp>
#include <kmoe/core/error.hpp>
#include <kmoe/core/expert_map.hpp>
#include <kmoe/core/expert_placement.hpp>
#include <kmoe/core/options.hpp>
#include <kmoe/core/routing.hpp>
#include <kmoe/core/types.hpp>
#include <kmoe/core/weights.hpp>
#include <kmoe/core/workspace.hpp>
#include <kmoe/dispatch/all_to_all_dispatcher.hpp>
#include <kmoe/dispatch/dispatcher.hpp>
#include <kmoe/dispatch/standard_dispatcher.hpp>
#include <kmoe/experts/expert_mlp.hpp>
#include <kmoe/gemm/grouped_gemm.hpp>
#include <kmoe/io/checkpoint.hpp>
#include <kmoe/io/npy.hpp>
#include <kmoe/io/safetensors.hpp>
#include <kmoe/layer/moe_layer.hpp>
#include <kmoe/layer/user_experts.hpp>
#include <kmoe/permute/permutation.hpp>
#include <kmoe/routing/router.hpp>
