// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <fstream>
#include <set>
#include <tuple>

#include <kmoe/core/error.hpp>
#include <kmoe/io/quantize.hpp>

#include "io/checkpoint_impl.hpp"
#include "io/mapped_file.hpp"

namespace kmoe::io {
namespace {

using Host = Kokkos::DefaultHostExecutionSpace;
using detail::ExpertForm;

constexpr index_t all_experts = -1;

/// A tensor that is copied, or an expert that is quantized, or all of a block in one tensor.
struct Unit {
  TensorView const* tensor = nullptr;
  MoeBlock const* block = nullptr;
  index_t expert = 0;
};

/// What quantized checkpoints of the model type look like.
ExpertForm const& quantized_form(detail::ModelConfig const& model, QuantScheme const& scheme,
                                 std::filesystem::path const& directory) {
  auto const forms = model.row->forms;
  auto const blocks = std::ranges::find_if(forms, &ExpertForm::mxfp4);
  if (blocks != forms.end()) {
    if (scheme == quant_scheme("mxfp4")) return *blocks;
    throw Unsupported(directory.string() + ": quantized experts of " + model.model_type +
                      " lie in one tensor, for which only mxfp4 is known, found " +
                      to_string(scheme));
  }
  auto const each = std::ranges::find_if(forms, &ExpertForm::per_expert);
  if (each != forms.end()) return *each;
  throw Unsupported(directory.string() + ": experts of " + model.model_type +
                    " lie in one tensor, for which no quantized form is known");
}

/// Tensors of one file and the memory of those that are made.
struct Shard {
  std::vector<TensorView> views;
  std::deque<std::vector<std::byte>> memory;

  void add(std::string const& name, char const* dtype, std::vector<std::int64_t> shape,
           std::vector<std::byte> bytes) {
    memory.push_back(std::move(bytes));
    TensorView view;
    view.name = name;
    view.dtype = dtype;
    view.shape = std::move(shape);
    view.bytes = memory.back();
    views.push_back(std::move(view));
  }
};

template <class T>
std::vector<std::byte> bytes_of(T const* data, std::size_t count) {
  auto const* const begin = reinterpret_cast<std::byte const*>(data);
  return {begin, begin + count * sizeof(T)};
}

TensorError error_of(std::string name, Tensor3<float, Host> const& w,
                     Tensor3<float, Host> const& decoded) {
  TensorError out{std::move(name)};
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    double const x = w.data()[i], error = std::abs(x - decoded.data()[i]);
    difference += error * error;
    norm += x * x;
    out.largest_error = std::max(out.largest_error, error);
    out.largest = std::max(out.largest, std::abs(x));
  }
  out.relative_error = difference == 0 ? 0 : std::sqrt(difference / norm);
  return out;
}

/// The tensors of one linear layer [1, rows, columns], as find_packed() looks for them.
void add_layer(Shard& shard, std::string const& module, detail::QuantNames const& names,
               QuantizedHostTensor const& q) {
  QuantScheme const& s = q.scheme;
  auto const name = [&](std::string_view parameter) {
    return module + "." + std::string(parameter);
  };
  std::int64_t const rows = q.rows(), columns = q.columns, blocks = q.blocks();
  std::int64_t const scale_rows = q.scale_rows();
  if (s.code == WeightCode::int4) {  // rows of whole words
    std::int64_t const from = (columns + 1) / 2, to = (columns + 7) / 8 * 4;
    std::vector<std::byte> words(static_cast<std::size_t>(rows * to));
    for (std::int64_t n = 0; n < rows; ++n) {
      std::memcpy(words.data() + n * to, q.codes.data() + n * from, static_cast<std::size_t>(from));
    }
    shard.add(name(names.codes), "I32", {rows, to / 4}, std::move(words));
    std::int64_t const shape[] = {rows, columns};
    shard.add(name(names.shape), "I64", {2}, bytes_of(shape, 2));
  } else {
    char const* const dtype = s.code == WeightCode::e2m1   ? "U8"
                              : s.code == WeightCode::int8 ? "I8"
                                                           : "F8_E4M3";
    shard.add(name(names.codes), dtype, {rows, static_cast<std::int64_t>(q.codes.extent(2))},
              bytes_of(q.codes.data(), q.codes.size()));
  }
  if (s.scale == ScaleCode::f32) {
    bool const scalar = s.block_rows == 0 && s.block_cols == 0;
    auto shape = scalar ? std::vector<std::int64_t>{} : std::vector{scale_rows, blocks};
    shard.add(name(names.scales), "F32", std::move(shape),
              bytes_of(q.scales.data(), q.scales.size()));
  } else {
    shard.add(name(names.scales), s.scale == ScaleCode::e8m0 ? "U8" : "F8_E4M3",
              {scale_rows, blocks}, bytes_of(q.scale_codes.data(), q.scale_codes.size()));
  }
  if (!names.part_scale.empty()) {
    float const value = names.reciprocal ? 1 / q.part_scales(0, 0) : q.part_scales(0, 0);
    shard.add(name(names.part_scale), "F32", {}, bytes_of(&value, 1));
  }
  if (!names.zero_points.empty()) {  // eight rows to a word
    std::vector<std::uint32_t> words(static_cast<std::size_t>((rows + 7) / 8 * blocks));
    for (std::int64_t n = 0; n < rows; ++n) {
      for (std::int64_t b = 0; b < blocks; ++b) {
        words[static_cast<std::size_t>(n / 8 * blocks + b)] |= std::uint32_t{q.zero_points(0, n, b)}
                                                               << (4 * (n % 8));
      }
    }
    shard.add(name(names.zero_points), "I32", {(rows + 7) / 8, blocks},
              bytes_of(words.data(), words.size()));
  }
}

}  // namespace

struct CheckpointQuantizer::Impl {
  Checkpoint checkpoint;
  std::filesystem::path directory, out;
  detail::QuantConfig config;
  nlohmann::json quantization;
  ExpertForm const* form = nullptr;  ///< of `out`
  std::vector<std::vector<Unit>> shards;

  [[nodiscard]] std::filesystem::path file(index_t shard) const {
    auto const number = [](std::size_t n) {
      auto text = std::to_string(n);
      return std::string(5 - std::min<std::size_t>(5, text.size()), '0') + text;
    };
    return out / ("model-" + number(static_cast<std::size_t>(shard) + 1) + "-of-" +
                  number(shards.size()) + ".safetensors");
  }
  [[nodiscard]] detail::BlockNames names(MoeBlock const& block) const {
    auto const& impl = *checkpoint.impl_;
    return detail::find_names(impl.store, impl, impl.layers, block);
  }
  /// The dense weights of an expert, as the checkpoint orders their rows.
  [[nodiscard]] ExpertWeights<Host, float> weights(MoeBlock const& block, index_t expert) const {
    return load_weights<Host, float>(Host(), checkpoint, block, std::span(&expert, 1)).experts;
  }
  /// The linear layers of an expert.
  void add_expert(Shard& content, Unit const& unit, std::vector<TensorError>& errors) const;
  /// The blocks and scales of all experts.
  void add_blocks(Shard& content, MoeBlock const& block, std::vector<TensorError>& errors) const;
};

CheckpointQuantizer::CheckpointQuantizer(Checkpoint const& checkpoint,
                                         std::filesystem::path const& directory,
                                         QuantScheme const& scheme,
                                         std::filesystem::path const& out,
                                         std::size_t shard_bytes) {
  auto const& source = *checkpoint.impl_;
  if (source.quantization.scheme.quantized()) {
    throw Unsupported(directory.string() + ": is quantized already, as " +
                      to_string(source.quantization.scheme));
  }
  ExpertForm const& form = quantized_form(source, scheme, directory);
  bool const stacked = !form.per_expert();
  Impl impl{checkpoint, directory, out, {}, detail::make_quantization(scheme), &form, {}};
  if (stacked) impl.quantization = detail::gpt_oss_quantization();
  impl.config = detail::read_quantization({{"quantization_config", impl.quantization}},
                                          "kmoe::io::CheckpointQuantizer");
  std::error_code error;
  std::filesystem::create_directories(out, error);
  if (error) throw IoError(out.string() + ": can not be created: " + error.message());
  if (std::filesystem::equivalent(directory, out, error)) {
    throw InvalidArgument(
        "kmoe::io::CheckpointQuantizer: out must not be the checkpoint's own "
        "directory, found " +
        out.string());
  }
  std::set<std::string> replaced;
  std::vector<Unit> units;
  for (MoeBlock const& block : checkpoint.blocks()) {
    auto const names = detail::find_names(source.store, source, source.layers, block);
    if (stacked) units.push_back({nullptr, &block, all_experts});
    for (index_t e = 0; e < block.config.num_experts; ++e) {
      if (!stacked) units.push_back({nullptr, &block, e});
      for (std::string_view const part : {names.form->gate, names.form->up, names.form->down}) {
        if (!part.empty()) replaced.insert(names.expert(part, e));
      }
    }
  }
  for (auto const& [name, tensor] : source.store.tensors()) {
    if (!replaced.contains(name)) units.push_back({&tensor, nullptr, 0});
  }
  std::size_t used = shard_bytes;
  for (Unit const& unit : units) {
    MoeConfig const* const c = unit.block == nullptr ? nullptr : &unit.block->config;
    // A byte per weight is enough of a guess.
    std::size_t const bytes = c == nullptr
                                  ? unit.tensor->bytes.size()
                                  : std::size_t{3} * static_cast<std::size_t>(c->hidden_size) *
                                        static_cast<std::size_t>(c->intermediate_size) *
                                        static_cast<std::size_t>(stacked ? c->num_experts : 1);
    if (used + bytes > shard_bytes) {
      impl.shards.emplace_back();
      used = 0;
    }
    used += bytes;
    impl.shards.back().push_back(unit);
  }
  impl_ = std::make_shared<Impl const>(std::move(impl));
}

index_t CheckpointQuantizer::num_shards() const {
  return static_cast<index_t>(impl_->shards.size());
}

void CheckpointQuantizer::Impl::add_expert(Shard& content, Unit const& unit,
                                           std::vector<TensorError>& errors) const {
  auto const experts = weights(*unit.block, unit.expert);
  auto const inner = static_cast<std::size_t>(unit.block->config.intermediate_size);
  auto const hidden = static_cast<std::size_t>(unit.block->config.hidden_size);
  using View =
      Kokkos::View<float const***, Kokkos::LayoutRight, Kokkos::HostSpace, Kokkos::MemoryUnmanaged>;
  auto const name = names(*unit.block);
  float const* const gate = experts.gate_up.data();
  for (auto const& [part, data, rows, columns] :
       {std::tuple(form->gate, gate, inner, hidden),
        std::tuple(form->up, gate + inner * hidden, inner, hidden),
        std::tuple(form->down, experts.down.data(), hidden, inner)}) {
    Tensor3<float, Host> const w(name.module(part, unit.expert), 1, rows, columns);
    Kokkos::deep_copy(w, View(data, 1, rows, columns));
    auto const q = quantize(w, config.scheme);
    add_layer(content, w.label(), config.names, q);
    errors.push_back(error_of(w.label(), w, dequantize(q)));
  }
}

void CheckpointQuantizer::Impl::add_blocks(Shard& content, MoeBlock const& block,
                                           std::vector<TensorError>& errors) const {
  auto const name = names(block);
  for (bool const down : {false, true}) {
    auto const codes_name = name.expert(down ? form->down : form->gate, 0);
    std::vector<std::byte> codes, scales;
    std::int64_t rows = 0, blocks = 0;
    for (index_t e = 0; e < block.config.num_experts; ++e) {
      auto const experts = weights(block, e);
      auto const& given = down ? experts.down : experts.gate_up;
      Tensor3<float, Host> const w(codes_name + "[" + std::to_string(e) + "]", 1, given.extent(1),
                                   given.extent(2));
      Kokkos::deep_copy(w, given);
      auto const q = quantize(w, config.scheme);
      errors.push_back(error_of(w.label(), w, dequantize(q)));
      rows = q.rows();
      blocks = q.blocks();
      auto const* const from = reinterpret_cast<std::byte const*>(q.codes.data());
      auto const width = static_cast<std::int64_t>(q.codes.extent(2));
      for (std::int64_t r = 0; r < rows; ++r) {  // rows of whole blocks
        codes.insert(codes.end(), from + r * width, from + (r + 1) * width);
        codes.resize(codes.size() + static_cast<std::size_t>(blocks * 16 - width));
      }
      auto const of_expert = bytes_of(q.scale_codes.data(), q.scale_codes.size());
      scales.insert(scales.end(), of_expert.begin(), of_expert.end());
    }
    std::int64_t const count = block.config.num_experts;
    content.add(codes_name, "U8", {count, rows, blocks, 16}, std::move(codes));
    content.add(name.expert(down ? form->down_scales : form->gate_scales, 0), "U8",
                {count, rows, blocks}, std::move(scales));
  }
}

std::vector<TensorError> CheckpointQuantizer::write_shard(index_t shard) const {
  Impl const& impl = *impl_;
  std::vector<TensorError> errors;
  Shard content;
  for (Unit const& unit : impl.shards.at(static_cast<std::size_t>(shard))) {
    if (unit.tensor != nullptr) {
      content.views.push_back(*unit.tensor);
      continue;
    }
    if (unit.expert == all_experts) {
      impl.add_blocks(content, *unit.block, errors);
    } else {
      impl.add_expert(content, unit, errors);
    }
  }
  write_safetensors(impl.file(shard), content.views);
  return errors;
}

void CheckpointQuantizer::write_rest() const {
  Impl const& impl = *impl_;
  auto const write = [](std::filesystem::path const& path, std::string const& text) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << text << "\n";
    file.close();
    if (!file) throw IoError(path.string() + ": can not be written");
  };
  std::error_code error;
  for (auto const& entry : std::filesystem::directory_iterator(impl.directory, error)) {
    auto const name = entry.path().filename().string();
    if (!entry.is_regular_file() || name == "config.json" ||
        name.find(".safetensors") != std::string::npos) {
      continue;
    }
    std::filesystem::copy_file(entry.path(), impl.out / name,
                               std::filesystem::copy_options::overwrite_existing, error);
    if (error) throw IoError((impl.out / name).string() + ": " + error.message());
  }
  detail::MappedFile const mapped(impl.directory / "config.json");
  auto config = nlohmann::ordered_json::parse(mapped.text(0, mapped.bytes().size()));
  config["quantization_config"] = impl.quantization;
  write(impl.out / "config.json", config.dump(2));

  auto map = nlohmann::json::object();
  std::size_t total = 0;
  for (index_t shard = 0; shard < num_shards(); ++shard) {
    auto const path = impl.file(shard);
    TensorStore const store(path);
    for (auto const& [name, tensor] : store.tensors()) {
      map[name] = path.filename().string();
      total += tensor.bytes.size();
    }
  }
  nlohmann::json const index{{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  write(impl.out / "model.safetensors.index.json", index.dump(2));
}

}  // namespace kmoe::io
