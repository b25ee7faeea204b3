// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Layers with quantized experts and messages: values against plain loops of the format, the error
// against the layer without it, the bytes on the wire, and what is refused.

#include <cmath>

#include <gtest/gtest.h>

#include <kmoe/core/error.hpp>
#include <kmoe/layer/moe_layer.hpp>

#include "reference/expert_mlp.hpp"
#include "reference/quantization.hpp"
#include "support/layer_model.hpp"
#include "support/random.hpp"

namespace {

using kmoe::index_t;
using kmoe::test::LayerModel;
using Space = Kokkos::DefaultExecutionSpace;
using Host = Kokkos::DefaultHostExecutionSpace;
using T = float;

constexpr char const* activation_names[] = {"none",  "fp8_static", "fp8_token", "fp8_group",
                                            "mxfp8", "mxfp4",      "nvfp4",     "int8_token"};

LayerModel small_model() {
  LayerModel model;
  model.config.hidden_size = 160;
  model.config.intermediate_size = 136;
  model.config.num_experts = 5;
  model.config.top_k = 2;
  return model;
}

struct Run {
  std::vector<double> y;
  kmoe::LayerReport report;
};

/// The tokens begin .. begin + count - 1 with a routing that is a function of the token.
Run run(LayerModel const& model, kmoe::Communicator const& comm, std::size_t begin,
        std::size_t count) {
  Space const exec;
  auto const placement = kmoe::ExpertPlacement::round_robin(model.config.num_experts, comm.size());
  kmoe::MoeLayer<Space, T> layer(exec, comm, model.config, placement,
                                 model.weights<Space, T>(placement.experts_of(comm.rank())), 64);
  auto const slots = std::size_t(model.config.top_k);
  kmoe::Routing<Space> const routing{kmoe::Matrix<index_t, Space>("ids", count, slots),
                                     kmoe::Matrix<float, Space>("weights", count, slots)};
  kmoe::test::set_entries(routing.topk_ids, [&](index_t& id, std::size_t i) {
    id = index_t((begin * slots + i) * 7 % std::size_t(model.config.num_experts));
  });
  kmoe::test::set_entries(routing.topk_weights, [&](float& w, std::size_t i) {
    w = 0.25F + 0.0625F * float((begin * slots + i) % 8);
  });
  auto const x = model.tokens<Space, T>(begin, count);
  kmoe::Matrix<T, Space> const y("y", count, model.config.hidden_size);
  kmoe::test::poison(y);
  layer.forward_routed(exec, x, routing, y);
  exec.fence();
  auto const host = kmoe::test::to_host(y);
  return {{host.data(), host.data() + host.size()}, layer.report()};
}

/// The same in float64 of the format's own numbers.
std::vector<double> reference(LayerModel const& model, std::size_t begin, std::size_t count,
                              bool quantized) {
  std::vector<index_t> all(model.config.num_experts);
  for (std::size_t e = 0; e < all.size(); ++e) all[e] = index_t(e);
  auto dense = model;
  if (!quantized) dense.quantization = {};
  auto const weights = dense.weights<Host, float>(all).experts;
  auto const& scheme = weights.scheme();
  auto const up = weights.quantized() ? kmoe::dequantize(weights.quantized_gate_up)
                                      : kmoe::Tensor3<float, Host>();
  auto const down =
      weights.quantized() ? kmoe::dequantize(weights.quantized_down) : kmoe::Tensor3<float, Host>();
  float const* const w13 = weights.quantized() ? up.data() : weights.gate_up.data();
  float const* const w2 = weights.quantized() ? down.data() : weights.down.data();
  std::string const rounding = activation_names[int(scheme.activations)];
  std::size_t const hidden = model.config.hidden_size, inner = model.config.intermediate_size;
  std::size_t const slots = model.config.top_k;
  auto const tokens = model.tokens<Host, float>(begin, count);
  char const* const payloads[] = {"none", "fp8_group", "mxfp4", "nvfp4"};
  std::vector<double> y(count * hidden, 0.0);
  for (std::size_t t = 0; t < count; ++t) {
    std::vector<double> x(tokens.data() + t * hidden, tokens.data() + (t + 1) * hidden);
    if (quantized) {
      x = reference::quantize_row(payloads[int(model.config.dispatch_payload)], false, x, 0);
      for (auto& v : x) v = float(v);
    }
    auto const a = reference::quantize_row(rounding, scheme.fnuz(), x, 0);
    for (std::size_t k = 0; k < slots; ++k) {
      std::size_t const slot = (begin + t) * slots + k;
      std::size_t const e = slot * 7 % all.size();
      double const weight = 0.25 + 0.0625 * double(slot % 8);
      std::vector<double> h(inner);
      for (std::size_t i = 0; i < inner; ++i) {
        double gate = 0, value = 0;
        for (std::size_t c = 0; c < hidden; ++c) {
          gate += a[c] * w13[(e * 2 * inner + i) * hidden + c];
          value += a[c] * w13[(e * 2 * inner + inner + i) * hidden + c];
        }
        h[i] = float(reference::activation("silu", gate) * value);
      }
      auto const q = reference::quantize_row(rounding, scheme.fnuz(), h, 0);
      for (std::size_t c = 0; c < hidden; ++c) {
        double sum = 0;
        for (std::size_t i = 0; i < inner; ++i) sum += q[i] * w2[(e * hidden + c) * inner + i];
        double const row = weight * sum;
        y[t * hidden + c] += model.config.combine_payload == kmoe::CombineCode::bf16 && quantized
                                 ? double(kmoe::bfloat16(float(row)))
                                 : row;
      }
    }
  }
  return y;
}

double relative_error(std::vector<double> const& a, std::vector<double> const& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return norm == 0 ? difference : std::sqrt(difference / norm);
}

/// What a format may cost against exact weights and activations; measured values are two thirds of
/// these or less.
double allowed(std::string_view name) {
  if (name.starts_with("int8")) return 0.03;
  if (name.starts_with("fp8") || name == "mxfp8") return 0.1;
  return name == "mxfp4_a4" ? 0.4 : 0.3;
}

/// Tokens whose error is above `bound`.
std::size_t tokens_beyond(double bound, std::vector<double> const& a, std::vector<double> const& b,
                          std::size_t hidden) {
  std::size_t beyond = 0;
  for (std::size_t t = 0; t < a.size(); t += hidden) {
    auto const part = [&](std::vector<double> const& v) {
      return std::vector<double>(v.begin() + long(t), v.begin() + long(t + hidden));
    };
    if (!(relative_error(part(a), part(b)) <= bound)) ++beyond;
  }
  return beyond;
}

// An intermediate beside the middle of two codes may be rounded either way, which is seldom: of the
// five tokens four must match to accumulation error.
TEST(QuantizedLayer, every_format_and_dispatcher_matches_plain_loops) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  // Rank 1 has no tokens.
  std::size_t const count = comm.rank() == 1 ? 0 : 5, begin = std::size_t(comm.rank()) * 5;
  for (auto const& format : kmoe::quant_formats()) {
    for (auto const dispatcher :
         {kmoe::DispatcherKind::standard, kmoe::DispatcherKind::all_to_all}) {
      auto model = small_model();
      model.quantization = format.scheme;
      model.config.dispatcher = dispatcher;
      auto const got = run(model, comm, begin, count).y;
      auto const own = reference(model, begin, count, true);
      bool const exact = format.scheme.activations == kmoe::ActivationCode::none;
      EXPECT_LE(tokens_beyond(3e-6, got, own, 160), exact ? 0U : 1U) << format.name;
      EXPECT_LE(relative_error(got, own), exact ? 3e-6 : 5e-2) << format.name;
      auto const dense = reference(model, begin, count, false);
      if (count != 0) {
        double const error = relative_error(got, dense);
        EXPECT_LE(error, allowed(format.name)) << format.name;
        EXPECT_GE(error, 1e-3) << format.name << " does not quantize";
      }
    }
  }
}

TEST(QuantizedLayer, every_payload_matches_plain_loops_and_is_smaller) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  std::size_t const count = comm.rank() == 1 ? 0 : 5, begin = std::size_t(comm.rank()) * 5;
  struct Way {
    kmoe::PayloadCode payload;
    kmoe::CombineCode combine;
    double allowed;
    std::size_t token_bytes, row_bytes;
  };
  std::size_t const slot_bytes = 2 * 8, hidden = 160;
  for (Way const& way :
       {Way{kmoe::PayloadCode::element, kmoe::CombineCode::element, 1e-6, 640, 640},
        Way{kmoe::PayloadCode::element, kmoe::CombineCode::bf16, 4e-3, 640, 320},
        Way{kmoe::PayloadCode::fp8, kmoe::CombineCode::bf16, 0.08, 168, 320},
        Way{kmoe::PayloadCode::mxfp4, kmoe::CombineCode::element, 0.35, 88, 640},
        Way{kmoe::PayloadCode::nvfp4, kmoe::CombineCode::bf16, 0.25, 96, 320}}) {
    for (auto const dispatcher :
         {kmoe::DispatcherKind::standard, kmoe::DispatcherKind::all_to_all}) {
      auto model = small_model();
      model.config.dispatcher = dispatcher;
      model.config.dispatch_payload = way.payload;
      model.config.combine_payload = way.combine;
      auto const got = run(model, comm, begin, count);
      // A sum beside the middle of two bfloat16 may be rounded either way.
      double const bound = way.combine == kmoe::CombineCode::bf16 ? 1e-3 : 2e-6;
      EXPECT_LE(relative_error(got.y, reference(model, begin, count, true)), bound)
          << to_string(way.payload);
      auto const dense = reference(model, begin, count, false);
      if (count != 0) {
        EXPECT_LE(relative_error(got.y, dense), way.allowed) << to_string(way.payload);
      }
      // Whole tokens and whole rows: nothing else is sent.
      auto const sent = std::size_t(got.report.bytes_sent);
      std::size_t const tokens =
          std::size_t(got.report.tokens_sent) * (way.token_bytes + slot_bytes);
      ASSERT_GE(sent, tokens);
      EXPECT_EQ((sent - tokens) % way.row_bytes, 0U) << to_string(way.payload) << " " << hidden;
      EXPECT_EQ(sent == 0, comm.size() == 1);
    }
  }
}

TEST(QuantizedLayer, tensors_that_do_not_fit_are_refused_on_all_ranks) {
  kmoe::Communicator const comm(MPI_COMM_WORLD);
  auto model = small_model();
  model.quantization = kmoe::quant_scheme("mxfp4");
  auto const placement = kmoe::ExpertPlacement::contiguous(model.config.num_experts, comm.size());
  auto const build = [&](auto const& change) {
    Space const exec;
    auto weights = model.weights<Space, T>(placement.experts_of(comm.rank()));
    if (comm.rank() == comm.size() - 1) change(weights.experts);
    std::string what = "nothing thrown";
    try {
      kmoe::MoeLayer<Space, T> const layer(exec, comm, model.config, placement, weights, 4);
    } catch (kmoe::InvalidArgument const& error) {
      what = error.what();
    }
    return what;
  };
  auto what = build([](auto& w) { w.quantized_gate_up.columns = 128; });
  EXPECT_NE(what.find("experts.gate_up"), std::string::npos) << what;
  what = build([](auto& w) { w.quantized_down.scale_codes = {}; });
  EXPECT_NE(what.find("experts.down.scale_codes.extent(0)"), std::string::npos) << what;
  what = build(
      [](auto& w) { w.quantized_gate_up.scheme.activations = kmoe::ActivationCode::int8_token; });
  EXPECT_NE(what.find("int8"), std::string::npos) << what;
}

}  // namespace
