// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Kernels of teams with scratch memory: Kokkos' own, but on CUDA launched here, where Kokkos gives
/// a team no more than 48 KB and brings no kernel early (launch.hpp).
///
/// A functor has `threads`, of a team, and `Bounds`, Kokkos::LaunchBounds that its registers keep.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "device/launch.hpp"
#include "device/warp.hpp"

namespace kmoe::device {

inline constexpr int scratch_align = 128;

#if defined(KOKKOS_ENABLE_CUDA)

/// The part of Kokkos' team handle that kernels here use.
class CudaTeam {
 public:
  KOKKOS_FORCEINLINE_FUNCTION explicit CudaTeam(std::byte* scratch) : scratch_(scratch) {}
  KOKKOS_FORCEINLINE_FUNCTION std::byte* scratch() const { return scratch_; }
  KOKKOS_FORCEINLINE_FUNCTION int league_rank() const {
    KOKKOS_IF_ON_DEVICE((return static_cast<int>(blockIdx.x);))
    KOKKOS_IF_ON_HOST((return 0;))
  }
  KOKKOS_FORCEINLINE_FUNCTION int team_rank() const {
    KOKKOS_IF_ON_DEVICE((return static_cast<int>(threadIdx.x);))
    KOKKOS_IF_ON_HOST((return 0;))
  }
  KOKKOS_FORCEINLINE_FUNCTION void team_barrier() const { KOKKOS_IF_ON_DEVICE((__syncthreads();)) }

 private:
  std::byte* scratch_;
};

template <class Functor>
__global__ void __launch_bounds__(Functor::Bounds::maxTperB, Functor::Bounds::minBperSM)
    team_kernel(__grid_constant__ Functor const functor) {
  extern __shared__ __align__(scratch_align) std::byte scratch[];
  functor(CudaTeam(scratch));
}

/// Early: the functor waits by itself for the kernels before it.
template <class Functor>
void launch_teams(cudaStream_t stream, int teams, int scratch_bytes, Functor const& functor,
                  bool early) {
  static_assert(sizeof(Functor) < 4000);  // of the 4096 bytes of a kernel's arguments
  static bool const raised = [] {
    int device = 0, most = 0;
    KOKKOS_IMPL_CUDA_SAFE_CALL(cudaGetDevice(&device));
    KOKKOS_IMPL_CUDA_SAFE_CALL(
        cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    auto const set = [](cudaFuncAttribute attribute, int value) {
      KOKKOS_IMPL_CUDA_SAFE_CALL(cudaFuncSetAttribute(team_kernel<Functor>, attribute, value));
    };
    set(cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    set(cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    return true;
  }();
  static_cast<void>(raised);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(teams);
  config.blockDim = Functor::threads;
  config.dynamicSmemBytes = static_cast<std::size_t>(scratch_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early && launches_early() ? 1 : 0;
  KOKKOS_IMPL_CUDA_SAFE_CALL(cudaLaunchKernelEx(&config, team_kernel<Functor>, functor));
}

#endif

namespace detail {
template <class E>
struct TeamOf {
  using Type = typename Kokkos::TeamPolicy<E>::member_type;
};
#if defined(KOKKOS_ENABLE_CUDA)
template <>
struct TeamOf<Kokkos::Cuda> {
  using Type = CudaTeam;
};
#endif
}  // namespace detail

/// Bytes of scratch memory that a team may have, where that is more than Kokkos gives; else 0.
template <class E>
int large_scratch([[maybe_unused]] E const& exec) {
  if constexpr (requires { exec.cuda_stream(); }) {
    return static_cast<int>(exec.cuda_device_prop().sharedMemPerBlockOptin);
  } else {
    return 0;
  }
}

/// What a functor of team_for is called with.
template <class E>
using Team = typename detail::TeamOf<E>::Type;

/// The scratch memory of team_for.
template <class Team>
KOKKOS_FORCEINLINE_FUNCTION std::byte* scratch_of(Team const& team, [[maybe_unused]] int bytes) {
  if constexpr (requires { team.scratch(); }) {
    return team.scratch();
  } else {
    return static_cast<std::byte*>(team.team_scratch(0).get_shmem_aligned(bytes, scratch_align));
  }
}

/// Sum of the values of the threads before this one. Every thread must call it; `sums` has room for
/// one per warp.
template <class E, int Threads, class Team>
KOKKOS_INLINE_FUNCTION std::uint32_t sum_before(Team const& team, std::uint32_t value,
                                                std::uint32_t* sums) {
  constexpr int warp = warp_size<E>;
  int const lane = team.team_rank() % warp, own = team.team_rank() / warp;
  std::uint32_t before = sum_before<warp>(value, lane);
  if (lane == warp - 1) sums[own] = before + value;
  team.team_barrier();
  for (int w = 0; w < Threads / warp; ++w) before += w < own ? sums[w] : 0;
  team.team_barrier();
  return before;
}

/// functor(team) for `teams` teams. Early, where that can be: the functor begins with
/// wait_for_previous().
template <class E, class Functor>
void team_for(E const& exec, char const* label, int teams, int scratch_bytes,
              Functor const& functor, [[maybe_unused]] bool early = false) {
  if constexpr (requires { exec.cuda_stream(); }) {
    if (teams == 0) return;
    LaunchMark<E> const mark(exec, label);
    launch_teams(exec.cuda_stream(), teams, scratch_bytes, functor, early);
  } else {
    Kokkos::TeamPolicy<E, typename Functor::Bounds> policy(exec, teams, Functor::threads);
    policy.set_scratch_size(0, Kokkos::PerTeam(scratch_bytes + scratch_align));
    Kokkos::parallel_for(label, policy, functor);
  }
}

}  // namespace kmoe::device
