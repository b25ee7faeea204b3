// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <kmoe/io/npy.hpp>

#include <array>
#include <charconv>
#include <utility>
#include <vector>

#include <kmoe/core/error.hpp>
#include <kmoe/core/options.hpp>

#include "io/convert.hpp"
#include "io/mapped_file.hpp"
#include "io/safetensors_header.hpp"

namespace kmoe::io {
namespace {

/// One element type under its names in the two formats; .npy has no bfloat16.
struct TypeName {
  DataType type;
  std::size_t size;
  std::string_view safetensors;
  std::string_view npy;
};
constexpr std::array<TypeName, 4> type_names{{{DataType::f64, 8, "F64", "<f8"},
                                              {DataType::f32, 4, "F32", "<f4"},
                                              {DataType::bf16, 2, "BF16", {}},
                                              {DataType::f16, 2, "F16", "<f2"}}};

TypeName const& name_of(DataType type) {
  for (TypeName const& name : type_names) {
    if (name.type == type) return name;
  }
  throw InvalidArgument("kmoe::io: unknown DataType");
}

constexpr std::string_view npy_magic("\x93NUMPY", 6);

enum class Format : std::uint8_t { npy, safetensors };

Format format_of(std::filesystem::path const& path) {
  auto const extension = path.extension();
  if (extension == ".npy") return Format::npy;
  if (extension == ".safetensors") return Format::safetensors;
  throw Unsupported("kmoe::io: " + path.string() +
                    ": the extension must be .npy or .safetensors, found \"" + extension.string() +
                    "\"");
}

/// The header of a .npy file: a Python dictionary of exactly three entries.
class NpyHeader {
 public:
  NpyHeader(std::string path, std::string_view text, std::size_t offset)
      : path_(std::move(path)), text_(text), offset_(offset) {
    expect('{');
    while (!accept('}')) {
      std::string_view const key = string();
      expect(':');
      if (key == "descr") {
        descr = peek() == '[' ? std::string_view("a structured type") : string();
        if (peek() == '[') return;
      } else if (key == "fortran_order") {
        fortran_order = word() == "True";
      } else if (key == "shape") {
        tuple();
      } else {
        fail("has the unknown key \"" + std::string(key) + "\"");
      }
      if (!accept(',') && peek() != '}') fail("is not a dictionary");
    }
  }

  std::string_view descr;
  bool fortran_order = false;
  std::vector<std::int64_t> shape;

 private:
  [[noreturn]] void fail(std::string const& what) const {
    detail::fail(path_, offset_ + at_, "the .npy header " + what);
  }
  char peek() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool accept(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail(std::string("lacks a '") + c + "'");
  }
  std::string_view string() {
    char const quote = peek();
    if (quote != '\'' && quote != '"') fail("lacks a quoted string");
    std::size_t const begin = ++at_;
    at_ = text_.find(quote, begin);
    if (at_ == std::string_view::npos) {
      at_ = begin;
      fail("has a string that does not end");
    }
    return text_.substr(begin, at_++ - begin);
  }
  std::string_view word() {
    peek();
    std::size_t const begin = at_;
    while (at_ < text_.size() && text_[at_] >= 'A' && text_[at_] <= 'z') ++at_;
    return text_.substr(begin, at_ - begin);
  }
  void tuple() {
    expect('(');
    while (!accept(')')) {
      peek();
      std::int64_t extent = -1;
      auto const [end, error] =
          std::from_chars(text_.data() + at_, text_.data() + text_.size(), extent);
      if (error != std::errc() || extent < 0) fail("has a shape that is no tuple of sizes");
      at_ = static_cast<std::size_t>(end - text_.data());
      shape.push_back(extent);
      if (!accept(',') && peek() != ')') fail("has a shape that is no tuple of sizes");
    }
  }

  std::string path_;
  std::string_view text_;
  std::size_t offset_;
  std::size_t at_ = 0;
};

/// Sets rows and columns: leading dimensions are flattened.
void set_shape(MatrixFile& file, std::vector<std::int64_t> const& shape, std::uint64_t offset) {
  if (shape.size() < 2) {
    detail::fail(file.name, offset,
                 "must have at least 2 dimensions, found shape " + detail::to_text(shape));
  }
  file.cols = shape.back();
  std::uint64_t rows = 1;
  for (std::size_t d = 0; d + 1 < shape.size(); ++d) {
    auto const next = detail::product(rows, static_cast<std::uint64_t>(shape[d]));
    if (!next || *next > std::numeric_limits<std::int64_t>::max()) {
      detail::fail(file.name, offset, "has too many rows: shape " + detail::to_text(shape));
    }
    rows = *next;
  }
  file.rows = static_cast<offset_t>(rows);
}

MatrixFile open_npy(std::filesystem::path const& path) {
  auto mapped = std::make_shared<detail::MappedFile const>(path);
  MatrixFile file;
  file.name = path.string();
  file.owner = mapped;
  auto const bytes = mapped->bytes();
  std::size_t const size = bytes.size();
  if (size < 10 || mapped->text(0, 6) != npy_magic) {
    detail::fail(file.name, 0, "is not a .npy file: its first bytes are not \\x93NUMPY");
  }
  unsigned const version = std::to_integer<unsigned>(bytes[6]);
  if (version < 1 || version > 3) {
    throw Unsupported(file.name + ": .npy format version must be 1, 2 or 3, found " +
                      std::to_string(version));
  }
  std::size_t const begin = version == 1 ? 10 : 12;
  if (size < begin) detail::fail(file.name, 8, "is truncated in the .npy header");
  std::size_t const length = version == 1 ? detail::load<std::uint16_t>(&bytes[8])
                                          : detail::load<std::uint32_t>(&bytes[8]);
  if (length > size - begin) {
    detail::fail(file.name, 8,
                 "is truncated: a .npy header of " + std::to_string(length) +
                     " bytes, but the file has " + std::to_string(size));
  }
  NpyHeader const header(file.name, mapped->text(begin, length), begin);
  if (header.fortran_order) {
    throw Unsupported(file.name + ": is in Fortran order; save it with numpy.ascontiguousarray");
  }
  TypeName const* type = nullptr;
  for (TypeName const& t : type_names) {
    if (!t.npy.empty() && t.npy == header.descr) type = &t;
  }
  if (type == nullptr) {
    throw Unsupported(file.name + ": element type must be <f2, <f4 or <f8, found \"" +
                      std::string(header.descr) + "\"");
  }
  file.dtype = type->type;
  std::size_t const offset = begin + length;
  auto const needed = detail::tensor_bytes(type->safetensors, header.shape);
  if (!needed || *needed != size - offset) {
    detail::fail(
        file.name, offset,
        std::string(needed && *needed < size - offset ? "has extra bytes" : "is truncated") +
            ": shape " + detail::to_text(header.shape) + " of " + std::string(header.descr) +
            " needs " + (needed ? std::to_string(*needed) : "more than 2^64") + " bytes, found " +
            std::to_string(size - offset));
  }
  set_shape(file, header.shape, begin);
  file.bytes = bytes.subspan(offset);
  return file;
}

std::string npy_header(std::string_view descr, offset_t rows, offset_t cols) {
  std::string text = "{'descr': '" + std::string(descr) + "', 'fortran_order': False, 'shape': (" +
                     std::to_string(rows) + ", " + std::to_string(cols) + "), }";
  std::size_t const padded = (10 + text.size() + 1 + 63) / 64 * 64;  // the data is aligned
  text.resize(padded - 10 - 1, ' ');
  text += '\n';
  auto const length = static_cast<std::uint16_t>(text.size());
  std::string header(npy_magic);
  header += {'\x01', '\x00', static_cast<char>(length & 0xffU), static_cast<char>(length >> 8)};
  return header + text;
}

/// Checks that a matrix can hold rows first_row.. of a file of rows x cols.
template <class V>
void check_rows(std::string_view function, V const& matrix, offset_t first_row, offset_t rows,
                offset_t cols, std::string const& file) {
  auto const count = static_cast<offset_t>(matrix.extent(0));
  kmoe::detail::expect_extent(function, "columns of the matrix must equal those of " + file + ",",
                              cols, static_cast<offset_t>(matrix.extent(1)), matrix.label());
  if (!matrix.span_is_contiguous()) {  // a subview of columns is LayoutRight, too
    kmoe::detail::throw_invalid(function, "rows of the matrix must be contiguous",
                                "a stride of " + std::to_string(matrix.stride(0)), matrix.label());
  }
  kmoe::detail::expect(first_row >= 0 && count <= rows && first_row <= rows - count, function,
                       "first_row must leave " + std::to_string(count) + " of the " +
                           std::to_string(rows) + " rows of " + file,
                       first_row);
}

}  // namespace

std::optional<DataType> data_type_from_safetensors(std::string_view dtype) {
  for (TypeName const& name : type_names) {
    if (name.safetensors == dtype) return name.type;
  }
  return std::nullopt;
}
std::string_view to_safetensors(DataType type) {
  return name_of(type).safetensors;
}
std::size_t size_of(DataType type) {
  return name_of(type).size;
}

MatrixFile open_matrix(TensorStore const& store, std::string_view name) {
  if (name.empty()) {
    if (store.tensors().size() != 1) {
      throw IoError(store.path() + ": has " + std::to_string(store.tensors().size()) +
                    " tensors: name the one that is meant");
    }
    name = store.tensors().begin()->first;
  }
  TensorView const& tensor = store.at(name);
  auto const type = data_type_from_safetensors(tensor.dtype);
  if (!type) {
    throw Unsupported(describe(tensor) + ": dtype must be F64, F32, BF16 or F16, found " +
                      tensor.dtype);
  }
  MatrixFile file{.dtype = *type,
                  .bytes = tensor.bytes,
                  .name = describe(tensor),
                  .owner = std::make_shared<TensorStore const>(store)};
  set_shape(file, tensor.shape, tensor.offset);
  return file;
}

MatrixFile open_matrix(std::filesystem::path const& path, std::string_view name) {
  return format_of(path) == Format::npy ? open_npy(path) : open_matrix(TensorStore(path), name);
}

template <Element T>
void read_rows(MatrixFile const& file, offset_t first_row, HostMatrix<T> const& out) {
  check_rows("kmoe::io::read_rows", out, first_row, file.rows, file.cols, file.name);
  auto const stride = file.cols * static_cast<offset_t>(size_of(file.dtype));
  detail::convert<T>({},
                     {{.data = file.bytes.data() + first_row * stride,
                       .dtype = file.dtype,
                       .rows = static_cast<offset_t>(out.extent(0)),
                       .cols = file.cols}},
                     out.data());
}

template <Element T>
HostMatrix<T> read_matrix(std::filesystem::path const& path, std::string_view name) {
  MatrixFile const file = open_matrix(path, name);
  HostMatrix<T> matrix(Kokkos::view_alloc(path.filename().string(), Kokkos::WithoutInitializing),
                       static_cast<std::size_t>(file.rows), static_cast<std::size_t>(file.cols));
  read_rows<T>(file, 0, matrix);
  return matrix;
}

MatrixOutput create_matrix(std::filesystem::path const& path, DataType dtype, offset_t rows,
                           offset_t cols, std::string_view name) {
  MatrixOutput file{.path = path, .dtype = dtype, .rows = rows, .cols = cols};
  std::string header;
  if (format_of(path) == Format::npy) {
    if (dtype == DataType::bf16) file.dtype = DataType::f32;
    header = npy_header(name_of(file.dtype).npy, rows, cols);
  } else {
    TensorView tensor;
    tensor.name = name;
    tensor.dtype = to_safetensors(dtype);
    tensor.shape = {rows, cols};
    header = detail::safetensors_header({&tensor, 1});
  }
  file.data_offset = header.size();
  auto const size = detail::tensor_bytes(to_safetensors(file.dtype), std::array{rows, cols});
  if (!size) throw InvalidArgument("kmoe::io::create_matrix: rows * cols overflows");
  detail::create_file(path, header, *size);
  return file;
}

template <Element T>
void write_rows(MatrixOutput const& file, offset_t first_row, HostMatrix<T const> const& in) {
  check_rows("kmoe::io::write_rows", in, first_row, file.rows, file.cols, file.path.string());
  auto const write = [&](auto const* data) {
    std::size_t const size = sizeof(*data);
    auto const row = static_cast<std::uint64_t>(file.cols) * size;
    detail::FileWriter(file.path).write(
        file.data_offset + static_cast<std::uint64_t>(first_row) * row,
        std::as_bytes(std::span(data, in.size())));
  };
  if (file.dtype == data_type_of<T>) return write(in.data());
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (file.dtype == DataType::f32) {
      std::vector<float> widened(in.size());
      detail::convert<float>({},
                             {{.data = reinterpret_cast<std::byte const*>(in.data()),
                               .dtype = DataType::bf16,
                               .rows = static_cast<offset_t>(in.extent(0)),
                               .cols = file.cols}},
                             widened.data());
      return write(static_cast<float const*>(widened.data()));
    }
  }
  throw InvalidArgument("kmoe::io::write_rows: " + file.path.string() + " has elements of type " +
                        std::string(kmoe::to_string(file.dtype)) + ", found " +
                        std::string(kmoe::to_string(data_type_of<T>)));
}

template <Element T>
void write_matrix(std::filesystem::path const& path, HostMatrix<T> const& in,
                  std::string_view name) {
  write_rows<T>(create_matrix(path, data_type_of<T>, static_cast<offset_t>(in.extent(0)),
                              static_cast<offset_t>(in.extent(1)), name),
                0, in);
}

#define KMOE_INSTANTIATE(T)                                                                        \
  template KMOE_API void read_rows<T>(MatrixFile const&, offset_t, HostMatrix<T> const&);          \
  template KMOE_API HostMatrix<T> read_matrix<T>(std::filesystem::path const&, std::string_view);  \
  template KMOE_API void write_rows<T>(MatrixOutput const&, offset_t, HostMatrix<T const> const&); \
  template KMOE_API void write_matrix<T>(std::filesystem::path const&, HostMatrix<T> const&,       \
                                         std::string_view);
KMOE_INSTANTIATE(double)
KMOE_INSTANTIATE(float)
KMOE_INSTANTIATE(bfloat16)
KMOE_INSTANTIATE(half)
#undef KMOE_INSTANTIATE

}  // namespace kmoe::io
