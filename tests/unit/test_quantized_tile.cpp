// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The device kernels of quantized weights, run by the host: against plain loops, and those with
// codes as operands against those with floats.

#include <array>
#include <cstring>
#include <string>
#include <tuple>

#include <gtest/gtest.h>

#include "gemm/quantized_tile.hpp"
#include "gemm/tile_gemm.hpp"
#include "support/quantized.hpp"

namespace {

using kmoe::offset_t;
using kmoe::test::quantized;
using Host = Kokkos::DefaultHostExecutionSpace;

TEST(QuantizedTile, portable_device_kernel_matches_plain_loops) {
  using T = kmoe::bfloat16;
  Host const exec;
  for (auto const& format : kmoe::quant_formats()) {
    std::size_t const n = 34, k = 300, rows = 11;
    auto q = quantized(format.scheme, 3, n, k, 7, 2, true);
    if (format.scheme.code == kmoe::WeightCode::e4m3fn) {  // -0, which is NaN as e4m3fnuz
      auto const codes = Kokkos::create_mirror(Kokkos::HostSpace(), q.codes);
      Kokkos::deep_copy(codes, q.codes);
      for (std::size_t i = 0; i < k; i += 7) codes(0, 1, i) = 0x80;
      q.codes = codes;
    }
    auto const w = kmoe::dequantize(q);
    auto const x = kmoe::test::random_matrix<T, Host>(rows, k, 5, kmoe::test::Values::normal);
    kmoe::Vector<offset_t, Host> const offsets("offsets", 4);
    offset_t const ends[] = {0, 4, 4, 10};
    for (int i = 0; i < 4; ++i) offsets(i) = ends[i];
    auto const c = kmoe::test::poisoned_matrix<T, Host>(rows, n);
    kmoe::detail::DeviceGemm<T> g;
    g.groups = 3;
    g.offsets = offsets.data();
    g.row_end = rows;
    g.x = x.data();
    g.x_rows = rows;
    g.k = k;
    g.columns = n;
    g.out = c.data();
    kmoe::detail::QuantDeviceGemm d(g, q);
    bool const grouped = format.scheme.activations == kmoe::ActivationCode::fp8_group;
    int const groups = grouped ? 3 : 1;
    kmoe::Vector<kmoe::bfloat16, Host> const folded("folded", rows * k);
    kmoe::Vector<float, Host> const scales("scales", rows * groups);
    if (format.scheme.activations != kmoe::ActivationCode::none) {
      using Quantize = kmoe::detail::QuantizeRows<Host>;
      Kokkos::parallel_for(Quantize::Policy(exec, int(rows), 1),
                           Quantize{d,
                                    {format.scheme.activations, format.scheme.fnuz()},
                                    folded.data(),
                                    scales.data(),
                                    groups});
      exec.fence();
      d.folded = folded.data();
      d.x_scales = scales.data();
      d.x_groups = groups;
      d.x_group = grouped ? 128 : int(k);
    }
    // Where matrix instructions multiply codes, these are the operands.
    bool const codes = kmoe::detail::CodeDeviceGemm::takes(format.scheme);
    for (bool const as_codes : {false, true}) {
      if (as_codes && !codes) continue;
      Kokkos::deep_copy(c, T(std::numeric_limits<float>::quiet_NaN()));
      if (as_codes) {
        kmoe::detail::tile_gemm<Host, kmoe::device::E4m3>(exec, "kmoe::test",
                                                          kmoe::detail::CodeDeviceGemm{d});
      } else {
        kmoe::detail::tile_gemm<Host, float>(exec, "kmoe::test", d);
      }
      exec.fence();
      kmoe::test::expect_products<T>(q, w, x, c,
                                     std::string(format.name) + (as_codes ? " as codes" : ""));
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

// Codes as operands, where all sums are exact: the bits of floats as operands. Gates and ups, rows
// of output weights, a row alone, all rows in one group, a range of the rows.
TEST(QuantizedTile, codes_and_floats_have_the_same_exact_sums) {
  using T = kmoe::bfloat16;
  using kmoe::GateUpLayout;
  Host const exec;
  auto const small = [](std::size_t i) { return int(i * 7919 % 15) - 7; };
  auto const power = [](std::size_t i) { return std::ldexp(1.0F, int(i * 31 % 4) - 2); };
  for (auto const& format : kmoe::quant_formats()) {
    if (!kmoe::detail::CodeDeviceGemm::takes(format.scheme)) continue;
    bool const grouped = format.scheme.activations == kmoe::ActivationCode::fp8_group;
    for (auto const layout : {GateUpLayout::plain, GateUpLayout::gate_first, GateUpLayout::up_first,
                              GateUpLayout::interleaved}) {
      for (auto const& [columns, k] :
           {std::pair<std::size_t, std::size_t>{1, 1}, {5, 127}, {34, 128}, {150, 300}}) {
        bool const gated = layout != GateUpLayout::plain;
        bool const halves = gated && layout != GateUpLayout::interleaved;
        auto q =
            quantized(format.scheme, 3, gated ? 2 * columns : columns, k, 7, halves ? 2 : 1, false);
        auto const codes = Kokkos::create_mirror(Kokkos::HostSpace(), q.codes);
        auto const scales = Kokkos::create_mirror(Kokkos::HostSpace(), q.scales);
        kmoe::test::set_entries(codes, [&](std::uint8_t& c, std::size_t i) {
          auto const value = float(small(i));
          c = q.scheme.fnuz() ? kmoe::encode_e4m3fnuz(value) : kmoe::encode_e4m3fn(value);
        });
        kmoe::test::set_entries(scales, [&](float& f, std::size_t i) { f = power(i); });
        q.codes = codes;
        q.scales = scales;
        using Ends = std::array<offset_t, 4>;
        for (auto const& [ends, begin, end] :
             {std::tuple<Ends, offset_t, offset_t>{{0, 0, 0, 1}, 0, 1},
              {{0, 0, 90, 90}, 0, 90},
              {{0, 20, 20, 33}, 5, 30}}) {
          auto const rows = std::size_t(ends[3]);
          std::size_t const groups = grouped ? (k + 127) / 128 : 1;
          kmoe::Matrix<T, Host> const folded("folded", rows, k);
          kmoe::Matrix<float, Host> const x_scales("scales", rows, groups);
          kmoe::Vector<float, Host> const weights("weights", rows);
          kmoe::test::set_entries(folded, [&](T& x, std::size_t i) { x = T(float(small(i + 3))); });
          kmoe::test::set_entries(x_scales, [&](float& f, std::size_t i) { f = power(i + 1); });
          kmoe::test::set_entries(weights,
                                  [&](float& f, std::size_t i) { f = 0.3F * float(i % 5); });
          kmoe::detail::DeviceGemm<T> g;
          g.groups = 3;
          g.offsets = ends.data();
          g.row_begin = begin;
          g.row_end = end;
          g.k = offset_t(k);
          g.columns = offset_t(columns);
          g.layout = layout;
          g.output_weights = weights.data();
          auto const product = [&](auto const& multiply) {
            auto const c = kmoe::test::poisoned_matrix<T, Host>(rows, columns);
            g.out = c.data();
            kmoe::detail::QuantDeviceGemm d(g, q);
            d.folded = folded.data() + begin * offset_t(k);
            d.folded_first = begin;
            d.x_scales = x_scales.data() + begin * offset_t(groups);
            d.x_groups = int(groups);
            d.x_group = grouped ? 128 : int(k);
            multiply(d);
            exec.fence();
            return c;
          };
          auto const floats = product(
              [&](auto const& d) { kmoe::detail::tile_gemm<Host, float>(exec, "kmoe::test", d); });
          auto const as_codes = product([&](auto const& d) {
            kmoe::detail::tile_gemm<Host, kmoe::device::E4m3>(exec, "kmoe::test",
                                                              kmoe::detail::CodeDeviceGemm{d});
          });
          for (auto r = std::size_t(begin); r < std::size_t(end); ++r) {
            ASSERT_FALSE(std::isnan(float(floats(r, columns - 1))));
          }
          ASSERT_EQ(std::memcmp(floats.data(), as_codes.data(), rows * columns * sizeof(T)), 0)
              << format.name << " " << to_string(layout) << " columns " << columns << " k " << k
              << " rows " << rows;
        }
      }
    }
  }
}

}  // namespace
