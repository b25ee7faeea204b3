// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "device/isa.hpp"

#include <cstdlib>
#include <string>

#include <kmoe/core/error.hpp>

#if defined(KMOE_DEVICE_X86)
#include <cpuid.h>
#endif
#if defined(KMOE_DEVICE_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kmoe::device {
namespace {

#if defined(KMOE_DEVICE_X86)

/// Register `index` (eax, ebx, ecx, edx) of CPUID leaf 7.
unsigned cpuid7(unsigned subleaf, int index) {
  unsigned r[4] = {};
  if (__get_cpuid_count(7, subleaf, &r[0], &r[1], &r[2], &r[3]) == 0) return 0;
  return r[index];
}

bool has_amx() {
#if defined(KMOE_DEVICE_AMX)
  constexpr unsigned bf16_and_tile = (1U << 22) | (1U << 24);
  if ((cpuid7(0, 3) & bf16_and_tile) != bf16_and_tile) return false;
  constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

// __builtin_cpu_supports also asks the operating system for the wider registers.
bool detect(Isa isa) {
  switch (isa) {
    case Isa::portable:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("avx") && [] {
               unsigned a = 0, b = 0, c = 0, d = 0;
               return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1U << 29)) != 0;  // F16C
             }();
    case Isa::avx512:
      return detect(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq");
    case Isa::avx512_bf16:
      return detect(Isa::avx512) && (cpuid7(1, 0) & (1U << 5)) != 0;
    case Isa::amx: {
      static bool const granted = detect(Isa::avx512_bf16) && has_amx();
      return granted;
    }
  }
  return false;
}

#else

bool detect(Isa isa) {
  return isa == Isa::portable;
}

#endif

std::optional<Isa> override_value;

}  // namespace

std::string_view to_string(Isa isa) {
  constexpr std::string_view names[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};
  return names[static_cast<int>(isa)];
}

bool isa_available(Isa isa) {
  return detect(isa);
}

Isa choose_isa(char const* name) {
  Isa best = Isa::portable;
  for (Isa const isa : all_isas) {
    if (isa_available(isa)) best = isa;
  }
  if (name == nullptr || *name == '\0') return best;
  for (Isa const isa : all_isas) {
    if (to_string(isa) != name) continue;
    if (isa_available(isa)) return isa;
    throw Unsupported("kmoe: KMOE_ISA=" + std::string(name) +
                      " is not available on this processor; the best here is " +
                      std::string(to_string(best)));
  }
  throw Unsupported("kmoe: KMOE_ISA must be portable, avx2, avx512, avx512_bf16 or amx, found \"" +
                    std::string(name) + "\"");
}

Isa host_isa() {
  if (override_value) return *override_value;
  static Isa const chosen = choose_isa(std::getenv("KMOE_ISA"));
  return chosen;
}

void override_host_isa(std::optional<Isa> isa) {
  override_value = isa;
}

}  // namespace kmoe::device
