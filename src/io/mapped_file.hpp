// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// A whole file mapped read-only, and the checks and messages that its readers share.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <kmoe/core/error.hpp>

namespace kmoe::io::detail {

static_assert(std::endian::native == std::endian::little, "safetensors and npy are little-endian");

/// Unmaps on destruction; the file itself is closed as soon as it is mapped.
class MappedFile {
 public:
  /// \throws IoError if it is not a regular file that can be read
  explicit MappedFile(std::filesystem::path const& path);
  MappedFile(MappedFile const&) = delete;
  MappedFile& operator=(MappedFile const&) = delete;
  ~MappedFile();

  [[nodiscard]] std::span<std::byte const> bytes() const { return {data_, size_}; }
  [[nodiscard]] std::string_view text(std::size_t offset, std::size_t count) const {
    return {reinterpret_cast<char const*>(data_) + offset, count};
  }

 private:
  std::byte const* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Throws IoError "PATH: WHAT (byte offset N)".
[[noreturn]] void fail(std::string const& path, std::uint64_t offset, std::string const& what);

/// Throws IoError "PATH: WHAT: REASON" with the reason of errno.
[[noreturn]] void fail_errno(std::string const& path, std::string const& what);

/// a * b, or nothing if it does not fit.
inline std::optional<std::uint64_t> product(std::uint64_t a, std::uint64_t b) {
  if (a != 0 && b > std::numeric_limits<std::uint64_t>::max() / a) return std::nullopt;
  return a * b;
}

/// The value at `bytes`, which may have any alignment.
template <class S>
S load(std::byte const* bytes) {
  S value;
  std::memcpy(&value, bytes, sizeof(S));
  return value;
}

/// "[2, 3]"
std::string to_text(std::span<std::int64_t const> shape);

/// Begins a new file of `header` followed by `data_bytes` zeros. An existing file is unlinked
/// first, so that whoever has it mapped keeps the old contents.
void create_file(std::filesystem::path const& path, std::string_view header,
                 std::uint64_t data_bytes);

/// Writes at an offset of an existing file.
class FileWriter {
 public:
  explicit FileWriter(std::filesystem::path const& path);
  FileWriter(FileWriter const&) = delete;
  FileWriter& operator=(FileWriter const&) = delete;
  ~FileWriter();
  void write(std::uint64_t offset, std::span<std::byte const> bytes);

 private:
  std::string path_;
  int file_;
};

}  // namespace kmoe::io::detail
