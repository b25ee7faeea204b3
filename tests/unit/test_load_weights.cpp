// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Loading the weights of blocks: against the outputs that the transformers library recorded for
// every model type, and with every kind of wrong tensor.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <kmoe/core/error.hpp>
#include <kmoe/io/checkpoint.hpp>
#include <kmoe/io/npy.hpp>

#include "reference/routing.hpp"
#include "support/checkpoint_files.hpp"
#include "support/random.hpp"
#include "support/routing.hpp"
#include "support/temporary_directory.hpp"

namespace kmoe::test {
namespace {

using Space = Kokkos::DefaultHostExecutionSpace;
using Row = std::vector<double>;

std::filesystem::path golden(std::string const& name) {
  return std::filesystem::path(KMOE_GOLDEN_DIR) / name;
}

std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (auto const& entry : std::filesystem::directory_iterator(KMOE_GOLDEN_DIR)) {
    if (std::filesystem::exists(entry.path() / "golden.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::ranges::sort(names);
  return names;
}

std::vector<index_t> all_experts(io::MoeBlock const& block) {
  std::vector<index_t> ids(static_cast<std::size_t>(block.config.num_experts));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

template <Element T = double>
LayerWeights<Space, T> load(io::Checkpoint const& checkpoint, io::MoeBlock const& block,
                            std::vector<index_t> const& experts) {
  return io::load_weights<Space, T>(Space(), checkpoint, block, experts, io::Quantized::decode);
}

template <class V>
Row to_row(V const& view) {
  Row row;
  for (std::size_t i = 0; i < view.size(); ++i) row.push_back(static_cast<double>(view.data()[i]));
  return row;
}

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

double activate(ExpertOptions const& options, double gate, double up) {
  switch (options.activation) {
    case Activation::silu:
      return gate * sigmoid(gate) * up;
    case Activation::gelu_erf:
      return gate * 0.5 * (1 + std::erf(gate * std::sqrt(0.5))) * up;
    case Activation::gelu_tanh: {
      double const inner = std::sqrt(2 / std::acos(-1.0)) * (gate + 0.044715 * std::pow(gate, 3));
      return gate * 0.5 * (1 + std::tanh(inner)) * up;
    }
    case Activation::relu:
      return std::max(gate, 0.0) * up;
    case Activation::relu2:
      return std::pow(std::max(gate, 0.0), 2) * up;
    case Activation::swiglu_oai:
      break;
  }
  double const limit = options.swiglu_limit;
  double const g = std::min(gate, limit);
  return g * sigmoid(options.swiglu_alpha * g) * (std::clamp(up, -limit, limit) + 1);
}

/// down . act(gate_up . x), one expert and one token.
Row expert_output(ExpertWeights<Space, double> const& w, ExpertOptions const& options,
                  std::size_t e, Row const& x) {
  std::size_t const width = w.down.extent(2);
  auto const dot = [&](std::size_t row) {
    double sum = w.gate_up_bias.size() > 0 ? w.gate_up_bias(e, row) : 0;
    for (std::size_t h = 0; h < x.size(); ++h) sum += w.gate_up(e, row, h) * x[h];
    return sum;
  };
  Row hidden;
  for (std::size_t i = 0; i < width; ++i) {
    bool const interleaved = w.layout == GateUpLayout::interleaved;
    hidden.push_back(
        activate(options, dot(interleaved ? 2 * i : i), dot(interleaved ? 2 * i + 1 : width + i)));
  }
  Row y;
  for (std::size_t h = 0; h < x.size(); ++h) {
    y.push_back(w.down_bias.size() > 0 ? w.down_bias(e, h) : 0);
    for (std::size_t i = 0; i < width; ++i) y.back() += w.down(e, h, i) * hidden[i];
  }
  return y;
}

/// The block on one token, in double.
Row block_output(MoeConfig const& config, LayerWeights<Space, double> const& w, Row const& x) {
  Row const logits =
      reference::router_logits(x, to_row(w.router.weight), to_row(w.router.bias), x.size());
  auto const routed = reference::route(logits, to_row(w.router.correction_bias),
                                       router_rules(config.router, config.top_k));
  Row y(x.size(), 0.0);
  auto const add = [&](double scale, Row const& row) {
    for (std::size_t h = 0; h < y.size(); ++h) y[h] += scale * row[h];
  };
  for (std::size_t k = 0; k < routed.ids.size(); ++k) {
    double const weight = routed.weights[k];
    auto const id = static_cast<std::size_t>(routed.ids[k]);
    if (routed.ids[k] >= config.num_experts) {
      add(weight, x);
    } else if (config.experts.router_weight_on_input) {
      Row scaled = x;
      for (double& v : scaled) v *= weight;
      add(1, expert_output(w.experts, config.experts, id, scaled));
    } else {
      add(weight, expert_output(w.experts, config.experts, id, x));
    }
  }
  if (w.shared.gate_up.size() > 0) {
    double gate = 1;
    if (w.shared_gate.size() > 0) {
      gate = sigmoid(std::inner_product(x.begin(), x.end(), w.shared_gate.data(), 0.0));
    }
    add(gate, expert_output(w.shared, config.experts, 0, x));
  }
  return y;
}

class Golden : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, Golden, testing::ValuesIn(golden_names()),
                         [](auto const& test) { return test.param; });

TEST_P(Golden, BlocksGiveTheRecordedOutputs) {
  io::Checkpoint const checkpoint(golden(GetParam()));
  io::TensorStore const recorded(golden(GetParam()) / "golden.safetensors");
  int compared = 0;
  for (auto const& [name, tensor] : recorded.tensors()) {
    if (!name.ends_with(".input")) continue;
    std::string const block_name = name.substr(0, name.size() - 6);
    io::MoeBlock const* block = checkpoint.find_module(block_name);
    ASSERT_NE(block, nullptr) << block_name;
    EXPECT_EQ(block->module, block_name);
    auto const x = io::open_matrix(recorded, name);
    auto const y = io::open_matrix(recorded, block_name + ".output");
    io::HostMatrix<double> const in("x", x.rows, x.cols);
    io::HostMatrix<double> const out("y", y.rows, y.cols);
    io::read_rows<double>(x, 0, in);
    io::read_rows<double>(y, 0, out);
    auto const weights = load(checkpoint, *block, all_experts(*block));
    double error = 0;
    double norm = 0;
    for (std::size_t t = 0; t < in.extent(0); ++t) {
      Row const row = to_row(Kokkos::subview(in, t, Kokkos::ALL));
      Row const found = block_output(block->config, weights, row);
      for (std::size_t h = 0; h < found.size(); ++h) {
        error += std::pow(found[h] - out(t, h), 2);
        norm += std::pow(out(t, h), 2);
      }
    }
    EXPECT_GT(norm, 0);
    EXPECT_LE(std::sqrt(error / norm), 1e-5) << block_name;  // the outputs were computed in float
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

template <class V, class W>
void expect_slice(V const& part, std::size_t slot, W const& whole, std::size_t expert) {
  ASSERT_EQ(part.extent(0) == 0, whole.extent(0) == 0);
  if (whole.extent(0) == 0) return;
  std::size_t const size = whole.size() / whole.extent(0);
  for (std::size_t i = 0; i < size; ++i) {
    ASSERT_EQ(static_cast<double>(part.data()[slot * size + i]),
              static_cast<double>(whole.data()[expert * size + i]));
  }
}

TEST_P(Golden, AnyExpertsAreSlicesOfAll) {
  io::Checkpoint const checkpoint(golden(GetParam()));
  for (io::MoeBlock const& block : checkpoint.blocks()) {
    auto const whole = load(checkpoint, block, all_experts(block));
    std::vector<index_t> const ids{block.config.num_experts - 1, 0, 1, 1};
    auto const part = load(checkpoint, block, ids);
    for (std::size_t slot = 0; slot < ids.size(); ++slot) {
      auto const e = static_cast<std::size_t>(ids[slot]);
      expect_slice(part.experts.gate_up, slot, whole.experts.gate_up, e);
      expect_slice(part.experts.down, slot, whole.experts.down, e);
      expect_slice(part.experts.gate_up_bias, slot, whole.experts.gate_up_bias, e);
      expect_slice(part.experts.down_bias, slot, whole.experts.down_bias, e);
    }
    auto const none = load(checkpoint, block, {});
    EXPECT_EQ(none.experts.num_experts(), 0);
    EXPECT_EQ(none.experts.gate_up.extent(1), 2U * block.config.intermediate_size);
    EXPECT_EQ(none.experts.hidden_size(), block.config.hidden_size);
    EXPECT_EQ(none.experts.intermediate_size(), block.config.intermediate_size);
    EXPECT_EQ(to_row(none.router.weight), to_row(whole.router.weight));
    EXPECT_EQ(to_row(none.shared.gate_up), to_row(whole.shared.gate_up));
  }
}

template <Element T>
void expect_rounded(io::Checkpoint const& checkpoint, io::MoeBlock const& block) {
  auto const exact = load(checkpoint, block, all_experts(block));
  auto const rounded = load<T>(checkpoint, block, all_experts(block));
  auto const compare = [](auto const& a, auto const& b) {
    using U = typename std::decay_t<decltype(b)>::non_const_value_type;
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      ASSERT_EQ(static_cast<double>(b.data()[i]),
                static_cast<double>(static_cast<U>(static_cast<double>(a.data()[i]))));
    }
  };
  compare(exact.router.weight, rounded.router.weight);
  compare(exact.router.bias, rounded.router.bias);
  compare(exact.router.correction_bias, rounded.router.correction_bias);
  compare(exact.experts.gate_up, rounded.experts.gate_up);
  compare(exact.experts.down, rounded.experts.down);
  compare(exact.experts.gate_up_bias, rounded.experts.gate_up_bias);
  compare(exact.experts.down_bias, rounded.experts.down_bias);
  compare(exact.shared.gate_up, rounded.shared.gate_up);
  compare(exact.shared.down, rounded.shared.down);
  compare(exact.shared_gate, rounded.shared_gate);
}

TEST_P(Golden, EachElementTypeIsTheRoundedDouble) {
  io::Checkpoint const checkpoint(golden(GetParam()));
  for (io::MoeBlock const& block : checkpoint.blocks()) {
    expect_rounded<float>(checkpoint, block);
    expect_rounded<bfloat16>(checkpoint, block);
    expect_rounded<half>(checkpoint, block);
  }
}

TEST_P(Golden, NothingIsLeftOver) {
  io::Checkpoint const checkpoint(golden(GetParam()));
  for (auto const& name : checkpoint.unused_tensors()) {
    // The transformers library writes halves of zero experts and a bias that it does not use.
    EXPECT_EQ(checkpoint.model_type(), "longcat_flash") << name;
  }
}

TEST(LoadWeights, EveryModelTypeHasGoldenData) {
  std::set<std::string> types;
  for (auto const& name : golden_names()) types.insert(io::Checkpoint(golden(name)).model_type());
  for (auto const& type : io::Checkpoint::model_types()) EXPECT_TRUE(types.contains(type)) << type;
}

// Wrong tensors.

std::string load_error(CheckpointFiles const& files, std::vector<index_t> const& experts) {
  TemporaryDirectory const dir;
  files.write(dir.path());
  io::Checkpoint const checkpoint(dir.path());
  return message_of<IoError>(
      [&] { load<float>(checkpoint, checkpoint.blocks().front(), experts); });
}

TEST(LoadWeights, NamesMissingTensors) {
  CheckpointFiles files(golden("mixtral"));
  std::string const prefix = "model.layers.0.block_sparse_moe.";
  files.tensors.erase(prefix + "gate.weight");
  files.tensors.erase(prefix + "experts.3.w1.weight");
  files.tensors.erase(prefix + "experts.5.w2.weight");
  std::string const message = load_error(files, {0, 3, 5});
  for (auto const* name : {"gate.weight", "experts.3.w1.weight", "experts.5.w2.weight"}) {
    EXPECT_NE(message.find("missing \"" + prefix + name + "\""), std::string::npos) << message;
  }
  EXPECT_EQ(load_error(files, {0, 1}).find("experts"), std::string::npos);  // not needed here
  // The other layer is whole.
  TemporaryDirectory const dir;
  files.write(dir.path());
  io::Checkpoint const checkpoint(dir.path());
  EXPECT_NO_THROW(load<float>(checkpoint, checkpoint.block(1), {0}));
}

TEST(LoadWeights, CountsMissingTensorsBeyondTen) {
  CheckpointFiles files(golden("mixtral"));
  std::erase_if(files.tensors, [](auto const& entry) {
    return entry.first.find("layers.0.block_sparse_moe.experts") != std::string::npos &&
           !entry.first.ends_with("experts.0.w1.weight");
  });
  std::string const message = load_error(files, {0, 1, 2, 3, 4, 5, 6, 7});
  EXPECT_NE(message.find("and 13 more"), std::string::npos) << message;
}

TEST(LoadWeights, NamesWrongShapes) {
  auto const shape_error = [](std::string const& model, std::string const& name,
                              std::vector<std::int64_t> const& shape) {
    CheckpointFiles files(golden(model));
    auto& tensor = files.tensors.at(name);
    tensor.shape = shape;
    auto const size = std::accumulate(shape.begin(), shape.end(), 1LL, std::multiplies<>());
    tensor.bytes.resize(static_cast<std::size_t>(size) * (tensor.dtype == "U8" ? 1 : 2));
    std::string const message = load_error(files, {0, 1});
    EXPECT_NE(message.find("\"" + name + "\""), std::string::npos) << message;
    EXPECT_NE(message.find("at byte "), std::string::npos) << message;
    return message;
  };
  auto const expect_parts = [](std::string const& message, std::string const& expected,
                               std::string const& found) {
    EXPECT_NE(message.find("shape " + expected + ", found " + found), std::string::npos) << message;
  };
  std::string const mixtral = "model.layers.0.block_sparse_moe.";
  expect_parts(shape_error("mixtral", mixtral + "gate.weight", {7, 64}), "[8, 64]", "[7, 64]");
  expect_parts(shape_error("mixtral", mixtral + "experts.1.w2.weight", {96, 64}), "[64, 96]",
               "[96, 64]");
  std::string const gpt = "model.layers.0.mlp.";
  expect_parts(shape_error("gpt_oss", gpt + "experts.gate_up_proj_blocks", {8, 128, 1, 16}),
               "[8, 128, 2, 16]", "[8, 128, 1, 16]");
  expect_parts(shape_error("gpt_oss", gpt + "experts.down_proj_scales", {8, 64}), "[8, 64, 2]",
               "[8, 64]");
  expect_parts(shape_error("gpt_oss", gpt + "experts.down_proj_bias", {4, 64}), "[8, 64]",
               "[4, 64]");
  expect_parts(shape_error("deepseek_v3", gpt + "gate.e_score_correction_bias", {15}), "[1, 16]",
               "[15]");
}

TEST(LoadWeights, RefusesOtherElementTypes) {
  CheckpointFiles files(golden("mixtral"));
  auto& tensor = files.tensors.at("model.layers.0.block_sparse_moe.experts.2.w3.weight");
  tensor.dtype = "F8_E4M3";
  tensor.bytes.resize(tensor.bytes.size() / 2);
  TemporaryDirectory const dir;
  files.write(dir.path());
  io::Checkpoint const checkpoint(dir.path());
  std::string const message =
      message_of<Unsupported>([&] { load<float>(checkpoint, checkpoint.block(0), {2}); });
  EXPECT_NE(message.find("experts.2.w3.weight"), std::string::npos) << message;
  EXPECT_NE(message.find("F8_E4M3"), std::string::npos) << message;
}

TEST(LoadWeights, RefusesARouterThatIsNotFinite) {
  auto const router_error = [](std::string const& model, std::string const& name, std::size_t index,
                               std::uint16_t bits) {
    CheckpointFiles files(golden(model));
    std::memcpy(files.tensors.at(name).bytes.data() + 2 * index, &bits, 2);
    std::string const message = load_error(files, {});
    EXPECT_NE(message.find("\"" + name + "\""), std::string::npos) << message;
    return message;
  };
  std::string const weight = "model.layers.0.block_sparse_moe.gate.weight";
  EXPECT_NE(router_error("mixtral", weight, 5 * 64 + 17, 0x7fc0).find("NaN at [5, 17]"),
            std::string::npos);
  EXPECT_NE(router_error("mixtral", weight, 511, 0xff80).find("infinity at [7, 63]"),
            std::string::npos);
  EXPECT_NE(router_error("gpt_oss", "model.layers.0.mlp.router.bias", 3, 0x7f80).find("[3]"),
            std::string::npos);
  EXPECT_NE(
      router_error("deepseek_v3", "model.layers.0.mlp.gate.e_score_correction_bias", 9, 0xffff)
          .find("NaN at [9]"),
      std::string::npos);
}

TEST(LoadWeights, ChecksExpertIds) {
  io::Checkpoint const checkpoint(golden("mixtral"));
  EXPECT_THROW(load(checkpoint, checkpoint.block(0), {8}), InvalidArgument);
  EXPECT_THROW(load(checkpoint, checkpoint.block(0), {0, -1}), InvalidArgument);
}

// Forms of tensors.

std::string bytes_of(std::vector<float> const& values) {
  return {reinterpret_cast<char const*>(values.data()), values.size() * sizeof(float)};
}

TEST(LoadWeights, ReadsOnlyTheExpertsAskedFor) {
  // Experts lie in the file in the order of their names, "a" first: what follows expert 3 is cut
  // off after the file was mapped, so that reading it would end the process.
  constexpr int hidden = 64;
  CheckpointFiles files;
  files.config = R"({"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 256,
                     "num_local_experts": 8, "num_hidden_layers": 1})";
  std::string const prefix = "model.layers.0.block_sparse_moe.";
  std::vector<float> weight(256 * hidden, 0.5F);
  for (int e = 0; e < 8; ++e) {
    std::string const expert = prefix + "experts." + std::to_string(e);
    files.tensors[expert + ".w1.weight"] = {"F32", {256, hidden}, bytes_of(weight)};
    files.tensors[expert + ".w3.weight"] = {"F32", {256, hidden}, bytes_of(weight)};
    files.tensors[expert + ".w2.weight"] = {"F32", {hidden, 256}, bytes_of(weight)};
  }
  files.tensors[prefix + "a"] = {"F32", {8, hidden}, std::string(8 * hidden * 4, '\0')};
  files.tensors["model.layers.0.block_sparse_moe.gate.weight"] = files.tensors[prefix + "a"];
  TemporaryDirectory const dir;
  // The router in a shard of its own.
  auto const router = files.tensors.extract(prefix + "gate.weight");
  files.write(dir.path());
  std::filesystem::rename(dir / "model.safetensors", dir / "experts.safetensors");
  CheckpointFiles::write_tensors(dir / "router.safetensors", {{router.key(), router.mapped()}});
  std::string map = "\"" + router.key() + "\": \"router.safetensors\"";
  for (auto const& [name, tensor] : files.tensors) {
    map += ", \"" + name + "\": \"experts.safetensors\"";
  }
  write_file(dir / "model.safetensors.index.json", "{\"weight_map\": {" + map + "}}");

  io::Checkpoint const checkpoint(dir.path());
  auto const& last = checkpoint.tensors().at(prefix + "experts.3.w3.weight");
  std::filesystem::resize_file(dir / "experts.safetensors", last.offset + last.bytes.size());
  auto const weights = load<float>(checkpoint, checkpoint.block(0), {3, 1});
  EXPECT_EQ(weights.experts.gate_up(0, 511, hidden - 1), 0.5F);
  EXPECT_EQ(weights.experts.down(1, hidden - 1, 255), 0.5F);
}

/// A llama4 checkpoint of odd sizes, larger than the tiles of the transposition.
TEST(LoadWeights, TransposesAnySize) {
  constexpr int num_experts = 3;
  for (auto const& [hidden, inter] : {std::pair{67, 130}, {1, 1}, {64, 65}, {129, 3}}) {
    auto const value = [](int tensor, int e, int row, int col) {
      return static_cast<float>(random_value(tensor * 8 + e, row * 1000 + col, Values::uniform));
    };
    auto const fill = [&](int tensor, int rows, int cols, bool transposed) {
      std::vector<float> values;
      for (int e = 0; e < num_experts; ++e) {
        for (int a = 0; a < (transposed ? cols : rows); ++a) {
          for (int b = 0; b < (transposed ? rows : cols); ++b) {
            values.push_back(transposed ? value(tensor, e, b, a) : value(tensor, e, a, b));
          }
        }
      }
      return bytes_of(values);
    };
    CheckpointFiles files;
    files.config = R"({"model_type": "llama4_text", "hidden_size": )" + std::to_string(hidden) +
                   R"(, "intermediate_size": )" + std::to_string(inter) +
                   R"(, "num_local_experts": 3, "num_hidden_layers": 1})";
    std::string const prefix = "layers.0.feed_forward.";
    auto const add = [&](std::string const& name, std::vector<std::int64_t> const& shape,
                         std::string const& bytes) {
      files.tensors[prefix + name] = {"F32", shape, bytes};
    };
    add("router.weight", {num_experts, hidden}, std::string(num_experts * hidden * 4, '\0'));
    add("experts.gate_up_proj", {num_experts, hidden, 2 * inter}, fill(1, 2 * inter, hidden, true));
    add("experts.down_proj", {num_experts, inter, hidden}, fill(2, hidden, inter, true));
    for (auto const* part : {"gate", "up", "down"}) {
      add("shared_expert." + std::string(part) + "_proj.weight",
          part[0] == 'd' ? std::vector<std::int64_t>{hidden, inter}
                         : std::vector<std::int64_t>{inter, hidden},
          std::string(static_cast<std::size_t>(hidden * inter) * 4, '\0'));
    }
    TemporaryDirectory const dir;
    files.write(dir.path());
    io::Checkpoint const checkpoint(dir.path());
    auto const weights = load<float>(checkpoint, checkpoint.block(0), {2, 0});
    for (int slot = 0; slot < 2; ++slot) {
      int const e = slot == 0 ? 2 : 0;
      for (int h = 0; h < hidden; ++h) {
        for (int i = 0; i < 2 * inter; ++i) {
          ASSERT_EQ(weights.experts.gate_up(slot, i, h), value(1, e, i, h));
        }
        for (int i = 0; i < inter; ++i) {
          ASSERT_EQ(weights.experts.down(slot, h, i), value(2, e, h, i));
        }
      }
    }
  }
}

TEST(LoadWeights, DecodesMxfp4) {
  CheckpointFiles files(golden("gpt_oss"));
  auto& pairs = files.tensors.at("model.layers.0.mlp.experts.gate_up_proj_blocks");
  auto& scales = files.tensors.at("model.layers.0.mlp.experts.gate_up_proj_scales");
  // Expert 1, row 2: 32 elements with each scale; the elements 0, 1, .. 15 twice.
  std::size_t const group = (1 * 128 + 2) * 2;
  for (int half_group = 0; half_group < 2; ++half_group) {
    for (int i = 0; i < 16; ++i) {
      int const low = (2 * i) % 16;
      pairs.bytes[(group + half_group) * 16 + i] = static_cast<char>(low | ((low + 1) << 4));
    }
  }
  std::array<double, 16> const e2m1{0,    0.5,  1,  1.5,  2,  3,  4,  6,
                                    -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};
  for (auto const& [first, second] : {std::pair{127, 130}, {0, 1}, {252, 120}}) {
    scales.bytes[group] = static_cast<char>(first);
    scales.bytes[group + 1] = static_cast<char>(second);
    TemporaryDirectory const dir;
    files.write(dir.path());
    io::Checkpoint const checkpoint(dir.path());
    auto const exact = load(checkpoint, checkpoint.block(0), {1});
    auto const rounded = load<bfloat16>(checkpoint, checkpoint.block(0), {1});
    for (int c = 0; c < 64; ++c) {
      double const value = std::ldexp(e2m1[c % 16], (c < 32 ? first : second) - 127);
      ASSERT_EQ(exact.experts.gate_up(0, 2, c), value) << first << " " << c;
      EXPECT_EQ(std::signbit(exact.experts.gate_up(0, 2, c)), std::signbit(value));
      ASSERT_EQ(static_cast<double>(rounded.experts.gate_up(0, 2, c)), value);  // exact in bf16
    }
  }
  scales.bytes[group] = '\xff';
  TemporaryDirectory const dir;
  files.write(dir.path());
  io::Checkpoint const checkpoint(dir.path());
  auto const weights = load<float>(checkpoint, checkpoint.block(0), {1});
  EXPECT_TRUE(std::isnan(weights.experts.gate_up(0, 2, 31)));
  EXPECT_FALSE(std::isnan(weights.experts.gate_up(0, 2, 32)));
}

}  // namespace
}  // namespace kmoe::test
