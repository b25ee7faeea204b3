// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "gemm/device_gemm.hpp"

#include <type_traits>

#include "device/launch.hpp"
#include "gemm/host_gemm.hpp"
#include "gemm/sm90_work.hpp"
#include "gemm/tile_gemm.hpp"
#include "instantiate.hpp"

namespace kmoe::detail {
namespace {

/// Hopper's kernel, where the machine, the element type and the sizes allow it: nothing is launched
/// and false returned where they do not.
template <class E, Element T>
bool run_on_sm90(E const& exec, char const* label, DeviceGemm<T> const& first,
                 DeviceGemm<T> const* second, std::uint32_t* counters, MlpStages const& stages) {
  if constexpr (sizeof(T) == 2 && requires { exec.cuda_stream(); }) {
    if (!is_whole(first) || !sm90::available()) return false;
    sm90::Work const work = work_of(first, second, counters, stages);
    if (!sm90::takes(work)) return false;
    device::LaunchMark<E> const mark(exec, label);
    constexpr bool is_bf16 = std::is_same_v<T, bfloat16>;
    sm90::launch(exec.cuda_stream(), is_bf16 ? sm90::Operand::bf16 : sm90::Operand::f16, work);
    return true;
  } else {
    return false;
  }
}

}  // namespace

template <ExecutionSpace E, Element T>
void device_gemm([[maybe_unused]] E const& exec, [[maybe_unused]] char const* label,
                 [[maybe_unused]] DeviceGemm<T> const& gemm) {
  if constexpr (!uses_host_kernels<E>) {
    if (run_on_sm90<E, T>(exec, label, gemm, nullptr, nullptr, {})) return;
    tile_gemm<E, T>(exec, label, gemm);
  }
}

template <ExecutionSpace E, Element T>
bool device_mlp([[maybe_unused]] E const& exec, [[maybe_unused]] DeviceGemm<T> const& gate_up,
                [[maybe_unused]] DeviceGemm<T> const& down,
                [[maybe_unused]] std::uint32_t* counters, MlpStages const& stages) {
  if constexpr (!uses_host_kernels<E>) {
    if (run_on_sm90<E, T>(exec, "kmoe::expert_mlp", gate_up, &down, counters, stages)) {
      return true;
    }
    if (stages.ids != nullptr || stages.y != nullptr) return false;
    tile_gemm<E, T>(exec, "kmoe::expert_gate_up", gate_up);
    tile_gemm<E, T>(exec, "kmoe::expert_down", down);
    return true;
  }
  return stages.ids == nullptr && stages.y == nullptr;
}

std::size_t num_device_counters(offset_t rows) {
  return sm90::num_counters(rows);
}

#define KMOE_INSTANTIATE(E, T)                                                         \
  template void device_gemm<E, T>(E const&, char const*, DeviceGemm<T> const&);        \
  template bool device_mlp<E, T>(E const&, DeviceGemm<T> const&, DeviceGemm<T> const&, \
                                 std::uint32_t*, MlpStages const&);
KMOE_FOR_EACH_SPACE_AND_ELEMENT(KMOE_INSTANTIATE)
#undef KMOE_INSTANTIATE

}  // namespace kmoe::detail
