// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Products with quantized weights: values against plain loops on the decoded weights and the
// quantized activations, for every format, element and instruction set; the portable device kernel
// on the host; bits that do not depend on the number of rows.

#include <cstring>

#include <gtest/gtest.h>

#include <kmoe/core/error.hpp>
#include <kmoe/experts/expert_mlp.hpp>

#include "gemm/quantized_tile.hpp"
#include "gemm/tile_gemm.hpp"
#include "reference/expert_mlp.hpp"
#include "reference/quantization.hpp"
#include "support/each_isa.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "support/typed.hpp"

namespace {

using kmoe::index_t;
using kmoe::offset_t;
using Host = Kokkos::DefaultHostExecutionSpace;

constexpr char const* activation_names[] = {"none",  "fp8_static", "fp8_token", "fp8_group",
                                            "mxfp8", "mxfp4",      "nvfp4",     "int8_token"};

kmoe::Tensor3<float, Host> random_weights(std::size_t e, std::size_t n, std::size_t k,
                                          std::uint64_t seed, double scale) {
  kmoe::Tensor3<float, Host> w("w", e, n, k);
  kmoe::test::set_entries(w, [&](float& x, std::size_t i) {
    x = float(scale * kmoe::test::random_value(seed, i, kmoe::test::Values::normal));
  });
  return w;
}

kmoe::QuantizedHostTensor quantized(kmoe::QuantScheme const& scheme, std::size_t e, std::size_t n,
                                    std::size_t k, std::uint64_t seed, int parts, bool given) {
  auto q = kmoe::quantize(random_weights(e, n, k, seed, 1 / std::sqrt(double(k))), scheme, parts);
  bool const takes = scheme.activations == kmoe::ActivationCode::fp8_static ||
                     scheme.activations == kmoe::ActivationCode::nvfp4;
  if (given && takes) {
    kmoe::Vector<float, Host> const scales("input_scales", e);
    for (std::size_t i = 0; i < e; ++i) scales(i) = 0.001F * float(i + 1);
    q.input_scales = scales;
  }
  return q;
}

/// What the kernels make of a row of x in the expert's format.
std::vector<double> rounded_row(kmoe::QuantizedHostTensor const& q, std::size_t expert,
                                std::vector<double> const& x) {
  std::vector<double> floats(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) floats[i] = float(x[i]);
  double const given = q.input_scales.extent(0) == 0 ? 0 : q.input_scales(expert);
  return reference::quantize_row(activation_names[int(q.scheme.activations)], q.scheme.fnuz(),
                                 floats, given);
}

template <class C>
class QuantizedGemm : public ::testing::Test {
 public:
  using E = typename C::E;
  using T = typename C::T;

  static void check(E const& exec, kmoe::QuantFormat const& format, std::size_t n, std::size_t k,
                    bool given) {
    std::size_t const rows = 11;
    auto const q = quantized(format.scheme, 3, n, k, n + k, n % 2 == 0 ? 2 : 1, given);
    auto const w = kmoe::dequantize(q);
    auto const x = kmoe::test::random_matrix<T, E>(rows, k, 5, kmoe::test::Values::normal);
    kmoe::Vector<offset_t, E> const offsets("offsets", 4);
    offset_t const ends[] = {0, 4, 4, 10};  // an empty group and rows beyond the last
    kmoe::test::set_entries(offsets, [&](offset_t& o, std::size_t i) { o = ends[i]; });
    auto const c = kmoe::test::poisoned_matrix<T, E>(rows, n);
    kmoe::grouped_gemm<E, T>(exec, x, kmoe::copy_to(exec, q), offsets, c);
    exec.fence();
    auto const x_host = kmoe::test::to_host(x);
    auto const c_host = kmoe::test::to_host(c);
    for (std::size_t r = 0; r < 10; ++r) {
      std::size_t const e = r < 4 ? 0 : 2;
      std::vector<double> row(k);
      for (std::size_t i = 0; i < k; ++i) row[i] = double(x_host(r, i));
      auto const a = rounded_row(q, e, row);
      for (std::size_t j = 0; j < n; ++j) {
        double value = 0, sum = 0;
        for (std::size_t i = 0; i < k; ++i) {
          value += a[i] * w(e, j, i);
          sum += std::abs(a[i] * w(e, j, i));
        }
        // Scales are rounded products too: a few more terms than k.
        double const bound = kmoe::test::sum_tolerance<T>(1, 0, value) +
                             kmoe::test::tolerance<float>(double(k) + 4, sum);
        ASSERT_TRUE(std::abs(double(c_host(r, j)) - value) <= bound)
            << format.name << " n " << n << " k " << k << " row " << r << " column " << j << ": "
            << double(c_host(r, j)) << " not " << value << " +- " << bound;
      }
    }
    for (std::size_t j = 0; j < n; ++j) EXPECT_TRUE(std::isnan(double(c_host(10, j))));
  }
};
TYPED_TEST_SUITE(QuantizedGemm, kmoe::test::Cases, kmoe::test::TypeNames);

TYPED_TEST(QuantizedGemm, every_format_matches_plain_loops) {
  using E = typename TypeParam::E;
  kmoe::test::for_each_isa<E>([&] {
    E const exec;
    for (auto const& format : kmoe::quant_formats()) {
      for (auto const& [n, k] :
           {std::pair<std::size_t, std::size_t>{1, 1}, {33, 31}, {34, 64}, {5, 129}, {70, 300}}) {
        TestFixture::check(exec, format, n, k, k == 300);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
    // Groups of other sizes, and one scale per row of 4-bit integers.
    for (index_t const group : {32, 64, 0}) {
      auto scheme = kmoe::quant_scheme(group == 64 ? "int4_zero" : "int4");
      scheme.block_cols = group;
      TestFixture::check(exec, {"int4 group", scheme}, 9, 200, false);
    }
  });
}

// The kernel that devices use, run by the host.
TEST(QuantizedTile, portable_device_kernel_matches_plain_loops) {
  using T = kmoe::bfloat16;
  Host const exec;
  for (auto const& format : kmoe::quant_formats()) {
    std::size_t const n = 34, k = 300, rows = 11;
    auto const q = quantized(format.scheme, 3, n, k, 7, 2, true);
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
    kmoe::detail::tile_gemm<Host, float>(exec, "kmoe::test", d);
    exec.fence();
    for (std::size_t r = 0; r < 10; ++r) {
      std::size_t const e = r < 4 ? 0 : 2;
      std::vector<double> row(k);
      for (std::size_t i = 0; i < k; ++i) row[i] = double(x(r, i));
      auto const a = rounded_row(q, e, row);
      for (std::size_t j = 0; j < n; ++j) {
        double value = 0, sum = 0;
        for (std::size_t i = 0; i < k; ++i) {
          value += a[i] * w(e, j, i);
          sum += std::abs(a[i] * w(e, j, i));
        }
        double const bound = kmoe::test::sum_tolerance<T>(1, 0, value) +
                             kmoe::test::tolerance<float>(double(k) + 4, sum);
        ASSERT_TRUE(std::abs(double(c(r, j)) - value) <= bound)
            << format.name << " row " << r << " column " << j;
      }
    }
  }
}

// Bits of a row: the same alone, among others, in another place.
TYPED_TEST(QuantizedGemm, bits_do_not_depend_on_the_other_rows) {
  using E = typename TypeParam::E;
  using T = typename TypeParam::T;
  kmoe::test::for_each_isa<E>([&] {
    E const exec;
    // Whole units of k take another way for one row.
    for (std::size_t i = 0; i < 2 * kmoe::quant_formats().size(); ++i) {
      auto const& format = kmoe::quant_formats()[i / 2];
      std::size_t const n = 37, k = i % 2 == 0 ? 200 : 192, rows = 70;
      auto const q = kmoe::copy_to(exec, quantized(format.scheme, 1, n, k, 3, 1, true));
      auto const x = kmoe::test::random_matrix<T, E>(rows, k, 5, kmoe::test::Values::normal);
      auto const run = [&](std::size_t begin, std::size_t end) {
        kmoe::Vector<offset_t, E> const offsets("offsets", 2);
        kmoe::test::set_entries(
            offsets, [&](offset_t& o, std::size_t i) { o = i == 0 ? 0 : offset_t(end - begin); });
        auto const c = kmoe::test::poisoned_matrix<T, E>(end - begin, n);
        kmoe::grouped_gemm<E, T>(exec, kmoe::row_range(x, begin, end), q, offsets, c);
        exec.fence();
        return kmoe::test::to_host(c);
      };
      auto const all = run(0, rows);
      for (auto const& [begin, end] :
           {std::pair<std::size_t, std::size_t>{0, 1}, {5, 6}, {7, 10}, {60, 70}, {69, 70}}) {
        auto const part = run(begin, end);
        EXPECT_EQ(std::memcmp(part.data(), all.data() + begin * n, part.size() * sizeof(T)), 0)
            << format.name << " rows " << begin << " to " << end;
      }
    }
  });
}

}  // namespace
