// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "io/quant_config.hpp"

#include <kmoe/core/error.hpp>

namespace kmoe::io::detail {
namespace {

using nlohmann::json;
using A = ActivationCode;
using W = WeightCode;
using S = ScaleCode;

/// One object of the configuration, by its place in the file.
class Node {
 public:
  Node(json const* value, std::string path, std::string name)
      : value_(value), path_(std::move(path)), name_(std::move(name)) {}

  [[nodiscard]] Node operator[](char const* key) const {
    json const* found = nullptr;
    if (value_ != nullptr && value_->is_object()) {
      auto const at = value_->find(key);
      if (at != value_->end() && !at->is_null()) found = &*at;
    }
    return {found, path_, name_ + "." + key};
  }
  [[nodiscard]] bool exists() const { return value_ != nullptr; }
  [[nodiscard]] std::string text(std::string const& fallback = {}) const {
    if (value_ == nullptr) return fallback;
    if (!value_->is_string()) fail("must be a string");
    return value_->get<std::string>();
  }
  [[nodiscard]] index_t number(index_t fallback) const {
    if (value_ == nullptr) return fallback;
    if (!value_->is_number_integer()) fail("must be an integer");
    auto const n = value_->get<std::int64_t>();
    if (n < -1 || n > (1 << 24)) fail("must be in -1..2^24");
    return static_cast<index_t>(n);
  }
  [[nodiscard]] bool flag(bool fallback) const {
    if (value_ == nullptr) return fallback;
    if (!value_->is_boolean()) fail("must be true or false");
    return value_->get<bool>();
  }
  /// Two integers.
  [[nodiscard]] std::pair<index_t, index_t> extents() const {
    bool good = value_->is_array() && value_->size() == 2;
    for (std::size_t i = 0; good && i < 2; ++i) good = (*value_)[i].is_number_integer();
    if (!good) fail("must be two integers");
    return {(*value_)[0].get<index_t>(), (*value_)[1].get<index_t>()};
  }
  /// The only member, or the first whose value is an object.
  [[nodiscard]] Node first() const {
    if (value_ != nullptr && value_->is_object()) {
      for (auto const& [key, member] : value_->items()) {
        if (member.is_object()) return {&member, path_, name_ + "." + key};
      }
    }
    fail("must hold an object");
  }
  [[nodiscard]] std::size_t size() const { return value_ == nullptr ? 0 : value_->size(); }

  [[noreturn]] void fail(std::string const& rule) const {
    throw IoError(path_ + ": " + name_ + " " + rule + found());
  }
  [[noreturn]] void refuse(std::string const& what) const {
    throw Unsupported(path_ + ": " + name_ + " " + what + found());
  }

 private:
  [[nodiscard]] std::string found() const {
    return ", found " + (value_ == nullptr ? "nothing" : value_->dump().substr(0, 200));
  }
  json const* value_;
  std::string path_, name_;
};

/// DeepSeek, Qwen3, and what transformers calls fp8.
QuantConfig read_fp8(Node const& config, bool mx) {
  QuantConfig out;
  QuantScheme& s = out.scheme;
  s.code = W::e4m3fn;
  if (config["fmt"].text("e4m3") != "e4m3") config["fmt"].refuse("must be e4m3");
  auto const activations = config["activation_scheme"].text("dynamic");
  if (activations != "dynamic" && activations != "static") {
    config["activation_scheme"].fail("must be dynamic or static");
  }
  if (config["weight_block_size"].exists()) {
    std::tie(s.block_rows, s.block_cols) = config["weight_block_size"].extents();
    out.names.scales = "weight_scale_inv";
    if (mx || (s.block_rows == 1 && s.block_cols == 32)) {
      if (s.block_rows != 1 || s.block_cols != 32) {
        config["weight_block_size"].fail("must be [1, 32] for mxfp8");
      }
      s.scale = S::e8m0;
      s.activations = A::mxfp8;
      return out;
    }
    if (s.block_rows < 1 || s.block_cols != 128) {
      config["weight_block_size"].refuse("must have 128 columns");
    }
    s.activations = A::fp8_group;
    if (activations == "static") {
      config["activation_scheme"].refuse("must be dynamic with weight_block_size");
    }
    return out;
  }
  if (mx) config["weight_block_size"].fail("must be [1, 32] for mxfp8");
  s.block_rows = 0;
  s.activations = A::fp8_static;
  if (activations == "static") out.names.input_scale = "input_scale";
  return out;
}

/// What compressed-tensors says of activations: null, or dynamic per token (or group), or static.
A read_activations(Node const& config, QuantScheme const& s) {
  if (!config.exists()) return A::none;
  auto const type = config["type"].text("int");
  auto const strategy = config["strategy"].text("tensor");
  index_t const bits = config["num_bits"].number(8);
  // compressed-tensors writes dynamic as true, false or "local".
  if (s.code == W::int8 && type == "int" && bits == 8 && strategy == "token") return A::int8_token;
  if (s.code == W::e4m3fn && type == "float" && bits == 8) {
    if (s.block_cols == 128) return A::fp8_group;
    if (strategy == "token") return A::fp8_token;
    if (strategy == "tensor") return A::fp8_static;
  }
  if (s.code == W::e2m1 && type == "float" && bits == 4) {
    return s.scale == S::e4m3 ? A::nvfp4 : A::mxfp4;
  }
  if (s.code == W::e2m1 && type == "float" && bits == 8 && s.scale == S::e8m0) return A::mxfp8;
  config.refuse("does not go with these weights");
}

QuantConfig read_compressed_tensors(Node const& config) {
  Node const groups = config["config_groups"];
  if (groups.size() != 1) groups.refuse("must hold one group");
  Node const group = groups.first(), weights = group["weights"];
  if (!weights.exists()) weights.fail("must be an object");
  auto const type = weights["type"].text("int"), strategy = weights["strategy"].text("tensor");
  index_t const bits = weights["num_bits"].number(8);
  index_t const group_size = weights["group_size"].number(0);
  auto const format = group["format"].text(config["format"].text());
  QuantConfig out;
  QuantScheme& s = out.scheme;
  if (type == "float" && bits == 8) {
    s.code = W::e4m3fn;
  } else if (type == "float" && bits == 4) {
    s.code = W::e2m1;
  } else if (type == "int" && (bits == 8 || bits == 4)) {
    s.code = bits == 8 ? W::int8 : W::int4;
  } else {
    weights.refuse("must be float or int of 4 or 8 bits");
  }
  bool const packed = s.bits() == 4;
  bool const says_packed = format.find("pack-quantized") != std::string::npos;
  if (packed != says_packed) config["format"].refuse("does not go with these weights");
  if (packed) out.names.codes = "weight_packed";
  if (s.code == W::e2m1) {
    bool const nv = group_size == 16;
    if (!nv && group_size != 32) weights["group_size"].refuse("must be 16 or 32 for 4-bit floats");
    s.scale = nv ? S::e4m3 : S::e8m0;
    s.block_cols = group_size;
    if (nv) out.names.part_scale = "weight_global_scale";
    out.names.reciprocal = nv;
  } else if (strategy == "tensor") {
    s.block_rows = 0;
  } else if (strategy == "block") {
    if (!weights["block_structure"].exists()) weights["block_structure"].fail("is required");
    std::tie(s.block_rows, s.block_cols) = weights["block_structure"].extents();
    if (s.code != W::e4m3fn || s.block_rows < 1 || s.block_cols != 128) {
      weights["block_structure"].refuse("must have 128 columns of float codes");
    }
  } else if (strategy == "group") {
    if (group_size < 32 || group_size % 32 != 0) {
      weights["group_size"].refuse("must be a multiple of 32");
    }
    s.block_cols = group_size;
  } else if (strategy != "channel") {
    weights["strategy"].refuse("must be tensor, channel, block, group or tensor_group");
  }
  if (!weights["symmetric"].flag(true)) {
    if (s.code != W::int4) weights["symmetric"].refuse("may be false only for 4-bit integers");
    s.zero_points = true;
    out.names.zero_points = "weight_zero_point";
  }
  if (s.code == W::int4) out.names.shape = "weight_shape";
  s.activations = read_activations(group["input_activations"], s);
  if (s.activations == A::nvfp4) out.names.input_scale = "input_global_scale";
  if (s.activations == A::fp8_static) out.names.input_scale = "input_scale";
  return out;
}

QuantConfig read_modelopt(Node const& config) {
  auto const algorithm = config["quant_algo"].text();
  QuantConfig out;
  out.names.input_scale = "input_scale";
  if (algorithm == "NVFP4") {
    out.scheme = quant_scheme("nvfp4_a4");
    out.names.part_scale = "weight_scale_2";
    return out;
  }
  if (algorithm != "FP8") config["quant_algo"].refuse("must be NVFP4 or FP8");
  out.scheme = quant_scheme("fp8_tensor");
  return out;
}

/// Quark's dtype of a tensor, if it has groups of 32 with e8m0 scales.
bool is_mx(Node const& config, char const* dtype) {
  return config["dtype"].text() == dtype && config["qscheme"].text("per_group") == "per_group" &&
         config["group_size"].number(32) == 32 && config["scale_format"].text("e8m0") == "e8m0";
}

QuantConfig read_quark(Node const& config) {
  Node const global = config["global_quant_config"];
  Node const weight = global["weight"], input = global["input_tensors"];
  if (!is_mx(weight, "fp4")) weight.refuse("must be fp4 per group of 32 with e8m0 scales");
  if (!input.exists()) return {quant_scheme("mxfp4"), {}, false};
  if (is_mx(input, "fp4")) return {quant_scheme("mxfp4_a4"), {}, false};
  if (is_mx(input, "fp8_e4m3")) return {quant_scheme("mxfp4_a8"), {}, false};
  input.refuse("must be null, or fp4 or fp8_e4m3 per group of 32 with e8m0 scales");
}

}  // namespace

QuantConfig read_quantization(json const& object, std::string const& path) {
  auto const found = object.find("quantization_config");
  if (found == object.end() || !found->is_object()) return {};
  Node const config(&*found, path, "quantization_config");
  auto const method = config["quant_method"].text();
  if (method == "fp8" || method == "mxfp8") return read_fp8(config, method == "mxfp8");
  if (method == "compressed-tensors") return read_compressed_tensors(config);
  if (method == "mxfp4") return {quant_scheme("mxfp4"), {}, true};
  if (method == "modelopt" || method == "modelopt_fp4") return read_modelopt(config);
  if (method == "quark") return read_quark(config);
  config["quant_method"].refuse("must be fp8, mxfp8, compressed-tensors, mxfp4, modelopt or quark");
}

json make_quantization(QuantScheme const& s) {
  if (s.fnuz()) {
    throw Unsupported("kmoe::io: " + to_string(s) +
                      " is no format of checkpoints; write the form "
                      "without _fnuz, which is converted when it is loaded");
  }
  auto const activations = [](char const* type, int bits, char const* strategy) {
    return json{{"type", type},
                {"num_bits", bits},
                {"strategy", strategy},
                {"dynamic", true},
                {"symmetric", true}};
  };
  if (s.code == W::e4m3fn && s.scale == S::e8m0) {
    return {{"quant_method", "mxfp8"},
            {"fmt", "e4m3"},
            {"weight_block_size", {1, 32}},
            {"activation_scheme", "dynamic"}};
  }
  if (s.code == W::e4m3fn && s.block_rows != 1) {
    json config{{"quant_method", "fp8"}, {"fmt", "e4m3"}, {"activation_scheme", "dynamic"}};
    if (s.block_cols != 0) config["weight_block_size"] = {s.block_rows, s.block_cols};
    return config;
  }
  if (s.code == W::e2m1 && s.scale == S::e8m0) {
    auto const tensor = [](char const* dtype, bool dynamic) {
      return json{{"dtype", dtype},
                  {"qscheme", "per_group"},
                  {"group_size", 32},
                  {"scale_format", "e8m0"},
                  {"is_dynamic", dynamic}};
    };
    json input = nullptr;
    if (s.activations == A::mxfp4) input = tensor("fp4", true);
    if (s.activations == A::mxfp8) input = tensor("fp8_e4m3", true);
    return {{"quant_method", "quark"},
            {"global_quant_config", {{"weight", tensor("fp4", false)}, {"input_tensors", input}}}};
  }
  if (s.scale == S::e4m3 && s.activations == A::nvfp4) {
    return {{"quant_method", "modelopt"}, {"quant_algo", "NVFP4"}};
  }
  json weights{{"dynamic", false}, {"symmetric", !s.zero_points}};
  json input = nullptr;
  char const* format = "float-quantized";
  weights["type"] = s.code == W::int8 || s.code == W::int4 ? "int" : "float";
  weights["num_bits"] = s.bits();
  weights["strategy"] = s.block_cols == 0 ? "channel" : "group";
  if (s.block_cols != 0) weights["group_size"] = s.block_cols;
  if (s.code == W::e2m1) {
    weights["strategy"] = "tensor_group";
    format = "nvfp4-pack-quantized";
  } else if (s.code == W::int4) {
    format = "pack-quantized";
  } else if (s.code == W::int8) {
    format = "int-quantized";
    if (s.activations == A::int8_token) input = activations("int", 8, "token");
  } else if (s.activations == A::fp8_token) {
    input = activations("float", 8, "token");
  }
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"config_groups",
           {{"group_0",
             {{"weights", weights},
              {"input_activations", input},
              {"targets", {"Linear"}},
              {"format", format}}}}}};
}

json gpt_oss_quantization() {
  return {
      {"quant_method", "mxfp4"},
      {"modules_to_not_convert",
       {"model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"}}};
}

}  // namespace kmoe::io::detail
