// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The safetensors header, for the writers.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <kmoe/io/safetensors.hpp>

namespace kmoe::io::detail {

/// Bytes of a tensor; nothing for an unknown dtype, a negative extent, a size that overflows or a
/// sub-byte type that does not fill its last byte.
std::optional<std::uint64_t> tensor_bytes(std::string_view dtype,
                                          std::span<std::int64_t const> shape);

/// Header of a file with these tensors (name, dtype, shape), padded so that the data is aligned to
/// 8 bytes. \throws InvalidArgument
std::string safetensors_header(std::span<TensorView const> tensors);

}  // namespace kmoe::io::detail
