// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The results of all runs in a folder: a CSV file to which each run adds its lines, and an SVG plot
// of them, error against time and time against ranks.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace sim {

struct Result {
  int ranks = 1;
  std::string method;    // "surrogate" or "direct"
  double tolerance = 0;  // of the direct integration
  double chemistry_ms = 0, step_ms = 0, us_per_cell = 0;
  double error = 0;  // L2 of the temperature against the reference
};

inline constexpr char results_header[] =
    "ranks,method,tolerance,chemistry_ms,step_ms,us_per_cell,error";

inline std::string to_line(Result const& r) {
  char text[256];
  std::snprintf(text, sizeof text, "%d,%s,%g,%.4f,%.4f,%.4f,%.4e", r.ranks, r.method.c_str(),
                r.tolerance, r.chemistry_ms, r.step_ms, r.us_per_cell, r.error);
  return text;
}

// Replaces the lines of runs on the same number of ranks and returns all.
inline std::vector<Result> merge_results(std::filesystem::path const& path,
                                         std::vector<Result> const& mine) {
  std::vector<Result> all;
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  while (std::getline(in, line)) {
    std::replace(line.begin(), line.end(), ',', ' ');
    std::istringstream words(line);
    Result r;
    words >> r.ranks >> r.method >> r.tolerance >> r.chemistry_ms >> r.step_ms >> r.us_per_cell >>
        r.error;
    if (words && r.ranks != mine.front().ranks) all.push_back(r);
  }
  in.close();
  all.insert(all.end(), mine.begin(), mine.end());
  std::stable_sort(all.begin(), all.end(),
                   [](auto const& a, auto const& b) { return a.ranks < b.ranks; });
  std::ofstream out(path);
  out << results_header << "\n";
  for (auto const& r : all) out << to_line(r) << "\n";
  return all;
}

// One panel with logarithmic axes.
class Panel {
 public:
  Panel(double left, double x_low, double x_high, double y_low, double y_high)
      : left_(left),
        x_low_(std::log10(x_low)),
        x_span_(std::log10(x_high) - x_low_),
        y_low_(std::log10(y_low)),
        y_span_(std::log10(y_high) - y_low_) {}

  [[nodiscard]] double x(double v) const {
    return left_ + width * (std::log10(v) - x_low_) / x_span_;
  }
  [[nodiscard]] double y(double v) const {
    return top + height * (1 - (std::log10(v) - y_low_) / y_span_);
  }

  void frame(std::ostream& svg, char const* title, char const* x_name, char const* y_name,
             std::vector<double> const& x_ticks) const {
    svg << "<rect x='" << left_ << "' y='" << top << "' width='" << width << "' height='" << height
        << "' fill='none' stroke='#888'/>\n";
    text(svg, left_, top - 12, title, "start", "bold");
    text(svg, left_ + width / 2, top + height + 38, x_name, "middle");
    svg << "<text transform='translate(" << left_ - 58 << "," << top + height / 2
        << ") rotate(-90)' text-anchor='middle'>" << y_name << "</text>\n";
    for (double v : x_ticks) tick(svg, x(v), top + height, v, false);
    for (double e = std::ceil(y_low_ - 1e-9); e <= y_low_ + y_span_ + 1e-9; ++e) {
      tick(svg, left_, y(std::pow(10, e)), std::pow(10, e), true);
    }
  }

  static void text(std::ostream& svg, double x, double y, std::string const& s, char const* anchor,
                   char const* weight = "normal") {
    svg << "<text x='" << x << "' y='" << y << "' text-anchor='" << anchor << "' font-weight='"
        << weight << "'>" << s << "</text>\n";
  }

  // Beside a point of the panel, within it and readable across lines.
  void label(std::ostream& svg, double x, double y, std::string const& s) const {
    bool const before = x > left_ + 0.7 * width;
    svg << "<text x='" << (before ? x - 8 : x + 8) << "' y='" << (y < top + 20 ? y + 16 : y - 6)
        << "' text-anchor='" << (before ? "end" : "start")
        << "' paint-order='stroke' stroke='white' stroke-width='4'>" << s << "</text>\n";
  }

  static constexpr double top = 40, width = 300, height = 240;

 private:
  static void tick(std::ostream& svg, double x, double y, double v, bool vertical) {
    char number[32];
    std::snprintf(number, sizeof number, v < 0.01 ? "%.0e" : "%g", v);
    svg << "<path d='M" << x << " " << y << (vertical ? "h-5" : "v5") << "' stroke='#888'/>\n";
    text(svg, vertical ? x - 8 : x, vertical ? y + 4 : y + 19, number, vertical ? "end" : "middle");
  }

  double left_, x_low_, x_span_, y_low_, y_span_;
};

inline std::string name_of(Result const& r) {
  char name[64];
  std::snprintf(name, sizeof name, "direct, %g", r.tolerance);
  return r.method == "surrogate" ? r.method : name;
}

inline void write_plot(std::filesystem::path const& path, std::vector<Result> const& all) {
  auto const colour = [](Result const& r) {
    return r.method == "surrogate" ? "#c22" : r.tolerance > 3e-3 ? "#27a" : "#7ab";
  };
  double least_us = 1e9, most_us = 0, least_error = 1, most_error = 0, least_ms = 1e9, most_ms = 0;
  for (auto const& r : all) {
    least_us = std::min(least_us, r.us_per_cell), most_us = std::max(most_us, r.us_per_cell);
    least_error = std::min(least_error, r.error), most_error = std::max(most_error, r.error);
    least_ms = std::min(least_ms, r.chemistry_ms), most_ms = std::max(most_ms, r.chemistry_ms);
  }
  auto const decade = [](double v, bool up) {
    return std::pow(10, up ? std::ceil(std::log10(v)) : std::floor(std::log10(v)));
  };
  std::ofstream svg(path);
  svg << "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 820 340' font-family='sans-serif' "
         "font-size='12'>\n<rect width='820' height='340' fill='white'/>\n";
  Panel const error(80, decade(least_us, false), decade(most_us, true), decade(least_error, false),
                    decade(most_error, true));
  std::vector<double> ticks;
  for (double v = decade(least_us, false); v < most_us * 10; v *= 10) ticks.push_back(v);
  int const fewest = all.front().ranks;
  error.frame(svg, fewest == 1 ? "Error against time on one rank" : "Error against time",
              "chemistry, us per active cell and step", "L2 error of T / range of T", ticks);
  for (auto const& r : all) {
    if (r.ranks != fewest) break;
    double const x = error.x(r.us_per_cell), y = error.y(r.error);
    svg << "<circle cx='" << x << "' cy='" << y << "' r='5' fill='" << colour(r) << "'/>\n";
    error.label(svg, x, y, name_of(r));
  }
  Panel const ranks(480, 0.8, std::max(2, all.back().ranks) * 1.25, decade(least_ms, false),
                    decade(most_ms, true));
  ticks.clear();
  for (int p = 1; p <= all.back().ranks; p *= 2) ticks.push_back(p);
  ranks.frame(svg, "Time of chemistry in a step", "ranks", "ms", ticks);
  for (auto const& r : all) {
    svg << "<circle cx='" << ranks.x(r.ranks) << "' cy='" << ranks.y(r.chemistry_ms)
        << "' r='5' fill='" << colour(r) << "'/>\n";
    for (auto const& next : all) {
      if (next.ranks == 2 * r.ranks && next.method == r.method && next.tolerance == r.tolerance) {
        svg << "<path d='M" << ranks.x(r.ranks) << " " << ranks.y(r.chemistry_ms) << "L"
            << ranks.x(next.ranks) << " " << ranks.y(next.chemistry_ms) << "' stroke='" << colour(r)
            << "'/>\n";
      }
    }
  }
  for (auto const& r : all) {
    if (r.ranks == fewest) {
      ranks.label(svg, ranks.x(r.ranks), ranks.y(r.chemistry_ms), name_of(r));
    }
  }
  svg << "</svg>\n";
}

}  // namespace sim
