// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <fstream>
#include <set>

#include <kmoe/core/error.hpp>
#include <kmoe/io/quantize.hpp>

#include "io/checkpoint_impl.hpp"
#include "io/mapped_file.hpp"

namespace kmoe::io {
namespace {

using Host = Kokkos::DefaultHostExecutionSpace;
using detail::ExpertForm;

/// A tensor that is copied, or an expert that is quantized.
struct Unit {
  TensorView const* tensor = nullptr;
  MoeBlock const* block = nullptr;
  index_t expert = 0;
};

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
  std::vector<std::vector<Unit>> shards;

  [[nodiscard]] std::filesystem::path file(index_t shard) const {
    auto const number = [](std::size_t n) {
      auto text = std::to_string(n);
      return std::string(5 - std::min<std::size_t>(5, text.size()), '0') + text;
    };
    return out / ("model-" + number(static_cast<std::size_t>(shard) + 1) + "-of-" +
                  number(shards.size()) + ".safetensors");
  }
  /// The linear layers of an expert.
  [[nodiscard]] std::vector<std::string> modules(Unit const& unit) const {
    auto const& impl = *checkpoint.impl_;
    auto const names = detail::find_names(impl.store, impl, impl.layers, *unit.block);
    ExpertForm const& form = impl.row->forms.front();
    return {names.module(form.gate, unit.expert), names.module(form.up, unit.expert),
            names.module(form.down, unit.expert)};
  }
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
  ExpertForm const& form = source.row->forms.front();
  if (!form.per_expert()) {
    throw Unsupported(directory.string() + ": experts of " + source.model_type +
                      " lie in one tensor, for which no quantized form is known");
  }
  Impl impl{checkpoint, directory, out, {}, detail::make_quantization(scheme), {}};
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
    for (index_t e = 0; e < block.config.num_experts; ++e) {
      units.push_back({nullptr, &block, e});
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
                                        static_cast<std::size_t>(c->intermediate_size);
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

std::vector<TensorError> CheckpointQuantizer::write_shard(index_t shard) const {
  Impl const& impl = *impl_;
  detail::QuantConfig const& config = impl.config;
  std::vector<TensorError> errors;
  Shard content;
  for (Unit const& unit : impl.shards.at(static_cast<std::size_t>(shard))) {
    if (unit.tensor != nullptr) {
      content.views.push_back(*unit.tensor);
      continue;
    }
    auto const experts =
        load_weights<Host, float>(Host(), impl.checkpoint, *unit.block, std::span(&unit.expert, 1))
            .experts;
    auto const inner = static_cast<std::size_t>(unit.block->config.intermediate_size);
    auto const hidden = static_cast<std::size_t>(unit.block->config.hidden_size);
    float const* const up = experts.gate_up.data() + inner * hidden;
    using View = Kokkos::View<float const***, Kokkos::LayoutRight, Kokkos::HostSpace,
                              Kokkos::MemoryUnmanaged>;
    View const matrices[] = {View(experts.gate_up.data(), 1, inner, hidden),
                             View(up, 1, inner, hidden),
                             View(experts.down.data(), 1, hidden, inner)};
    auto const modules = impl.modules(unit);
    for (int i = 0; i < 3; ++i) {
      Tensor3<float, Host> const w(modules[static_cast<std::size_t>(i)], 1, matrices[i].extent(1),
                                   matrices[i].extent(2));
      Kokkos::deep_copy(w, matrices[i]);
      auto const q = quantize(w, config.scheme);
      add_layer(content, w.label(), config.names, q);
      errors.push_back(error_of(w.label(), w, dequantize(q)));
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
