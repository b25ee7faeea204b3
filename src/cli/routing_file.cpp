// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cli/routing_file.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>

#include <kmoe/io/safetensors.hpp>

namespace kmoe::cli {
namespace {

template <class V>
io::TensorView tensor(std::string name, std::string dtype, std::vector<std::int64_t> shape,
                      V const& values) {
  return {
      std::move(name), std::move(dtype), std::move(shape), std::as_bytes(std::span(values)), {}};
}

template <class V>
std::vector<V> values_of(io::TensorStore const& store, char const* name, char const* dtype,
                         std::size_t rank) {
  auto const& found = store.at(name);
  if (found.dtype != dtype || found.shape.size() != rank) {
    throw IoError(io::describe(found) + " must be " + dtype + " with " + std::to_string(rank) +
                  " dimensions");
  }
  std::vector<V> values(found.bytes.size() / sizeof(V));
  if (!values.empty()) std::memcpy(values.data(), found.bytes.data(), found.bytes.size());
  return values;
}

}  // namespace

void RoutingRecord::add(Space const& exec, Routing<Space> const& routing) {
  exec.fence("kmoe::cli::record_routing");
  auto const append = [](auto& to, auto const& view) {
    auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
    to.insert(to.end(), host.data(), host.data() + host.size());
  };
  append(ids_, routing.topk_ids);
  append(weights_, routing.topk_weights);
}

void RoutingRecord::write(Communicator const& comm, std::filesystem::path const& path,
                          MoeConfig const& config) const {
  bool const replicated = config.token_layout == TokenLayout::replicated;
  auto const ranks = static_cast<std::size_t>(comm.size());
  auto const width = static_cast<std::int64_t>(config.slots_per_token());
  std::vector<offset_t> const mine{
      replicated && comm.rank() != 0 ? offset_t{0} : static_cast<offset_t>(ids_.size())};
  std::vector<offset_t> counts(ranks), offsets(ranks);
  comm.all_gather(mine, counts);
  offset_t all = 0;
  for (std::size_t r = 0; r < ranks; ++r) {
    offsets[r] = all;
    all += counts[r];
  }
  std::vector<index_t> ids(static_cast<std::size_t>(all));
  std::vector<float> weights(ids.size());
  comm.all_gather_rows(ids_.data(), mine[0], ids.data(), counts, offsets, sizeof(index_t));
  comm.all_gather_rows(weights_.data(), mine[0], weights.data(), counts, offsets, sizeof(float));
  agree(comm, [&] {
    if (comm.rank() != 0) return;
    std::vector<std::int64_t> const sizes{config.hidden_size, config.intermediate_size,
                                          config.num_experts, config.num_zero_experts,
                                          config.router.num_fused_shared_experts};
    std::vector<std::int64_t> const shape{static_cast<std::int64_t>(all) / width, width};
    std::vector<io::TensorView> const tensors{tensor("topk_ids", "I32", shape, ids),
                                              tensor("topk_weights", "F32", shape, weights),
                                              tensor("sizes", "I64", {5}, sizes)};
    io::write_safetensors(path, tensors);
  });
}

RecordedRouting read_routing(std::filesystem::path const& path) {
  io::TensorStore const store(path);
  RecordedRouting found;
  auto const sizes = values_of<std::int64_t>(store, "sizes", "I64", 1);
  found.ids = values_of<index_t>(store, "topk_ids", "I32", 2);
  found.weights = values_of<float>(store, "topk_weights", "F32", 2);
  auto const& shape = store.at("topk_ids").shape;
  auto const fits = [](std::int64_t size) { return size >= 0 && size < (std::int64_t{1} << 31); };
  if (sizes.size() != 5 || !std::all_of(sizes.begin(), sizes.end(), fits) || shape[1] < 1 ||
      shape[1] <= sizes[4] || store.at("topk_weights").shape != shape) {
    throw IoError(path.string() + ": the tensors of this routing do not fit each other");
  }
  auto& config = found.config;
  config.hidden_size = static_cast<index_t>(sizes[0]);
  config.intermediate_size = static_cast<index_t>(sizes[1]);
  config.num_experts = static_cast<index_t>(sizes[2]);
  config.num_zero_experts = static_cast<index_t>(sizes[3]);
  config.router.num_fused_shared_experts = static_cast<index_t>(sizes[4]);
  config.top_k = static_cast<index_t>(shape[1] - sizes[4]);
  found.tokens = shape[0];
  auto const most = sizes[2] + sizes[3] + sizes[4];
  for (std::size_t slot = 0; slot < found.ids.size(); ++slot) {
    if (found.ids[slot] < -1 || found.ids[slot] >= most) {
      throw IoError(path.string() + ": topk_ids must be in -1.." + std::to_string(most - 1) +
                    ", found " + std::to_string(found.ids[slot]));
    }
  }
  return found;
}

}  // namespace kmoe::cli
