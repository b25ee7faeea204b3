// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <algorithm>
#include <type_traits>
#include <utility>

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

/// A BLAS library is free to order the sums of an entry by the shape of the matrices, the place of
/// the entry and the number of threads, and libraries do. Three things keep that from a token's
/// bits: all calls have the same shapes; their 16 tokens are what the library sees as consecutive
/// entries of a column, one register tile, which all its kernels treat alike; and each call is too
/// small to be split over threads (OpenBLAS: up to 2^18 multiplications), so no sum depends on
/// their number. With 64 tokens to a call, or tokens as columns, OpenBLAS' AVX2 kernels for float
/// depend on the place; with all of H in one call, the threads decide where sums are cut.
template <ExecutionSpace E, Element T>
struct BlasLogits {
  static constexpr bool available = on_host<E> && std::is_same_v<T, accumulate_t<T>>;
  static constexpr index_t block = 16;
  static constexpr index_t columns_per_call = 64;

  static std::size_t scratch_size(index_t num_columns, index_t hidden) {
    return static_cast<std::size_t>(block) *
           (static_cast<std::size_t>(hidden) + static_cast<std::size_t>(num_columns));
  }

  static void run(E const& exec, Matrix<T const, E> const& x, RouterWeights<E, T> const& weights,
                  Vector<T, E> const& scratch, Matrix<float, E> const& logits) {
    auto const tokens = static_cast<index_t>(logits.extent(0));
    auto const columns = static_cast<index_t>(logits.extent(1));
    auto const hidden = static_cast<index_t>(x.extent(1));
    Matrix<T, E> const a(scratch.data(), block, hidden);
    Matrix<T, E> const sums(scratch.data() + a.size(), columns, block);
    auto const bias = weights.bias;
    using Rows = Kokkos::RangePolicy<E, Kokkos::IndexType<index_t>>;
    for (index_t begin = 0; begin < tokens; begin += block) {
      index_t const count = std::min(block, tokens - begin);
      Kokkos::parallel_for(
          "kmoe::router_logits_load", Rows(exec, 0, block), KOKKOS_LAMBDA(index_t t) {
            for (index_t h = 0; h < hidden; ++h) a(t, h) = t < count ? x(begin + t, h) : T(0);
          });
      multiply(exec, weights.weight, a, sums);
      Kokkos::parallel_for(
          "kmoe::router_logits_store", Rows(exec, 0, count), KOKKOS_LAMBDA(index_t t) {
            for (index_t e = 0; e < columns; ++e) {
              T const sum = bias.extent(0) > 0 ? sums(e, t) + static_cast<T>(bias(e)) : sums(e, t);
              logits(begin + t, e) = static_cast<float>(sum);
            }
          });
    }
  }

 private:
  /// sums [C, 16] = weight [C, H] . a [16, H]^T
  static void multiply(E const& exec, Matrix<T const, E> const& weight, Matrix<T, E> const& a,
                       Matrix<T, E> const& sums) {
    auto const columns = static_cast<index_t>(sums.extent(0));
    auto const hidden = static_cast<index_t>(a.extent(1));
    if (hidden == 0) Kokkos::deep_copy(exec, sums, T(0));
    for (index_t e = 0; e < columns; e += columns_per_call) {
      std::pair const es(e, std::min(columns, e + columns_per_call));
      for (index_t h = 0; h < hidden; h += routing::slice) {
        std::pair const hs(h, std::min(hidden, h + routing::slice));
        KokkosBlas::gemm(exec, "N", "T", T(1), Kokkos::subview(weight, es, hs),
                         Kokkos::subview(a, Kokkos::ALL, hs), T(h > 0),
                         Kokkos::subview(sums, es, Kokkos::ALL));
      }
    }
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
    return static_cast<std::size_t>(routing::LogitTiles<E, T>::scratch_size() * num_workers);
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
  detail::expect_extent(function,
                        "logits.extent(1) must equal weight.extent(0) =", number(weight.extent(0)),
                        number(logits.extent(1)), logits.label());
  detail::expect_extent(function, "weight.extent(1) must equal x.extent(1) =", number(x.extent(1)),
                        number(weight.extent(1)), weight.label());
  if (weights.bias.extent(0) != 0) {
    detail::expect_extent(function,
                          "bias.extent(0) must equal weight.extent(0) =", number(weight.extent(0)),
                          number(weights.bias.extent(0)), weights.bias.label());
  }
  auto const tokens = static_cast<index_t>(logits.extent(0));
  auto const columns = static_cast<index_t>(logits.extent(1));
  std::size_t const needed = scratch_size<E, T>(columns, static_cast<index_t>(x.extent(1)), 1);
  detail::expect(
      scratch.buffer.extent(0) >= needed, function,
      "scratch must be bound for these extents: at least " + std::to_string(needed) + " numbers",
      number(scratch.buffer.extent(0)));
  if (tokens == 0 || columns == 0) return;

  if constexpr (BlasLogits<E, T>::available) {
    BlasLogits<E, T>::run(exec, x, weights, scratch.buffer, logits);
  } else if constexpr (on_host<E>) {
    using Tiles = routing::LogitTiles<E, T>;
    auto const num_workers =
        static_cast<index_t>(number(scratch.buffer.extent(0)) / Tiles::scratch_size());
    Kokkos::parallel_for("kmoe::router_logits",
                         Kokkos::RangePolicy<E, Kokkos::IndexType<index_t>>(exec, 0, num_workers),
                         Tiles{x, weights, logits, scratch.buffer, num_workers});
  } else if constexpr (device::warp_size<E> > 1) {
    using Wide = routing::LogitTeams<E, T, 16 / sizeof(T)>;
    if (Wide::suits(x, weight)) return Wide::launch(exec, x, weights, logits);
    routing::LogitTeams<E, T, 1>::launch(exec, x, weights, logits);
  } else {
    Kokkos::parallel_for("kmoe::router_logits",
                         Kokkos::RangePolicy<E, Kokkos::IndexType<offset_t>>(
                             exec, 0, static_cast<offset_t>(tokens) * columns),
                         routing::LogitPerThread<E, T>{x, weights, logits});
  }
}

#define KMOE_INSTANTIATE(E, T)                                                                     \
  template struct KMOE_API RouterScratch<E, T>;                                                    \
  template KMOE_API void router_logits<E, T>(E const&, InMatrix<T, E>, RouterWeights<E, T> const&, \
                                             RouterScratch<E, T> const&, Matrix<float, E> const&);
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)

}  // namespace kmoe
