// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// SVG form of the load map:
//
//   title, subtitle
//   bars: tokens of each expert, a line at their mean
//   cells: source rank x expert, experts grouped by the rank that computes them     colour scale
//   expert ids; a bracket per computing rank with its load relative to the mean

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <string_view>

#include "cli/load_map.hpp"

namespace kmoe::cli {
namespace {

constexpr double left = 96;
constexpr double bars_top = 92;
constexpr double bars_height = 72;
constexpr double cells_top = bars_top + bars_height + 8;
constexpr auto ink = "#222222";
constexpr auto faint = "#777777";
constexpr auto halo = " paint-order=\"stroke\" stroke=\"#ffffff\" stroke-width=\"3\"";
constexpr auto accent = "#c0392b";

std::string fixed(double value, int digits) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}

/// Coordinates: two digits, without zeros at the end.
std::string number(double value) {
  std::string out = fixed(value, 2);
  out.erase(out.find_last_not_of('0') + 1);
  if (out.back() == '.') out.pop_back();
  return out;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (char const c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else {
      out += c;
    }
  }
  return out;
}

std::string css(Color const& c) {
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(), "#%02x%02x%02x", static_cast<unsigned>(c.red),
                static_cast<unsigned>(c.green), static_cast<unsigned>(c.blue));
  return text.data();
}

/// The smallest of 1, 2, 5, 10, 20, ... that is at least `least`.
double round_up(double least) {
  double const power = std::pow(10.0, std::floor(std::log10(std::max(least, 1.0))));
  for (double const factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= least) return factor * power;
  }
  return 10 * power;
}

class Drawing {
 public:
  void rect(double x, double y, double w, double h, std::string const& fill,
            std::string const& tip = {}) {
    body_ += "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(w) +
             "\" height=\"" + number(h) + "\" fill=\"" + fill + "\"";
    body_ += tip.empty() ? "/>\n" : "><title>" + escaped(tip) + "</title></rect>\n";
  }
  void frame(double x, double y, double w, double h) {
    body_ += "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(w) +
             "\" height=\"" + number(h) + "\" fill=\"none\" stroke=\"#999999\"/>\n";
  }
  void line(double x1, double y1, double x2, double y2, std::string const& stroke,
            std::string const& more = {}) {
    body_ += "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) +
             "\" y2=\"" + number(y2) + "\" stroke=\"" + stroke + "\"" + more + "/>\n";
  }
  /// anchor: start, middle or end
  void text(double x, double y, std::string const& content, std::string const& anchor,
            double size = 12, std::string const& fill = ink, std::string const& more = {}) {
    body_ += "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" + anchor +
             "\" font-size=\"" + number(size) + "\" fill=\"" + fill + "\"" + more + ">" +
             escaped(content) + "</text>\n";
  }
  [[nodiscard]] std::string document(double width, double height, std::string const& title) const {
    std::string const size = number(width) + "\" height=\"" + number(height);
    return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + size + "\" viewBox=\"0 0 " +
           number(width) + " " + number(height) +
           "\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" role=\"img\">\n<title>" +
           escaped(title) + "</title>\n<rect width=\"" + size + "\" fill=\"#ffffff\"/>\n" + body_ +
           "</svg>\n";
  }

 private:
  std::string body_;
};

class Plot {
 public:
  explicit Plot(LoadMap const& map)
      : map_(map),
        order_(map.rank_of_expert),
        largest_(map.largest_cell()),
        of_experts_(map.tokens_of_experts()) {
    auto const columns = static_cast<double>(order_.experts.size());
    auto const groups = static_cast<double>(order_.groups.size());
    cell_width_ = std::clamp(std::round(960 / std::max(columns, 1.0)), 3.0, 60.0);
    cell_height_ = std::clamp(std::round(480 / std::max<double>(rows(), 1)), 2.0, 28.0);
    if (columns * cell_width_ / groups >= 24) gap_ = std::clamp(std::round(160 / groups), 2.0, 5.0);
    width_ = columns * cell_width_ + (groups - 1) * gap_;
    height_ = static_cast<double>(rows()) * cell_height_;
  }

  std::string draw() {
    d_.text(16, 28, map_.title, "start", 17, ink, " font-weight=\"bold\"");
    d_.text(16, 48, map_.subtitle, "start", 12, faint);
    draw_bars();
    draw_cells();
    draw_rows();
    draw_columns();
    draw_scale();
    return d_.document(std::max(left + width_ + 110, 640.0),
                       std::max(cells_top + height_ + 78, cells_top + 190), map_.title);
  }

 private:
  [[nodiscard]] std::size_t rows() const { return map_.tokens.size(); }
  [[nodiscard]] double x_of(std::size_t column, std::size_t group) const {
    return left + static_cast<double>(column) * cell_width_ + static_cast<double>(group) * gap_;
  }

  template <class F>
  void for_each_column(F const& draw_column) const {
    for (std::size_t g = 0; g < order_.groups.size(); ++g) {
      for (auto c = order_.groups[g].begin; c < order_.groups[g].end; ++c) {
        draw_column(order_.experts[c], c, x_of(c, g), order_.groups[g].rank);
      }
    }
  }

  void draw_bars() {
    auto const most = *std::max_element(of_experts_.begin(), of_experts_.end());
    auto const total = std::accumulate(of_experts_.begin(), of_experts_.end(), offset_t{0});
    double const mean = static_cast<double>(total) / static_cast<double>(of_experts_.size());
    double const scale = bars_height / static_cast<double>(std::max<offset_t>(most, 1));
    double const bottom = bars_top + bars_height;
    d_.text(left, bars_top - 20, "tokens per expert", "start", 12, ink);
    d_.text(left - 8, bars_top + 4, short_number(most), "end", 11);
    d_.text(left - 8, bottom + 4, "0", "end", 11);
    d_.line(left, bottom + 0.5, left + width_, bottom + 0.5, "#999999");
    double const inset = cell_width_ > 8 ? 1.5 : cell_width_ > 4 ? 0.5 : 0;
    for_each_column([&](std::size_t expert, std::size_t, double x, index_t rank) {
      double const h = static_cast<double>(of_experts_[expert]) * scale;
      d_.rect(x + inset, bottom - h, cell_width_ - 2 * inset, h, "#8d99ae",
              "expert " + std::to_string(expert) + " on rank " + std::to_string(rank) + ": " +
                  std::to_string(of_experts_[expert]) + " tokens");
    });
    double const y = bottom - mean * scale;
    d_.line(left, y, left + width_, y, accent, " stroke-dasharray=\"5 3\"");
    d_.text(left + width_ + 6, y + 4,
            "mean " + (mean < 100 ? fixed(mean, 1) : short_number(std::llround(mean))), "start", 11,
            accent);
    if (cell_width_ < 40) return;
    for_each_column([&](std::size_t expert, std::size_t, double x, index_t) {
      d_.text(x + cell_width_ / 2, bottom - static_cast<double>(of_experts_[expert]) * scale - 4,
              short_number(of_experts_[expert]), "middle", 11, ink, halo);
    });
  }

  void draw_cells() {
    bool const tips = rows() * order_.experts.size() <= 16384;
    double const seam = cell_width_ > 8 && cell_height_ > 8 ? 1 : 0;
    for_each_column([&](std::size_t expert, std::size_t, double x, index_t rank) {
      for (std::size_t row = 0; row < rows(); ++row) {
        auto const tokens = map_.tokens[row][expert];
        if (tokens == 0) continue;
        Color const color = color_of(tokens, largest_);
        double const y = cells_top + static_cast<double>(row) * cell_height_;
        d_.rect(x, y, cell_width_ - seam, cell_height_ - seam, css(color),
                tips ? map_.row_names[row] + " to expert " + std::to_string(expert) + " on rank " +
                           std::to_string(rank) + ": " + std::to_string(tokens) + " tokens"
                     : std::string());
        if (cell_width_ >= 40 && cell_height_ >= 15) {
          d_.text(x + cell_width_ / 2, y + cell_height_ / 2 + 4, short_number(tokens), "middle", 11,
                  color.dark() ? "#ffffff" : "#000000");
        }
      }
    });
    if (gap_ == 0) d_.frame(left - 0.5, cells_top - 0.5, width_ + 1, height_ + 1);
    for (std::size_t g = 0; g < order_.groups.size() && gap_ > 0; ++g) {
      auto const& group = order_.groups[g];
      d_.frame(x_of(group.begin, g) - 0.5, cells_top - 0.5,
               static_cast<double>(group.end - group.begin) * cell_width_ + 1 - seam,
               height_ + 1 - seam);
    }
  }

  void draw_rows() {
    auto const step = static_cast<std::size_t>(round_up(13 / cell_height_));
    for (std::size_t row = 0; row < rows(); row += step) {
      d_.text(left - 8, cells_top + (static_cast<double>(row) + 0.5) * cell_height_ + 4,
              map_.row_names[row], "end", 11);
    }
    double const middle = cells_top + height_ / 2;
    d_.text(22, middle, "tokens from", "middle", 12, faint,
            " transform=\"rotate(-90 22 " + number(middle) + ")\"");
  }

  void draw_columns() {
    double const ids = cells_top + height_ + 16;
    double const brackets = ids + 10;
    auto const step = static_cast<std::size_t>(round_up(30 / cell_width_));
    d_.text(left - 8, ids, "expert", "end", 12, faint);
    for_each_column([&](std::size_t expert, std::size_t column, double x, index_t) {
      if (column % step != 0) return;
      d_.line(x + cell_width_ / 2, ids - 14, x + cell_width_ / 2, ids - 11, "#999999");
      d_.text(x + cell_width_ / 2, ids, std::to_string(expert), "middle", 11);
    });
    auto const total = std::accumulate(of_experts_.begin(), of_experts_.end(), offset_t{0});
    d_.text(left - 8, brackets + 18, "computed on", "end", 12, faint);
    double const narrowest = (width_ + gap_) / static_cast<double>(order_.groups.size());
    bool const in_full = narrowest >= 52;
    if (in_full) d_.text(left - 8, brackets + 34, "load / mean", "end", 12, faint);
    auto const group_step = in_full ? 1 : static_cast<std::size_t>(round_up(24 / narrowest));
    for (std::size_t g = 0; g < order_.groups.size(); ++g) {
      auto const& group = order_.groups[g];
      double const from = x_of(group.begin, g) + 1;
      double const to = from - 2 + static_cast<double>(group.end - group.begin) * cell_width_;
      d_.line(from, brackets, to, brackets, ink, " stroke-width=\"2\"");
      if (g % group_step != 0) continue;
      std::string const name = (in_full ? "rank " : "") + std::to_string(group.rank);
      d_.text((from + to) / 2, brackets + 18, name, "middle", 12);
      if (!in_full) continue;
      offset_t load = 0;
      for (auto c = group.begin; c < group.end; ++c) load += of_experts_[order_.experts[c]];
      double const mean = static_cast<double>(total) / map_.ranks;
      d_.text((from + to) / 2, brackets + 34,
              fixed(total == 0 ? 0.0 : static_cast<double>(load) / mean, 2), "middle", 11);
    }
  }

  void draw_scale() {
    double const x = left + width_ + 24;
    double const height = std::clamp(height_, 112.0, 240.0);
    constexpr int bands = 60;
    d_.text(x - 8, cells_top + 6, "tokens", "start", 11, faint);
    double const top = cells_top + 16;
    for (int band = 0; band < bands && largest_ > 0; ++band) {
      d_.rect(x, top + height * band / bands, 14, height / bands + 0.5,
              css(color_of(2 * (bands - band) - 1, 2 * bands)));
    }
    d_.frame(x - 0.5, top - 0.5, 15, height + 1);
    double const step = round_up(static_cast<double>(largest_) / 5);
    auto const tick = [&](double value) {
      double const y = top + height * (1 - value / static_cast<double>(largest_));
      d_.line(x + 14, y, x + 18, y, "#999999");
      d_.text(x + 21, y + 4, short_number(std::llround(value)), "start", 11);
    };
    for (double value = step; value < static_cast<double>(largest_) - step / 3; value += step) {
      tick(value);
    }
    if (largest_ > 0) tick(static_cast<double>(largest_));
    d_.frame(x - 0.5, top + height + 7.5, 15, 14);
    d_.text(x + 21, top + height + 19, "0", "start", 11);
  }

  LoadMap const& map_;
  ColumnOrder order_;
  offset_t largest_;
  std::vector<offset_t> of_experts_;
  double cell_width_ = 0;
  double cell_height_ = 0;
  double gap_ = 0;
  double width_ = 0;
  double height_ = 0;
  Drawing d_;
};

}  // namespace

std::string to_svg(LoadMap const& map) {
  return Plot(map).draw();
}

}  // namespace kmoe::cli
