// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <kmoe/permute/permutation.hpp>

namespace kmoe::detail {

/// What make_permutation() throws for arguments that do not fit.
template <ExecutionSpace E>
void check_permutation(Matrix<index_t const, E> const& topk_ids, Permutation<E> const& out,
                       Vector<offset_t, E> const& rows_per_expert);

}  // namespace kmoe::detail
