// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "device/host_kernel.hpp"

namespace kmoe::device {

HostKernel const& host_kernel(Isa isa, HostElement element) {
  auto const i = static_cast<int>(element);
#if defined(KMOE_DEVICE_X86)
#if defined(KMOE_DEVICE_AMX)
  if (isa == Isa::amx && element == HostElement::bf16) return amx_bf16_kernel;
#endif
  if (isa >= Isa::avx512_bf16 && element == HostElement::bf16) return avx512_bf16_kernel;
  if (isa >= Isa::avx512) return avx512_kernels[i];
  if (isa == Isa::avx2) return avx2_kernels[i];
#else
  static_cast<void>(isa);
#endif
  return portable_kernels[i];
}

}  // namespace kmoe::device
