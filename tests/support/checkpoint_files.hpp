// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Checkpoint directories to take apart: tensors as strings of bytes, by name.

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <kmoe/io/safetensors.hpp>

#include "support/temporary_directory.hpp"

namespace kmoe::test {

struct StoredTensor {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
};

/// A checkpoint in memory; change it, then write it.
struct CheckpointFiles {
  std::string config;
  std::map<std::string, StoredTensor> tensors;

  CheckpointFiles() = default;
  explicit CheckpointFiles(std::filesystem::path const& directory)
      : config(read_file(directory / "config.json")) {
    io::TensorStore const store(directory);
    for (auto const& [name, t] : store.tensors()) {
      tensors[name] = {
          t.dtype, t.shape, {reinterpret_cast<char const*>(t.bytes.data()), t.bytes.size()}};
    }
  }

  void replace_in_config(std::string_view from, std::string_view to) {
    config.replace(config.find(from), from.size(), to);
  }

  static void write_tensors(std::filesystem::path const& file,
                            std::map<std::string, StoredTensor> const& tensors) {
    std::vector<io::TensorView> views;
    for (auto const& [name, t] : tensors) {
      io::TensorView& view = views.emplace_back();
      view.name = name;
      view.dtype = t.dtype;
      view.shape = t.shape;
      view.bytes = std::as_bytes(std::span(t.bytes));
    }
    io::write_safetensors(file, views);
  }
  void write(std::filesystem::path const& directory) const {
    write_file(directory / "config.json", config);
    write_tensors(directory / "model.safetensors", tensors);
  }
};

}  // namespace kmoe::test
