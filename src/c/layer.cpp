// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Layers: building them, and the functions that take one.

#include <numeric>
#include <optional>

#include "c/layer_of.hpp"

namespace {

using namespace kmoe;
using namespace kmoe::c;

/// Builds the layer that `options` describe from what `load(exec, plan, experts)` returns; it is
/// called with the ids of this rank's experts and may fail on one rank only. Collective.
template <class Load>
void create(kmoe_comm comm, kmoe_layer_options const* options, kmoe_layer* out,
            char const* function, Load const& load) {
  auto const group = object_of(comm, function);
  std::optional<LayerPlan> plan;
  std::optional<ExpertPlacement> placement;
  agree(*group, [&] {
    expect_not_null(out, function, "layer");
    plan.emplace(options, function);
    placement = plan->placement(group->size(), function);
  });
  auto layer = with_layer_type(*plan, [&]<class E, class T>() -> std::shared_ptr<AnyLayer> {
    E const exec;
    LayerWeights<E, T> weights;
    agree(*group, [&] {
      weights =
          load.template operator()<E, T>(exec, *plan, plan->mlp_experts(*placement, group->rank()));
    });
    return std::make_shared<LayerOf<E, T>>(exec, *group, *plan, *placement, weights);
  });
  *out = new_handle<kmoe_layer>(std::move(layer));
}

int forward(kmoe_layer layer, ForwardCall const& call, char const* function) {
  return guard(function, [&] { object_of(layer, function)->forward(call); });
}

int forward_host(kmoe_layer layer, ForwardCall const& call, char const* function) {
  return guard(function, [&] { object_of(layer, function)->forward_host(call); });
}

}  // namespace

int kmoe_workspace_query(kmoe_layer_options const* options, int32_t rank, int32_t num_ranks,
                         size_t* device_bytes, size_t* host_bytes) {
  char const* const function = "kmoe_workspace_query";
  return guard(function, [&] {
    expect_not_null(device_bytes, function, "device_bytes");
    expect_not_null(host_bytes, function, "host_bytes");
    LayerPlan const plan(options, function);
    auto const placement = plan.placement(num_ranks, function);
    detail::expect(rank >= 0 && rank < num_ranks, function, "rank must be in 0..num_ranks-1", rank);
    auto const size = with_layer_type(plan, [&]<class E, class T>() {
      return MoeLayer<E, T>::workspace_size(E(), plan.config, placement, rank,
                                            plan.options.max_tokens_per_rank, plan.gated());
    });
    *device_bytes = size.device_bytes;
    *host_bytes = size.host_bytes;
  });
}

int kmoe_layer_create(kmoe_comm comm, kmoe_layer_options const* options,
                      kmoe_layer_weights const* weights, kmoe_layer* layer) {
  char const* const function = "kmoe_layer_create";
  return guard(function, [&] {
    create(comm, options, layer, function,
           [&]<class E, class T>(E const& exec, LayerPlan const& plan,
                                 std::vector<index_t> const& experts) {
             expect_struct(weights, function, "weights");
             return wrap_weights<E, T>(exec, plan, *weights, experts.size(), function);
           });
  });
}

int kmoe_layer_create_from_checkpoint(kmoe_comm comm, kmoe_checkpoint checkpoint,
                                      int32_t decoder_layer, kmoe_layer_options const* options,
                                      kmoe_layer* layer) {
  char const* const function = "kmoe_layer_create_from_checkpoint";
  return guard(function, [&] {
    auto const source = object_of(checkpoint, function);
    create(comm, options, layer, function,
           [&]<class E, class T>(E const& exec, LayerPlan const&,
                                 std::vector<index_t> const& experts) {
             return io::load_weights<E, T>(exec, *source, source->block(decoder_layer), experts);
           });
  });
}

int kmoe_layer_forward(kmoe_layer layer, size_t tokens, void const* x, void* y) {
  return forward(layer, {tokens, x, nullptr, nullptr, y, false}, "kmoe_layer_forward");
}

int kmoe_layer_forward_routed(kmoe_layer layer, size_t tokens, void const* x,
                              int32_t const* topk_ids, float const* topk_weights, void* y) {
  return forward(layer, {tokens, x, topk_ids, topk_weights, y, true}, "kmoe_layer_forward_routed");
}

int kmoe_layer_forward_host(kmoe_layer layer, size_t tokens, void const* x, void* y) {
  return forward_host(layer, {tokens, x, nullptr, nullptr, y, false}, "kmoe_layer_forward_host");
}

int kmoe_layer_forward_routed_host(kmoe_layer layer, size_t tokens, void const* x,
                                   int32_t const* topk_ids, float const* topk_weights, void* y) {
  return forward_host(layer, {tokens, x, topk_ids, topk_weights, y, true},
                      "kmoe_layer_forward_routed_host");
}

int kmoe_layer_abandon_forward(kmoe_layer layer, char const* text) {
  char const* const function = "kmoe_layer_abandon_forward";
  return guard(function, [&] {
    object_of(layer, function)
        ->abandon_forward(text == nullptr ? "forward was abandoned on this rank" : text);
  });
}

int kmoe_layer_route(kmoe_layer layer, size_t tokens, void const* x, int32_t* topk_ids,
                     float* topk_weights) {
  char const* const function = "kmoe_layer_route";
  return guard(function,
               [&] { object_of(layer, function)->route(tokens, x, topk_ids, topk_weights); });
}

int kmoe_layer_set_expert_function(kmoe_layer layer, kmoe_expert_fn fn, void* context) {
  char const* const function = "kmoe_layer_set_expert_function";
  return guard(function, [&] { object_of(layer, function)->set_expert_function(fn, context); });
}

int kmoe_layer_set_stream(kmoe_layer layer, void* stream) {
  char const* const function = "kmoe_layer_set_stream";
  return guard(function, [&] { object_of(layer, function)->set_stream(stream); });
}

int kmoe_layer_fence(kmoe_layer layer) {
  char const* const function = "kmoe_layer_fence";
  return guard(function, [&] { object_of(layer, function)->fence(); });
}

int kmoe_layer_bytes(kmoe_layer layer, size_t* workspace_bytes, size_t* weight_bytes) {
  char const* const function = "kmoe_layer_bytes";
  return guard(function, [&] {
    auto const object = object_of(layer, function);
    expect_not_null(workspace_bytes, function, "workspace_bytes");
    expect_not_null(weight_bytes, function, "weight_bytes");
    std::tie(*workspace_bytes, *weight_bytes) = object->bytes();
  });
}

int kmoe_layer_get_options(kmoe_layer layer, kmoe_layer_options* options) {
  char const* const function = "kmoe_layer_get_options";
  return guard(function, [&] {
    auto const object = object_of(layer, function);
    expect_struct(options, function, "options");
    *options = object->options();
  });
}

int kmoe_layer_get_report(kmoe_layer layer, kmoe_layer_report* out) {
  char const* const function = "kmoe_layer_get_report";
  return guard(function, [&] {
    auto const object = object_of(layer, function);
    expect_struct(out, function, "report");
    auto const report = object->report();
    auto const& rows = report.tokens_per_expert;
    *out = {sizeof(*out),         report.tokens,
            report.tokens_sent,   report.tokens_received,
            report.bytes_sent,    std::accumulate(rows.begin(), rows.end(), offset_t{0}),
            report.rows_with_nan, report.rows_with_inf};
  });
}

int kmoe_layer_destroy(kmoe_layer layer) {
  return destroy(layer, "kmoe_layer_destroy");
}
