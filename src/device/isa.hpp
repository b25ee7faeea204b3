// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Which instruction set the host kernels use: the best one that the processor, the operating
/// system and this build offer, or a lower one that KMOE_ISA names. Decided once per process.

#include <optional>
#include <string_view>

#include "device/host_kernel.hpp"

#include <kmoe/core/config.hpp>

namespace kmoe::device {

inline constexpr Isa all_isas[] = {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512_bf16,
                                   Isa::amx};

KMOE_API std::string_view to_string(Isa isa);

/// Whether kernels of this set can run here. Asking for amx requests the tile state from the
/// operating system, once per process.
bool isa_available(Isa isa);

/// The set of that name, or the best one for null or "".
/// \throws Unsupported for a name that is unknown or not available here.
Isa choose_isa(char const* name);

/// The set in use: choose_isa of the environment variable KMOE_ISA, or what a test set.
KMOE_API Isa host_isa();

/// For tests: weights packed from now on use this set; nothing restores the process's own.
void override_host_isa(std::optional<Isa> isa);

}  // namespace kmoe::device
