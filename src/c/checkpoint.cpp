// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <vector>

#include "c/handles.hpp"
#include "c/options.hpp"

using namespace kmoe;
using namespace kmoe::c;

int kmoe_checkpoint_open(char const* directory, kmoe_checkpoint* checkpoint) {
  char const* const function = "kmoe_checkpoint_open";
  return guard(function, [&] {
    expect_not_null(directory, function, "directory");
    expect_not_null(checkpoint, function, "checkpoint");
    *checkpoint = new_handle<kmoe_checkpoint>(std::make_shared<io::Checkpoint>(directory));
  });
}

int kmoe_checkpoint_layers(kmoe_checkpoint checkpoint, size_t capacity, int32_t* layers,
                           size_t* count) {
  char const* const function = "kmoe_checkpoint_layers";
  return guard(function, [&] {
    std::vector<index_t> found;
    for (auto const& block : object_of(checkpoint, function)->blocks()) {
      found.push_back(block.layer);
    }
    copy_list(found, capacity, layers, count, function);
  });
}

int kmoe_checkpoint_options(kmoe_checkpoint checkpoint, int32_t decoder_layer,
                            kmoe_layer_options* options) {
  char const* const function = "kmoe_checkpoint_options";
  return guard(function, [&] {
    auto const object = object_of(checkpoint, function);
    expect_struct(options, function, "options");
    auto const& block = object->block(decoder_layer);
    set_model(block.config, block.gated, *options);
  });
}

int kmoe_checkpoint_destroy(kmoe_checkpoint checkpoint) {
  return destroy(checkpoint, "kmoe_checkpoint_destroy");
}
