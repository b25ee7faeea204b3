// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "c/options.hpp"

#include <algorithm>
#include <vector>

#include "c/handles.hpp"

namespace kmoe::c {
namespace {

/// An int32_t field as an enumerator below `count`.
template <class Enum>
Enum to_enum(char const* function, char const* field, int32_t value, int32_t count) {
  detail::expect(value >= 0 && value < count, function,
                 std::string(field) + " must be an enumerator, 0.." + std::to_string(count - 1),
                 value);
  return static_cast<Enum>(value);
}

bool to_bool(char const* function, char const* field, int32_t value) {
  detail::expect(value == 0 || value == 1, function, std::string(field) + " must be 0 or 1", value);
  return value == 1;
}

MoeConfig config_of(kmoe_layer_options const& o, char const* f) {
  MoeConfig c;
  c.hidden_size = o.hidden_size;
  c.intermediate_size = o.intermediate_size;
  c.num_experts = o.num_experts;
  c.num_zero_experts = o.num_zero_experts;
  c.num_user_experts = o.num_user_experts;
  c.top_k = o.top_k;
  c.router.scoring = to_enum<Scoring>(f, "scoring", o.scoring, 5);
  c.router.group_score = to_enum<GroupScore>(f, "group_score", o.group_score, 2);
  c.router.num_groups = o.num_groups;
  c.router.topk_groups = o.topk_groups;
  c.router.masked_score = o.masked_score;
  c.router.zero_masked_weights = to_bool(f, "zero_masked_weights", o.zero_masked_weights);
  c.router.renormalize = to_bool(f, "renormalize", o.renormalize);
  c.router.renormalize_epsilon = o.renormalize_epsilon;
  c.router.renormalize_min_sum = o.renormalize_min_sum;
  c.router.routed_scaling_factor = o.routed_scaling_factor;
  c.router.jitter_epsilon = o.jitter_epsilon;
  c.router.num_fused_shared_experts = o.num_fused_shared_experts;
  c.experts.activation = to_enum<Activation>(f, "activation", o.activation, 6);
  c.experts.swiglu_alpha = o.swiglu_alpha;
  c.experts.swiglu_limit = o.swiglu_limit;
  c.experts.router_weight_on_input = to_bool(f, "router_weight_on_input", o.router_weight_on_input);
  c.shared_intermediate_size = o.shared_intermediate_size;
  c.shared_expert_gate = to_bool(f, "shared_expert_gate", o.shared_expert_gate);
  c.dispatcher = to_enum<DispatcherKind>(f, "dispatcher", o.dispatcher, 2);
  c.id_space = to_enum<IdSpace>(f, "id_space", o.id_space, 2);
  c.token_layout = to_enum<TokenLayout>(f, "token_layout", o.token_layout, 2);
  c.no_combine = to_bool(f, "no_combine", o.no_combine);
  c.workspace_limit_bytes = o.workspace_limit_bytes;
  return c;
}

kmoe_layer_options default_options() {
  kmoe_layer_options o{};
  o.size = sizeof(o);
  o.dtype = KMOE_F32;
  MoeConfig defaults;
  defaults.dispatcher = DispatcherKind::all_to_all;
  set_model(defaults, true, o);
  o.dispatcher = KMOE_DISPATCHER_ALL_TO_ALL;
  o.id_space = KMOE_IDS_LOCAL;
  o.token_layout = KMOE_TOKENS_DATA_PARALLEL;
  o.placement = KMOE_PLACEMENT_CONTIGUOUS;
  o.workspace_limit_bytes = defaults.workspace_limit_bytes;
  return o;
}

void expect_size(std::size_t found, std::size_t wanted, char const* function, char const* name) {
  if (found == wanted) return;
  throw InvalidArgument(std::string(function) + ": " + name + " must have size " +
                        std::to_string(wanted) + ", found " + std::to_string(found) +
                        ": call its init function, and compile against the kmoe.h of this library");
}

template <class Struct>
int init(Struct* out, std::size_t size, Struct const& value, char const* function) {
  return guard_always(
      [&] {
        expect_not_null(out, function, "the struct");
        expect_size(size, sizeof(Struct), function, "the struct");
        *out = value;
      },
      function);
}

}  // namespace

template <class Struct>
void expect_struct(Struct const* given, char const* function, char const* name) {
  expect_not_null(given, function, name);
  expect_size(given->size, sizeof(Struct), function, name);
}
template void expect_struct(kmoe_layer_options const*, char const*, char const*);
template void expect_struct(kmoe_layer_weights const*, char const*, char const*);
template void expect_struct(kmoe_layer_report const*, char const*, char const*);

LayerPlan::LayerPlan(kmoe_layer_options const* given, char const* function) {
  expect_struct(given, function, "options");
  options = *given;
  dtype = to_enum<DataType>(function, "dtype", options.dtype, 4);
  layout = to_enum<GateUpLayout>(function, "gate_up_layout", options.gate_up_layout, 4);
  to_enum<kmoe_space>(function, "space", options.space, 2);
  to_enum<kmoe_placement>(function, "placement", options.placement, 3);
  config = config_of(options, function);
  validate(config);
  detail::expect(options.max_tokens_per_rank >= 0, function,
                 "max_tokens_per_rank must not be negative", options.max_tokens_per_rank);
}

ExpertPlacement LayerPlan::placement(index_t num_ranks, char const* function) const {
  index_t const experts = config.num_experts;
  index_t const shared = config.router.num_fused_shared_experts;
  switch (options.placement) {
    case KMOE_PLACEMENT_CONTIGUOUS:
      return ExpertPlacement::contiguous(experts, num_ranks, shared);
    case KMOE_PLACEMENT_ROUND_ROBIN:
      return ExpertPlacement::round_robin(experts, num_ranks, shared);
    default:
      expect_not_null(options.rank_of_expert, function, "rank_of_expert of a custom placement");
      return ExpertPlacement::custom({options.rank_of_expert, options.rank_of_expert + experts},
                                     num_ranks, shared);
  }
}

std::vector<index_t> LayerPlan::mlp_experts(ExpertPlacement const& placement, index_t rank) const {
  auto ids = placement.experts_of(rank);
  std::erase_if(
      ids, [&](index_t id) { return id >= config.num_mlp_experts() && id < config.num_experts; });
  return ids;
}

void set_model(MoeConfig const& c, bool gated, kmoe_layer_options& o) {
  o.hidden_size = c.hidden_size;
  o.intermediate_size = c.intermediate_size;
  o.num_experts = c.num_experts;
  o.num_zero_experts = c.num_zero_experts;
  o.num_user_experts = c.num_user_experts;
  o.top_k = c.top_k;
  o.gate_up_layout = gated ? KMOE_GATE_FIRST : KMOE_PLAIN;
  o.scoring = static_cast<int32_t>(c.router.scoring);
  o.group_score = static_cast<int32_t>(c.router.group_score);
  o.num_groups = c.router.num_groups;
  o.topk_groups = c.router.topk_groups;
  o.masked_score = c.router.masked_score;
  o.zero_masked_weights = c.router.zero_masked_weights ? 1 : 0;
  o.renormalize = c.router.renormalize ? 1 : 0;
  o.renormalize_epsilon = c.router.renormalize_epsilon;
  o.renormalize_min_sum = c.router.renormalize_min_sum;
  o.routed_scaling_factor = c.router.routed_scaling_factor;
  o.jitter_epsilon = c.router.jitter_epsilon;
  o.num_fused_shared_experts = c.router.num_fused_shared_experts;
  o.activation = static_cast<int32_t>(c.experts.activation);
  o.swiglu_alpha = c.experts.swiglu_alpha;
  o.swiglu_limit = c.experts.swiglu_limit;
  o.router_weight_on_input = c.experts.router_weight_on_input ? 1 : 0;
  o.shared_intermediate_size = c.shared_intermediate_size;
  o.shared_expert_gate = c.shared_expert_gate ? 1 : 0;
}

void copy_list(std::vector<index_t> const& values, std::size_t capacity, int32_t* out,
               std::size_t* count, char const* function) {
  expect_not_null(count, function, "count");
  if (out != nullptr) {
    if (capacity < values.size()) {
      throw InvalidArgument(std::string(function) + ": capacity must be at least " +
                            std::to_string(values.size()) + ", found " + std::to_string(capacity));
    }
    std::copy(values.begin(), values.end(), out);
  }
  *count = values.size();
}

}  // namespace kmoe::c

using namespace kmoe;
using namespace kmoe::c;

int kmoe_layer_options_init(kmoe_layer_options* options, size_t size) {
  return init(options, size, default_options(), "kmoe_layer_options_init");
}

int kmoe_layer_weights_init(kmoe_layer_weights* weights, size_t size) {
  kmoe_layer_weights none{};
  none.size = sizeof(none);
  return init(weights, size, none, "kmoe_layer_weights_init");
}

int kmoe_local_experts(kmoe_layer_options const* options, int32_t rank, int32_t num_ranks,
                       size_t capacity, int32_t* ids, size_t* count) {
  char const* const function = "kmoe_local_experts";
  return guard_always(
      [&] {
        LayerPlan const plan(options, function);
        auto const placement = plan.placement(num_ranks, function);
        copy_list(plan.mlp_experts(placement, rank), capacity, ids, count, function);
      },
      function);
}
