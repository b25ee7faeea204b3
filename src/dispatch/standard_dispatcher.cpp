// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/dispatch/standard_dispatcher.hpp>

#include <utility>

#include "dispatch/exchange.hpp"
#include "instantiate.hpp"

namespace kmoe {

template <ExecutionSpace E, Element T>
StandardDispatcher<E, T>::StandardDispatcher(Communicator comm, ExpertPlacement const& placement,
                                             DispatchShape const& shape)
    : BaseDispatcher<E, T>(std::move(comm), placement, shape, DispatcherKind::standard),
      exchange_(std::make_unique<detail::Exchange<E, T>>()) {}

template <ExecutionSpace E, Element T>
StandardDispatcher<E, T>::~StandardDispatcher() = default;

template <ExecutionSpace E, Element T>
void StandardDispatcher<E, T>::bind_shape(Workspace<E>& ws, DispatchShape const& shape) {
  auto own = shape;
  own.config.dispatcher = DispatcherKind::standard;
  StandardDispatcher::bind_tables(ws, own);
  detail::Exchange<E, T>().bind(ws, own);
}

template <ExecutionSpace E, Element T>
void StandardDispatcher<E, T>::do_bind(E const& exec, Workspace<E>& ws) {
  exchange_->bind(ws, this->shape());
  if (!ws.counting()) {
    exchange_->load(exec, this->communicator(), this->placement(), this->expert_map());
  }
}

template <ExecutionSpace E, Element T>
DispatchOutput<E, T> StandardDispatcher<E, T>::do_dispatch(E const& exec,
                                                           DispatchInput<E, T> const& input) {
  auto const out = exchange_->moves() ? exchange_->gather(exec, input, this->statistics_)
                                      : exchange_->keep(exec, input);
  return {this->kind(), out.x, this->tag_ids(out.ids), out.weights};
}

template <ExecutionSpace E, Element T>
void StandardDispatcher<E, T>::do_combine(E const& exec, CombineInput<E, T> const& input,
                                          InMatrix<T, E> addend, Matrix<T, E> const& y) {
  exchange_->combine(exec, input, addend, y, this->statistics_);
}

#define KMOE_INSTANTIATE(SPACE, ELEMENT) template class KMOE_API StandardDispatcher<SPACE, ELEMENT>;
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE

}  // namespace kmoe
