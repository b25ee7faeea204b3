// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The tensors of a block, looked up with all their faults in one report.

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include <kmoe/core/error.hpp>
#include <kmoe/io/checkpoint.hpp>

#include "io/mapped_file.hpp"

namespace kmoe::io::detail {

/// Finds tensors and checks their types and shapes; what is wrong is collected, so that one error
/// can name all of it.
class Finder {
 public:
  Finder(TensorStore const& store, MoeBlock const& block) : store_(store), block_(block) {}

  using Shape = std::vector<std::int64_t>;
  using Types = std::vector<std::string_view>;
  static inline Types const floats{"F64", "F32", "BF16", "F16"};

  /// The tensor, or nullptr if something is wrong with it. Leading extents of 1 may be missing or
  /// in excess, and so may a trailing one.
  TensorView const* find(std::string const& name, Shape const& shape, Types const& types = floats) {
    TensorView const* tensor = store_.find(name);
    if (tensor == nullptr) {
      add("missing \"" + name + "\"");
      return nullptr;
    }
    if (std::ranges::find(types, tensor->dtype) == types.end()) {
      std::string list;
      for (std::size_t i = 0; i < types.size(); ++i) {
        list.append(i == 0 ? "" : i + 1 == types.size() ? " or " : ", ").append(types[i]);
      }
      throw Unsupported(describe(*tensor) + ": dtype must be " + list + ", found " + tensor->dtype);
    }
    if (!same(tensor->shape, shape)) {
      add(describe(*tensor) + " must have shape " + to_text(shape) + ", found " +
          to_text(tensor->shape));
      return nullptr;
    }
    return tensor;
  }

  /// As find(), but nullptr where there is no tensor of that name.
  TensorView const* find_optional(std::string const& name, Shape const& shape, Types const& types) {
    return store_.find(name) == nullptr ? nullptr : find(name, shape, types);
  }
  /// Adds what is wrong with a tensor.
  void complain(TensorView const& tensor, std::string const& rule) {
    add(describe(tensor) + " " + rule);
  }

  /// \throws IoError if anything was wrong
  void report() const {
    if (count_ == 0) return;
    std::string message = store_.path() + ": " + block_.module + " can not be loaded:" + problems_;
    if (count_ > shown) message += "; and " + std::to_string(count_ - shown) + " more";
    throw IoError(message);
  }

 private:
  static constexpr std::size_t shown = 10;

  void add(std::string const& problem) {
    if (count_ < shown) problems_ += (count_ == 0 ? " " : "; ") + problem;
    ++count_;
  }
  static bool same(std::span<std::int64_t const> a, std::span<std::int64_t const> b) {
    while (a.size() > b.size() && a.front() == 1) a = a.subspan(1);
    while (b.size() > a.size() && b.front() == 1) b = b.subspan(1);
    if (a.size() == b.size() + 1 && a.back() == 1) a = a.first(b.size());
    return std::ranges::equal(a, b);
  }

  TensorStore const& store_;
  MoeBlock const& block_;
  std::string problems_;
  std::size_t count_ = 0;
};

}  // namespace kmoe::io::detail
