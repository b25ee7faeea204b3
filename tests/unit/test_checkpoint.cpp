// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// config.json: which layers have experts, defaults and aliases of every model type, what is
// refused, and how blocks are found.

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include <kmoe/core/error.hpp>
#include <kmoe/io/checkpoint.hpp>

#include "support/checkpoint_files.hpp"
#include "support/temporary_directory.hpp"

namespace kmoe::test {
namespace {

io::Checkpoint open_config(std::string const& config,
                           std::vector<std::string> const& tensor_names = {}) {
  TemporaryDirectory const dir;  // the files stay mapped
  CheckpointFiles files;
  files.config = config;
  for (auto const& name : tensor_names) files.tensors[name] = {"U8", {1}, "x"};
  files.write(dir.path());
  return io::Checkpoint(dir.path());
}

template <class ErrorType>
std::string config_error(std::string const& config) {
  std::string const message = message_of<ErrorType>([&] { open_config(config); });
  EXPECT_NE(message.find("config.json"), std::string::npos) << config << ": " << message;
  return message;
}

std::vector<int> layers_of(std::string const& config) {
  std::vector<int> layers;
  io::Checkpoint const checkpoint = open_config(config);
  for (auto const& block : checkpoint.blocks()) layers.push_back(block.layer);
  return layers;
}

MoeConfig first_config(std::string const& config) {
  return open_config(config).blocks().front().config;
}

using Layers = std::vector<int>;

TEST(Config, LayersWithExperts) {
  EXPECT_EQ(layers_of(R"({"model_type": "mixtral", "num_hidden_layers": 3})"), (Layers{0, 1, 2}));
  EXPECT_EQ(layers_of(R"({"model_type": "mixtral", "num_hidden_layers": 0})"), Layers{});
  // Qwen
  EXPECT_EQ(layers_of(R"({"model_type": "qwen2_moe", "num_hidden_layers": 7,
                          "decoder_sparse_step": 2, "mlp_only_layers": [3]})"),
            (Layers{1, 5}));
  EXPECT_EQ(layers_of(R"({"model_type": "qwen3_moe", "num_hidden_layers": 3,
                          "mlp_only_layers": null})"),
            (Layers{0, 1, 2}));
  EXPECT_EQ(layers_of(R"({"model_type": "qwen3_next", "num_hidden_layers": 2, "num_experts": 0})"),
            Layers{});
  // DeepSeek and those like it
  EXPECT_EQ(layers_of(R"({"model_type": "deepseek_v3", "num_hidden_layers": 5})"), (Layers{3, 4}));
  EXPECT_EQ(layers_of(R"({"model_type": "deepseek_v3", "num_hidden_layers": 3,
                          "first_k_dense_replace": 1})"),
            (Layers{1, 2}));
  EXPECT_EQ(layers_of(R"({"model_type": "afmoe", "num_hidden_layers": 3})"), (Layers{1, 2}));
  EXPECT_EQ(layers_of(R"({"model_type": "lfm2_moe", "num_hidden_layers": 3})"), Layers{2});
  // ERNIE
  EXPECT_EQ(layers_of(R"({"model_type": "ernie4_5_moe", "num_hidden_layers": 4})"),
            (Layers{1, 2, 3}));
  EXPECT_EQ(layers_of(R"({"model_type": "ernie4_5_moe", "num_hidden_layers": 9,
                          "moe_layer_interval": 2, "moe_layer_start_index": 2,
                          "moe_layer_end_index": 6})"),
            (Layers{3, 5}));
  // Llama 4
  EXPECT_EQ(layers_of(R"({"model_type": "llama4_text", "num_hidden_layers": 5,
                          "interleave_moe_layer_step": 2})"),
            (Layers{1, 3}));
  EXPECT_EQ(layers_of(R"({"model_type": "llama4_text", "num_hidden_layers": 5,
                          "interleave_moe_layer_step": 2, "moe_layers": [0, 4]})"),
            (Layers{0, 4}));
  EXPECT_EQ(layers_of(R"({"model_type": "llama4_text", "num_hidden_layers": 5,
                          "moe_layers": []})"),
            Layers{});
  // Jamba
  EXPECT_EQ(layers_of(R"({"model_type": "jamba", "num_hidden_layers": 5})"), (Layers{1, 3}));
  EXPECT_EQ(layers_of(R"({"model_type": "jamba", "num_hidden_layers": 8, "expert_layer_period": 3,
                          "expert_layer_offset": 0})"),
            (Layers{0, 3, 6}));
  EXPECT_EQ(layers_of(R"({"model_type": "jamba", "num_hidden_layers": 5, "num_experts": 1})"),
            Layers{});
  // LongCat
  EXPECT_EQ(layers_of(R"({"model_type": "longcat_flash", "num_hidden_layers": 6,
                          "num_layers": 2})"),
            (Layers{0, 1}));
}

struct Defaults {
  std::size_t blocks;
  index_t hidden, experts, top_k, intermediate, shared;
};

TEST(Config, DefaultsOfEachType) {
  // What the library's configuration classes say with no key given but those they demand.
  std::map<std::string, Defaults> const expected{
      {"afmoe", {31, 2048, 64, 6, 1408, 2816}},
      {"deepseek_v2", {32, 4096, 64, 4, 1407, 2814}},
      {"deepseek_v3", {58, 7168, 256, 8, 2048, 2048}},
      {"dots1", {62, 4608, 16, 4, 1408, 0}},
      {"ernie4_5_moe", {27, 2560, 64, 6, 1536, 3072}},
      {"glm4_moe", {45, 4096, 128, 8, 1408, 1408}},
      {"gpt_oss", {36, 2880, 128, 4, 2880, 0}},
      {"granitemoe", {32, 4096, 8, 2, 11008, 0}},
      {"hunyuan_v1_moe", {32, 4096, 1, 1, 11008, 11008}},
      {"jamba", {16, 4096, 16, 2, 14336, 0}},
      {"kimi_k2", {58, 7168, 256, 8, 2048, 2048}},
      {"lfm2_moe", {30, 2048, 32, 4, 1792, 0}},
      {"llama4_text", {48, 5120, 16, 1, 8192, 8192}},
      {"longcat_flash", {28, 6144, 512, 12, 2048, 0}},
      {"minimax_m2", {62, 3072, 256, 8, 1536, 0}},
      {"mixtral", {32, 4096, 8, 2, 14336, 0}},
      {"olmoe", {16, 2048, 64, 8, 2048, 0}},
      {"phimoe", {32, 4096, 16, 2, 6400, 0}},
      {"qwen2_moe", {24, 2048, 60, 4, 1408, 5632}},
      {"qwen3_moe", {24, 2048, 128, 8, 768, 0}},
      {"qwen3_next", {48, 2048, 512, 10, 512, 512}},
  };
  std::map<std::string, std::string> const demanded{
      {"deepseek_v2", R"(, "num_experts_per_tok": 4)"},
      {"dots1", R"(, "num_experts_per_tok": 4, "n_routed_experts": 16)"}};
  auto const types = io::Checkpoint::model_types();
  EXPECT_EQ(types.size(), expected.size());
  for (std::string const& type : types) {
    SCOPED_TRACE(type);
    auto const extra = demanded.find(type);
    io::Checkpoint const checkpoint = open_config(
        "{\"model_type\": \"" + type + "\"" + (extra == demanded.end() ? "" : extra->second) + "}");
    Defaults const& d = expected.at(type);
    ASSERT_EQ(checkpoint.blocks().size(), d.blocks);
    MoeConfig const& c = checkpoint.blocks().front().config;
    EXPECT_EQ(c.hidden_size, d.hidden);
    EXPECT_EQ(c.num_experts, d.experts);
    EXPECT_EQ(c.top_k, d.top_k);
    EXPECT_EQ(c.intermediate_size, d.intermediate);
    EXPECT_EQ(c.shared_intermediate_size, d.shared);
    EXPECT_EQ(c.num_zero_experts, type == "longcat_flash" ? 256 : 0);
    EXPECT_EQ(c.shared_expert_gate, type == "qwen2_moe" || type == "qwen3_next");
    EXPECT_EQ(c.experts.router_weight_on_input, type == "llama4_text");
    EXPECT_EQ(c.experts.activation, type == "gpt_oss" ? Activation::swiglu_oai : Activation::silu);
    EXPECT_EQ(c.router.num_fused_shared_experts, 0);
  }
  EXPECT_NE(config_error<IoError>(R"({"model_type": "deepseek_v2"})")
                .find("\"num_experts_per_tok\" is required"),
            std::string::npos);
  EXPECT_NE(config_error<IoError>(R"({"model_type": "dots1", "num_experts_per_tok": 2})")
                .find("\"n_routed_experts\" is required"),
            std::string::npos);
}

TEST(Config, AliasesAndCanonicalNames) {
  auto const experts = [](std::string const& type, std::string const& keys) {
    return first_config("{\"model_type\": \"" + type + "\", \"num_hidden_layers\": 1, " + keys +
                        "}")
        .num_experts;
  };
  EXPECT_EQ(experts("mixtral", R"("num_experts": 6)"), 6);
  EXPECT_EQ(experts("mixtral", R"("num_experts": 6, "num_local_experts": 4)"), 4);
  EXPECT_EQ(experts("qwen3_moe", R"("num_experts": 16)"), 16);
  EXPECT_EQ(experts("qwen3_moe", R"("num_local_experts": 16)"), 16);
  EXPECT_EQ(experts("qwen2_moe", R"("num_local_experts": 16)"), 60);  // has no alias
  EXPECT_EQ(first_config(R"({"model_type": "hunyuan_v1_moe", "num_hidden_layers": 1,
                             "num_local_experts": 8, "num_experts_per_tok": 3})")
                .top_k,
            3);
  EXPECT_EQ(first_config(R"({"model_type": "phimoe", "num_hidden_layers": 1,
                             "num_experts_per_tok": 1})")
                .top_k,
            2);
}

TEST(Config, ListsHoldOneValuePerLayer) {
  io::Checkpoint const checkpoint = open_config(R"({"model_type": "hunyuan_v1_moe",
      "num_hidden_layers": 3, "num_experts": 8, "moe_topk": [1, 2, 3]})");
  EXPECT_EQ(checkpoint.block(0).config.top_k, 1);
  EXPECT_EQ(checkpoint.block(2).config.top_k, 3);
  EXPECT_NE(config_error<IoError>(R"({"model_type": "hunyuan_v1_moe", "num_hidden_layers": 3,
                                      "num_experts": 8, "moe_topk": [1, 2]})")
                .find("\"moe_topk\" has no entry for layer 2"),
            std::string::npos);
}

TEST(Config, Routers) {
  auto const router = [](std::string const& config) { return first_config(config).router; };
  auto v3 = router(R"({"model_type": "deepseek_v3", "num_hidden_layers": 4})");
  EXPECT_EQ(v3.scoring, Scoring::sigmoid);
  EXPECT_EQ(v3.group_score, GroupScore::top2_sum);
  EXPECT_EQ(v3.num_groups, 8);
  EXPECT_EQ(v3.topk_groups, 4);
  EXPECT_EQ(v3.masked_score, -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(v3.renormalize);
  EXPECT_EQ(v3.renormalize_epsilon, 1e-20F);
  EXPECT_EQ(v3.routed_scaling_factor, 2.5F);
  EXPECT_EQ(router(R"({"model_type": "deepseek_v3", "num_hidden_layers": 4, "n_group": null,
                       "topk_group": null})")
                .num_groups,
            1);
  // Divisors that no golden data can tell apart.
  for (auto const& [type, epsilon] : std::map<std::string, float>{
           {"afmoe", 1e-20F}, {"glm4_moe", 1e-20F}, {"lfm2_moe", 1e-6F}, {"minimax_m2", 0.0F}}) {
    auto const biased = router("{\"model_type\": \"" + type + "\"}");
    EXPECT_EQ(biased.scoring, Scoring::sigmoid) << type;
    EXPECT_TRUE(biased.renormalize) << type;
    EXPECT_EQ(biased.renormalize_epsilon, epsilon) << type;
  }
  std::string const v2 = R"({"model_type": "deepseek_v2", "num_hidden_layers": 1, "n_group": 8,
      "num_experts_per_tok": 2, "topk_group": 3, "norm_topk_prob": true, "topk_method": )";
  EXPECT_EQ(router(v2 + "\"greedy\"}").num_groups, 1);
  auto const limited = router(v2 + "\"group_limited_greedy\"}");
  EXPECT_EQ(limited.num_groups, 8);
  EXPECT_EQ(limited.topk_groups, 3);
  EXPECT_EQ(limited.group_score, GroupScore::max);
  EXPECT_TRUE(limited.zero_masked_weights);
  EXPECT_FALSE(limited.renormalize);
  EXPECT_NE(config_error<Unsupported>(v2 + "\"noaux_tc\"}").find("noaux_tc"), std::string::npos);
  auto const ernie = router(R"({"model_type": "ernie4_5_moe", "num_hidden_layers": 2,
                                "moe_norm_min": 0.5})");
  EXPECT_TRUE(ernie.renormalize);
  EXPECT_EQ(ernie.renormalize_min_sum, 0.5F);
  EXPECT_TRUE(router(R"({"model_type": "qwen3_next", "num_hidden_layers": 1})").renormalize);
  EXPECT_FALSE(router(R"({"model_type": "qwen3_moe", "num_hidden_layers": 1})").renormalize);
  EXPECT_EQ(router(R"({"model_type": "phimoe", "num_hidden_layers": 1,
                       "router_jitter_noise": 0.25})")
                .jitter_epsilon,
            0.25F);
}

TEST(Config, SharedExperts) {
  auto const shared = [](std::string const& keys) {
    return first_config(R"({"model_type": "deepseek_v3", "num_hidden_layers": 4, )" + keys + "}")
        .shared_intermediate_size;
  };
  EXPECT_EQ(shared(R"("n_shared_experts": 3, "moe_intermediate_size": 10)"), 30);
  EXPECT_EQ(shared(R"("n_shared_experts": 0)"), 0);
  EXPECT_EQ(shared(R"("n_shared_experts": null)"), 0);
  EXPECT_NE(config_error<IoError>(R"({"model_type": "deepseek_v3", "num_hidden_layers": 4,
                                      "n_shared_experts": 2000000000})")
                .find("n_shared_experts"),
            std::string::npos);
}

TEST(Config, Activations) {
  auto const activation = [](std::string const& name) {
    return first_config(R"({"model_type": "mixtral", "num_hidden_layers": 1, "hidden_act": ")" +
                        name + "\"}")
        .experts.activation;
  };
  EXPECT_EQ(activation("silu"), Activation::silu);
  EXPECT_EQ(activation("swish"), Activation::silu);
  EXPECT_EQ(activation("gelu"), Activation::gelu_erf);
  EXPECT_EQ(activation("gelu_new"), Activation::gelu_tanh);
  EXPECT_EQ(activation("gelu_pytorch_tanh"), Activation::gelu_tanh);
  EXPECT_EQ(activation("relu"), Activation::relu);
  EXPECT_EQ(activation("relu2"), Activation::relu2);
  EXPECT_NE(config_error<Unsupported>(R"({"model_type": "mixtral", "hidden_act": "quick_gelu"})")
                .find("quick_gelu"),
            std::string::npos);
  // Those two types do not read it.
  EXPECT_EQ(first_config(R"({"model_type": "lfm2_moe", "num_hidden_layers": 3,
                             "hidden_act": "relu"})")
                .experts.activation,
            Activation::silu);
}

TEST(Config, UnknownTypesAreNamed) {
  for (std::string const config : {R"({"model_type": "llama"})",
                                   R"({"model_type": "llava", "text_config": {"model_type": "x"}})",
                                   R"({})", R"({"model_type": 3})"}) {
    std::string const message = config_error<Unsupported>(config);
    for (auto const& type : io::Checkpoint::model_types()) {
      EXPECT_NE(message.find(type), std::string::npos) << message;
    }
  }
  EXPECT_NE(config_error<Unsupported>(R"({"model_type": "llama"})").find("\"llama\""),
            std::string::npos);
}

TEST(Config, QuantizationIsNamed) {
  EXPECT_NE(config_error<Unsupported>(
                R"({"model_type": "gpt_oss", "quantization_config": {"quant_method": "awq"}})")
                .find("awq"),
            std::string::npos);
  EXPECT_NE(config_error<Unsupported>(
                R"({"model_type": "mixtral", "quantization_config": {"quant_method": "mxfp4"}})")
                .find("mxfp4"),
            std::string::npos);
  config_error<Unsupported>(R"({"model_type": "mixtral", "quantization_config": {}})");
  EXPECT_NO_THROW(open_config(
      R"({"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}})"));
  EXPECT_NO_THROW(open_config(R"({"model_type": "mixtral", "quantization_config": null})"));
}

TEST(Config, DamagedFiles) {
  EXPECT_NE(config_error<IoError>("").find("byte offset 0"), std::string::npos);
  EXPECT_NE(config_error<IoError>("{\"a\": }").find("byte offset 6"), std::string::npos);
  config_error<IoError>("[]");
  EXPECT_NE(config_error<IoError>("{\"a\": 1e999}").find("1e999"), std::string::npos);
  auto const mixtral = [](std::string const& keys) {
    return config_error<IoError>("{\"model_type\": \"mixtral\", " + keys + "}");
  };
  EXPECT_NE(mixtral(R"("hidden_size": "big")").find("\"hidden_size\""), std::string::npos);
  EXPECT_NE(mixtral(R"("hidden_size": 0)").find("hidden_size"), std::string::npos);
  EXPECT_NE(mixtral(R"("hidden_size": 2.5)").find("hidden_size"), std::string::npos);
  EXPECT_NE(mixtral(R"("hidden_size": 5000000000)").find("hidden_size"), std::string::npos);
  EXPECT_NE(mixtral(R"("num_hidden_layers": -1)").find("num_hidden_layers"), std::string::npos);
  EXPECT_NE(mixtral(R"("num_hidden_layers": 2000000000)").find("num_hidden_layers"),
            std::string::npos);
  EXPECT_NE(mixtral(R"("num_experts_per_tok": 9)").find("top_k"), std::string::npos);
  EXPECT_NE(mixtral(R"("hidden_act": 3)").find("hidden_act"), std::string::npos);
  auto const message = config_error<IoError>(R"({"model_type": "deepseek_v3", "n_group": 7})");
  EXPECT_NE(message.find("num_groups"), std::string::npos) << message;
  config_error<IoError>(R"({"model_type": "qwen2_moe", "decoder_sparse_step": 0})");
  config_error<IoError>(R"({"model_type": "qwen2_moe", "mlp_only_layers": 3})");

  TemporaryDirectory const dir;
  std::string const absent = message_of<IoError>([&] { io::Checkpoint const c(dir.path()); });
  EXPECT_NE(absent.find((dir / "config.json").string()), std::string::npos) << absent;
}

TEST(Blocks, AreFoundByLayerAndModule) {
  io::Checkpoint const checkpoint =
      open_config(R"({"model_type": "deepseek_v3", "num_hidden_layers": 12,
                      "first_k_dense_replace": 10})");
  EXPECT_EQ(checkpoint.block(11).module, "model.layers.11.mlp");
  std::string const message = message_of<InvalidArgument>([&] { (void)checkpoint.block(1); });
  EXPECT_NE(message.find("layers that have are 10 11"), std::string::npos) << message;
  for (std::string const name :
       {"model.layers.11.mlp", "layers.11.mlp", "model.layers.11.block_sparse_moe",
        "language_model.model.layers.11.feed_forward"}) {
    EXPECT_EQ(checkpoint.find_module(name), &checkpoint.block(11)) << name;
  }
  for (std::string const name :
       {"", "model.layers.1.mlp", "model.layers.11", "model.layers.11.",
        "model.layers.11.self_attn", "model.layers.x.mlp", "model.layers..mlp",
        "model.players.11.mlp", "model.layers.11.mlp.gate",
        "model.layers.99999999999999999999.mlp"}) {
    EXPECT_EQ(checkpoint.find_module(name), nullptr) << name;
  }
}

TEST(Blocks, PrefixesOfTheWholeModel) {
  std::string const nested = R"({"model_type": "llama4", "quantization_config": null,
      "text_config": {"model_type": "llama4_text", "num_hidden_layers": 1}})";
  std::string const tensor = "layers.0.feed_forward.extra";
  for (std::string const prefix :
       {"", "model.", "language_model.model.", "model.language_model."}) {
    io::Checkpoint const checkpoint = open_config(nested, {prefix + tensor, "vision.x"});
    EXPECT_EQ(checkpoint.model_type(), "llama4_text");
    EXPECT_EQ(checkpoint.unused_tensors(), std::vector{prefix + tensor});
    EXPECT_EQ(checkpoint.block(0).module,
              (prefix.empty() ? "model." : prefix) + "layers.0.feed_forward");
  }
}

TEST(Blocks, UnusedTensorsAreThoseUnderTheBlocks) {
  std::string const mlp = "model.layers.3.mlp.";
  io::Checkpoint const checkpoint = open_config(
      R"({"model_type": "deepseek_v3", "num_hidden_layers": 4, "n_routed_experts": 8,
          "n_group": 1, "topk_group": 1})",
      {mlp + "gate.weight", mlp + "gate.e_score_correction_bias", mlp + "gate.bias",
       mlp + "experts.7.up_proj.weight", mlp + "experts.8.up_proj.weight",
       mlp + "shared_experts.down_proj.weight", mlp + "shared_experts.down_proj.bias",
       "model.layers.2.mlp.up_proj.weight", "model.layers.4.mlp.gate.weight", "lm_head.weight"});
  EXPECT_EQ(checkpoint.unused_tensors(),
            (std::vector<std::string>{mlp + "experts.8.up_proj.weight", mlp + "gate.bias",
                                      mlp + "shared_experts.down_proj.bias"}));
}

}  // namespace
}  // namespace kmoe::test
