// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cli/load_map.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <numeric>

namespace kmoe::cli {
namespace {

std::string pad(std::string const& text, std::size_t width) {
  return text.size() >= width ? text : std::string(width - text.size(), ' ') + text;
}

/// `text` on the background that its tokens have in the map.
std::string painted(std::string const& text, offset_t tokens, offset_t largest, bool color) {
  if (!color || tokens == 0) return text;
  Color const c = color_of(tokens, largest);
  return "\x1b[48;2;" + std::to_string(c.red) + ";" + std::to_string(c.green) + ";" +
         std::to_string(c.blue) + (c.dark() ? "m\x1b[97m" : "m\x1b[30m") + text + "\x1b[0m";
}

/// Lines of columns first..last-1; `cell` is the width of one.
class TextBlock {
 public:
  TextBlock(LoadMap const& map, ColumnOrder const& order, std::size_t cell, bool color)
      : map_(map), order_(order), cell_(cell), color_(color), largest_(map.largest_cell()) {
    for (auto const& name : map.row_names) label_ = std::max(label_, name.size());
  }

  [[nodiscard]] std::size_t label() const { return label_; }

  void append(std::string& out, std::size_t first, std::size_t last) const {
    std::string hosts = pad("on rank", label_) + " ";
    std::string ids = pad("expert", label_) + " ";
    for (auto const& group : order_.groups) {
      auto const begin = std::max(group.begin, first);
      auto const end = std::min(group.end, last);
      if (begin >= end) continue;
      std::string const rank = std::to_string(group.rank);
      auto const room = (end - begin) * cell_;
      hosts += "|" + (rank.size() <= room ? rank + std::string(room - rank.size(), ' ')
                                          : std::string(room, ' '));
      ids += "|" + id_line(begin, end);
    }
    out += trimmed(hosts) + "\n" + trimmed(ids) + "\n";
    for (std::size_t row = 0; row < map_.tokens.size(); ++row) {
      std::string line = pad(map_.row_names[row], label_) + " ";
      for (auto const& group : order_.groups) {
        if (std::max(group.begin, first) >= std::min(group.end, last)) continue;
        line += "|";
        for (auto c = std::max(group.begin, first); c < std::min(group.end, last); ++c) {
          auto const tokens = map_.tokens[row][order_.experts[c]];
          line += painted(cell_text(tokens), tokens, largest_, color_);
        }
      }
      out += line + "|\n";
    }
  }

 private:
  [[nodiscard]] std::string cell_text(offset_t tokens) const {
    if (cell_ > 1) return pad(short_number(tokens), cell_);
    if (tokens == 0) return ".";
    return std::string(1, static_cast<char>('0' + (9 * tokens + largest_ - 1) / largest_));
  }

  /// Ids right-aligned in their cells, or at the first column and then where there is room.
  [[nodiscard]] std::string id_line(std::size_t begin, std::size_t end) const {
    std::string line;
    for (auto c = begin; c < end; ++c) {
      std::string const id = std::to_string(order_.experts[c]);
      if (cell_ > 1) {
        line += pad(id, cell_);
      } else if ((c - begin) % 8 == 0 && c - begin + id.size() <= end - begin) {
        line.resize(c - begin, ' ');
        line += id;
      }
    }
    line.resize((end - begin) * cell_, ' ');
    return line;
  }

  static std::string trimmed(std::string line) {
    line.erase(line.find_last_not_of(' ') + 1);
    return line;
  }

  LoadMap const& map_;
  ColumnOrder const& order_;
  std::size_t cell_;
  bool color_;
  offset_t largest_;
  std::size_t label_ = 7;
};

}  // namespace

offset_t LoadMap::largest_cell() const {
  offset_t largest = 0;
  for (auto const& row : tokens) {
    for (auto const count : row) largest = std::max(largest, count);
  }
  return largest;
}

std::vector<offset_t> LoadMap::tokens_of_experts() const {
  std::vector<offset_t> sums(rank_of_expert.size());
  for (auto const& row : tokens) {
    for (std::size_t e = 0; e < sums.size(); ++e) sums[e] += row[e];
  }
  return sums;
}

ColumnOrder::ColumnOrder(std::vector<index_t> const& rank_of_expert)
    : experts(rank_of_expert.size()) {
  std::iota(experts.begin(), experts.end(), std::size_t{0});
  std::stable_sort(experts.begin(), experts.end(), [&](std::size_t a, std::size_t b) {
    return rank_of_expert[a] < rank_of_expert[b];
  });
  for (std::size_t c = 0; c < experts.size(); ++c) {
    auto const rank = rank_of_expert[experts[c]];
    if (groups.empty() || groups.back().rank != rank) groups.push_back({rank, c, c});
    groups.back().end = c + 1;
  }
}

Color color_of(offset_t tokens, offset_t largest) {
  if (tokens <= 0 || largest <= 0) return {};
  // Equal steps of lightness in OKLab (B. Ottosson), hue from yellow-green to violet.
  double const t = static_cast<double>(tokens) / static_cast<double>(largest);
  double const lightness = 0.93 - 0.65 * t;
  double const chroma = 0.09 + 0.05 * t;
  double const hue = (115 + 175 * t) * std::acos(-1.0) / 180;
  double const a = chroma * std::cos(hue);
  double const b = chroma * std::sin(hue);
  double const l = std::pow(lightness + 0.3963377774 * a + 0.2158037573 * b, 3);
  double const m = std::pow(lightness - 0.1055613458 * a - 0.0638541728 * b, 3);
  double const s = std::pow(lightness - 0.0894841775 * a - 1.2914855480 * b, 3);
  auto const encode = [](double linear) {
    double const v = std::clamp(linear, 0.0, 1.0);
    double const srgb = v <= 0.0031308 ? 12.92 * v : 1.055 * std::pow(v, 1 / 2.4) - 0.055;
    return static_cast<int>(std::lround(255 * srgb));
  };
  return {encode(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
          encode(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
          encode(-0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s)};
}

std::string short_number(offset_t value) {
  std::array<char, 32> text{};
  double scaled = static_cast<double>(value);
  if (value < 10000) {
    std::snprintf(text.data(), text.size(), "%lld", static_cast<long long>(value));
    return text.data();
  }
  for (char const* unit : {"k", "M", "G", "T", "P"}) {
    scaled /= 1000;
    if (scaled >= 999.5) continue;
    std::snprintf(text.data(), text.size(), scaled < 9.995 ? "%.2f%s" : "%.3g%s", scaled, unit);
    return text.data();
  }
  return "huge";
}

std::string to_text(LoadMap const& map, std::size_t width, bool color) {
  ColumnOrder const order(map.rank_of_expert);
  auto const columns = order.experts.size();
  std::size_t widest = std::to_string(columns).size();
  for (auto const& row : map.tokens) {
    for (auto const count : row) widest = std::max(widest, short_number(count).size());
  }
  TextBlock const numbers(map, order, widest + 1, color);
  auto const room = width - std::min(width, numbers.label() + 2);
  std::string out;
  if (columns * (widest + 1) + order.groups.size() <= room) {
    out += "Tokens from each rank (row) to each expert (column):\n";
    numbers.append(out, 0, columns);
    return out;
  }
  out += "Tokens from each rank (row) to each expert (column); . is 0, 9 is up to " +
         short_number(map.largest_cell()) + ":\n";
  TextBlock const digits(map, order, 1, color);
  for (std::size_t first = 0; first < columns;) {
    // As many columns as fit together with the bars between ranks, a multiple of 8 of them.
    std::size_t last = first;
    std::size_t used = 0;
    std::size_t group = 0;
    while (order.groups[group].end <= first) ++group;
    while (last < columns && used + 2 <= room) {
      if (last == first || last == order.groups[group].begin) ++used;
      ++used;
      if (++last == order.groups[group].end && group + 1 < order.groups.size()) ++group;
    }
    if (last < columns && last - first > 8) last -= (last - first) % 8;
    last = std::max(last, first + 1);
    digits.append(out, first, last);
    first = last;
  }
  return out;
}

}  // namespace kmoe::cli
