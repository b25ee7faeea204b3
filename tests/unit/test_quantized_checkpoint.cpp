// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Quantized checkpoints: what was written comes back bit for bit, layouts made by hand from their
// definition, and every kind of wrong scale, width and scheme.

#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>

#include <gtest/gtest.h>

#include <kmoe/core/codes.hpp>
#include <kmoe/core/error.hpp>
#include <kmoe/io/quantize.hpp>

#include "support/checkpoint_files.hpp"
#include "support/random.hpp"
#include "support/temporary_directory.hpp"

namespace kmoe::test {
namespace {

using Space = Kokkos::DefaultHostExecutionSpace;
using Weights = LayerWeights<Space, float>;

template <class V>
std::string bytes_of(std::vector<V> const& values) {
  return {reinterpret_cast<char const*>(values.data()), values.size() * sizeof(V)};
}

constexpr int hidden = 72, inner = 40, experts = 3;  // no multiple of 32

/// A dense qwen3_moe or, with shared experts, deepseek_v3 checkpoint of one layer.
CheckpointFiles dense_files(bool shared = false) {
  CheckpointFiles files;
  auto const sizes = R"("hidden_size": 72, "moe_intermediate_size": 40, "num_hidden_layers": 1,
                        "num_experts_per_tok": 2, )";
  files.config =
      shared ? std::string(R"({"model_type": "deepseek_v3", )") + sizes +
                   R"("n_routed_experts": 3, "n_shared_experts": 1, "n_group": 1,
                                 "topk_group": 1, "first_k_dense_replace": 0})"
             : std::string(R"({"model_type": "qwen3_moe", )") + sizes + R"("num_experts": 3})";
  std::uint64_t seed = 0;
  auto const add = [&](std::string const& name, int rows, int cols) {
    std::vector<float> values(std::size_t(rows) * std::size_t(cols));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = float(random_value(seed, i, Values::normal));
    }
    ++seed;
    files.tensors["model.layers.0.mlp." + name] = {"F32", {rows, cols}, bytes_of(values)};
  };
  add("gate.weight", experts, hidden);
  std::vector<std::string> modules;
  for (int e = 0; e < experts; ++e) modules.push_back("experts." + std::to_string(e) + ".");
  if (shared) modules.push_back("shared_experts.");
  for (auto const& module : modules) {
    add(module + "gate_proj.weight", inner, hidden);
    add(module + "up_proj.weight", inner, hidden);
    add(module + "down_proj.weight", hidden, inner);
  }
  if (shared) {
    files.tensors["model.layers.0.mlp.gate.e_score_correction_bias"] = {
        "F32", {experts}, bytes_of(std::vector<float>(experts, 0.0F))};
  }
  files.tensors["model.norm.weight"] = {"F32", {2}, bytes_of(std::vector<float>{1, 2})};
  return files;
}

Weights load(std::filesystem::path const& directory, io::Quantized quantized = io::Quantized::keep,
             std::vector<index_t> ids = {2, 0}) {
  io::Checkpoint const checkpoint(directory);
  EXPECT_TRUE(checkpoint.unused_tensors().empty()) << checkpoint.unused_tensors().front();
  return io::load_weights<Space, float>(Space(), checkpoint, checkpoint.block(0), ids, quantized);
}

template <class Exception>
std::string error_of(std::filesystem::path const& directory) {
  try {
    load(directory);
  } catch (Exception const& error) {
    return error.what();
  }
  return "nothing thrown";
}

template <class V>
void expect_same(V const& a, V const& b, std::string const& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  if (a.size() == 0) return;
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(typename V::value_type)), 0) << what;
}

TEST(QuantizedCheckpoint, what_is_written_comes_back_bit_for_bit) {
  TemporaryDirectory const source;
  auto const files = dense_files();
  files.write(source.path());
  write_file(source / "tokenizer.json", "{}");
  auto const dense = load(source.path());
  for (auto const& format : quant_formats()) {
    if (format.scheme.fnuz()) continue;
    SCOPED_TRACE(std::string(format.name));
    TemporaryDirectory const out;
    io::Checkpoint const checkpoint(source.path());
    // Small files: several shards.
    io::CheckpointQuantizer const quantizer(checkpoint, source.path(), format.scheme, out / "model",
                                            9000);
    ASSERT_GT(quantizer.num_shards(), 2);
    std::size_t matrices = 0;
    for (index_t shard = quantizer.num_shards() - 1; shard >= 0; --shard) {
      for (auto const& error : quantizer.write_shard(shard)) {
        ++matrices;
        EXPECT_GT(error.relative_error, 1e-4) << error.name;
        EXPECT_LT(error.relative_error, 0.15) << error.name;
      }
    }
    EXPECT_EQ(matrices, 9U);
    quantizer.write_rest();
    EXPECT_TRUE(std::filesystem::exists(out / "model" / "tokenizer.json"));
    io::TensorStore const store(out / "model");
    EXPECT_NE(store.find("model.norm.weight"), nullptr);
    EXPECT_EQ(io::Checkpoint(out / "model").block(0).quantization, format.scheme);

    auto const loaded = load(out / "model");
    ASSERT_TRUE(loaded.experts.quantized());
    EXPECT_EQ(loaded.experts.gate_up.size(), 0U);
    auto const gate_up = quantize(dense.experts.gate_up, format.scheme, 2);
    auto const down = quantize(dense.experts.down, format.scheme);
    // Written through a reciprocal, nvfp4's part scales may differ in the last bit.
    auto const close = [](auto const& a, auto const& b) {
      ASSERT_EQ(a.size(), b.size());
      for (std::size_t i = 0; i < a.size(); ++i) {
        EXPECT_NEAR(a.data()[i], b.data()[i], 2e-7 * std::abs(b.data()[i]));
      }
    };
    for (auto const& [got, wanted] : {std::pair(loaded.experts.quantized_gate_up, gate_up),
                                      std::pair(loaded.experts.quantized_down, down)}) {
      expect_same(got.scales, wanted.scales, "scales");
      expect_same(got.scale_codes, wanted.scale_codes, "scale codes");
      expect_same(got.zero_points, wanted.zero_points, "zero points");
      close(got.part_scales, wanted.part_scales);
      close(dequantize(got), dequantize(wanted));
      if (format.scheme.bits() == 8) expect_same(got.codes, wanted.codes, "codes");
    }
    auto const decoded = load(out / "model", io::Quantized::decode);
    expect_same(decoded.experts.down,
                Tensor3<float const, Space>(dequantize(loaded.experts.quantized_down)), "decoded");
  }
}

TEST(QuantizedCheckpoint, is_quantized_once_and_elsewhere) {
  TemporaryDirectory const source, out;
  dense_files().write(source.path());
  io::Checkpoint const checkpoint(source.path());
  auto const scheme = quant_scheme("mxfp4");
  EXPECT_THROW(io::CheckpointQuantizer(checkpoint, source.path(), scheme, source.path()),
               InvalidArgument);
  EXPECT_THROW(io::CheckpointQuantizer(checkpoint, source.path(), quant_scheme("fp8_block_fnuz"),
                                       out.path()),
               Unsupported);
  io::CheckpointQuantizer const quantizer(checkpoint, source.path(), scheme, out.path());
  quantizer.write_shard(0);
  quantizer.write_rest();
  io::Checkpoint const quantized(out.path());
  EXPECT_THROW(io::CheckpointQuantizer(quantized, out.path(), scheme, source / "again"),
               Unsupported);
}

/// The experts of the first block, all of them.
Weights first_block(std::filesystem::path const& directory) {
  io::Checkpoint const checkpoint(directory);
  EXPECT_TRUE(checkpoint.unused_tensors().empty()) << checkpoint.unused_tensors().front();
  auto const& block = checkpoint.blocks().front();
  std::vector<index_t> ids(std::size_t(block.config.num_experts));
  std::iota(ids.begin(), ids.end(), 0);
  return io::load_weights<Space, float>(Space(), checkpoint, block, ids);
}

// Experts that lie in one tensor: llama4 is written expert by expert, gpt-oss as its own blocks,
// rows of 20 padded to 32.
TEST(QuantizedCheckpoint, stacked_experts_take_the_form_that_checkpoints_have) {
  std::filesystem::path const golden(KMOE_GOLDEN_DIR);
  for (auto const& [model, formats] : {std::pair<char const*, std::vector<std::string>>(
                                           "llama4_text", {"fp8_channel", "int4", "nvfp4_a4"}),
                                       {"gpt_oss_variant", {"mxfp4"}}}) {
    auto const dense = first_block(golden / model).experts;
    for (auto const& format : formats) {
      SCOPED_TRACE(model + (" " + format));
      auto const scheme = quant_scheme(format);
      TemporaryDirectory const out;
      io::CheckpointQuantizer const quantizer(io::Checkpoint(golden / model), golden / model,
                                              scheme, out.path(), 3000);
      std::size_t matrices = 0;
      for (index_t shard = 0; shard < quantizer.num_shards(); ++shard) {
        matrices += quantizer.write_shard(shard).size();
      }
      quantizer.write_rest();
      bool const each = model != std::string("gpt_oss_variant");
      auto const blocks = io::Checkpoint(out.path()).blocks().size();
      EXPECT_EQ(matrices, blocks * dense.gate_up.extent(0) * (each ? 3 : 2));
      EXPECT_EQ(
          io::TensorStore(out.path()).find("model.layers.0.mlp.experts.gate_up_proj_blocks") !=
              nullptr,
          !each);

      auto const loaded = first_block(out.path()).experts;
      ASSERT_TRUE(loaded.quantized());
      EXPECT_EQ(loaded.layout, dense.layout);
      EXPECT_EQ(loaded.gate_up_bias.size(), dense.gate_up_bias.size());
      auto const gate_up = dequantize(quantize(dense.gate_up, scheme, each ? 2 : 1));
      auto const down = dequantize(quantize(dense.down, scheme));
      for (auto const& [got, wanted] : {std::pair(dequantize(loaded.quantized_gate_up), gate_up),
                                        std::pair(dequantize(loaded.quantized_down), down)}) {
        ASSERT_EQ(got.size(), wanted.size());
        for (std::size_t i = 0; i < got.size(); ++i) {
          ASSERT_NEAR(got.data()[i], wanted.data()[i], 2e-7 * std::abs(wanted.data()[i]));
        }
      }
    }
  }
  TemporaryDirectory const out;
  for (auto const& [model, format] :
       {std::pair("granitemoe", "mxfp4"), std::pair("gpt_oss_variant", "fp8_block")}) {
    try {
      io::CheckpointQuantizer(io::Checkpoint(golden / model), golden / model, quant_scheme(format),
                              out.path());
      ADD_FAILURE() << model;
    } catch (Unsupported const& error) {
      EXPECT_NE(std::string(error.what()).find("lie in one tensor"), std::string::npos);
    }
  }
}

/// Replaces each linear layer of `modules` by what `make` makes of its name and extents.
template <class Make>
void replace_layers(CheckpointFiles& files, std::string const& part, Make const& make) {
  std::vector<std::string> names;
  for (auto const& [name, tensor] : files.tensors) {
    if (name.find(part) != std::string::npos && name.ends_with("_proj.weight")) {
      names.push_back(name);
    }
  }
  for (auto const& name : names) {
    auto const tensor = files.tensors.extract(name).mapped();
    make(name.substr(0, name.size() - 7), int(tensor.shape[0]), int(tensor.shape[1]));
  }
}

void set_quantization(CheckpointFiles& files, std::string const& json) {
  files.config.insert(1, "\"quantization_config\": " + json + ", ");
}

// DeepSeek: e4m3 codes, weight_scale_inv multiplies; the shared expert is quantized too. bf16
// scales as Qwen3 has them.
TEST(QuantizedCheckpoint, deepseek_blocks_by_hand) {
  for (bool const bf16 : {false, true}) {
    auto files = dense_files(true);
    set_quantization(files,
                     R"({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [32, 128],
                                "activation_scheme": "dynamic"})");
    replace_layers(files, "mlp.", [&](std::string const& module, int rows, int cols) {
      std::string codes(std::size_t(rows) * std::size_t(cols), '\x38');  // 1
      codes[0] = '\xc0';                                                 // -2
      files.tensors[module + ".weight"] = {"F8_E4M3", {rows, cols}, codes};
      int const blocks = (rows + 31) / 32;
      std::vector<float> scales;
      std::vector<bfloat16> narrow;
      for (int b = 0; b < blocks; ++b) {
        scales.push_back(0.5F + float(b));
        narrow.emplace_back(scales.back());
      }
      files.tensors[module + ".weight_scale_inv"] = {
          bf16 ? "BF16" : "F32", {blocks, 1}, bf16 ? bytes_of(narrow) : bytes_of(scales)};
    });
    TemporaryDirectory const dir;
    files.write(dir.path());
    auto const weights = load(dir.path());
    EXPECT_TRUE(weights.shared.quantized());
    for (auto const* mlp : {&weights.experts, &weights.shared}) {
      auto const& up = mlp->quantized_gate_up;
      EXPECT_EQ(up.scheme.activations, ActivationCode::fp8_group);
      EXPECT_EQ(up.parts, 2);
      ASSERT_EQ(up.scales.extent(1), 4U);  // two of the gates, two of the ups
      auto const w = dequantize(up);
      EXPECT_EQ(w(0, 0, 0), -1.0F);
      EXPECT_EQ(w(0, 0, 1), 0.5F);
      EXPECT_EQ(w(0, 39, 5), 1.5F);
      EXPECT_EQ(w(0, 40, 0), -1.0F);  // the ups begin with a block of their own
      EXPECT_EQ(w(0, 72, 1), 1.5F);
      EXPECT_EQ(dequantize(mlp->quantized_down)(0, 71, 0), 2.5F);
    }
  }
}

// compressed-tensors int4: words of eight codes along a row, offset 8; zero points along rows.
TEST(QuantizedCheckpoint, compressed_int4_by_hand) {
  auto files = dense_files();
  set_quantization(files, R"({"quant_method": "compressed-tensors", "format": "pack-quantized",
    "config_groups": {"group_0": {"input_activations": null, "targets": ["Linear"], "weights":
      {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32,
       "symmetric": false}}}})");
  replace_layers(files, "experts.", [&](std::string const& module, int rows, int cols) {
    int const words = (cols + 7) / 8, groups = (cols + 31) / 32;
    std::vector<std::uint32_t> packed(std::size_t(rows * words)),
        zeros(std::size_t((rows + 7) / 8 * groups));
    std::vector<float> scales(std::size_t(rows * groups));
    for (int n = 0; n < rows; ++n) {
      for (int k = 0; k < cols; ++k) {
        packed[std::size_t(n * words + k / 8)] |= std::uint32_t((n + k) % 16) << (4 * (k % 8));
      }
      for (int g = 0; g < groups; ++g) {
        zeros[std::size_t(n / 8 * groups + g)] |= std::uint32_t((n + g) % 16) << (4 * (n % 8));
        scales[std::size_t(n * groups + g)] = 1.0F + float(g);
      }
    }
    files.tensors[module + ".weight_packed"] = {"I32", {rows, words}, bytes_of(packed)};
    files.tensors[module + ".weight_zero_point"] = {
        "I32", {(rows + 7) / 8, groups}, bytes_of(zeros)};
    files.tensors[module + ".weight_scale"] = {"F32", {rows, groups}, bytes_of(scales)};
    files.tensors[module + ".weight_shape"] = {
        "I64", {2}, bytes_of(std::vector<std::int64_t>{rows, cols})};
  });
  TemporaryDirectory const dir;
  files.write(dir.path());
  auto const weights = load(dir.path());
  auto const& up = weights.experts.quantized_gate_up;
  EXPECT_EQ(up.codes.extent(2), 36U);  // nine words
  auto const w = dequantize(up);
  for (int n = 0; n < 2 * inner; ++n) {
    for (int k = 0; k < hidden; ++k) {
      int const row = n % inner, g = k / 32;
      EXPECT_EQ(w(1, n, k), float((row + k) % 16 - (row + g) % 16) * (1.0F + float(g)));
    }
  }

  auto broken = files;
  std::string const module = "model.layers.0.mlp.experts.2.up_proj";
  broken.tensors[module + ".weight_shape"].bytes =
      bytes_of(std::vector<std::int64_t>{inner, hidden + 1});
  broken.write(dir.path());
  auto what = error_of<IoError>(dir.path());
  EXPECT_NE(what.find(module + ".weight_shape"), std::string::npos) << what;
  EXPECT_NE(what.find("[40, 72]"), std::string::npos) << what;
  broken = files;
  broken.tensors[module + ".weight_packed"] = {"I32", {inner, 10}, std::string(inner * 40, '\0')};
  broken.write(dir.path());
  what = error_of<IoError>(dir.path());
  EXPECT_NE(what.find(module + ".weight_packed"), std::string::npos) << what;
  EXPECT_NE(what.find("[40, 9]"), std::string::npos) << what;
}

// modelopt: two scales multiply; the input scale of gate and up is the larger.
TEST(QuantizedCheckpoint, modelopt_nvfp4_by_hand) {
  auto files = dense_files();
  set_quantization(files, R"({"quant_method": "modelopt", "quant_algo": "NVFP4"})");
  replace_layers(files, "experts.", [&](std::string const& module, int rows, int cols) {
    int const groups = (cols + 15) / 16;
    files.tensors[module + ".weight"] = {
        "U8", {rows, cols / 2}, std::string(std::size_t(rows * cols / 2), '\xa7')};  // 6, -1
    files.tensors[module + ".weight_scale"] = {
        "F8_E4M3", {rows, groups}, std::string(std::size_t(rows * groups), '\x40')};  // 2
    bool const gate = module.ends_with("gate_proj");
    files.tensors[module + ".weight_scale_2"] = {
        "F32", {}, bytes_of(std::vector{gate ? 0.5F : 4.0F})};
    files.tensors[module + ".input_scale"] = {"F32", {}, bytes_of(std::vector{gate ? 3.0F : 2.0F})};
  });
  TemporaryDirectory const dir;
  files.write(dir.path());
  auto const weights = load(dir.path());
  auto const& up = weights.experts.quantized_gate_up;
  auto const w = dequantize(up);
  EXPECT_EQ(w(0, 0, 0), 6.0F);
  EXPECT_EQ(w(0, 0, 1), -1.0F);
  EXPECT_EQ(w(0, inner, 0), 48.0F);
  EXPECT_EQ(up.input_scales(1), 3.0F);
  EXPECT_EQ(weights.experts.quantized_down.input_scales(0), 2.0F);

  std::string const module = "model.layers.0.mlp.experts.0.down_proj";
  auto broken = files;
  broken.tensors[module + ".weight_scale"].bytes[5] = '\xc0';
  broken.write(dir.path());
  auto what = error_of<IoError>(dir.path());
  EXPECT_NE(what.find(module + ".weight_scale"), std::string::npos) << what;
  EXPECT_NE(what.find("number 5"), std::string::npos) << what;
  broken = files;
  broken.tensors[module + ".weight_scale_2"].bytes = bytes_of(std::vector{std::nanf("")});
  broken.write(dir.path());
  what = error_of<IoError>(dir.path());
  EXPECT_NE(what.find(module + ".weight_scale_2"), std::string::npos) << what;
  EXPECT_NE(what.find("finite"), std::string::npos) << what;
  broken = files;
  broken.tensors.erase(module + ".input_scale");
  broken.write(dir.path());
  what = error_of<IoError>(dir.path());
  EXPECT_NE(what.find(module), std::string::npos) << what;
  EXPECT_NE(what.find("input scale"), std::string::npos) << what;
  broken = files;
  broken.tensors[module + ".weight"].dtype = "I8";
  broken.write(dir.path());
  what = error_of<Unsupported>(dir.path());
  EXPECT_NE(what.find("dtype must be U8"), std::string::npos) << what;
}

// Static fp8 activations, and experts that quantization left out.
TEST(QuantizedCheckpoint, fp8_tensors_and_modules_left_out) {
  auto files = dense_files(true);
  set_quantization(files, R"({"quant_method": "fp8", "activation_scheme": "static"})");
  replace_layers(files, "mlp.experts.", [&](std::string const& module, int rows, int cols) {
    files.tensors[module + ".weight"] = {
        "F8_E4M3", {rows, cols}, std::string(std::size_t(rows) * std::size_t(cols), '\x38')};
    files.tensors[module + ".weight_scale"] = {"F32", {1}, bytes_of(std::vector{0.25F})};
    files.tensors[module + ".input_scale"] = {"F32", {1}, bytes_of(std::vector{0.125F})};
  });
  TemporaryDirectory const dir;
  files.write(dir.path());
  auto const weights = load(dir.path());
  EXPECT_TRUE(weights.experts.quantized());
  EXPECT_FALSE(weights.shared.quantized());
  EXPECT_EQ(weights.shared.gate_up.extent(2), std::size_t(hidden));
  EXPECT_EQ(weights.experts.quantized_gate_up.input_scales(0), 0.125F);
  EXPECT_EQ(dequantize(weights.experts.quantized_gate_up)(1, 79, 71), 0.25F);
  files.tensors["model.layers.0.mlp.experts.1.up_proj.weight_scale"].bytes =
      bytes_of(std::vector{-1.0F});
  files.write(dir.path());
  io::Checkpoint const checkpoint(dir.path());
  std::vector<index_t> const others{0, 2};
  EXPECT_NO_THROW(
      (io::load_weights<Space, float>(Space(), checkpoint, checkpoint.block(0), others)));
  std::vector<index_t> const broken{1};
  EXPECT_THROW((io::load_weights<Space, float>(Space(), checkpoint, checkpoint.block(0), broken)),
               IoError);
}

TEST(QuantizedCheckpoint, unknown_schemes_name_the_key) {
  auto const says = [](std::string const& quantization, std::string const& part) {
    auto files = dense_files();
    set_quantization(files, quantization);
    TemporaryDirectory const dir;
    files.write(dir.path());
    std::string what = "nothing thrown";
    try {
      io::Checkpoint const checkpoint(dir.path());
    } catch (Error const& error) {
      what = error.what();
    }
    EXPECT_NE(what.find(part), std::string::npos) << what << "\n  lacks " << part;
    EXPECT_NE(what.find("config.json"), std::string::npos) << what;
  };
  says(R"({"quant_method": "awq"})", "quantization_config.quant_method");
  says(R"({"quant_method": "fp8", "fmt": "e5m2"})", "quantization_config.fmt");
  says(R"({"quant_method": "fp8", "weight_block_size": [128, 64]})", "weight_block_size");
  says(R"({"quant_method": "fp8", "weight_block_size": 128})", "two integers");
  says(R"({"quant_method": "fp8", "activation_scheme": "fast"})", "activation_scheme");
  says(R"({"quant_method": "compressed-tensors"})", "config_groups");
  auto const group = [](std::string const& weights, std::string const& input = "null") {
    return R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
              {"g": {"weights": {)" +
           weights + R"(}, "input_activations": )" + input + "}}}";
  };
  says(group(R"("num_bits": 3)"), "config_groups.g.weights");
  says(group(R"("num_bits": 4, "strategy": "group", "group_size": 48)"), "group_size");
  says(group(R"("num_bits": 4, "strategy": "channel")", R"({"type": "float"})"),
       "input_activations");
  says(group(R"("num_bits": 8)"), "format");
  says(R"({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"})", "quant_algo");
  says(R"({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "int4"}}})",
       "global_quant_config.weight");
}

}  // namespace
}  // namespace kmoe::test
