// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// A file that appears under its name only when it is complete.

#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include <kmoe/core/error.hpp>

namespace kmoe::cli {

/// Created at once under another name, so that a path that can not be written is told before the
/// work; renamed by commit(), removed if that is never reached.
class PendingFile {
 public:
  /// \throws IoError naming the path
  explicit PendingFile(std::filesystem::path path)
      : path_(std::move(path)), pending_(pending_name(path_)) {
    if (std::filesystem::is_directory(path_)) fail("is a directory");
    if (!std::ofstream(pending_)) fail("can not be written");
  }
  PendingFile(PendingFile const&) = delete;
  PendingFile& operator=(PendingFile const&) = delete;
  ~PendingFile() {
    std::error_code ignored;
    if (!committed_) std::filesystem::remove(pending_, ignored);
  }

  /// ".NAME.part.EXT" beside the file, with its extension.
  static std::filesystem::path pending_name(std::filesystem::path const& path) {
    auto name = path;
    return name.replace_filename("." + path.stem().string() + ".part" + path.extension().string());
  }

  /// Gives the file its name.
  void commit() {
    std::error_code error;
    std::filesystem::rename(pending_, path_, error);
    if (error) fail("can not be replaced: " + error.message());
    committed_ = true;
  }

  /// Fills the file first.
  void commit(std::string const& content) {
    std::ofstream file(pending_, std::ios::binary);
    file << content;
    file.close();
    if (!file) fail("can not be written");
    commit();
  }

 private:
  [[noreturn]] void fail(std::string const& what) const {
    throw IoError(path_.string() + ": " + what);
  }

  std::filesystem::path path_;
  std::filesystem::path pending_;
  bool committed_ = false;
};

}  // namespace kmoe::cli
