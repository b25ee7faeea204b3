// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <algorithm>
#include <type_traits>

#include <kmoe/core/config.hpp>
#include <kmoe/routing/router.hpp>

#ifdef KMOE_HAVE_KOKKOSKERNELS
#include <KokkosBlas3_gemm.hpp>
#endif

#include "instantiate.hpp"
#include "routing/logits_kernels.hpp"

namespace kmoe {
namespace {

template <ExecutionSpace E>
constexpr bool on_host = std::is_same_v<typename E::memory_space, Kokkos::HostSpace>;

#ifdef KMOE_HAVE_KOKKOSKERNELS

/// A BLAS library chooses its kernel, and with it the order of the sums, by the shape of the
/// matrices (and some by their alignment): every call has the same shape and the same addresses.
template <ExecutionSpace E, Element T>
struct BlasLogits {
  static constexpr bool available = on_host<E> && std::is_same_v<T, accumulate_t<T>>;
  static constexpr index_t block = 64;

  static std::size_t scratch_size(index_t num_columns, index_t hidden) {
    return static_cast<std::size_t>(block) * (padded(hidden) + padded(num_columns));
  }

  static void run(E const& exec, Matrix<T const, E> const& x, RouterWeights<E, T> const& weights,
                  Vector<T, E> const& scratch, Matrix<float, E> const& logits) {
    auto const tokens = static_cast<index_t>(logits.extent(0));
    auto const columns = static_cast<index_t>(logits.extent(1));
    auto const hidden = static_cast<index_t>(x.extent(1));
    Matrix<T, E> const a(scratch.data(), block, hidden);
    Matrix<T, E> const c(scratch.data() + block * padded(hidden), block, columns);
    auto const bias = weights.bias;
    using Rows = Kokkos::RangePolicy<E, Kokkos::IndexType<index_t>>;
    for (index_t begin = 0; begin < tokens; begin += block) {
      index_t const count = std::min(block, tokens - begin);
      Kokkos::parallel_for(
          "kmoe::router_logits_load", Rows(exec, 0, block), KOKKOS_LAMBDA(index_t t) {
            for (index_t h = 0; h < hidden; ++h) a(t, h) = t < count ? x(begin + t, h) : T(0);
          });
      KokkosBlas::gemm(exec, "N", "T", T(1), a, weights.weight, T(0), c);
      Kokkos::parallel_for(
          "kmoe::router_logits_store", Rows(exec, 0, count), KOKKOS_LAMBDA(index_t t) {
            for (index_t e = 0; e < columns; ++e) {
              T const sum = bias.extent(0) > 0 ? c(t, e) + static_cast<T>(bias(e)) : c(t, e);
              logits(begin + t, e) = static_cast<float>(sum);
            }
          });
    }
  }

 private:
  static std::size_t padded(index_t n) {
    constexpr std::size_t line = Workspace<E>::alignment / sizeof(T);
    return (static_cast<std::size_t>(n) + line - 1) / line * line;
  }
};

#else

template <ExecutionSpace E, Element T>
struct BlasLogits {
  static constexpr bool available = false;
};

#endif

template <ExecutionSpace E, Element T>
std::size_t scratch_size(index_t num_columns, index_t hidden, index_t num_workers) {
  if constexpr (BlasLogits<E, T>::available) {
    return BlasLogits<E, T>::scratch_size(num_columns, hidden);
  } else if constexpr (on_host<E>) {
    return static_cast<std::size_t>(routing::LogitTiles<E, T>::scratch_size * num_workers);
  } else {
    return 0;
  }
}

}  // namespace

template <ExecutionSpace E, Element T>
void RouterScratch<E, T>::bind(Workspace<E>& ws, index_t num_columns, index_t hidden_size) {
  buffer = ws.template vector<accumulate_t<T>>(
      scratch_size<E, T>(num_columns, hidden_size, static_cast<index_t>(E().concurrency())));
}

template <ExecutionSpace E, Element T>
void router_logits(E const& exec, InMatrix<T, E> x, RouterWeights<E, T> const& weights,
                   RouterScratch<E, T> const& scratch, Matrix<float, E> const& logits) {
  constexpr std::string_view function = "kmoe::router_logits";
  auto const number = [](std::size_t n) { return static_cast<long long>(n); };
  auto const& weight = weights.weight;
  detail::expect_extent(function, "logits.extent(0) must equal x.extent(0) =", number(x.extent(0)),
                        number(logits.extent(0)), logits.label());
  detail::expect_extent(function, "logits.extent(1) must equal weight.extent(0) =",
                        number(weight.extent(0)), number(logits.extent(1)), logits.label());
  detail::expect_extent(function, "weight.extent(1) must equal x.extent(1) =", number(x.extent(1)),
                        number(weight.extent(1)), weight.label());
  if (weights.bias.extent(0) != 0) {
    detail::expect_extent(function, "bias.extent(0) must equal weight.extent(0) =",
                          number(weight.extent(0)), number(weights.bias.extent(0)),
                          weights.bias.label());
  }
  auto const tokens = static_cast<index_t>(logits.extent(0));
  auto const columns = static_cast<index_t>(logits.extent(1));
  std::size_t const needed = scratch_size<E, T>(columns, static_cast<index_t>(x.extent(1)), 1);
  detail::expect(scratch.buffer.extent(0) >= needed, function,
                 "scratch must be bound for these extents: at least " + std::to_string(needed) +
                     " numbers",
                 number(scratch.buffer.extent(0)));
  if (tokens == 0 || columns == 0) return;

  if constexpr (BlasLogits<E, T>::available) {
    BlasLogits<E, T>::run(exec, x, weights, scratch.buffer, logits);
  } else if constexpr (on_host<E>) {
    using Tiles = routing::LogitTiles<E, T>;
    auto const num_workers =
        static_cast<index_t>(number(scratch.buffer.extent(0)) / Tiles::scratch_size);
    Kokkos::parallel_for("kmoe::router_logits",
                         Kokkos::RangePolicy<E, Kokkos::IndexType<index_t>>(exec, 0, num_workers),
                         Tiles{x, weights, logits, scratch.buffer, num_workers});
  } else {
    Kokkos::parallel_for("kmoe::router_logits",
                         Kokkos::RangePolicy<E, Kokkos::IndexType<offset_t>>(
                             exec, 0, static_cast<offset_t>(tokens) * columns),
                         routing::LogitPerThread<E, T>{x, weights, logits});
  }
}

#define KMOE_INSTANTIATE(E, T)                                                                \
  template struct RouterScratch<E, T>;                                                        \
  template void router_logits<E, T>(E const&, InMatrix<T, E>, RouterWeights<E, T> const&,     \
                                    RouterScratch<E, T> const&, Matrix<float, E> const&);
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)

}  // namespace kmoe
