// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// From the options and a checkpoint to a layer.

#include <cstdio>
#include <optional>
#include <string>

#include <kmoe/comm/communicator.hpp>
#include <kmoe/io/checkpoint.hpp>
#include <kmoe/layer/moe_layer.hpp>

#include "cli/options.hpp"

namespace kmoe::cli {

using Space = Kokkos::DefaultExecutionSpace;

/// Calls f.template operator()<T>() with the element type of that name.
template <class F>
auto with_element(DataType type, F const& f) {
  switch (type) {
    case DataType::f64:
      return f.template operator()<double>();
    case DataType::bf16:
      return f.template operator()<bfloat16>();
    case DataType::f16:
      return f.template operator()<half>();
    default:
      return f.template operator()<float>();
  }
}

/// Runs `f` on data from files: a precondition that they break is an input error, not a usage
/// error.
template <class F>
decltype(auto) on_input(F const& f) {
  try {
    return f();
  } catch (InvalidArgument const& error) {
    throw IoError(error.what());
  }
}

/// Opens the checkpoint on every rank; rank 0 names its unused tensors on stderr. Collective.
inline io::Checkpoint open_checkpoint(Communicator const& comm, std::string const& directory) {
  std::optional<io::Checkpoint> checkpoint;
  agree(comm, [&] { on_input([&] { checkpoint.emplace(directory); }); });
  auto const unused = checkpoint->unused_tensors();
  if (comm.rank() == 0 && !unused.empty()) {
    std::string text = "kmoe: warning: tensors of MoE blocks that are not used: ";
    for (std::size_t i = 0; i < unused.size() && i < 8; ++i) text += (i ? ", " : "") + unused[i];
    if (unused.size() > 8) text += " and " + std::to_string(unused.size() - 8) + " more";
    std::fprintf(stderr, "%s\n", text.c_str());
  }
  return *checkpoint;
}

/// The layer of `block` with this rank's share of the experts. Collective.
template <Element T>
MoeLayer<Space, T> build_layer(Space const& exec, Communicator const& comm,
                               io::Checkpoint const& checkpoint, io::MoeBlock const& block,
                               LayerOptions const& options, TokenLayout layout,
                               index_t max_tokens) {
  MoeConfig config = block.config;
  config.dispatcher = options.dispatcher;
  config.id_space = options.experts;
  config.dispatch_payload = options.payload;
  config.combine_payload = options.combine;
  config.token_layout = layout;
  config.workspace_limit_bytes = options.workspace_limit;
  auto const placement = make_placement(options, config, comm.size());
  LayerWeights<Space, T> weights;
  agree(comm, [&] {
    auto const experts = placement.experts_of(comm.rank());
    on_input([&] { weights = io::load_weights<Space, T>(exec, checkpoint, block, experts); });
  });
  return on_input(
      [&] { return MoeLayer<Space, T>(exec, comm, config, placement, weights, max_tokens); });
}

}  // namespace kmoe::cli
