// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Progress of a long run on standard error, in whole lines.

#include <chrono>
#include <cstdio>
#include <string>

#include <kmoe/core/types.hpp>

namespace kmoe::cli {

/// Silent where `on` is false and for the first seconds of a run; then a line per 10 % or 30 s.
class Progress {
 public:
  explicit Progress(bool on) : on_(on) {}

  void announce(std::string const& text) const {
    if (on_) std::fprintf(stderr, "kmoe: %s\n", text.c_str());
  }

  void update(offset_t done, offset_t all) {
    if (!on_ || done >= all) return;
    auto const elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
    double const part = static_cast<double>(done) / static_cast<double>(all);
    if (elapsed < told_seconds_ + 5) return;
    if (part < told_part_ + 0.1 && elapsed < told_seconds_ + 30) return;
    told_part_ = part;
    told_seconds_ = elapsed;
    std::fprintf(stderr, "kmoe: %.0f %% of the tokens after %.0f s\n", 100 * part, elapsed);
  }

 private:
  using Clock = std::chrono::steady_clock;
  bool on_;
  Clock::time_point start_ = Clock::now();
  double told_part_ = 0;
  double told_seconds_ = 0;
};

}  // namespace kmoe::cli
