// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// MoeLayer, the front door: route -> dispatch -> experts -> combine on every token of a rank.

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include <kmoe/comm/communicator.hpp>
#include <kmoe/core/expert_placement.hpp>
#include <kmoe/core/options.hpp>
#include <kmoe/core/weights.hpp>
#include <kmoe/layer/user_experts.hpp>
#include <kmoe/routing/router.hpp>

namespace kmoe KMOE_API {

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

/// Bytes of a layer's workspace in the memory of its execution space and, for staging messages and
/// counts, on the host.
struct WorkspaceSize {
  std::size_t device_bytes = 0;
  std::size_t host_bytes = 0;
};

/// The caller's memory for a layer's workspace: each block aligned to Workspace::alignment bytes
/// (128), alive as long as the layer, used by nobody else.
struct WorkspaceMemory {
  void* device = nullptr;  ///< in the memory space of E
  void* host = nullptr;    ///< may be null where no byte is needed
  WorkspaceSize size;
};

/// A Mixture-of-Experts layer over the ranks of a communicator.
///
/// Profiling tools of Kokkos see the regions kmoe::MoeLayer::build and kmoe::MoeLayer::forward, and
/// within the latter its phases (shared, route, dispatch, experts, combine, named alike); what was
/// begun ends also when an error is thrown.
/// The environment variable KMOE_LOG (info, debug) asks for lines on stderr, KMOE_SUMMARY=FILE for
/// a JSON file about the layers of a process, each written when it ends, or else when Kokkos or the
/// process do ("%r" in FILE is the rank; without it rank 0 writes; implies profiling). Nothing is
/// printed or written otherwise.
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
  /// \param memory where the workspace goes, at least workspace_size(); device and host both null:
  ///        the layer allocates it
  /// \throws InvalidArgument, Unsupported: the same error on every rank, nothing hangs
  MoeLayer(E const& exec, Communicator comm, MoeConfig const& config,
           ExpertPlacement const& placement, LayerWeights<E, T> const& weights,
           index_t max_tokens_per_rank, WorkspaceMemory const& memory = {});
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

  /// Takes the place of forward() on a rank that can not call it: forward() on every rank throws
  /// InvalidArgument with this message, instead of waiting for this rank. Collective with it.
  [[noreturn]] void abandon_forward(std::string const& message);

  /// The routing that forward() would give the tokens x [T, H], any T: for a program that changes
  /// it before forward_routed(), say to send tokens of low confidence to a user expert.
  /// Not collective. Asynchronous; allocates nothing. Uses the workspace of forward().
  /// \param out [T, K + S] \throws InvalidArgument for extents, or without router weights
  void route(E const& exec, InMatrix<T, E> x, Routing<E> const& out);

  /// The function that computes the experts E-U .. E-1 (MoeConfig::num_user_experts) of this rank,
  /// see row_experts() and batch_experts(); forward() multiplies its rows by the router weights
  /// (rounded to T a second time). Needed on ranks that host such experts.
  ///
  /// If it throws, on any rank, forward() still completes its messages and then throws that error
  /// on every rank, y being unspecified; with user experts forward() therefore ends with an
  /// all-reduce of 8 bytes where P > 1.
  void set_user_experts(UserExperts<E, T> function);

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
  /// The same as the two blocks that WorkspaceMemory has; never less than what the layer takes.
  static WorkspaceSize workspace_size(E const& exec, MoeConfig const& config,
                                      ExpertPlacement const& placement, index_t rank,
                                      index_t max_tokens_per_rank, bool gated,
                                      QuantScheme const& experts = {},
                                      QuantScheme const& shared = {});
  /// Bytes of the experts' weights on this rank: repacked on a host, as given on a device.
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

}  // namespace KMOE_API
