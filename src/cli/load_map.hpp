// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The map of tokens by source rank (rows) and expert (columns), as SVG and as text.

#include <string>
#include <vector>

#include <kmoe/core/types.hpp>

namespace kmoe::cli {

struct LoadMap {
  std::string title;
  std::string subtitle;
  std::vector<std::string> row_names;         ///< one per row
  std::vector<std::vector<offset_t>> tokens;  ///< [rows][E], by global expert id
  std::vector<index_t> rank_of_expert;        ///< [E]
  index_t ranks = 1;                          ///< P

  [[nodiscard]] offset_t largest_cell() const;
  [[nodiscard]] std::vector<offset_t> tokens_of_experts() const;  ///< [E] sums over the rows
};

/// The experts of one rank, drawn side by side: columns begin..end-1 of `ColumnOrder::experts`.
struct ColumnGroup {
  index_t rank = 0;
  std::size_t begin = 0;
  std::size_t end = 0;
};

/// Columns ordered by the rank that computes them, then by id; ranks without experts have none.
struct ColumnOrder {
  explicit ColumnOrder(std::vector<index_t> const& rank_of_expert);
  std::vector<std::size_t> experts;
  std::vector<ColumnGroup> groups;
};

struct Color {
  int red = 255;
  int green = 255;
  int blue = 255;
  [[nodiscard]] bool dark() const { return 299 * red + 587 * green + 114 * blue < 128000; }
};

/// Colour of `tokens` on a scale up to `largest`: perceptually uniform from yellow to violet; zero
/// is white, which the scale does not contain.
Color color_of(offset_t tokens, offset_t largest);

/// 9999, 12.3k, 4.56M: at most five characters.
std::string short_number(offset_t value);

/// The map as a self-contained SVG document.
std::string to_svg(LoadMap const& map);

/// The map in characters, at most `width` columns wide: numbers where they fit, else digits 1..9
/// relative to the largest cell and '.' for zero. ANSI colours if `color`.
std::string to_text(LoadMap const& map, std::size_t width, bool color);

}  // namespace kmoe::cli
