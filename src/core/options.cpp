// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

#include <kmoe/core/error.hpp>
#include <kmoe/core/options.hpp>

namespace kmoe {
namespace {

using std::string_view_literals::operator""sv;

// Names in the order of the enumerators.
template <class Enum>
inline constexpr std::array<std::string_view, 0> names{};
template <>
inline constexpr std::array names<Scoring>{"softmax"sv, "sigmoid"sv, "topk_softmax"sv,
                                           "topk_sigmoid"sv, "sparse_mixer"sv};
template <>
inline constexpr std::array names<GroupScore>{"max"sv, "top2_sum"sv};
template <>
inline constexpr std::array names<Activation>{"silu"sv, "gelu_erf"sv, "gelu_tanh"sv,
                                              "relu"sv, "relu2"sv,    "swiglu_oai"sv};
template <>
inline constexpr std::array names<GateUpLayout>{"gate_first"sv, "up_first"sv, "interleaved"sv,
                                                "plain"sv};
template <>
inline constexpr std::array names<DispatcherKind>{"standard"sv, "all_to_all"sv};
template <>
inline constexpr std::array names<IdSpace>{"local"sv, "masked"sv};
template <>
inline constexpr std::array names<TokenLayout>{"replicated"sv, "data_parallel"sv};
template <>
inline constexpr std::array names<PayloadCode>{"element"sv, "fp8"sv, "mxfp4"sv, "nvfp4"sv};
template <>
inline constexpr std::array names<CombineCode>{"element"sv, "bf16"sv};
template <>
inline constexpr std::array names<DataType>{"f64"sv, "f32"sv, "bf16"sv, "f16"sv};

template <class Enum>
std::string_view name_of(Enum value) {
  auto const i = static_cast<std::size_t>(value);
  return i < names<Enum>.size() ? names<Enum>[i] : "?"sv;
}

/// The config's fields one by one, in the order in which to_string prints them.
template <class Visit>
void for_each_field(MoeConfig const& c, Visit&& visit) {
  visit("hidden_size", c.hidden_size);
  visit("intermediate_size", c.intermediate_size);
  visit("num_experts", c.num_experts);
  visit("num_zero_experts", c.num_zero_experts);
  visit("num_user_experts", c.num_user_experts);
  visit("top_k", c.top_k);
  visit("router.scoring", c.router.scoring);
  visit("router.group_score", c.router.group_score);
  visit("router.num_groups", c.router.num_groups);
  visit("router.topk_groups", c.router.topk_groups);
  visit("router.masked_score", c.router.masked_score);
  visit("router.zero_masked_weights", c.router.zero_masked_weights);
  visit("router.renormalize", c.router.renormalize);
  visit("router.renormalize_epsilon", c.router.renormalize_epsilon);
  visit("router.renormalize_min_sum", c.router.renormalize_min_sum);
  visit("router.routed_scaling_factor", c.router.routed_scaling_factor);
  visit("router.jitter_epsilon", c.router.jitter_epsilon);
  visit("router.num_fused_shared_experts", c.router.num_fused_shared_experts);
  visit("experts.activation", c.experts.activation);
  visit("experts.swiglu_alpha", c.experts.swiglu_alpha);
  visit("experts.swiglu_limit", c.experts.swiglu_limit);
  visit("experts.router_weight_on_input", c.experts.router_weight_on_input);
  visit("shared_intermediate_size", c.shared_intermediate_size);
  visit("shared_expert_gate", c.shared_expert_gate);
  visit("dispatcher", c.dispatcher);
  visit("id_space", c.id_space);
  visit("token_layout", c.token_layout);
  visit("dispatch_payload", c.dispatch_payload);
  visit("combine_payload", c.combine_payload);
  visit("no_combine", c.no_combine);
  visit("workspace_limit_bytes", c.workspace_limit_bytes);
}

template <class T>
std::string printed(T value) {
  if constexpr (std::is_enum_v<T>) {
    return std::string(to_string(value));
  } else if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (std::is_floating_point_v<T>) {
    std::array<char, 32> text{};  // 9 digits tell any two floats apart
    std::snprintf(text.data(), text.size(), "%.9g", static_cast<double>(value));
    return text.data();
  } else {
    return std::to_string(value);
  }
}

/// Throws the rule that `value` of a field breaks; `rule` reads "must be at least 1".
template <class T>
void require(bool holds, std::string_view field, std::string const& rule, T value) {
  if (!holds) {
    detail::throw_invalid("kmoe::validate", std::string(field) + " " + rule, printed(value));
  }
}

void require_at_least(index_t least, std::string_view field, index_t value) {
  require(value >= least, field, "must be at least " + std::to_string(least), value);
}

}  // namespace

void validate(MoeConfig const& config) {
  for_each_field(config, [](std::string_view field, auto value) {
    if constexpr (std::is_enum_v<decltype(value)>) {
      require(name_of(value) != "?", field, "must be an enumerator", static_cast<int>(value));
    } else if constexpr (std::is_floating_point_v<decltype(value)>) {
      bool const may_be_infinite =
          field == "router.masked_score" || field == "experts.swiglu_limit";
      require(std::isfinite(value) || (may_be_infinite && !std::isnan(value)), field,
              may_be_infinite ? "must not be NaN" : "must be finite", value);
    }
  });

  require_at_least(1, "hidden_size", config.hidden_size);
  require_at_least(1, "intermediate_size", config.intermediate_size);
  require_at_least(1, "num_experts", config.num_experts);
  require_at_least(0, "num_zero_experts", config.num_zero_experts);
  require_at_least(0, "num_user_experts", config.num_user_experts);
  require(config.num_user_experts <= config.num_experts, "num_user_experts",
          "must be at most num_experts = " + std::to_string(config.num_experts),
          config.num_user_experts);
  require_at_least(1, "top_k", config.top_k);
  require_at_least(0, "router.num_fused_shared_experts", config.router.num_fused_shared_experts);
  require_at_least(0, "shared_intermediate_size", config.shared_intermediate_size);

  // Sizes that are doubled or added below and by the kernels stay an index_t.
  constexpr index_t largest = std::numeric_limits<index_t>::max() / 4;
  for_each_field(config, [](std::string_view field, auto value) {
    if constexpr (std::is_same_v<decltype(value), index_t>) {
      require(value <= largest, field, "must be at most " + std::to_string(largest), value);
    }
  });

  RouterOptions const& router = config.router;
  index_t const columns = config.num_router_columns();
  require(config.top_k <= columns, "top_k",
          "must be at most num_experts + num_zero_experts = " + std::to_string(columns),
          config.top_k);
  require_at_least(1, "router.num_groups", router.num_groups);
  require(columns % router.num_groups == 0, "router.num_groups",
          "must divide num_experts + num_zero_experts = " + std::to_string(columns),
          router.num_groups);
  require(router.topk_groups >= 1 && router.topk_groups <= router.num_groups, "router.topk_groups",
          "must be in 1..num_groups = " + std::to_string(router.num_groups), router.topk_groups);
  if (router.num_groups > 1 && router.group_score == GroupScore::top2_sum) {
    require(columns / router.num_groups >= 2, "router.num_groups",
            "must leave 2 experts in a group for group_score top2_sum", router.num_groups);
  }
  if (router.scoring == Scoring::sparse_mixer) {
    require(config.top_k <= 2, "top_k", "must be at most 2 with scoring sparse_mixer",
            config.top_k);
    require(router.num_groups == 1, "router.num_groups", "must be 1 with scoring sparse_mixer",
            router.num_groups);
  }
  require(router.renormalize_epsilon >= 0, "router.renormalize_epsilon", "must not be negative",
          router.renormalize_epsilon);
  require(router.renormalize_min_sum >= 0, "router.renormalize_min_sum", "must not be negative",
          router.renormalize_min_sum);
  require(router.jitter_epsilon >= 0, "router.jitter_epsilon", "must not be negative",
          router.jitter_epsilon);
  require(config.num_zero_experts == 0 || router.num_fused_shared_experts == 0, "num_zero_experts",
          "must be 0 with fused shared experts", config.num_zero_experts);
  require(config.num_user_experts == 0 || router.num_fused_shared_experts == 0, "num_user_experts",
          "must be 0 with fused shared experts", config.num_user_experts);
  require(config.experts.swiglu_limit > 0, "experts.swiglu_limit", "must be positive",
          config.experts.swiglu_limit);
  require(!config.shared_expert_gate || config.shared_intermediate_size > 0, "shared_expert_gate",
          "must be false without a shared expert", config.shared_expert_gate);
  require(!config.no_combine || config.shared_intermediate_size == 0, "no_combine",
          "must be false with a shared expert, which has no slot of its own", config.no_combine);
  require(!config.no_combine || config.combine_payload == CombineCode::element, "combine_payload",
          "must be element with no_combine", config.combine_payload);
  require(config.dispatcher != DispatcherKind::all_to_all ||
              config.token_layout == TokenLayout::data_parallel,
          "token_layout", "must be data_parallel with dispatcher all_to_all", config.token_layout);
}

std::string to_string(MoeConfig const& config) {
  std::string text;
  for_each_field(config, [&](std::string_view field, auto value) {
    text.append(field).append("=").append(printed(value)).append("\n");
  });
  return text;
}

template <class Enum>
std::optional<Enum> from_string(std::string_view name) {
  for (std::size_t i = 0; i < names<Enum>.size(); ++i) {
    if (names<Enum>[i] == name) return static_cast<Enum>(i);
  }
  return std::nullopt;
}

#define KMOE_ENUM_NAMES(ENUM)              \
  std::string_view to_string(ENUM value) { \
    return name_of(value);                 \
  }                                        \
  template KMOE_API std::optional<ENUM> from_string<ENUM>(std::string_view);
KMOE_ENUM_NAMES(Scoring)
KMOE_ENUM_NAMES(GroupScore)
KMOE_ENUM_NAMES(Activation)
KMOE_ENUM_NAMES(GateUpLayout)
KMOE_ENUM_NAMES(DispatcherKind)
KMOE_ENUM_NAMES(IdSpace)
KMOE_ENUM_NAMES(TokenLayout)
KMOE_ENUM_NAMES(PayloadCode)
KMOE_ENUM_NAMES(CombineCode)
KMOE_ENUM_NAMES(DataType)
#undef KMOE_ENUM_NAMES

}  // namespace kmoe
