// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/dispatch/all_to_all_dispatcher.hpp>

#include <utility>

#include "dispatch/exchange.hpp"
#include "instantiate.hpp"

namespace kmoe {

template <ExecutionSpace E, Element T>
AllToAllDispatcher<E, T>::AllToAllDispatcher(Communicator comm, ExpertPlacement const& placement,
                                             DispatchShape const& shape)
    : BaseDispatcher<E, T>(std::move(comm), placement, shape, DispatcherKind::all_to_all),
      exchange_(std::make_unique<detail::Exchange<E, T>>()) {
  if (shape.config.token_layout == TokenLayout::replicated) {
    throw Unsupported(
        "kmoe::AllToAllDispatcher: replicated tokens do not travel; use StandardDispatcher");
  }
}

template <ExecutionSpace E, Element T>
AllToAllDispatcher<E, T>::~AllToAllDispatcher() = default;

template <ExecutionSpace E, Element T>
void AllToAllDispatcher<E, T>::bind_shape(Workspace<E>& ws, DispatchShape const& shape) {
  auto own = shape;
  own.config.dispatcher = DispatcherKind::all_to_all;
  AllToAllDispatcher::bind_tables(ws, own);
  detail::Exchange<E, T>().bind(ws, own);
}

template <ExecutionSpace E, Element T>
void AllToAllDispatcher<E, T>::do_bind(E const& exec, Workspace<E>& ws) {
  exchange_->bind(ws, this->shape());
  if (!ws.counting()) {
    exchange_->load(exec, this->communicator(), this->placement(), this->expert_map());
  }
}

template <ExecutionSpace E, Element T>
DispatchOutput<E, T> AllToAllDispatcher<E, T>::do_dispatch(E const& exec,
                                                           DispatchInput<E, T> const& input) {
  auto const out = exchange_->moves() ? exchange_->scatter(exec, input, this->statistics_)
                                      : exchange_->keep(exec, input);
  return {this->kind(), out.x, this->tag_ids(out.ids), out.weights};
}

template <ExecutionSpace E, Element T>
void AllToAllDispatcher<E, T>::do_combine(E const& exec, CombineInput<E, T> const& input,
                                          InMatrix<T, E> addend, Matrix<T, E> const& y) {
  exchange_->combine(exec, input, addend, y, this->statistics_);
}

#define KMOE_INSTANTIATE(SPACE, ELEMENT) template class KMOE_API AllToAllDispatcher<SPACE, ELEMENT>;
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE

}  // namespace kmoe
