// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Stable grouping of slots by expert, and moving rows in and out of that order.

#include <kmoe/core/expert_map.hpp>
#include <kmoe/core/types.hpp>
#include <kmoe/core/workspace.hpp>

namespace kmoe KMOE_API {

/// Slots grouped by expert: rows expert_offsets[e] .. expert_offsets[e+1] belong to expert e and
/// lie in ascending slot order (a stable counting sort: no atomic decides an order). Slots whose id
/// is outside 0..G-1 have no row. M = expert_offsets[G] is the number of rows.
template <ExecutionSpace E>
struct Permutation {
  Vector<offset_t, E> expert_offsets;  ///< [G + 1]
  Vector<index_t, E> slot_of_row;      ///< [T * K], the first M are meaningful
  Matrix<index_t, E> row_of_slot;      ///< [T, K], -1 where the slot has no row
  Vector<offset_t, E> scratch;         ///< implementation scratch, see bind()

  /// Takes the four arrays from `ws` for up to max_tokens tokens of K slots and G experts.
  ///
  /// Bytes: about 8 T K + 8 (G + 1) + scratch, where scratch is at most 8 max(T K, G + 15) and at
  /// most 512 (on the host 128) histograms of G + 15 counts. Any of the sizes may be 0.
  /// \throws InvalidArgument for a negative size, and unless max_tokens * K < 2^31
  void bind(Workspace<E>& ws, index_t max_tokens, index_t num_slots_per_token, index_t num_groups);
};

/// Groups the slots of topk_ids [T, K] by id: out.slot_of_row lists the slots with ids 0..G-1
/// ordered by (id, slot), and out.row_of_slot is its inverse.
///
/// Ids outside 0..G-1 (a padded row's -1 among them) get row -1; an id may occur more than once in
/// a token. The result is a function of the ids alone: not of the number of threads.
/// Asynchronous; does not allocate. Cost: reads the ids twice, writes 8 bytes per slot; on a GPU
/// one kernel for T * K <= 4096 and two above (G <= 1024).
/// \param topk_ids [T, K]; T may be smaller than what `out` was bound for: the arrays are used
///        from their beginning, row_of_slot as its first T rows. In place is allowed: topk_ids
///        may be those rows of out.row_of_slot.
/// \param rows_per_expert [G] that the number of rows of each id is added to; extent 0 = none
/// \throws InvalidArgument if `out` was bound for fewer tokens, another K, or T * K >= 2^31
/// Tested against a stable sort of the slots. (Counting sort: Knuth, TAOCP 3, 5.2.)
template <ExecutionSpace E>
void make_permutation(E const& exec, InMatrix<index_t, E> topk_ids, Permutation<E> const& out,
                      Vector<offset_t, E> const& rows_per_expert = {});

/// The same for global ids and a mask: groups are the local slots that the mask implies, ids with
/// flag 0 or outside the mask get row -1.
/// \param mask of ids; out is bound for mask.num_local_experts() groups
/// \param map scratch [ids of the mask] for where it does not fit on chip; may be the mask's own
template <ExecutionSpace E>
void make_permutation(E const& exec, InMatrix<index_t, E> topk_ids, ExpertMask<E> const& mask,
                      Vector<index_t, E> const& map, Permutation<E> const& out,
                      Vector<offset_t, E> const& rows_per_expert = {});

/// rows[r, :] = x[slot_of_row[r] / K, :] for r < M; other rows are left alone.
///
/// Copies bits. Asynchronous; does not allocate. Cost: reads and writes M * H elements.
/// \param x [T, H], T as in the make_permutation call
/// \param rows [>= M, H]; T * K rows always suffice. Rows beyond its extent are not written.
/// \throws InvalidArgument if the widths differ or x has more rows than the permutation is for
/// Tested against a plain loop; unpermute(permute(x)) = K x for integers.
template <ExecutionSpace E, Element T>
void permute(E const& exec, InMatrix<T, E> x, Permutation<E> const& permutation,
             Matrix<T, E> const& rows);

/// y[t, :] = sum over k in ascending order of weights[t, k] * rows[row_of_slot[t, k], :]
///
/// Slots without a row are skipped, not multiplied by zero: what lies in unused rows (NaN, say)
/// does not matter. Accumulated in accumulate_t<T> and rounded once; a token without any row gets
/// zeros. Asynchronous; does not allocate. Cost: 2 M H flops, reads M * H and writes T * H
/// elements. \param rows [>= M, H] \param weights [T, K]; extent 0 gives the plain sum \param y [T,
/// H], T as in the make_permutation call \throws InvalidArgument if widths or weights disagree with
/// y, or y has more rows than the
///         permutation is for
/// Tested against a float64 loop; the plain sum bit for bit against a loop in accumulate_t<T>.
template <ExecutionSpace E, Element T>
void unpermute(E const& exec, InMatrix<T, E> rows, Permutation<E> const& permutation,
               InMatrix<float, E> weights, Matrix<T, E> const& y);

}  // namespace KMOE_API
