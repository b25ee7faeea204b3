// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The expert MLP: gate_up GEMM -> activation -> down GEMM, over rows grouped by expert.

#include <cstddef>
#include <cstdint>

#include <kmoe/core/options.hpp>
#include <kmoe/core/weights.hpp>
#include <kmoe/core/workspace.hpp>
#include <kmoe/gemm/grouped_gemm.hpp>
#include <kmoe/permute/permutation.hpp>

namespace kmoe KMOE_API {

namespace detail {
struct MlpStages;
}

/// Experts of one rank, their weights repacked once for the kernels of this machine.
///
///     h[r, :]    = T(act(x'[r, :] . W_gate_up^T + b_gate_up))          [I]
///     rows[r, :] = T(w * (h[r, :] . W_down^T + b_down))                [H]
///
/// for each row r of expert e (its weights and biases), where x' is the row's token and w its
/// router weight; with router_weight_on_input x' = T(w * x) and the output is not multiplied.
/// Sums, biases, activations and w in accumulate_t<T>; T(...) marks the only roundings to T.
/// The bits of a row depend on its token, its weight and its expert alone (see grouped_gemm.hpp).
///
/// Quantized weights stay as they are and are decoded in the loads of the kernels; x' and h are
/// quantized where the format says so (quantize_row.hpp), and sums are float also for double.
///
/// Copies share weights and scratch; one forward at a time on objects that share them.
template <ExecutionSpace E, Element T>
class ExpertMlp {
 public:
  ExpertMlp() = default;

  /// Repacks the weights (allocates weight_bytes()); on host spaces the caller's Views are not
  /// kept. \throws InvalidArgument if the shapes of the weights do not fit each other, or for
  ///         swiglu_oai without gates
  ExpertMlp(E const& exec, ExpertWeights<E, T> const& weights, ExpertOptions const& options);

  /// Takes the scratch of forward() for up to max_rows rows from `ws`: [max_rows, I] elements on a
  /// device. On a host it is bounded however large max_rows is: rows are worked through in windows,
  /// which do not change a bit of the result. Weights of four bits on Hopper: [max_tokens, H]
  /// elements more. \param max_tokens rows of x, 0 = max_rows; more of them cost time alone
  void bind(E const& exec, Workspace<E>& ws, offset_t max_rows, offset_t max_tokens = 0);
  /// The same bytes without weights, to tell a workspace beforehand. They depend on the threads of
  /// `exec` and, on host spaces, on the instruction set.
  static void bind_shape(E const& exec, Workspace<E>& ws, index_t hidden_size,
                         index_t intermediate_size, bool gated, offset_t max_rows,
                         QuantScheme const& scheme = {}, offset_t max_tokens = 0);

  /// The MLP of each row r < expert_offsets[El] on token slot_of_row[r] / K; K is the number of
  /// columns of permutation.row_of_slot. Other rows of `rows` are not written.
  /// Does not allocate. Asynchronous on device spaces; on host spaces `rows` is complete on return.
  /// \param x [T, H]
  /// \param permutation of T x K slots over El experts
  /// \param topk_weights [T, K]; extent 0: w = 1 (no-combine)
  /// \param rows [>= expert_offsets[El], H], up to max_rows of bind()
  /// \throws InvalidArgument for shapes that do not fit
  /// Cost per row: 6 H I flops (gated; 4 H I plain); reads each expert's weights once for about
  /// 256 of its rows. Tested against reference::expert_mlp.
  void forward(E const& exec, InMatrix<T, E> x, Permutation<E> const& permutation,
               InMatrix<float, E> topk_weights, Matrix<T, E> const& rows) const;

  /// Whether forward() with ids can save the kernel that groups them: on devices it may.
  static constexpr bool may_group() {
    return !Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename E::memory_space>::accessible;
  }

  /// make_permutation(exec, expert_ids, permutation, rows_per_expert), then forward(): the same
  /// results. One kernel on Hopper for 16-bit elements and T * K <= 2048; with fp8 weights two
  /// where rows are many, or four and the grouping's if a scale is of a row of activations.
  /// \param expert_ids [T, K], local; not a part of `permutation`
  void forward(E const& exec, InMatrix<T, E> x, InMatrix<index_t, E> expert_ids,
               Permutation<E> const& permutation, Vector<offset_t, E> const& rows_per_expert,
               InMatrix<float, E> topk_weights, Matrix<T, E> const& rows) const;

  /// That, and unpermute(): y[t, :] = sum over k ascending of the rows of token t. The same bits as
  /// in three steps. Still one kernel there; with K = 1 no row is written twice.
  /// \param rows [T * K, H], scratch
  /// \param y [T, H]; 0 for a token without rows
  void forward_combined(E const& exec, InMatrix<T, E> x, InMatrix<index_t, E> expert_ids,
                        Permutation<E> const& permutation,
                        Vector<offset_t, E> const& rows_per_expert, InMatrix<float, E> topk_weights,
                        Matrix<T, E> const& rows, Matrix<T, E> const& y) const;

  /// A shared expert: El = 1, row t is token t. Otherwise as forward().
  /// \param weights [T, 1], for instance a shared-expert gate; extent 0: 1
  /// \param y [T, H]
  void forward_dense(E const& exec, InMatrix<T, E> x, InMatrix<float, E> weights,
                     Matrix<T, E> const& y) const;

  [[nodiscard]] index_t num_experts() const {
    return quantized() ? quantized_.gate_up.num_experts() : gate_up_.num_groups();
  }
  [[nodiscard]] bool quantized() const { return quantized_.gate_up.quantized(); }
  /// Bytes held for weights, biases and bookkeeping.
  [[nodiscard]] std::size_t weight_bytes() const;

 private:
  struct Scratch {
    Matrix<T, E> intermediate;     // [window, I], quantized with room for quantized_mlp_memory()
    Vector<std::byte, E> workers;  // host: packed rows and accumulators of each thread; quantized
    index_t num_workers = 0;
    Vector<std::uint32_t, E> counters;  // device: of device_mlp
    offset_t max_rows = 0;
    void bind(E const& exec, Workspace<E>& ws, index_t hidden_size, index_t intermediate_size,
              bool gated, offset_t rows, offset_t tokens, QuantScheme const& scheme);
  };
  /// Instead of gate_up_ and down_.
  struct Quantized {
    QuantizedTensor<E> gate_up, down;
    Matrix<accumulate_t<T> const, E> gate_up_bias, down_bias;
    GateUpLayout layout = GateUpLayout::gate_first;
  };

  void check_shapes(char const* function, InMatrix<T, E> const& x,
                    InMatrix<float, E> const& weights, offset_t slots_per_token,
                    Matrix<T, E> const& rows) const;
  /// What forward() says of its arguments. \return the most rows that they can have
  offset_t check_forward(InMatrix<T, E> const& x, Permutation<E> const& permutation,
                         InMatrix<float, E> const& topk_weights, Matrix<T, E> const& rows) const;
  /// Groups the slots, and computes, in one launch if that can be: else false, and nothing is done.
  bool forward_at_once(E const& exec, InMatrix<T, E> x, InMatrix<index_t, E> expert_ids,
                       Permutation<E> const& permutation,
                       Vector<offset_t, E> const& rows_per_expert, InMatrix<float, E> topk_weights,
                       Matrix<T, E> const& rows, T* y) const;
  /// False: nothing was done, a stage needs a kernel of its own.
  bool run(E const& exec, InMatrix<T, E> x, InVector<offset_t, E> offsets,
           InVector<index_t, E> slot_of_row, index_t slots_per_token, offset_t num_rows,
           InMatrix<float, E> weights, Matrix<T, E> const& rows,
           detail::MlpStages const& stages) const;
  bool run_quantized(E const& exec, InMatrix<T, E> x, InVector<offset_t, E> offsets,
                     InVector<index_t, E> slot_of_row, index_t slots_per_token, offset_t num_rows,
                     float const* weights, Matrix<T, E> const& rows,
                     detail::MlpStages const& stages) const;
  [[nodiscard]] index_t hidden_size() const {
    return quantized() ? quantized_.down.rows() : down_.num_columns();
  }
  [[nodiscard]] index_t intermediate_size() const {
    return quantized() ? quantized_.down.columns : down_.k();
  }

  PackedWeights<E, T> gate_up_;
  PackedWeights<E, T> down_;
  Quantized quantized_;
  ExpertOptions options_;
  Vector<offset_t, E> block_offsets_;  // host: [El + 1] and a task counter
  Vector<offset_t, E> dense_offsets_;  // {0, T} of forward_dense
  Scratch scratch_;
};

}  // namespace KMOE_API
