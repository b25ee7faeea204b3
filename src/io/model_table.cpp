// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "io/model_table.hpp"

#include <algorithm>

namespace kmoe::io::detail {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Forms of the experts. The second of each list is what the transformers library holds in memory
// and writes with save_original_format=False; that of Llama 4 is what its quantized checkpoints
// have.
constexpr ExpertForm fused{.gate = "experts.gate_up_proj", .down = "experts.down_proj"};
constexpr std::array proj_forms{ExpertForm{.gate = "experts.{}.gate_proj.weight",
                                           .up = "experts.{}.up_proj.weight",
                                           .down = "experts.{}.down_proj.weight"},
                                fused};
constexpr std::array w123_forms{ExpertForm{.gate = "experts.{}.w1.weight",
                                           .up = "experts.{}.w3.weight",
                                           .down = "experts.{}.w2.weight"},
                                fused};
constexpr std::array granite_forms{
    ExpertForm{.gate = "input_linear.weight", .down = "output_linear.weight"}, fused};
constexpr std::array llama4_forms{
    ExpertForm{.gate = "experts.gate_up_proj", .down = "experts.down_proj", .transposed = true},
    proj_forms.front()};
constexpr std::array gpt_oss_forms{ExpertForm{.gate = "experts.gate_up_proj_blocks",
                                              .down = "experts.down_proj_blocks",
                                              .gate_scales = "experts.gate_up_proj_scales",
                                              .down_scales = "experts.down_proj_scales",
                                              .gate_bias = "experts.gate_up_proj_bias",
                                              .down_bias = "experts.down_proj_bias",
                                              .layout = GateUpLayout::interleaved},
                                   ExpertForm{.gate = "experts.gate_up_proj",
                                              .down = "experts.down_proj",
                                              .gate_bias = "experts.gate_up_proj_bias",
                                              .down_bias = "experts.down_proj_bias",
                                              .layout = GateUpLayout::interleaved,
                                              .transposed = true}};

// Semantics that several types share.
constexpr LayerRule qwen_layers{.period = {"decoder_sparse_step", 1}, .exclude = "mlp_only_layers"};
constexpr RoutingRule softmax_always{.scoring = Scoring::softmax, .renormalize = constant(1)};
constexpr RoutingRule topk_softmax{.scoring = Scoring::topk_softmax};

constexpr RoutingRule softmax_topk(double norm_topk_prob) {
  return {.scoring = Scoring::softmax, .renormalize = {"norm_topk_prob", norm_topk_prob}};
}
constexpr RoutingRule sigmoid_biased(Key renormalize, float epsilon, Key scale) {
  return {
      .scoring = Scoring::sigmoid, .renormalize = renormalize, .epsilon = epsilon, .scale = scale};
}
constexpr RoutingRule deepseek_v3(double groups, double topk_groups, double norm, double scale) {
  return {.scoring = Scoring::sigmoid,
          .renormalize = {"norm_topk_prob", norm},
          .epsilon = 1e-20F,
          .scale = {"routed_scaling_factor", scale},
          .group_score = GroupScore::top2_sum,
          .groups = {.name = "n_group", .fallback = groups, .if_null = 1},
          .topk_groups = {.name = "topk_group", .fallback = topk_groups, .if_null = 1},
          .masked_score = -infinity};
}
constexpr LayerRule from_layer(std::string_view key, double first) {
  return {.first = {key, first}};
}
constexpr SharedRule shared_experts(double count, Key bias = constant(0)) {
  return {.prefix = "shared_experts",
          .count = {.name = "n_shared_experts", .fallback = count, .if_null = 0},
          .bias = bias};
}
constexpr SharedRule shared_with_gate(double size) {
  return {.prefix = "shared_expert",
          .size = Key{"shared_expert_intermediate_size", size},
          .gate = "shared_expert_gate.weight"};
}
constexpr Key hidden(double size) {
  return {"hidden_size", size};
}
constexpr Key num_layers(double count) {
  return {"num_hidden_layers", count};
}
constexpr Key top_k(double k) {
  return {"num_experts_per_tok", k};
}
constexpr Key moe_size(double size) {
  return {"moe_intermediate_size", size};
}

constexpr Names v3_bias{"gate.e_score_correction_bias"};

// Keys, defaults, names and formulas are those of transformers 5.17 (configuration_*.py,
// modeling_*.py and conversion_mapping.py of each type).
constexpr std::array table{
    ModelRow{.model_types = {"afmoe"},
             .hidden = hidden(2048),
             .experts = {"num_experts", 64},
             .top_k = top_k(6),
             .intermediate = moe_size(1408),
             .num_layers = num_layers(32),
             .layers = from_layer("num_dense_layers", 1),
             .router = {"router.gate.weight"},
             .correction_bias = {"expert_bias"},
             .forms = proj_forms,
             .shared = {.prefix = "shared_experts",
                        .count = {.name = "num_shared_experts", .fallback = 2, .if_null = 0}},
             .routing = sigmoid_biased(constant(1), 1e-20F, {"route_scale", 1})},
    ModelRow{.model_types = {"deepseek_v2"},
             .hidden = hidden(4096),
             .experts = {"n_routed_experts", 64, "num_experts"},
             .top_k = top_k(required),
             .intermediate = moe_size(1407),
             .num_layers = num_layers(32),
             .layers = from_layer("first_k_dense_replace", 0),
             .forms = proj_forms,
             .shared = shared_experts(2, {"mlp_bias", 0}),
             // norm_topk_prob is not read.
             .routing = {.scoring = Scoring::softmax,
                         .scale = {"routed_scaling_factor", 1},
                         .group_score = GroupScore::max,
                         .groups = {"n_group", 1},
                         .topk_groups = {"topk_group", 1},
                         .zero_masked_weights = true,
                         .group_method = "topk_method"}},
    ModelRow{.model_types = {"deepseek_v3", "kimi_k2"},
             .hidden = hidden(7168),
             .experts = {"n_routed_experts", 256, "num_local_experts"},
             .top_k = top_k(8),
             .intermediate = moe_size(2048),
             .num_layers = num_layers(61),
             .layers = from_layer("first_k_dense_replace", 3),
             .correction_bias = v3_bias,
             .forms = proj_forms,
             .shared = shared_experts(1),
             .routing = deepseek_v3(8, 4, 1, 2.5)},
    ModelRow{.model_types = {"dots1"},
             .hidden = hidden(4608),
             .experts = {"n_routed_experts", required, "num_local_experts"},
             .top_k = top_k(required),
             .intermediate = moe_size(1408),
             .num_layers = num_layers(62),
             .layers = from_layer("first_k_dense_replace", 0),
             .correction_bias = v3_bias,
             .forms = proj_forms,
             .shared = shared_experts(0),
             .routing = deepseek_v3(1, 1, 0, 1)},
    ModelRow{.model_types = {"ernie4_5_moe"},
             .hidden = hidden(2560),
             .experts = {"moe_num_experts", 64, "num_experts"},
             .top_k = {"moe_k", 6, "num_experts_per_tok"},
             .intermediate = moe_size(1536),
             .num_layers = num_layers(28),
             .layers = {.first = {"moe_layer_start_index", 1},
                        .last = {"moe_layer_end_index", -1},
                        .period = {"moe_layer_interval", 1}},
             .correction_bias = {"moe_statics.e_score_correction_bias",
                                 "gate.moe_statics.e_score_correction_bias"},
             .forms = proj_forms,
             .shared = {.prefix = "shared_experts",
                        .count = {.name = "moe_num_shared_experts", .fallback = 2, .if_null = 0},
                        .bias = {"use_bias", 0}},
             .routing = {.scoring = Scoring::softmax,
                         .renormalize = constant(1),
                         .min_sum = {"moe_norm_min", 1e-12}}},
    ModelRow{.model_types = {"glm4_moe"},
             .hidden = hidden(4096),
             .experts = {"n_routed_experts", 128, "num_local_experts"},
             .top_k = top_k(8),
             .intermediate = moe_size(1408),
             .num_layers = num_layers(46),
             .layers = from_layer("first_k_dense_replace", 1),
             .correction_bias = v3_bias,
             .forms = proj_forms,
             .shared = shared_experts(1),
             .routing = deepseek_v3(1, 1, 1, 1)},
    // alpha 1.702 and limit 7 are fixed there too: swiglu_limit and hidden_act are not read.
    ModelRow{.model_types = {"gpt_oss"},
             .hidden = hidden(2880),
             .experts = {"num_local_experts", 128, "num_experts"},
             .top_k = top_k(4),
             .intermediate = {"intermediate_size", 2880},
             .num_layers = num_layers(36),
             .router = {"router.weight"},
             .router_bias = "router.bias",
             .forms = gpt_oss_forms,
             .routing = topk_softmax,
             .activation = Activation::swiglu_oai},
    ModelRow{.model_types = {"granitemoe"},
             .hidden = hidden(4096),
             .experts = {"num_local_experts", 8},
             .top_k = top_k(2),
             .intermediate = {"intermediate_size", 11008},
             .num_layers = num_layers(32),
             .module = "block_sparse_moe",
             .on_disk = "block_sparse_moe",
             .router = {"router.layer.weight", "router.weight"},
             .forms = granite_forms,
             .routing = topk_softmax},
    ModelRow{.model_types = {"hunyuan_v1_moe"},
             .hidden = hidden(4096),
             .experts = {"num_experts", 1, "num_local_experts"},
             .top_k = {"moe_topk", 1, "num_experts_per_tok"},
             .intermediate = {"intermediate_size", 11008},
             .num_layers = num_layers(32),
             .router = {"gate.wg.weight"},
             .forms = proj_forms,
             .shared = {.prefix = "shared_mlp"},
             .routing = softmax_always},
    ModelRow{.model_types = {"jamba"},
             .hidden = hidden(4096),
             .experts = {"num_experts", 16, "num_local_experts"},
             .top_k = top_k(2),
             .intermediate = {"intermediate_size", 14336},
             .num_layers = num_layers(32),
             .layers = {.period = {"expert_layer_period", 2}, .offset = {"expert_layer_offset", 1}},
             .min_experts = 2,
             .module = "feed_forward",
             .on_disk = "feed_forward",
             .router = {"router.weight"},
             .forms = proj_forms,
             .routing = {.scoring = Scoring::softmax}},
    ModelRow{.model_types = {"lfm2_moe"},
             .hidden = hidden(2048),
             .experts = {"num_experts", 32},
             .top_k = top_k(4),
             .intermediate = moe_size(1792),
             .num_layers = num_layers(32),
             .layers = from_layer("num_dense_layers", 2),
             .module = "feed_forward",
             .on_disk = "feed_forward",
             .correction_bias = {"expert_bias"},
             .has_correction_bias = {"use_expert_bias", 1},
             .forms = w123_forms,
             .routing = sigmoid_biased({"norm_topk_prob", 1}, 1e-6F, {"routed_scaling_factor", 1}),
             .activation = Activation::silu},
    ModelRow{.model_types = {"llama4_text"},
             .hidden = hidden(5120),
             .experts = {"num_local_experts", 16},
             .top_k = top_k(1),
             .intermediate = {"intermediate_size", 8192},
             .num_layers = num_layers(48),
             .layers = {.period = {"interleave_moe_layer_step", 1}, .include = "moe_layers"},
             .module = "feed_forward",
             .on_disk = "feed_forward",
             .router = {"router.weight"},
             .forms = llama4_forms,
             .shared = {.prefix = "shared_expert"},
             .routing = {.scoring = Scoring::topk_sigmoid},
             .router_weight_on_input = true},
    // num_layers counts; num_hidden_layers is twice that. router.classifier.bias is not used.
    ModelRow{.model_types = {"longcat_flash"},
             .hidden = hidden(6144),
             .experts = {"n_routed_experts", 512, "num_local_experts"},
             .top_k = {"moe_topk", 12, "num_experts_per_tok"},
             .intermediate = {"expert_ffn_hidden_size", 2048},
             .num_layers = {"num_layers", 28},
             .zero_experts = {.name = "zero_expert_num", .fallback = 256, .if_null = 0},
             .router = {"router.classifier.weight"},
             .correction_bias = {"router.e_score_correction_bias"},
             .forms = proj_forms,
             .routing = {.scoring = Scoring::softmax, .scale = {"routed_scaling_factor", 6}}},
    ModelRow{.model_types = {"minimax_m2"},
             .hidden = hidden(3072),
             .experts = {"num_local_experts", 256, "num_experts"},
             .top_k = top_k(8),
             .intermediate = {"intermediate_size", 1536},
             .num_layers = num_layers(62),
             .on_disk = "block_sparse_moe",
             .correction_bias = {"e_score_correction_bias"},
             .forms = w123_forms,
             .routing = sigmoid_biased(constant(1), 0, constant(1))},
    ModelRow{.model_types = {"mixtral"},
             .hidden = hidden(4096),
             .experts = {"num_local_experts", 8, "num_experts"},
             .top_k = top_k(2),
             .intermediate = {"intermediate_size", 14336},
             .num_layers = num_layers(32),
             .on_disk = "block_sparse_moe",
             .forms = w123_forms,
             .routing = softmax_always},
    ModelRow{.model_types = {"olmoe"},
             .hidden = hidden(2048),
             .experts = {"num_experts", 64, "num_local_experts"},
             .top_k = top_k(8),
             .intermediate = {"intermediate_size", 2048},
             .num_layers = num_layers(16),
             .forms = proj_forms,
             .routing = softmax_topk(0)},
    // Two experts whatever num_experts_per_tok says.
    ModelRow{
        .model_types = {"phimoe"},
        .hidden = hidden(4096),
        .experts = {"num_local_experts", 16},
        .top_k = constant(2),
        .intermediate = {"intermediate_size", 6400},
        .num_layers = num_layers(32),
        .on_disk = "block_sparse_moe",
        .router = {"gate.weight", "router.weight"},
        .forms = w123_forms,
        .routing = {.scoring = Scoring::sparse_mixer, .jitter = {"router_jitter_noise", 0.01}}},
    ModelRow{.model_types = {"qwen2_moe"},
             .hidden = hidden(2048),
             .experts = {"num_experts", 60},
             .top_k = top_k(4),
             .intermediate = moe_size(1408),
             .num_layers = num_layers(24),
             .layers = qwen_layers,
             .forms = proj_forms,
             .shared = shared_with_gate(5632),
             .routing = softmax_topk(0)},
    ModelRow{.model_types = {"qwen3_moe"},
             .hidden = hidden(2048),
             .experts = {"num_local_experts", 128, "num_experts"},
             .top_k = top_k(8),
             .intermediate = moe_size(768),
             .num_layers = num_layers(24),
             .layers = qwen_layers,
             .forms = proj_forms,
             .routing = softmax_topk(0)},
    ModelRow{.model_types = {"qwen3_next"},
             .hidden = hidden(2048),
             .experts = {"num_experts", 512},
             .top_k = top_k(10),
             .intermediate = moe_size(512),
             .num_layers = num_layers(48),
             .layers = qwen_layers,
             .forms = proj_forms,
             .shared = shared_with_gate(512),
             .routing = softmax_topk(1)},
};

}  // namespace

std::span<ModelRow const> model_table() {
  return table;
}

ModelRow const* find_model(std::string_view model_type) {
  if (model_type.empty()) return nullptr;
  auto const* found = std::ranges::find_if(table, [&](ModelRow const& row) {
    return std::ranges::find(row.model_types, model_type) != row.model_types.end();
  });
  return found == table.end() ? nullptr : found;
}

}  // namespace kmoe::io::detail
