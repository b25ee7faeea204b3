// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Memory-mapped safetensors files: a little-endian u64 header length, a JSON header, the data.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <kmoe/core/config.hpp>

namespace kmoe KMOE_API {
namespace io {

/// One tensor of a mapped file. Its bytes stay on disk until they are read, and may start at any
/// address: read them with memcpy.
struct TensorView {
  std::string name;
  std::string dtype;                 ///< as in the file: F64 F32 BF16 F16 U8 I64 ...
  std::vector<std::int64_t> shape;   ///< outermost dimension first; empty = a scalar
  std::span<std::byte const> bytes;  ///< row-major data
  std::string path;                  ///< file it lies in, for messages
  std::uint64_t offset = 0;          ///< of its first byte in that file
};

/// `tensor "NAME" in PATH at byte OFFSET`, for messages.
std::string describe(TensorView const& tensor);

/// The tensors of one file or of a Hugging Face directory, memory-mapped read-only. Copies share
/// the mapping, which lasts as long as the last of them.
///
/// Opening reads the headers and maps the files; no tensor is read. Everything in a header is
/// checked against the file: length, JSON, duplicate names, data types, shapes (no negative or
/// overflowing ones), and that the tensors cover the data exactly, without overlaps or holes, as
/// the format demands. A file must not be truncated while it is mapped.
/// Tested against files with each of these faults, and against files written by the transformers
/// library. Source of the format: the safetensors documentation (huggingface.co/docs/safetensors).
class TensorStore {
 public:
  using Tensors = std::map<std::string, TensorView, std::less<>>;

  /// \param path a .safetensors file, or a directory with model.safetensors, else with
  ///        model.safetensors.index.json and its shards, else with exactly one *.safetensors
  /// \throws IoError naming the path, the tensor and the byte offset; shards that are missing are
  ///         all named, shard names that leave the directory are refused
  explicit TensorStore(std::filesystem::path const& path);

  /// All tensors by name; of a sharded directory those that the index lists.
  [[nodiscard]] Tensors const& tensors() const { return *tensors_; }
  /// The tensor of that name, or nullptr.
  [[nodiscard]] TensorView const* find(std::string_view name) const;
  /// The tensor of that name. \throws IoError naming it and the path
  [[nodiscard]] TensorView const& at(std::string_view name) const;
  /// The file or directory that was opened.
  [[nodiscard]] std::string const& path() const { return path_; }

 private:
  std::string path_;
  std::shared_ptr<Tensors const> tensors_;  // also owns the mappings
};

/// Writes tensors (name, dtype, shape, bytes; path and offset are ignored) into one file, in the
/// given order. An existing file is replaced; readers that have mapped it keep the old one.
/// \throws InvalidArgument for names that repeat, unknown data types or bytes that do not match the
///         shape; IoError naming the path if it can not be written
void write_safetensors(std::filesystem::path const& path, std::span<TensorView const> tensors);

}  // namespace io
}  // namespace KMOE_API
