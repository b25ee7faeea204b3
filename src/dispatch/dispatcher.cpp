// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/dispatch/dispatcher.hpp>

#include <limits>
#include <string>
#include <utility>

#include <kmoe/core/error.hpp>

#include "instantiate.hpp"

namespace kmoe {
namespace {

std::string method(DispatcherKind kind, std::string_view name) {
  return (kind == DispatcherKind::standard ? "kmoe::StandardDispatcher"
                                           : "kmoe::AllToAllDispatcher") +
         std::string(name);
}

/// `found` must be [rows, cols], its rows back to back; cols do not matter without rows.
template <class V>
void expect_matrix(std::string const& function, std::string const& name, V const& found,
                   std::string const& rows_name, offset_t rows, std::string const& cols_name,
                   offset_t cols) {
  detail::expect_extent(function, name + ".extent(0) must equal " + rows_name, rows,
                        static_cast<offset_t>(found.extent(0)), found.label());
  if (rows == 0) return;
  detail::expect_extent(function, name + ".extent(1) must equal " + cols_name, cols,
                        static_cast<offset_t>(found.extent(1)), found.label());
  if (!found.span_is_contiguous()) {
    detail::throw_invalid(function, name + " must have its rows back to back",
                          "a row stride of " + std::to_string(found.stride(0)), found.label());
  }
}

template <class V>
V no_rows(std::size_t cols) {
  return V(typename V::pointer_type(nullptr), 0, cols);
}

}  // namespace

template <ExecutionSpace E>
void group_by_expert(E const& exec, ExpertIds<E> const& ids, Vector<index_t, E> const& mask_map,
                     Permutation<E> const& out, Vector<offset_t, E> const& rows_per_expert) {
  if (auto const* local = std::get_if<LocalExpertIds<E>>(&ids)) {
    make_permutation<E>(exec, local->ids, out, rows_per_expert);
  } else {
    auto const& masked = std::get<MaskedExpertIds<E>>(ids);
    make_permutation<E>(exec, masked.ids, masked.mask, mask_map, out, rows_per_expert);
  }
}

template <ExecutionSpace E, Element T>
BaseDispatcher<E, T>::BaseDispatcher(Communicator comm, ExpertPlacement const& placement,
                                     DispatchShape const& shape, DispatcherKind kind)
    : comm_(std::move(comm)), placement_(placement), shape_(shape) {
  shape_.config.dispatcher = kind;
  MoeConfig const& config = shape_.config;
  auto const function = method(kind, "");
  detail::expect_extent(function, "shape.num_ranks must equal the size of the communicator",
                        comm_.size(), shape.num_ranks, {});
  detail::expect_extent(function, "placement.num_ranks() must equal the size of the communicator",
                        comm_.size(), placement.num_ranks(), {});
  detail::expect_extent(function, "placement.num_experts() must equal num_experts",
                        config.num_experts, placement.num_experts(), {});
  detail::expect_extent(function, "placement.num_shared() must equal num_fused_shared_experts",
                        config.router.num_fused_shared_experts, placement.num_shared(), {});
  detail::expect(config.hidden_size >= 1, function, "hidden_size must be at least 1",
                 config.hidden_size);
  detail::expect(config.slots_per_token() >= 1, function, "top_k must be at least 1",
                 config.slots_per_token());
  detail::expect(config.num_zero_experts >= 0, function, "num_zero_experts must be at least 0",
                 config.num_zero_experts);
  detail::expect(config.num_zero_experts == 0 || placement.num_shared() == 0, function,
                 "num_zero_experts must be 0 with fused shared experts", config.num_zero_experts);
  detail::expect(shape.max_tokens >= 0, function, "max_tokens must be at least 0",
                 shape.max_tokens);
  offset_t const slots = offset_t{shape.max_tokens} * config.slots_per_token();
  offset_t const ranks = config.token_layout == TokenLayout::replicated ? 1 : shape.num_ranks;
  detail::expect(slots <= std::numeric_limits<index_t>::max() / ranks, function,
                 "the slots of " + std::to_string(ranks) + " ranks x max_tokens must be below 2^31",
                 slots);
  if (!shape.stage_through_host && shape.num_ranks > 1 && !comm_.gpu_aware() &&
      !Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename E::memory_space>::accessible) {
    throw Unsupported(function + ": without stage_through_host MPI must take device pointers: " +
                      comm_.gpu_aware_reason());
  }
}

template <ExecutionSpace E, Element T>
auto BaseDispatcher<E, T>::bind_tables(Workspace<E>& ws, DispatchShape const& shape) -> Tables {
  auto const placed = static_cast<std::size_t>(shape.config.num_placed_experts());
  auto const map = ws.template vector<index_t>(placed);
  return {map, ws.template vector<index_t>(placed)};
}

template <ExecutionSpace E, Element T>
void BaseDispatcher<E, T>::bind(E const& exec, Workspace<E>& ws) {
  auto const tables = bind_tables(ws, shape_);
  bound_ = !ws.counting();
  dispatched_ = false;
  if (bound_) {
    map_ = make_expert_map<E>(exec, placement_, comm_.rank(), tables.map);
    mask_ = make_expert_mask<E>(exec, map_, tables.mask);
  }
  do_bind(exec, ws);
  if (bound_) exec.fence("kmoe::dispatch: the map serves every instance of the space");
}

template <ExecutionSpace E, Element T>
void BaseDispatcher<E, T>::allocate(E const& exec) {
  own_workspace_ = make_workspace<E>([&](Workspace<E>& ws) { bind(exec, ws); });
}

template <ExecutionSpace E, Element T>
ExpertIds<E> BaseDispatcher<E, T>::tag_ids(Matrix<index_t const, E> const& ids) const {
  if (shape_.config.id_space == IdSpace::masked) return MaskedExpertIds<E>{ids, mask_};
  return LocalExpertIds<E>{ids, map_.num_local_experts()};
}

template <ExecutionSpace E, Element T>
DispatchOutput<E, T> BaseDispatcher<E, T>::dispatch(E const& exec, InMatrix<T, E> x,
                                                    Routing<E> const& routing) {
  dispatched_ = false;
  DispatchInput<E, T> input{x, routing};
  pre_dispatch_.run(*this, exec, input);
  check_dispatch(input);
  if (input.x.extent(0) == 0) {  // of any width, default-constructed ones too
    auto const slots = static_cast<std::size_t>(shape_.config.slots_per_token());
    input.x = no_rows<Matrix<T const, E>>(static_cast<std::size_t>(shape_.config.hidden_size));
    input.routing = {no_rows<Matrix<index_t, E>>(slots), no_rows<Matrix<float, E>>(slots)};
  }
  statistics_ = {};
  auto output = do_dispatch(exec, input);
  num_tokens_ = static_cast<index_t>(input.x.extent(0));
  num_dispatched_ = static_cast<index_t>(output.hidden_states.extent(0));
  dispatched_ = true;
  post_dispatch_.run(*this, exec, output);
  return output;
}

template <ExecutionSpace E, Element T>
void BaseDispatcher<E, T>::combine(E const& exec, CombineInput<E, T> const& input,
                                   InMatrix<T, E> addend, Matrix<T, E> const& y) {
  if (!dispatched_) {
    throw InvalidArgument(method(kind(), "::combine: needs a dispatch() before it"));
  }
  CombineInput<E, T> current = input;
  pre_combine_.run(*this, exec, current);
  check_combine(current, addend, y);
  dispatched_ = false;
  if (!current.combined) do_combine(exec, current, addend, y);
  post_combine_.run(*this, exec, y);
}

template <ExecutionSpace E, Element T>
void BaseDispatcher<E, T>::check_dispatch(DispatchInput<E, T> const& input) const {
  auto const function = method(kind(), "::dispatch");
  if (!bound_) throw InvalidArgument(function + ": needs bind() or allocate() before it");
  auto const tokens = static_cast<offset_t>(input.x.extent(0));
  detail::expect(tokens <= shape_.max_tokens, function,
                 "x.extent(0) must be at most max_tokens " + std::to_string(shape_.max_tokens),
                 tokens);
  expect_matrix(function, "x", input.x, "T", tokens, "hidden_size", shape_.config.hidden_size);
  auto const slots = shape_.config.slots_per_token();
  expect_matrix(function, "topk_ids", input.routing.topk_ids, "x.extent(0) =", tokens,
                "top_k + num_fused_shared_experts =", slots);
  expect_matrix(function, "topk_weights", input.routing.topk_weights, "x.extent(0) =", tokens,
                "top_k + num_fused_shared_experts =", slots);
}

template <ExecutionSpace E, Element T>
void BaseDispatcher<E, T>::check_combine(CombineInput<E, T> const& input, InMatrix<T, E> addend,
                                         Matrix<T, E> const& y) const {
  auto const function = method(kind(), "::combine");
  MoeConfig const& config = shape_.config;
  if (input.format != kind()) {
    throw InvalidArgument(function + ": input.format must be " + std::string(to_string(kind())) +
                          ", found " + std::string(to_string(input.format)));
  }
  expect_matrix(function, "input.rows", input.rows, "M",
                static_cast<offset_t>(input.rows.extent(0)), "hidden_size", config.hidden_size);
  auto const& row_of_slot = input.permutation.row_of_slot;
  detail::expect(row_of_slot.extent(0) >= static_cast<std::size_t>(num_dispatched_), function,
                 "permutation.row_of_slot.extent(0) must be at least the number of dispatched "
                 "tokens " +
                     std::to_string(num_dispatched_),
                 static_cast<offset_t>(row_of_slot.extent(0)));
  expect_matrix(function, "permutation.row_of_slot", row_of_slot, "N",
                static_cast<offset_t>(row_of_slot.extent(0)),
                "top_k + num_fused_shared_experts =", config.slots_per_token());
  if (input.combined && (!combines_by_itself() || addend.extent(0) != 0)) {
    throw InvalidArgument(function + ": input.combined needs combines_by_itself() and no addend");
  }
  if (addend.extent(0) != 0) {
    if (config.no_combine) {
      throw InvalidArgument(function + ": no_combine takes no addend (View \"" + addend.label() +
                            "\")");
    }
    expect_matrix(function, "addend", addend, "T =", num_tokens_, "hidden_size",
                  config.hidden_size);
  }
  offset_t const y_rows = config.no_combine ? config.slots_per_token() : 1;
  expect_matrix(function, "y", y, config.no_combine ? "T * K =" : "T =", num_tokens_ * y_rows,
                "hidden_size", config.hidden_size);
}

template <ExecutionSpace E, Element T>
HookHandle BaseDispatcher<E, T>::register_pre_dispatch_hook(typename PreDispatchHook::Hook hook) {
  return pre_dispatch_.add(std::move(hook));
}
template <ExecutionSpace E, Element T>
HookHandle BaseDispatcher<E, T>::register_post_dispatch_hook(typename PostDispatchHook::Hook hook) {
  return post_dispatch_.add(std::move(hook));
}
template <ExecutionSpace E, Element T>
HookHandle BaseDispatcher<E, T>::register_pre_combine_hook(typename PreCombineHook::Hook hook) {
  return pre_combine_.add(std::move(hook));
}
template <ExecutionSpace E, Element T>
HookHandle BaseDispatcher<E, T>::register_post_combine_hook(typename PostCombineHook::Hook hook) {
  return post_combine_.add(std::move(hook));
}

#define KMOE_INSTANTIATE(SPACE)                                                                    \
  template KMOE_API void group_by_expert(SPACE const&, ExpertIds<SPACE> const&,                    \
                                         Vector<index_t, SPACE> const&, Permutation<SPACE> const&, \
                                         Vector<offset_t, SPACE> const&);
KMOE_FOR_EACH_SPACE(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE
#define KMOE_INSTANTIATE(SPACE, ELEMENT) template class KMOE_API BaseDispatcher<SPACE, ELEMENT>;
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE

}  // namespace kmoe
