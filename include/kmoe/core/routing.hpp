// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What a router hands on.

#include <kmoe/core/types.hpp>

namespace kmoe KMOE_API {

/// Output of a router. Ids are global expert ids, distinct within a token unless the token is
/// padding (all -1). Weights are what the expert's output (or input) is multiplied by.
template <ExecutionSpace E>
struct Routing {
  Matrix<index_t, E> topk_ids;    ///< [T, K + S]
  Matrix<float, E> topk_weights;  ///< [T, K + S]
};

}  // namespace KMOE_API
