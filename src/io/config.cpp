// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "io/config.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include <kmoe/core/error.hpp>

#include "io/json.hpp"
#include "io/mapped_file.hpp"

namespace kmoe::io::detail {
namespace {

using nlohmann::json;

// hidden_act of the transformers library (activations.py).
constexpr std::array<std::pair<std::string_view, Activation>, 11> activations{
    {{"silu", Activation::silu},
     {"swish", Activation::silu},
     {"gelu", Activation::gelu_erf},
     {"gelu_python", Activation::gelu_erf},
     {"gelu_new", Activation::gelu_tanh},
     {"gelu_pytorch_tanh", Activation::gelu_tanh},
     {"gelu_python_tanh", Activation::gelu_tanh},
     {"gelu_fast", Activation::gelu_tanh},
     {"gelu_accurate", Activation::gelu_tanh},
     {"relu", Activation::relu},
     {"relu2", Activation::relu2}}};

constexpr index_t max_layers = 100000;

/// The object of config.json that describes the language model, read through Keys.
class Reader {
 public:
  Reader(json const& object, std::string path) : object_(object), path_(std::move(path)) {}

  [[noreturn]] void fail(std::string_view key, std::string const& what) const {
    throw IoError(path_ + ": \"" + std::string(key) + "\" " + what);
  }
  /// The value under `key` unless it is missing or null.
  [[nodiscard]] json const* find(std::string_view key) const {
    auto const found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  [[nodiscard]] double number(Key const& key, int layer = 0) const {
    if (key.name.empty()) return key.fallback;
    auto found = object_.find(key.name);
    if (found == object_.end() && !key.alias.empty()) found = object_.find(key.alias);
    bool const missing = found == object_.end();
    if (missing || found->is_null()) {
      double const value = missing ? key.fallback : key.if_null.value_or(key.fallback);
      if (std::isnan(value)) fail(key.name, "is required for this model type");
      return value;
    }
    json const* value = &*found;
    if (value->is_array()) {
      if (value->size() <= static_cast<std::size_t>(layer)) {
        fail(key.name, "has no entry for layer " + std::to_string(layer));
      }
      value = &(*value)[static_cast<std::size_t>(layer)];
    }
    if (value->is_boolean()) return value->get<bool>() ? 1 : 0;
    if (!value->is_number()) fail(key.name, "must be a number, found " + value->dump());
    return value->get<double>();
  }
  [[nodiscard]] index_t integer(Key const& key, int layer = 0) const {
    double const value = number(key, layer);
    if (value != std::floor(value) || std::abs(value) > std::numeric_limits<index_t>::max()) {
      fail(key.name, "must be an integer below 2^31, found " + std::to_string(value));
    }
    return static_cast<index_t>(value);
  }
  [[nodiscard]] bool flag(Key const& key) const { return number(key) != 0; }
  [[nodiscard]] std::string text(std::string_view key, std::string_view fallback) const {
    json const* value = find(key);
    if (value == nullptr) return std::string(fallback);
    if (!value->is_string()) fail(key, "must be a string, found " + value->dump());
    return value->get<std::string>();
  }
  /// Whether the list under `key` holds `layer`.
  [[nodiscard]] bool lists(std::string_view key, int layer) const {
    json const* value = find(key);
    if (value == nullptr) return false;
    if (!value->is_array()) fail(key, "must be a list, found " + value->dump());
    return std::ranges::find(*value, json(layer)) != value->end();
  }
  [[nodiscard]] std::string const& path() const { return path_; }

 private:
  json const& object_;
  std::string path_;
};

bool has_experts(Reader const& config, ModelRow const& row, int layer, index_t num_layers) {
  if (config.integer(row.experts, layer) < row.min_experts) return false;
  LayerRule const& rule = row.layers;
  if (!rule.include.empty() && config.find(rule.include) != nullptr) {
    return config.lists(rule.include, layer);
  }
  index_t const period = config.integer(rule.period);
  if (period < 1) config.fail(rule.period.name, "must be at least 1");
  index_t const offset = config.integer(rule.offset);
  index_t const last = config.integer(rule.last);
  return layer >= config.integer(rule.first) && layer <= (last == -1 ? num_layers - 1 : last) &&
         layer % period == (offset == -1 ? period - 1 : offset) &&
         (rule.exclude.empty() || !config.lists(rule.exclude, layer));
}

/// Whether a group-limited selection is on, where a key chooses.
bool uses_groups(Reader const& config, RoutingRule const& rule) {
  if (rule.group_method.empty()) return true;
  std::string const method = config.text(rule.group_method, "greedy");
  if (method != "greedy" && method != "group_limited_greedy") {
    throw Unsupported(config.path() + ": " + std::string(rule.group_method) +
                      " must be greedy or group_limited_greedy, found " + method);
  }
  return method != "greedy";
}

RouterOptions read_router(Reader const& config, RoutingRule const& rule) {
  RouterOptions router;
  router.scoring = rule.scoring;
  if (uses_groups(config, rule) && config.integer(rule.groups) > 1) {
    router.group_score = rule.group_score;
    router.num_groups = config.integer(rule.groups);
    router.topk_groups = config.integer(rule.topk_groups);
    router.masked_score = rule.masked_score;
    router.zero_masked_weights = rule.zero_masked_weights;
  }
  router.renormalize = config.flag(rule.renormalize);
  if (router.renormalize) {
    router.renormalize_epsilon = rule.epsilon;
    router.renormalize_min_sum = static_cast<float>(config.number(rule.min_sum));
  }
  router.routed_scaling_factor = static_cast<float>(config.number(rule.scale));
  router.jitter_epsilon = static_cast<float>(config.number(rule.jitter));
  return router;
}

Activation read_activation(Reader const& config) {
  std::string const name = config.text("hidden_act", "silu");
  for (auto const& [known, activation] : activations) {
    if (known == name) return activation;
  }
  throw Unsupported(config.path() + ": hidden_act \"" + name + "\" is not implemented");
}

MoeBlock read_block(Reader const& config, ModelRow const& row, int layer) {
  MoeBlock block;
  block.layer = layer;
  MoeConfig& c = block.config;
  c.hidden_size = config.integer(row.hidden);
  c.intermediate_size = config.integer(row.intermediate, layer);
  c.num_experts = config.integer(row.experts, layer);
  c.num_zero_experts = config.integer(row.zero_experts);
  c.top_k = config.integer(row.top_k, layer);
  c.router = read_router(config, row.routing);
  c.experts.activation = row.activation ? *row.activation : read_activation(config);
  c.experts.router_weight_on_input = row.router_weight_on_input;
  if (SharedRule const& shared = row.shared; !shared.prefix.empty()) {
    double const size = config.number(shared.size.value_or(row.intermediate), layer);
    double const total = size * config.integer(shared.count);
    if (total < 0 || total > std::numeric_limits<index_t>::max()) {
      config.fail(shared.count.name, "makes a shared expert of " + std::to_string(total));
    }
    c.shared_intermediate_size = static_cast<index_t>(total);
    c.shared_expert_gate = c.shared_intermediate_size > 0 && !shared.gate.empty();
  }
  try {
    validate(c);
  } catch (InvalidArgument const& error) {
    throw IoError(config.path() + ": layer " + std::to_string(layer) + ": " + error.what());
  }
  return block;
}

std::string type_of(json const& object) {
  auto const found = object.find("model_type");
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace

ModelConfig read_config(std::filesystem::path const& file) {
  std::string const path = file.string();
  MappedFile const mapped(file);
  json const root = parse_object(mapped.text(0, mapped.bytes().size()), path, 0);
  json const* object = &root;
  ModelConfig model;
  model.model_type = type_of(root);
  model.row = find_model(model.model_type);
  if (auto const nested = root.find("text_config");
      model.row == nullptr && nested != root.end() && nested->is_object()) {
    model.row = find_model(type_of(*nested));
    if (model.row != nullptr) {
      object = &*nested;
      model.model_type = type_of(*nested);
    }
  }
  if (model.row == nullptr) {
    std::string known;
    for (auto const& name : Checkpoint::model_types()) known += " " + name;
    throw Unsupported(path + ": unknown model_type \"" + model.model_type + "\"; known are" +
                      known);
  }
  ModelRow const& row = *model.row;
  model.quantization = read_quantization(root, path);
  if (object != &root && !model.quantization.scheme.quantized()) {
    model.quantization = read_quantization(*object, path);
  }

  if (model.quantization.blocks &&
      std::ranges::none_of(row.forms, [](ExpertForm const& form) { return form.mxfp4(); })) {
    throw Unsupported(path + ": quantization method mxfp4 is not implemented for " +
                      std::string(row.model_types[0]) + ", which has no blocks of all experts");
  }

  Reader const config(*object, path);
  index_t const num_layers = config.integer(row.num_layers);
  if (num_layers < 0 || num_layers > max_layers) {
    config.fail(row.num_layers.name, "must be in 0.." + std::to_string(max_layers) + ", found " +
                                         std::to_string(num_layers));
  }
  for (int layer = 0; layer < num_layers; ++layer) {
    if (has_experts(config, row, layer, num_layers)) {
      model.blocks.push_back(read_block(config, row, layer));
    }
  }
  model.correction_bias = !row.correction_bias[0].empty() && config.flag(row.has_correction_bias);
  model.shared_bias = config.flag(row.shared.bias);
  return model;
}

}  // namespace kmoe::io::detail
