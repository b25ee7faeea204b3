// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// MoeLayer, the front door: route -> dispatch -> experts -> combine on every token of a rank.

#include <cstddef>
#include <memory>
#include <vector>

#include <kmoe/comm/communicator.hpp>
#include <kmoe/core/expert_placement.hpp>
#include <kmoe/core/options.hpp>
#include <kmoe/core/weights.hpp>
#include <kmoe/routing/router.hpp>

namespace kmoe {

/// What one rank did since the layer was built or reset_report() was called. The times (wall-clock
/// seconds) and routed_per_expert are kept only while profiling is on, see set_profiling().
struct LayerReport {
  std::vector<offset_t> tokens_per_expert;  ///< [El] rows computed by each local expert
  /// [E + S + Z] slots that this rank's own tokens gave to each global expert id.
  std::vector<offset_t> routed_per_expert;
  offset_t tokens = 0;           ///< tokens passed to forward() on this rank
  offset_t tokens_sent = 0;      ///< copies of tokens sent to other ranks
  offset_t tokens_received = 0;  ///< copies of tokens received from other ranks
  offset_t bytes_sent = 0;       ///< payload bytes sent to other ranks, both directions
  offset_t rows_with_nan = 0;    ///< tokens whose logits had a NaN
  offset_t rows_with_inf = 0;    ///< tokens whose logits had an infinity
  double route_seconds = 0;
  double dispatch_seconds = 0;
  double experts_seconds = 0;
  double combine_seconds = 0;
  double shared_seconds = 0;
};

/// A Mixture-of-Experts layer over the ranks of a communicator.
///
/// Reproducibility: y is bitwise the same for any number of ranks, placement, dispatcher, id space,
/// chunk size and split of the tokens, on one backend, element type and instruction set.
template <ExecutionSpace E, Element T>
class MoeLayer {
 public:
  /// Builds the layer; collective over `comm`.
  ///
  /// Checks config, placement and the shapes of this rank's weights, agrees all of them over the
  /// ranks, repacks the expert weights and allocates the workspace.
  /// \param placement which rank hosts which expert; num_ranks must equal comm.size()
  /// \param weights this rank's weights: experts in local slot order, El may be 0
  /// \param max_tokens_per_rank the largest T forward() will be given on any rank (forward accepts
  ///        no more); the same on every rank
  /// \throws InvalidArgument, Unsupported: the same error on every rank, nothing hangs
  MoeLayer(E const& exec, Communicator comm, MoeConfig const& config,
           ExpertPlacement const& placement, LayerWeights<E, T> const& weights,
           index_t max_tokens_per_rank);
  MoeLayer(MoeLayer&&) noexcept;
  MoeLayer& operator=(MoeLayer&&) noexcept;
  ~MoeLayer();

  /// y = MoE(x): x [T, H], y [T, H] (no_combine: [T * K, H]). T may differ between ranks and be 0
  /// (token_layout data_parallel) or must be the same on all (replicated). y may not alias x.
  /// Collective. Allocates nothing. On one rank asynchronous (with profiling off), so that on a GPU
  /// a stream capture can record it into a graph, after a first call outside of the capture: a
  /// replay reads and writes the same x and y and adds to the report's counters on the device.
  /// \throws InvalidArgument on every rank if any rank's arguments are wrong
  void forward(E const& exec, InMatrix<T, E> x, Matrix<T, E> const& y);

  /// The same with the caller's own routing of the tokens (a user-written router): topk_ids
  /// [T, K] global ids, distinct or repeated, -1 = no expert; topk_weights [T, K].
  void forward_routed(E const& exec, InMatrix<T, E> x, Routing<E> const& routing,
                      Matrix<T, E> const& y);

  /// Everything forward() will ever use, in bytes, on this rank; exact.
  [[nodiscard]] std::size_t workspace_bytes() const;
  /// The same number for any rank before anything is allocated, without a communicator or weights
  /// (exact where every rank has as many threads as `exec`); `experts` and `shared` are the schemes
  /// of quantized weights.
  static std::size_t workspace_bytes(E const& exec, MoeConfig const& config,
                                     ExpertPlacement const& placement, index_t rank,
                                     index_t max_tokens_per_rank, bool gated,
                                     QuantScheme const& experts = {},
                                     QuantScheme const& shared = {});
  /// Bytes of the repacked weights held by the layer on this rank.
  [[nodiscard]] std::size_t weight_bytes() const;
  /// Tokens per rank that are in flight at once (see MoeConfig::workspace_limit_bytes).
  [[nodiscard]] index_t chunk_tokens() const;

  [[nodiscard]] MoeConfig const& config() const;
  [[nodiscard]] ExpertPlacement const& placement() const;

  /// Profiling fences at the phase boundaries, takes times and counts routed_per_expert.
  void set_profiling(bool on);
  /// Copies the counters from the device; fences.
  [[nodiscard]] LayerReport report() const;
  void reset_report();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kmoe
