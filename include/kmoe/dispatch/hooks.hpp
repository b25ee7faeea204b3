// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Ordered lists of callbacks whose registration can be undone.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include <kmoe/core/config.hpp>

namespace kmoe KMOE_API {

/// Undoes one registration. Dropping a handle keeps the hook; a handle may outlive its list.
class HookHandle {
 public:
  HookHandle() = default;
  explicit HookHandle(std::function<void()> undo) : undo_(std::move(undo)) {}

  /// Removes the hook; does nothing the second time or after the list has gone.
  void remove() {
    if (auto const undo = std::exchange(undo_, nullptr)) undo();
  }

 private:
  std::function<void()> undo_;
};

/// Hooks run in the order of their registration. An empty list costs one comparison. A hook must
/// not add or remove hooks of the list that is running it.
template <class... Args>
class HookList {
 public:
  using Hook = std::function<void(Args...)>;

  HookHandle add(Hook hook) {
    auto const id = next_id_++;
    hooks_->emplace(id, std::move(hook));
    return HookHandle([id, hooks = std::weak_ptr(hooks_)] {
      if (auto const alive = hooks.lock()) alive->erase(id);
    });
  }

  [[nodiscard]] bool empty() const { return hooks_->empty(); }

  void run(Args... args) const {
    for (auto const& [id, hook] : *hooks_) hook(args...);
  }

 private:
  using Hooks = std::map<std::uint64_t, Hook>;
  std::shared_ptr<Hooks> hooks_ = std::make_shared<Hooks>();
  std::uint64_t next_id_ = 0;
};

}  // namespace KMOE_API
