// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <kmoe/layer/moe_layer.hpp>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include <Kokkos_Profiling_ScopedRegion.hpp>

#include <kmoe/dispatch/all_to_all_dispatcher.hpp>
#include <kmoe/dispatch/standard_dispatcher.hpp>
#include <kmoe/experts/expert_mlp.hpp>

#include "../instantiate.hpp"
#include "layer_buffers.hpp"
#include "layer_checks.hpp"

namespace kmoe {
namespace {

/// The largest chunk whose workspace stays under the limit on every rank (at least one token). It
/// follows from what all ranks know and from the threads of `exec`; the caller takes the smallest.
template <ExecutionSpace E, Element T>
index_t choose_chunk(E const& exec, MoeConfig const& config, ExpertPlacement const& placement,
                     index_t max_tokens, bool gated, QuantScheme const& experts,
                     QuantScheme const& shared) {
  index_t most_local = 0;
  for (index_t rank = 0; rank < placement.num_ranks(); ++rank) {
    most_local = std::max(most_local, placement.num_local(rank));
  }
  auto const fits = [&](index_t chunk) {
    return detail::count_bytes<E, T>(exec, {config, placement.num_ranks(), most_local, chunk, gated,
                                            experts, shared}) <= config.workspace_limit_bytes;
  };
  // Slots of one call are counted in index_t, also where every token of every rank ends up here.
  auto const slots = static_cast<offset_t>(placement.num_ranks()) * config.slots_per_token();
  auto low = index_t{1};
  auto high = static_cast<index_t>(
      std::clamp<offset_t>(((offset_t{1} << 31) - 1) / slots, 1, std::max<index_t>(max_tokens, 1)));
  if (fits(high)) return high;
  while (high - low > 1) {
    index_t const middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

template <ExecutionSpace E>
void add_histogram(E const& exec, Matrix<index_t const, E> const& ids,
                   Vector<offset_t, E> const& totals) {
  auto const slots = ids.extent(0) * ids.extent(1);
  index_t const* const id_of = ids.data();
  Kokkos::parallel_for(
      "kmoe::MoeLayer::count_routed", Kokkos::RangePolicy<E>(exec, 0, slots),
      KOKKOS_LAMBDA(std::size_t slot) {
        auto const id = static_cast<std::uint32_t>(id_of[slot]);
        // Integer counts: the order of the additions does not show.
        if (id < totals.extent(0)) Kokkos::atomic_inc(&totals(id));
      });
}

template <ExecutionSpace E>
void sigmoid(E const& exec, Matrix<float, E> const& values) {
  Kokkos::parallel_for(
      "kmoe::MoeLayer::sigmoid", Kokkos::RangePolicy<E>(exec, 0, values.extent(0)),
      KOKKOS_LAMBDA(std::size_t t) { values(t, 0) = 1.0F / (1.0F + Kokkos::exp(-values(t, 0))); });
}

/// Adds the wall-clock time of a scope to `seconds`; fences at its end so that the time is the
/// scope's own. Does nothing when off.
template <ExecutionSpace E>
class PhaseTimer {
 public:
  PhaseTimer(E const& exec, char const* name, double& seconds, bool on)
      : exec_(exec), name_(name), seconds_(seconds), on_(on) {}
  PhaseTimer(PhaseTimer const&) = delete;
  PhaseTimer& operator=(PhaseTimer const&) = delete;
  ~PhaseTimer() {
    if (!on_) return;
    exec_.fence(name_);
    seconds_ += timer_.seconds();
  }

 private:
  E const& exec_;
  char const* name_;
  double& seconds_;
  bool on_;
  Kokkos::Timer timer_;
};

}  // namespace

template <ExecutionSpace E, Element T>
struct MoeLayer<E, T>::Impl {
  Impl(E const& exec, Communicator communicator, MoeConfig const& cfg, ExpertPlacement const& where,
       LayerWeights<E, T> const& given, index_t max_tokens)
      : comm(std::move(communicator)),
        config(cfg),
        placement(where),
        max_tokens_per_rank(max_tokens) {
    detail::check_layer<E, T>(comm, config, placement, given, max_tokens);

    shape = {config,
             comm.size(),
             placement.num_local(comm.rank()),
             0,
             given.experts.gated(),
             given.experts.scheme(),
             given.shared.scheme()};
    shape.chunk = choose_chunk<E, T>(exec, config, placement, max_tokens, shape.gated,
                                     shape.experts, shape.shared);
    // Scratch depends on the number of threads, which may differ between ranks: the smallest wins.
    std::array<offset_t, 1> smallest{-shape.chunk};
    comm.all_reduce_max(smallest);
    shape.chunk = static_cast<index_t>(-smallest[0]);

    router = given.router;
    shared_gate.weight = given.shared_gate;
    experts = ExpertMlp<E, T>(exec, given.experts, config.experts);
    if (config.shared_intermediate_size > 0) {
      auto options = config.experts;
      options.router_weight_on_input = false;
      shared = ExpertMlp<E, T>(exec, given.shared, options);
    }
    if (config.dispatcher == DispatcherKind::standard) {
      dispatcher = std::make_unique<StandardDispatcher<E, T>>(comm, placement, shape.dispatch());
    } else {
      dispatcher = std::make_unique<AllToAllDispatcher<E, T>>(comm, placement, shape.dispatch());
    }
    workspace = make_workspace<E>([&](Workspace<E>& ws) {
      buffers.bind(ws, shape);
      dispatcher->bind(exec, ws);
      experts.bind(exec, ws, shape.max_rows());
      if (config.shared_intermediate_size > 0) shared.bind(exec, ws, shape.chunk);
    });
    reset_counters(exec);
  }

  void reset_counters(E const& exec) {
    Kokkos::deep_copy(exec, buffers.router_counters, offset_t{0});
    Kokkos::deep_copy(exec, buffers.rows_per_expert, offset_t{0});
    Kokkos::deep_copy(exec, buffers.routed_per_expert, offset_t{0});
    exec.fence("kmoe::MoeLayer::reset_report");
    totals = {};
  }

  /// Checks the arguments of forward, on several ranks at the cost of one all-reduce, and returns
  /// the number of chunks: every rank takes part in each of them, with no tokens where it has run
  /// out.
  template <class Check>
  index_t agree_on_chunks(std::size_t num_tokens, Check const& check) const {
    if (comm.size() == 1) {
      check();
      return static_cast<index_t>((num_tokens + shape.chunk - 1) / shape.chunk);
    }
    bool failed = false;
    try {
      check();
    } catch (Error const&) {
      failed = true;
    }
    auto const n = static_cast<offset_t>(num_tokens);
    std::array<offset_t, 3> largest{failed ? 1 : 0, n, -n};
    comm.all_reduce_max(largest);
    if (largest[0] != 0) agree(comm, check);
    if (config.token_layout == TokenLayout::replicated && largest[1] != -largest[2]) {
      throw InvalidArgument(
          "kmoe::MoeLayer::forward: with replicated tokens every rank must pass "
          "the same number, found between " +
          std::to_string(-largest[2]) + " and " + std::to_string(largest[1]));
    }
    return static_cast<index_t>((largest[1] + shape.chunk - 1) / shape.chunk);
  }

  void forward(E const& exec, InMatrix<T, E> x, Routing<E> const* given, Matrix<T, E> const& y) {
    index_t const chunks = agree_on_chunks(x.extent(0), [&] {
      detail::check_forward<E, T>(config, max_tokens_per_rank, x, given,
                                  router.weight.extent(0) != 0, y);
    });
    std::size_t const rows_of_y = config.no_combine ? config.slots_per_token() : 1;
    for (index_t c = 0; c < chunks; ++c) {
      std::size_t const begin = std::min(x.extent(0), std::size_t(c) * shape.chunk);
      std::size_t const end = std::min(x.extent(0), begin + shape.chunk);
      auto const x_chunk = row_range(x, begin, end);
      auto const y_chunk = row_range(y, begin * rows_of_y, end * rows_of_y);
      if (given != nullptr) {
        forward_chunk(
            exec, x_chunk,
            {row_range(given->topk_ids, begin, end), row_range(given->topk_weights, begin, end)},
            y_chunk);
      } else {
        forward_chunk(exec, x_chunk, route_chunk(exec, x_chunk), y_chunk);
      }
    }
  }

  Routing<E> route_chunk(E const& exec, InMatrix<T, E> x) {
    PhaseTimer<E> const timer(exec, "kmoe::MoeLayer::route", totals.route_seconds, profiling);
    auto const logits = row_range(buffers.logits, 0, x.extent(0));
    Routing<E> const routing{row_range(buffers.routing.topk_ids, 0, x.extent(0)),
                             row_range(buffers.routing.topk_weights, 0, x.extent(0))};
    router_logits<E, T>(exec, x, router, buffers.router_scratch, logits);
    route(exec, logits, config.router, router.correction_bias, routing, buffers.router_counters);
    return routing;
  }

  void forward_chunk(E const& exec, InMatrix<T, E> x, Routing<E> const& routing,
                     Matrix<T, E> const& y) {
    if (profiling) add_histogram<E>(exec, routing.topk_ids, buffers.routed_per_expert);
    auto const addend = shared_chunk(exec, x);
    auto const received = [&] {
      PhaseTimer<E> const timer(exec, "kmoe::MoeLayer::dispatch", totals.dispatch_seconds,
                                profiling);
      auto out = dispatcher->dispatch(exec, x, routing);
      group_by_expert(exec, out.expert_ids, buffers.mask_map, buffers.permutation,
                      buffers.rows_per_expert);
      return out;
    }();
    {
      PhaseTimer<E> const timer(exec, "kmoe::MoeLayer::experts", totals.experts_seconds, profiling);
      auto const weights = config.no_combine ? Matrix<float const, E>() : received.topk_weights;
      experts.forward(exec, received.hidden_states, buffers.permutation, weights, buffers.rows);
    }
    {
      PhaseTimer<E> const timer(exec, "kmoe::MoeLayer::combine", totals.combine_seconds, profiling);
      dispatcher->combine(exec, {received.format, buffers.rows, buffers.permutation}, addend, y);
    }
    auto const& step = dispatcher->statistics();
    totals.tokens += static_cast<offset_t>(x.extent(0));
    totals.tokens_sent += step.tokens_sent;
    totals.tokens_received += step.tokens_received;
    totals.bytes_sent += step.bytes_sent;
  }

  /// Shared expert on the tokens that this rank adds up: those rows of [T, H], or empty.
  Matrix<T const, E> shared_chunk(E const& exec, InMatrix<T, E> x) {
    if (config.shared_intermediate_size == 0) return {};
    PhaseTimer<E> const timer(exec, "kmoe::MoeLayer::shared", totals.shared_seconds, profiling);
    auto const num_tokens = static_cast<index_t>(x.extent(0));
    bool const replicated = config.token_layout == TokenLayout::replicated;
    auto const dispatch = shape.dispatch();
    index_t const begin = replicated ? dispatch.first_home_token(comm.rank(), num_tokens) : 0;
    index_t const end =
        replicated ? dispatch.first_home_token(comm.rank() + 1, num_tokens) : num_tokens;
    auto const home = row_range(x, begin, end);
    Matrix<float, E> gate;
    if (config.shared_expert_gate) {
      gate = row_range(buffers.shared_gate, 0, home.extent(0));
      router_logits<E, T>(exec, home, shared_gate, buffers.router_scratch, gate);
      sigmoid(exec, gate);
    }
    shared.forward_dense(exec, home, gate, row_range(buffers.shared, begin, end));
    return row_range(buffers.shared, 0, x.extent(0));
  }

  Communicator comm;
  MoeConfig config;
  ExpertPlacement placement;
  index_t max_tokens_per_rank = 0;
  detail::LayerShape shape;

  RouterWeights<E, T> router;
  RouterWeights<E, T> shared_gate;
  ExpertMlp<E, T> experts;
  ExpertMlp<E, T> shared;
  std::unique_ptr<BaseDispatcher<E, T>> dispatcher;
  detail::LayerBuffers<E, T> buffers;
  Workspace<E> workspace;

  bool profiling = false;
  LayerReport totals;  // without the counters that live on the device
};

template <ExecutionSpace E, Element T>
MoeLayer<E, T>::MoeLayer(E const& exec, Communicator comm, MoeConfig const& config,
                         ExpertPlacement const& placement, LayerWeights<E, T> const& weights,
                         index_t max_tokens_per_rank)
    : impl_(std::make_unique<Impl>(exec, std::move(comm), config, placement, weights,
                                   max_tokens_per_rank)) {}

template <ExecutionSpace E, Element T>
MoeLayer<E, T>::MoeLayer(MoeLayer&&) noexcept = default;
template <ExecutionSpace E, Element T>
MoeLayer<E, T>& MoeLayer<E, T>::operator=(MoeLayer&&) noexcept = default;
template <ExecutionSpace E, Element T>
MoeLayer<E, T>::~MoeLayer() = default;

template <ExecutionSpace E, Element T>
void MoeLayer<E, T>::forward(E const& exec, InMatrix<T, E> x, Matrix<T, E> const& y) {
  Kokkos::Profiling::ScopedRegion const region("kmoe::MoeLayer::forward");
  impl_->forward(exec, x, nullptr, y);
}

template <ExecutionSpace E, Element T>
void MoeLayer<E, T>::forward_routed(E const& exec, InMatrix<T, E> x, Routing<E> const& routing,
                                    Matrix<T, E> const& y) {
  Kokkos::Profiling::ScopedRegion const region("kmoe::MoeLayer::forward_routed");
  impl_->forward(exec, x, &routing, y);
}

template <ExecutionSpace E, Element T>
std::size_t MoeLayer<E, T>::workspace_bytes() const {
  return impl_->workspace.bytes();
}

template <ExecutionSpace E, Element T>
std::size_t MoeLayer<E, T>::workspace_bytes(E const& exec, MoeConfig const& config,
                                            ExpertPlacement const& placement, index_t rank,
                                            index_t max_tokens_per_rank, bool gated,
                                            QuantScheme const& experts, QuantScheme const& shared) {
  validate(config);
  detail::LayerShape shape{
      config, placement.num_ranks(), placement.num_local(rank), 0, gated, experts, shared};
  shape.chunk =
      choose_chunk<E, T>(exec, config, placement, max_tokens_per_rank, gated, experts, shared);
  return detail::count_bytes<E, T>(exec, shape);
}

template <ExecutionSpace E, Element T>
std::size_t MoeLayer<E, T>::weight_bytes() const {
  return impl_->experts.weight_bytes() + impl_->shared.weight_bytes();
}

template <ExecutionSpace E, Element T>
index_t MoeLayer<E, T>::chunk_tokens() const {
  return impl_->shape.chunk;
}

template <ExecutionSpace E, Element T>
MoeConfig const& MoeLayer<E, T>::config() const {
  return impl_->config;
}

template <ExecutionSpace E, Element T>
ExpertPlacement const& MoeLayer<E, T>::placement() const {
  return impl_->placement;
}

template <ExecutionSpace E, Element T>
void MoeLayer<E, T>::set_profiling(bool on) {
  impl_->profiling = on;
}

template <ExecutionSpace E, Element T>
LayerReport MoeLayer<E, T>::report() const {
  auto const copy = [](auto const& view) {
    std::vector<offset_t> host(view.extent(0));
    Kokkos::View<offset_t*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>> const
        target(host.data(), host.size());
    Kokkos::deep_copy(target, view);
    return host;
  };
  LayerReport report = impl_->totals;
  report.tokens_per_expert = copy(impl_->buffers.rows_per_expert);
  report.routed_per_expert = copy(impl_->buffers.routed_per_expert);
  auto const counters = copy(impl_->buffers.router_counters);
  report.rows_with_nan = counters[rows_with_nan];
  report.rows_with_inf = counters[rows_with_inf];
  return report;
}

template <ExecutionSpace E, Element T>
void MoeLayer<E, T>::reset_report() {
  impl_->reset_counters(E());
}

#define KMOE_INSTANTIATE(SPACE, ELEMENT) template class MoeLayer<SPACE, ELEMENT>;
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE

}  // namespace kmoe
