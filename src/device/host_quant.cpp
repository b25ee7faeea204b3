// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "device/host_quant.hpp"

#include "device/isa.hpp"

namespace kmoe::device {

QuantKernel const& quant_kernel(Isa isa) {
#if defined(KMOE_DEVICE_X86)
  if (isa == Isa::amx) return amx_quant_kernel;
  if (isa == Isa::avx512_bf16) return avx512_bf16_quant_kernel;
  if (isa == Isa::avx512) return avx512_quant_kernel;
  if (isa == Isa::avx2) return avx2_quant_kernel;
#else
  static_cast<void>(isa);
#endif
  return portable_quant_kernel;
}

void (*integer_dot(Isa isa))(QuantIntegers const&) {
#if defined(KMOE_DEVICE_X86)
  // Integers are exact: this choice changes no bit, so that it needs no name in KMOE_ISA.
  if (isa >= Isa::avx512 && __builtin_cpu_supports("avx512vnni")) return &vnni_dot;
#endif
  return quant_kernel(isa).integer_dot;
}

}  // namespace kmoe::device
