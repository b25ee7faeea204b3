// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/io/safetensors.hpp>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include <kmoe/core/error.hpp>

#include "io/json.hpp"
#include "io/mapped_file.hpp"
#include "io/safetensors_header.hpp"

namespace kmoe::io {
namespace {

using nlohmann::json;

// Bits of one element of each dtype of the format.
constexpr std::array<std::pair<std::string_view, unsigned>, 22> dtype_bits{
    {{"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
     {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
     {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
     {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
     {"I64", 64},        {"U64", 64}}};

unsigned bits_of(std::string_view dtype) {
  auto const* found = std::ranges::find(dtype_bits, dtype, [](auto const& d) { return d.first; });
  return found == dtype_bits.end() ? 0 : found->second;
}

std::string named(std::string_view name) {
  return "tensor \"" + std::string(name) + "\"";
}

/// Parses JSON and refuses keys that repeat in the outermost object, which nlohmann::json would
/// silently merge.
json parse(std::string_view text, std::string const& path, std::uint64_t offset) {
  std::set<std::string> keys;
  auto const check = [&](int depth, json::parse_event_t event, json& value) {
    if (depth == 1 && event == json::parse_event_t::key &&
        !keys.insert(value.get<std::string>()).second) {
      detail::fail(path, offset, named(value.get<std::string>()) + " is listed twice");
    }
    return true;
  };
  return detail::parse_object(text, path, offset, check);
}

bool is_list_of_unsigned(json const& value) {
  return value.is_array() && std::ranges::all_of(value, [](json const& v) {
           return v.is_number_unsigned() &&
                  v.get<std::uint64_t>() <= std::numeric_limits<std::int64_t>::max();
         });
}

/// One entry of a header, checked against the `data` that follows it.
TensorView parse_tensor(std::string const& name, json const& entry, std::string const& path,
                        std::uint64_t header_end, std::span<std::byte const> data) {
  auto const fail = [&](std::string const& what, std::uint64_t offset = 8) {
    detail::fail(path, offset, named(name) + " " + what);
  };
  json const empty;
  auto const field = [&](char const* key) -> json const& {
    return entry.is_object() && entry.contains(key) ? entry[key] : empty;
  };
  TensorView tensor;
  tensor.name = name;
  tensor.path = path;

  json const& dtype = field("dtype");
  if (!dtype.is_string()) fail("has no dtype");
  tensor.dtype = dtype.get<std::string>();
  if (bits_of(tensor.dtype) == 0) fail("has the unknown dtype \"" + tensor.dtype + "\"");

  json const& shape = field("shape");
  if (!is_list_of_unsigned(shape)) {
    fail("must have a shape of non-negative integers, found " + shape.dump());
  }
  tensor.shape = shape.get<std::vector<std::int64_t>>();
  auto const size = detail::tensor_bytes(tensor.dtype, tensor.shape);
  if (!size) fail("has a size that overflows: " + tensor.dtype + " " + shape.dump());

  json const& offsets = field("data_offsets");
  if (!is_list_of_unsigned(offsets) || offsets.size() != 2) {
    fail("must have data_offsets of two non-negative integers, found " + offsets.dump());
  }
  auto const begin = offsets[0].get<std::uint64_t>();
  auto const end = offsets[1].get<std::uint64_t>();
  tensor.offset = header_end + begin;
  if (begin > end) fail("has data_offsets in the wrong order: " + offsets.dump(), tensor.offset);
  if (end > data.size()) {
    fail("has data_offsets " + offsets.dump() + " outside the " + std::to_string(data.size()) +
             " bytes of data in the file",
         tensor.offset);
  }
  if (end - begin != *size) {
    fail("of " + tensor.dtype + " " + shape.dump() + " must have " + std::to_string(*size) +
             " bytes, found data_offsets " + offsets.dump(),
         tensor.offset);
  }
  tensor.bytes = data.subspan(begin, end - begin);
  return tensor;
}

/// The tensors must cover the data exactly.
void check_coverage(std::vector<TensorView> const& tensors, std::string const& path,
                    std::uint64_t header_end, std::uint64_t file_size) {
  std::vector<TensorView const*> order;
  for (auto const& tensor : tensors) order.push_back(&tensor);
  auto const end_of = [](TensorView const* t) { return t->offset + t->bytes.size(); };
  std::ranges::sort(order, {}, [&](auto const* t) { return std::pair(t->offset, end_of(t)); });
  std::uint64_t end = header_end;
  std::string before = "the header";
  for (auto const* tensor : order) {
    if (tensor->offset < end) {
      detail::fail(path, tensor->offset, named(tensor->name) + " overlaps " + before);
    }
    if (tensor->offset > end) {
      detail::fail(path, end,
                   "no tensor covers the bytes between " + before + " and " + named(tensor->name));
    }
    end = end_of(tensor);
    before = named(tensor->name);
  }
  if (end != file_size) {
    detail::fail(path, end,
                 std::to_string(file_size - end) + " bytes follow the last tensor of the header");
  }
}

std::vector<TensorView> parse_file(detail::MappedFile const& file, std::string const& path) {
  auto const bytes = file.bytes();
  if (bytes.size() < 8) {
    detail::fail(path, 0,
                 "has " + std::to_string(bytes.size()) +
                     " bytes, a safetensors file begins with a header length of 8");
  }
  auto const length = detail::load<std::uint64_t>(bytes.data());
  if (length == 0 || length > bytes.size() - 8) {
    detail::fail(path, 0,
                 "header length " + std::to_string(length) + " must be in 1.." +
                     std::to_string(bytes.size() - 8) + ", the rest of the file");
  }
  std::uint64_t const header_end = 8 + length;
  json const header = parse(file.text(8, length), path, 8);
  std::vector<TensorView> tensors;
  for (auto const& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    tensors.push_back(parse_tensor(name, entry, path, header_end, bytes.subspan(header_end)));
  }
  check_coverage(tensors, path, header_end, bytes.size());
  return tensors;
}

struct MappedTensors {
  TensorStore::Tensors tensors;
  std::vector<std::unique_ptr<detail::MappedFile const>> files;

  /// Maps a file; its tensors are returned, not yet added.
  std::vector<TensorView> open(std::filesystem::path const& path) {
    files.push_back(std::make_unique<detail::MappedFile>(path));
    return parse_file(*files.back(), path.string());
  }
  void add(TensorView&& tensor) {
    std::string name = tensor.name;
    tensors.emplace(std::move(name), std::move(tensor));
  }
  void open_all(std::filesystem::path const& path) {
    for (auto& tensor : open(path)) add(std::move(tensor));
  }
  void open_index(std::filesystem::path const& path);
};

bool is_there(std::filesystem::path const& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

/// Shard names are file names in the index's directory, nothing else.
bool stays_in_directory(std::string const& shard) {
  return !shard.empty() && shard != "." && shard != ".." &&
         shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

void MappedTensors::open_index(std::filesystem::path const& path) {
  detail::MappedFile const file(path);
  json const index = parse(file.text(0, file.bytes().size()), path.string(), 0);
  auto const map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) {
    detail::fail(path.string(), 0, "has no object \"weight_map\"");
  }
  std::map<std::string, std::set<std::string, std::less<>>> names_of_shard;
  for (auto const& [name, shard] : map->items()) {
    if (!shard.is_string() || !stays_in_directory(shard.get<std::string>())) {
      detail::fail(path.string(), 0,
                   named(name) + " is mapped to " + shard.dump() +
                       ", which is not the name of a file in this directory");
    }
    names_of_shard[shard.get<std::string>()].insert(name);
  }
  std::string missing;
  for (auto const& [shard, names] : names_of_shard) {
    if (!is_there(path.parent_path() / shard)) missing += " " + shard;
  }
  if (!missing.empty()) throw IoError(path.string() + ": shards are missing:" + missing);
  for (auto& [shard, names] : names_of_shard) {
    for (auto& tensor : open(path.parent_path() / shard)) {
      if (names.erase(tensor.name) == 1) add(std::move(tensor));
    }
    if (!names.empty()) {
      throw IoError((path.parent_path() / shard).string() + ": has no " + named(*names.begin()) +
                    ", which " + path.filename().string() + " places in it");
    }
  }
}

/// Opens a directory as the transformers library would.
void open_directory(MappedTensors& mapped, std::filesystem::path const& path) {
  if (auto const file = path / "model.safetensors"; is_there(file)) {
    return mapped.open_all(file);
  }
  if (auto const index = path / "model.safetensors.index.json"; is_there(index)) {
    return mapped.open_index(index);
  }
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (auto const& entry : std::filesystem::directory_iterator(path, error)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  if (error) throw IoError(path.string() + ": can not be read: " + error.message());
  if (files.size() != 1) {
    throw IoError(path.string() + ": has neither model.safetensors nor " +
                  "model.safetensors.index.json, and " + std::to_string(files.size()) +
                  " other *.safetensors files where one would do");
  }
  mapped.open_all(files.front());
}

}  // namespace

std::string describe(TensorView const& tensor) {
  return named(tensor.name) + " in " + tensor.path + " at byte " + std::to_string(tensor.offset);
}

TensorStore::TensorStore(std::filesystem::path const& path) : path_(path.string()) {
  auto const mapped = std::make_shared<MappedTensors>();
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    open_directory(*mapped, path);
  } else {
    mapped->open_all(path);
  }
  tensors_ = std::shared_ptr<Tensors const>(mapped, &mapped->tensors);
}

TensorView const* TensorStore::find(std::string_view name) const {
  auto const found = tensors_->find(name);
  return found == tensors_->end() ? nullptr : &found->second;
}

TensorView const& TensorStore::at(std::string_view name) const {
  auto const* tensor = find(name);
  if (tensor == nullptr) throw IoError(path_ + ": has no " + named(name));
  return *tensor;
}

void write_safetensors(std::filesystem::path const& path, std::span<TensorView const> tensors) {
  for (auto const& tensor : tensors) {
    auto const size = detail::tensor_bytes(tensor.dtype, tensor.shape);
    if (!size || *size != tensor.bytes.size()) {
      throw InvalidArgument("kmoe::io::write_safetensors: bytes of " + named(tensor.name) +
                            " must match " + tensor.dtype + " " + detail::to_text(tensor.shape) +
                            ", found " + std::to_string(tensor.bytes.size()));
    }
  }
  std::string const header = detail::safetensors_header(tensors);
  detail::create_file(path, header, 0);
  detail::FileWriter file(path);
  std::uint64_t offset = header.size();
  for (auto const& tensor : tensors) {
    file.write(offset, tensor.bytes);
    offset += tensor.bytes.size();
  }
}

namespace detail {

std::optional<std::uint64_t> tensor_bytes(std::string_view dtype,
                                          std::span<std::int64_t const> shape) {
  std::optional<std::uint64_t> bits = bits_of(dtype);
  if (*bits == 0) return std::nullopt;
  // A zero extent makes any other one harmless, so it must not hide an overflow before it.
  if (std::ranges::find(shape, 0) != shape.end()) bits = 0;
  for (std::int64_t const extent : shape) {
    if (extent < 0) return std::nullopt;
    bits = product(*bits, static_cast<std::uint64_t>(extent));
    if (!bits) return std::nullopt;
  }
  if (*bits % 8 != 0) return std::nullopt;
  return *bits / 8;
}

std::string safetensors_header(std::span<TensorView const> tensors) {
  auto header = nlohmann::ordered_json::object();
  std::uint64_t begin = 0;
  for (auto const& tensor : tensors) {
    auto const size = tensor_bytes(tensor.dtype, tensor.shape);
    if (!size || header.contains(tensor.name)) {
      throw InvalidArgument("kmoe::io::write_safetensors: " + named(tensor.name) + " " +
                            (size ? "is listed twice" : "has an unknown dtype or shape"));
    }
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, begin + *size}}};
    begin += *size;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  auto const length = static_cast<std::uint64_t>(text.size());
  std::string prefix(sizeof(length), '\0');
  std::memcpy(prefix.data(), &length, sizeof(length));
  return prefix + text;
}

}  // namespace detail
}  // namespace kmoe::io
