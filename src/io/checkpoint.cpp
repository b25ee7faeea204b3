// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/io/checkpoint.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <utility>

#include <kmoe/core/error.hpp>

#include "io/checkpoint_impl.hpp"
#include "io/finder.hpp"

namespace kmoe::io {
namespace {

using detail::BlockNames;
using detail::ExpertForm;
using detail::Finder;

// What precedes "layers.N." in a causal model, a base model and wrappers with more modalities.
constexpr std::array<std::string_view, 4> model_prefixes{"model.", "", "language_model.model.",
                                                         "model.language_model."};
// Names of the block under layers.N in the versions of the transformers library.
constexpr std::array<std::string_view, 3> module_names{"mlp", "block_sparse_moe", "feed_forward"};

bool has_prefix(TensorStore const& store, std::string const& prefix) {
  auto const first = store.tensors().lower_bound(prefix);
  return first != store.tensors().end() && first->first.starts_with(prefix);
}

/// Prefix + the first of `names` that is there, else the first that there is.
std::string choose(TensorStore const& store, std::string const& prefix,
                   detail::Names const& names) {
  for (std::string_view const name : names) {
    if (!name.empty() && store.find(prefix + std::string(name)) != nullptr) {
      return prefix + std::string(name);
    }
  }
  return prefix + std::string(names[0]);
}

/// The codes of a linear layer, or nullptr.
TensorView const* find_codes(TensorStore const& store, BlockNames const& names,
                             std::string const& module) {
  if (!names.quantization.scheme.quantized()) return nullptr;
  return store.find(module + "." + std::string(names.quantization.names.codes));
}
/// Whether a linear layer is quantized: one that the quantization left out holds elements.
bool is_packed(TensorStore const& store, BlockNames const& names, std::string const& module) {
  auto const* codes = find_codes(store, names, module);
  return codes != nullptr &&
         std::ranges::find(Finder::floats, codes->dtype) == Finder::floats.end();
}

/// Chooses the form of which any tensor is there, so that others are reported as missing; else the
/// first. Tells by the first expert that is there whether experts are quantized.
void choose_form(TensorStore const& store, BlockNames& names, std::span<ExpertForm const> forms,
                 index_t num_experts) {
  for (ExpertForm const& form : forms) {
    for (index_t e = 0; e < (form.per_expert() ? num_experts : 1); ++e) {
      for (std::string_view const part : {form.gate, form.up, form.down}) {
        if (part.empty()) continue;
        auto const module = names.module(part, e);
        if (store.find(names.expert(part, e)) == nullptr &&
            find_codes(store, names, module) == nullptr) {
          continue;
        }
        names.form = &form;
        names.packed = form.mxfp4() || (form.per_expert() && is_packed(store, names, module));
        return;
      }
    }
  }
  names.form = &forms.front();
  names.packed = names.form->mxfp4();
}

/// Adds what a quantized linear layer may have.
void add_packed_names(std::set<std::string>& used, detail::QuantNames const& names,
                      std::string const& module) {
  for (std::string_view const name : {names.codes, names.scales, names.part_scale,
                                      names.input_scale, names.zero_points, names.shape}) {
    if (!name.empty()) used.insert(module + "." + std::string(name));
  }
}

/// Every tensor name that the block can use.
std::set<std::string> all_names(BlockNames const& names, index_t num_experts) {
  std::set<std::string> used{names.router, names.router_bias, names.correction_bias,
                             names.shared_gate};
  ExpertForm const& form = *names.form;
  for (std::string_view const part : {form.gate, form.up, form.down, form.gate_scales,
                                      form.down_scales, form.gate_bias, form.down_bias}) {
    if (part.empty()) continue;
    for (index_t e = 0; e < num_experts; ++e) {
      used.insert(names.expert(part, e));
      if (names.packed) add_packed_names(used, names.quantization.names, names.module(part, e));
    }
  }
  if (!names.shared.empty()) {
    for (char const* part : {"gate_proj", "up_proj", "down_proj"}) {
      used.insert(names.shared + part + ".weight");
      if (names.shared_packed)
        add_packed_names(used, names.quantization.names, names.shared + part);
      if (names.shared_bias) used.insert(names.shared + part + ".bias");
    }
  }
  return used;
}

}  // namespace

namespace detail {

std::string BlockNames::expert(std::string_view pattern, index_t id) const {
  std::string name = prefix + std::string(pattern);
  if (auto const hole = name.find("{}"); hole != std::string::npos) {
    name.replace(hole, 2, std::to_string(id));
  }
  return name;
}

std::string BlockNames::module(std::string_view pattern, index_t id) const {
  constexpr std::string_view suffix = ".weight";
  std::string name = expert(pattern, id);
  if (name.ends_with(suffix)) name.resize(name.size() - suffix.size());
  return name;
}

BlockNames find_names(TensorStore const& store, ModelConfig const& model, std::string const& layers,
                      MoeBlock const& block) {
  ModelRow const& row = *model.row;
  BlockNames names;
  std::string const layer = layers + std::to_string(block.layer) + ".";
  names.prefix = layer + std::string(row.on_disk) + ".";
  if (std::string const in_memory = layer + std::string(row.module) + ".";
      !has_prefix(store, names.prefix) && has_prefix(store, in_memory)) {
    names.prefix = in_memory;
  }
  names.router = choose(store, names.prefix, row.router);
  if (!row.router_bias.empty()) names.router_bias = names.prefix + std::string(row.router_bias);
  if (model.correction_bias) {
    names.correction_bias = choose(store, names.prefix, row.correction_bias);
  }
  names.quantization = model.quantization;
  choose_form(store, names, row.forms, block.config.num_experts);
  if (names.form->mxfp4()) names.quantization.scheme = quant_scheme("mxfp4");
  if (block.config.shared_intermediate_size > 0) {
    names.shared = names.prefix + std::string(row.shared.prefix) + ".";
    names.shared_bias = model.shared_bias;
    names.shared_packed = is_packed(store, names, names.shared + "gate_proj");
    if (block.config.shared_expert_gate) {
      names.shared_gate = names.prefix + std::string(row.shared.gate);
    }
  }
  return names;
}

}  // namespace detail

Checkpoint::Checkpoint(std::filesystem::path const& directory) {
  auto model = detail::read_config(directory / "config.json");
  TensorStore store(directory);
  std::string layers = "model.layers.";
  for (std::string_view const prefix : model_prefixes) {
    std::string const candidate = std::string(prefix) + "layers.";
    if (has_prefix(store, candidate)) {
      layers = candidate;
      break;
    }
  }
  for (MoeBlock& block : model.blocks) {
    block.module = (layers == "layers." ? "model.layers." : layers) + std::to_string(block.layer) +
                   "." + std::string(model.row->module);
    auto const names = detail::find_names(store, model, layers, block);
    if (names.packed) block.quantization = names.quantization.scheme;
    if (names.shared_packed) block.shared_quantization = names.quantization.scheme;
  }
  impl_ = std::make_shared<Impl const>(Impl{std::move(model), std::move(store), std::move(layers)});
}

std::string const& Checkpoint::model_type() const {
  return impl_->model_type;
}
std::vector<MoeBlock> const& Checkpoint::blocks() const {
  return impl_->blocks;
}
TensorStore const& Checkpoint::tensors() const {
  return impl_->store;
}

MoeBlock const& Checkpoint::block(int layer) const {
  std::string known;
  for (MoeBlock const& block : impl_->blocks) {
    if (block.layer == layer) return block;
    known += " " + std::to_string(block.layer);
  }
  throw InvalidArgument("kmoe::io::Checkpoint::block: layer " + std::to_string(layer) + " of " +
                        impl_->store.path() + " has no experts; layers that have are" +
                        (known.empty() ? " none" : known));
}

MoeBlock const* Checkpoint::find_module(std::string_view module) const {
  constexpr std::string_view layers = "layers.";
  auto const at = module.rfind(layers);
  if (at == std::string_view::npos || (at > 0 && module[at - 1] != '.')) return nullptr;
  std::string_view const tail = module.substr(at + layers.size());
  int layer = -1;
  auto const [end, error] = std::from_chars(tail.data(), tail.data() + tail.size(), layer);
  std::string_view name = tail.substr(static_cast<std::size_t>(end - tail.data()));
  if (error != std::errc() || !name.starts_with('.')) return nullptr;
  name.remove_prefix(1);
  if (std::ranges::find(module_names, name) == module_names.end()) return nullptr;
  auto const found = std::ranges::find(impl_->blocks, layer, &MoeBlock::layer);
  return found == impl_->blocks.end() ? nullptr : &*found;
}

std::vector<std::string> Checkpoint::unused_tensors() const {
  std::vector<std::string> unused;
  auto const& tensors = impl_->store.tensors();
  for (MoeBlock const& block : impl_->blocks) {
    auto const names = detail::find_names(impl_->store, *impl_, impl_->layers, block);
    auto const used = all_names(names, block.config.num_experts);
    for (auto it = tensors.lower_bound(names.prefix);
         it != tensors.end() && it->first.starts_with(names.prefix); ++it) {
      // A shared expert of size 0 has tensors without elements.
      bool const empty = it->second.bytes.empty();
      if (!empty && !used.contains(it->first)) unused.push_back(it->first);
    }
  }
  return unused;
}

std::vector<std::string> Checkpoint::model_types() {
  std::vector<std::string> types;
  for (detail::ModelRow const& row : detail::model_table()) {
    for (std::string_view const type : row.model_types) {
      if (!type.empty()) types.emplace_back(type);
    }
  }
  std::ranges::sort(types);
  return types;
}

}  // namespace kmoe::io
