// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Type lists for typed tests: TYPED_TEST_SUITE(Name, Spaces, TypeNames) or (Name, Cases, ...).

#include <string>
#include <type_traits>

#include <gtest/gtest.h>

#include <kmoe/core/options.hpp>
#include <kmoe/core/types.hpp>

namespace kmoe::test {

/// One (execution space, element type) pair.
template <class Space, class ElementType>
struct Case {
  using E = Space;
  using T = ElementType;
};

namespace detail {
using Device = Kokkos::DefaultExecutionSpace;
using Host = Kokkos::DefaultHostExecutionSpace;
inline constexpr bool host_only = std::is_same_v<Device, Host>;
template <class... E>
using CasesOf =
    ::testing::Types<Case<E, double>..., Case<E, float>..., Case<E, bfloat16>..., Case<E, half>...>;
}  // namespace detail

using Spaces = std::conditional_t<detail::host_only, ::testing::Types<detail::Host>,
                                  ::testing::Types<detail::Device, detail::Host>>;
using Cases = std::conditional_t<detail::host_only, detail::CasesOf<detail::Host>,
                                 detail::CasesOf<detail::Device, detail::Host>>;

/// Names typed tests "OpenMP" or "OpenMP_bf16".
struct TypeNames {
  template <class X>
  static std::string GetName(int) {
    if constexpr (Kokkos::is_execution_space_v<X>) {
      return X::name();
    } else {
      return std::string(X::E::name()) + "_" + std::string(to_string(data_type_of<typename X::T>));
    }
  }
};

}  // namespace kmoe::test
