// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <kmoe/layer/moe_layer.hpp>

#include <algorithm>
#include <array>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <Kokkos_Profiling_ScopedRegion.hpp>

#include <kmoe/dispatch/all_to_all_dispatcher.hpp>
#include <kmoe/dispatch/standard_dispatcher.hpp>
#include <kmoe/experts/expert_mlp.hpp>

#include "../instantiate.hpp"
#include "core/log.hpp"
#include "device/whereabouts.hpp"
#include "layer/summary.hpp"
#include "layer_buffers.hpp"
#include "layer_checks.hpp"
#include "user_rows.hpp"

namespace kmoe {
namespace {

/// The largest chunk whose workspace stays under the limit on every rank (at least one token). It
/// follows from what all ranks know and from the threads of `exec`; the caller takes the smallest.
template <ExecutionSpace E, Element T>
index_t choose_chunk(E const& exec, MoeConfig const& config, ExpertPlacement const& placement,
                     index_t max_tokens, bool gated, QuantScheme const& experts,
                     QuantScheme const& shared) {
  detail::LayerShape most{config, placement.num_ranks(), 0, 0, 0, gated, experts, shared};
  for (index_t rank = 0; rank < placement.num_ranks(); ++rank) {
    index_t const user = detail::num_user_experts(config, placement, rank);
    most.num_user = std::max(most.num_user, user);
    most.num_mlp = std::max(most.num_mlp, placement.num_local(rank) - user);
  }
  auto const fits = [&](index_t chunk) {
    most.chunk = chunk;
    return detail::count_workspace<E, T>(exec, most).bytes() <= config.workspace_limit_bytes;
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

/// A region for profiling tools, which ends with the scope, also by a throw. With `on` also adds
/// the wall-clock time of the scope, and fences at its end so that the time is the scope's own.
template <ExecutionSpace E>
class PhaseScope {
 public:
  PhaseScope(E const& exec, char const* name, detail::PhaseTotal& total, bool on)
      : exec_(exec), name_(name), total_(total), on_(on), region_(name) {}
  PhaseScope(PhaseScope const&) = delete;
  PhaseScope& operator=(PhaseScope const&) = delete;
  ~PhaseScope() {
    ++total_.count;
    if (!on_ || std::uncaught_exceptions() > 0) return;  // a fence might throw, too
    exec_.fence(name_);
    total_.seconds += timer_.seconds();
  }

 private:
  E const& exec_;
  char const* name_;
  detail::PhaseTotal& total_;
  bool on_;
  Kokkos::Profiling::ScopedRegion region_;
  Kokkos::Timer timer_;
};

}  // namespace

template <ExecutionSpace E, Element T>
struct MoeLayer<E, T>::Impl {
  Impl(E const& exec, Communicator communicator, MoeConfig const& cfg, ExpertPlacement const& where,
       LayerWeights<E, T> const& given, index_t max_tokens, WorkspaceMemory const& memory)
      : comm(std::move(communicator)),
        config(cfg),
        placement(where),
        max_tokens_per_rank(max_tokens) {
    Kokkos::Profiling::ScopedRegion const region("kmoe::MoeLayer::build");
    detail::check_layer<E, T>(comm, config, placement, given, max_tokens);

    shape.config = config;
    shape.num_ranks = comm.size();
    shape.num_user = detail::num_user_experts(config, placement, comm.rank());
    shape.num_mlp = placement.num_local(comm.rank()) - shape.num_user;
    shape.gated = given.experts.gated();
    shape.experts = given.experts.scheme();
    shape.shared = given.shared.scheme();
    shape.chunk = choose_chunk<E, T>(exec, config, placement, max_tokens, shape.gated,
                                     shape.experts, shape.shared);
    // Scratch depends on the number of threads, which may differ between ranks: the smallest wins.
    std::array<offset_t, 1> smallest{-shape.chunk};
    comm.all_reduce_max(smallest);
    shape.chunk = static_cast<index_t>(-smallest[0]);
    // Memory may run out on one rank only.
    agree(comm, [&] { build(exec, given, memory); });
  }

  void build(E const& exec, LayerWeights<E, T> const& given, WorkspaceMemory const& memory) {
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
    auto const bind = [&](Workspace<E>& ws) {
      buffers.bind(ws, shape);
      dispatcher->bind(exec, ws);
      experts.bind(exec, ws, shape.max_mlp_rows(), shape.dispatch().max_dispatched_tokens());
      if (config.shared_intermediate_size > 0) shared.bind(exec, ws, shape.chunk);
    };
    if (memory.device == nullptr && memory.host == nullptr) {
      workspace = make_workspace<E>(bind);
    } else {
      Workspace<E> needed;
      bind(needed);
      detail::check_memory<E>(memory, {needed.device_bytes(), needed.host_bytes()});
      workspace = Workspace<E>(memory.device, memory.size.device_bytes, memory.host,
                               memory.size.host_bytes);
      bind(workspace);
    }
    auto const local = placement.experts_of(comm.rank());
    user_ids.assign(local.begin() + shape.num_mlp, local.end());
    Kokkos::deep_copy(
        buffers.user_ids,
        Kokkos::View<index_t const*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>(
            user_ids.data(), user_ids.size()));
    reset_counters(exec);
    log_level = detail::log_level();  // valid: check_layer() has looked
    profiling = summary.open([this] { return describe(); });
    if (log_level != detail::LogLevel::off) {
      std::string text = "layer built: chunk=" + std::to_string(shape.chunk) +
                         " workspace_bytes=" + std::to_string(workspace.bytes()) +
                         " weight_bytes=" + std::to_string(weight_bytes()) +
                         " local_experts=" + std::to_string(placement.num_local(comm.rank())) +
                         " on " + device::describe_device(exec) +
                         " gpu_aware: " + comm.gpu_aware_reason();
      if (comm.rank() == 0) text += "; " + to_string(config);
      for (char& c : text) c = c == '\n' ? ' ' : c;
      detail::log_line(comm.rank(), text);
    }
  }

  ~Impl() = default;
  Impl(Impl const&) = delete;
  Impl& operator=(Impl const&) = delete;

  detail::PhaseTotal& phase(detail::Phase which) { return phases[static_cast<std::size_t>(which)]; }

  [[nodiscard]] std::size_t weight_bytes() const {
    return experts.weight_bytes() + shared.weight_bytes();
  }

  [[nodiscard]] detail::LayerSummary describe() const {
    return {config,         std::string(to_string(data_type_of<T>)),
            comm.rank(),    comm.size(),
            forward_calls,  workspace.bytes(),
            weight_bytes(), phases,
            report()};
  }

  [[nodiscard]] LayerReport report() const {
    auto const copy = [](auto const& view) {
      std::vector<offset_t> host(view.extent(0));
      Kokkos::View<offset_t*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>> const
          target(host.data(), host.size());
      Kokkos::deep_copy(target, view);
      return host;
    };
    LayerReport result = totals;
    result.tokens_per_expert = copy(buffers.rows_per_expert);
    result.routed_per_expert = copy(buffers.routed_per_expert);
    auto const counters = copy(buffers.router_counters);
    result.rows_with_nan = counters[rows_with_nan];
    result.rows_with_inf = counters[rows_with_inf];
    auto const seconds = [&](detail::Phase which) {
      return phases[static_cast<std::size_t>(which)].seconds;
    };
    result.route_seconds = seconds(detail::Phase::route);
    result.dispatch_seconds = seconds(detail::Phase::dispatch);
    result.experts_seconds = seconds(detail::Phase::experts);
    result.combine_seconds = seconds(detail::Phase::combine);
    result.shared_seconds = seconds(detail::Phase::shared);
    return result;
  }

  void reset_counters(E const& exec) {
    Kokkos::deep_copy(exec, buffers.router_counters, offset_t{0});
    Kokkos::deep_copy(exec, buffers.rows_per_expert, offset_t{0});
    Kokkos::deep_copy(exec, buffers.routed_per_expert, offset_t{0});
    exec.fence("kmoe::MoeLayer::reset_report");
    totals = {};
    phases = {};
    forward_calls = 0;
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
      if (!user_ids.empty() && !user_experts) {
        throw InvalidArgument(
            "kmoe::MoeLayer::forward: this rank hosts user experts: call set_user_experts first");
      }
    });
    ++forward_calls;
    if (log_level == detail::LogLevel::debug) {
      detail::log_line(comm.rank(), "forward: tokens=" + std::to_string(x.extent(0)) +
                                        " chunks=" + std::to_string(chunks));
    }
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
        Routing<E> const routing{row_range(buffers.routing.topk_ids, 0, end - begin),
                                 row_range(buffers.routing.topk_weights, 0, end - begin)};
        route_chunk(exec, x_chunk, routing);
        forward_chunk(exec, x_chunk, routing, y_chunk);
      }
    }
    if (config.num_user_experts > 0) throw_user_error();
  }

  void route(E const& exec, InMatrix<T, E> x, Routing<E> const& out) {
    detail::check_route<E, T>(config, x, out, router.weight.extent(0) != 0);
    for (std::size_t begin = 0; begin < x.extent(0); begin += shape.chunk) {
      std::size_t const end = std::min<std::size_t>(x.extent(0), begin + shape.chunk);
      route_chunk(exec, row_range(x, begin, end),
                  {row_range(out.topk_ids, begin, end), row_range(out.topk_weights, begin, end)});
    }
  }

  void route_chunk(E const& exec, InMatrix<T, E> x, Routing<E> const& routing) {
    PhaseScope<E> const scope(exec, "kmoe::MoeLayer::route", phase(detail::Phase::route),
                              profiling);
    Matrix<float, E> const logits(buffers.logits.data(), x.extent(0), router.weight.extent(0));
    router_logits<E, T>(exec, x, router, buffers.router_scratch, logits);
    kmoe::route(exec, logits, config.router, router.correction_bias, routing,
                buffers.router_counters);
  }

  /// The rows of this rank's user experts. What their function throws waits for the end of
  /// forward(): other ranks count on this one's messages.
  void user_rows(E const& exec, InMatrix<T, E> x, Matrix<float const, E> const& weights) {
    bool const on_input = config.experts.router_weight_on_input;
    auto const max_rows = static_cast<offset_t>(x.extent(0)) * config.slots_per_token();
    auto const range =
        detail::user_range<E>(exec, buffers.permutation, shape.num_mlp, shape.num_user, max_rows);
    detail::gather_user_rows<E, T>(exec, range, x, buffers.permutation,
                                   on_input ? weights : Matrix<float const, E>(), buffers.user_x);
    try {
      user_experts(exec, {user_ids, buffers.user_ids, range.offsets, range.max_rows, buffers.user_x,
                          buffers.rows});
    } catch (...) {
      if (!user_error) user_error = std::current_exception();
    }
    if (!on_input && weights.extent(0) > 0) {
      detail::weigh_user_rows<E, T>(exec, range, buffers.permutation, weights, buffers.rows);
    }
  }

  void throw_user_error() {
    auto const error = std::exchange(user_error, nullptr);
    auto const rethrow = [&] {
      if (error) std::rethrow_exception(error);
    };
    if (comm.size() == 1) return rethrow();
    agree(comm, rethrow);
  }

  void forward_chunk(E const& exec, InMatrix<T, E> x, Routing<E> const& routing,
                     Matrix<T, E> const& y) {
    if (profiling) add_histogram<E>(exec, routing.topk_ids, buffers.routed_per_expert);
    auto const addend = shared_chunk(exec, x);
    auto const received = [&] {
      PhaseScope<E> const scope(exec, "kmoe::MoeLayer::dispatch", phase(detail::Phase::dispatch),
                                profiling);
      auto out = dispatcher->dispatch(exec, x, routing);
      if (!groups_with_experts(out)) {
        group_by_expert(exec, out.expert_ids, buffers.mask_map, buffers.permutation,
                        buffers.rows_per_expert);
      }
      return out;
    }();
    CombineInput<E, T> computed{received.format, buffers.rows, buffers.permutation};
    {
      PhaseScope<E> const scope(exec, "kmoe::MoeLayer::experts", phase(detail::Phase::experts),
                                profiling);
      computed.combined = compute(exec, received, addend.extent(0) == 0, y);
    }
    {
      PhaseScope<E> const scope(exec, "kmoe::MoeLayer::combine", phase(detail::Phase::combine),
                                profiling);
      dispatcher->combine(exec, computed, addend, y);
    }
    auto const& step = dispatcher->statistics();
    totals.tokens += static_cast<offset_t>(x.extent(0));
    totals.tokens_sent += step.tokens_sent;
    totals.tokens_received += step.tokens_received;
    totals.bytes_sent += step.bytes_sent;
  }

  /// Whether the launch of the experts is given ungrouped ids, which it can group by itself. Phases
  /// that are timed are kept apart.
  bool groups_with_experts(DispatchOutput<E, T> const& received) const {
    return ExpertMlp<E, T>::may_group() && !profiling && shape.num_user == 0 &&
           std::holds_alternative<LocalExpertIds<E>>(received.expert_ids);
  }

  /// The experts on what was dispatched. \return whether y is made, too
  bool compute(E const& exec, DispatchOutput<E, T> const& received, bool alone,
               Matrix<T, E> const& y) {
    auto const& tokens = received.hidden_states;
    auto const weights = config.no_combine ? Matrix<float const, E>() : received.topk_weights;
    if (!groups_with_experts(received)) {
      auto mlp = buffers.permutation;
      mlp.expert_offsets = Vector<offset_t, E>(mlp.expert_offsets.data(),
                                               static_cast<std::size_t>(shape.num_mlp) + 1);
      experts.forward(exec, tokens, mlp, weights, buffers.rows);
      if (shape.num_user > 0) user_rows(exec, tokens, weights);
      return false;
    }
    auto const& ids = std::get<LocalExpertIds<E>>(received.expert_ids).ids;
    if (alone && dispatcher->combines_by_itself() && tokens.extent(0) == y.extent(0)) {
      experts.forward_combined(exec, tokens, ids, buffers.permutation, buffers.rows_per_expert,
                               weights, buffers.rows, y);
      return true;
    }
    experts.forward(exec, tokens, ids, buffers.permutation, buffers.rows_per_expert, weights,
                    buffers.rows);
    return false;
  }

  /// Shared expert on the tokens that this rank adds up: those rows of [T, H], or empty.
  Matrix<T const, E> shared_chunk(E const& exec, InMatrix<T, E> x) {
    if (config.shared_intermediate_size == 0) return {};
    PhaseScope<E> const scope(exec, "kmoe::MoeLayer::shared", phase(detail::Phase::shared),
                              profiling);
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
  UserExperts<E, T> user_experts;
  std::vector<index_t> user_ids;  // global ids of the user experts of this rank
  std::exception_ptr user_error;

  bool profiling = false;
  LayerReport totals;  // without phases and the counters that live on the device
  detail::PhaseTotals phases{};
  offset_t forward_calls = 0;
  detail::LogLevel log_level = detail::LogLevel::off;
  detail::PendingSummary summary;  // the last: it describes the others
};

template <ExecutionSpace E, Element T>
MoeLayer<E, T>::MoeLayer(E const& exec, Communicator comm, MoeConfig const& config,
                         ExpertPlacement const& placement, LayerWeights<E, T> const& weights,
                         index_t max_tokens_per_rank, WorkspaceMemory const& memory)
    : impl_(std::make_unique<Impl>(exec, std::move(comm), config, placement, weights,
                                   max_tokens_per_rank, memory)) {}

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
void MoeLayer<E, T>::abandon_forward(std::string const& message) {
  impl_->agree_on_chunks(0, [&] { throw InvalidArgument(message); });
  throw InvalidArgument(message);
}

template <ExecutionSpace E, Element T>
void MoeLayer<E, T>::route(E const& exec, InMatrix<T, E> x, Routing<E> const& out) {
  Kokkos::Profiling::ScopedRegion const region("kmoe::MoeLayer::route");
  impl_->route(exec, x, out);
}

template <ExecutionSpace E, Element T>
void MoeLayer<E, T>::set_user_experts(UserExperts<E, T> function) {
  impl_->user_experts = std::move(function);
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
  auto const size =
      workspace_size(exec, config, placement, rank, max_tokens_per_rank, gated, experts, shared);
  return size.device_bytes + size.host_bytes;
}

template <ExecutionSpace E, Element T>
WorkspaceSize MoeLayer<E, T>::workspace_size(E const& exec, MoeConfig const& config,
                                             ExpertPlacement const& placement, index_t rank,
                                             index_t max_tokens_per_rank, bool gated,
                                             QuantScheme const& experts,
                                             QuantScheme const& shared) {
  validate(config);
  detail::expect_extent("kmoe::MoeLayer::workspace_size",
                        "placement.num_experts() must equal num_experts", config.num_experts,
                        placement.num_experts(), {});
  detail::LayerShape shape{config, placement.num_ranks(), 0, 0, 0, gated, experts, shared};
  shape.num_user = detail::num_user_experts(config, placement, rank);
  shape.num_mlp = placement.num_local(rank) - shape.num_user;
  shape.chunk =
      choose_chunk<E, T>(exec, config, placement, max_tokens_per_rank, gated, experts, shared);
  auto const ws = detail::count_workspace<E, T>(exec, shape);
  return {ws.device_bytes(), ws.host_bytes()};
}

template <ExecutionSpace E, Element T>
std::size_t MoeLayer<E, T>::weight_bytes() const {
  return impl_->weight_bytes();
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
  return impl_->report();
}

template <ExecutionSpace E, Element T>
void MoeLayer<E, T>::reset_report() {
  impl_->reset_counters(E());
}

#define KMOE_INSTANTIATE(SPACE, ELEMENT) template class KMOE_API MoeLayer<SPACE, ELEMENT>;
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE

}  // namespace kmoe
