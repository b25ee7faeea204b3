// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Frames as PNG files, without a library: the image data are stored, not compressed.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "flow.hpp"

namespace sim {

class Image {
 public:
  Image(int width, int height)
      : width_(width), height_(height), rgb_(static_cast<std::size_t>(width) * height * 3) {}

  void set(int x, int y, std::array<double, 3> const& colour) {
    for (std::size_t c = 0; c < 3; ++c) {
      rgb_[(static_cast<std::size_t>(y) * width_ + x) * 3 + c] =
          static_cast<unsigned char>(255 * std::clamp(colour[c], 0.0, 1.0) + 0.5);
    }
  }

  void write(std::filesystem::path const& path) const {
    std::string raw;  // lines, each led by a filter type
    for (int y = 0; y < height_; ++y) {
      raw.push_back(0);
      auto const* const line = &rgb_[static_cast<std::size_t>(y) * width_ * 3];
      raw.append(line, line + static_cast<std::size_t>(width_) * 3);
    }
    std::string zlib("\x78\x01", 2);
    for (std::size_t at = 0; at < raw.size(); at += 65535) {
      auto const size = static_cast<std::uint16_t>(std::min<std::size_t>(65535, raw.size() - at));
      zlib.push_back(at + size == raw.size() ? 1 : 0);
      for (int v : {size & 255, size >> 8, ~size & 255, (~size >> 8) & 255}) {
        zlib.push_back(static_cast<char>(v));
      }
      zlib.append(raw, at, size);
    }
    std::uint32_t a = 1, b = 0;
    for (unsigned char byte : raw) {
      a = (a + byte) % 65521;
      b = (b + a) % 65521;
    }
    zlib += big_endian((b << 16) | a);
    std::ofstream file(path, std::ios::binary);
    file << "\x89PNG\r\n\x1a\n"
         << chunk("IHDR", big_endian(static_cast<std::uint32_t>(width_)) +
                              big_endian(static_cast<std::uint32_t>(height_)) +
                              std::string("\x08\x02\0\0\0", 5))
         << chunk("IDAT", zlib) << chunk("IEND", "");
  }

 private:
  static std::string big_endian(std::uint32_t v) {
    std::string text;
    for (int shift = 24; shift >= 0; shift -= 8) text.push_back(static_cast<char>(v >> shift));
    return text;
  }
  static std::string chunk(std::string const& type, std::string const& data) {
    std::uint32_t crc = ~0U;
    for (unsigned char byte : type + data) {
      crc ^= byte;
      for (int k = 0; k < 8; ++k) crc = (crc >> 1) ^ (0xedb88320U & (~(crc & 1) + 1));
    }
    return big_endian(static_cast<std::uint32_t>(data.size())) + type + data + big_endian(~crc);
  }

  int width_, height_;
  std::vector<unsigned char> rgb_;
};

// Black, violet, orange, white.
inline std::array<double, 3> heat(double v) {
  v = std::clamp(v, 0.0, 1.0);
  return {std::min(1.0, 1.9 * v), std::pow(v, 1.7), v < 0.35 ? 1.6 * v : std::abs(1.7 * v - 0.9)};
}

// Temperature on the left, OH on the right, of a gathered field; `zoom` pixels per cell.
inline void write_frame(std::filesystem::path const& path, std::vector<double> const& field, int n,
                        double oh_max) {
  int const width = num_components + 1, zoom = std::max(1, 384 / n);
  Image image(2 * n * zoom + 8, n * zoom);
  for (int y = 0; y < n * zoom; ++y) {
    for (int x = 0; x < 8; ++x) image.set(n * zoom + x, y, {1, 1, 1});
    for (int x = 0; x < n * zoom; ++x) {
      // Row 0 is at the bottom.
      auto const cell = static_cast<std::size_t>(n - 1 - y / zoom) * n + x / zoom;
      double const* const c = &field[cell * width];
      image.set(x, y, heat((c[num_components] - 300) / 1500));
      image.set(n * zoom + 8 + x, y, heat(c[OH] / oh_max));
    }
  }
  image.write(path);
}

}  // namespace sim
