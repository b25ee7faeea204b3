// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The one list of (execution space, element type) pairs the library is compiled for: the default
/// device space and, where that is another one, the default host space.

#include <type_traits>

#include <kmoe/core/types.hpp>

namespace kmoe::detail {
using DeviceSpace = Kokkos::DefaultExecutionSpace;
using HostSpace = Kokkos::DefaultHostExecutionSpace;
}  // namespace kmoe::detail

#if defined(KOKKOS_ENABLE_CUDA) || defined(KOKKOS_ENABLE_HIP) || defined(KOKKOS_ENABLE_SYCL)
#define KMOE_FOR_EACH_SPACE(MACRO) \
  MACRO(::kmoe::detail::DeviceSpace) MACRO(::kmoe::detail::HostSpace)
#else
#define KMOE_FOR_EACH_SPACE(MACRO) MACRO(::kmoe::detail::HostSpace)
#endif

#define KMOE_DETAIL_ELEMENTS(MACRO, SPACE) \
  MACRO(SPACE, double) MACRO(SPACE, float) MACRO(SPACE, ::kmoe::bfloat16) MACRO(SPACE, ::kmoe::half)

#if defined(KOKKOS_ENABLE_CUDA) || defined(KOKKOS_ENABLE_HIP) || defined(KOKKOS_ENABLE_SYCL)
#define KMOE_FOR_EACH_SPACE_AND_ELEMENT(MACRO)             \
  KMOE_DETAIL_ELEMENTS(MACRO, ::kmoe::detail::DeviceSpace) \
  KMOE_DETAIL_ELEMENTS(MACRO, ::kmoe::detail::HostSpace)
#else
#define KMOE_FOR_EACH_SPACE_AND_ELEMENT(MACRO) \
  KMOE_DETAIL_ELEMENTS(MACRO, ::kmoe::detail::HostSpace)
#endif
