// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Matrices in files: NumPy's .npy (format 1, 2 and 3) and .safetensors, chosen by the extension.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <kmoe/core/types.hpp>
#include <kmoe/io/safetensors.hpp>

namespace kmoe KMOE_API {
namespace io {

/// A row-major matrix on the host: tokens as rows.
template <class T>
using HostMatrix = Matrix<T, Kokkos::DefaultHostExecutionSpace>;

/// A row-major matrix in a mapped file; the data stays on disk until rows of it are read.
struct MatrixFile {
  DataType dtype = DataType::f32;     ///< of the elements in the file
  offset_t rows = 0;                  ///< product of all dimensions but the last
  offset_t cols = 0;                  ///< the last dimension
  std::span<std::byte const> bytes;   ///< row-major data
  std::string name;                   ///< for messages: path, and tensor if there is one
  std::shared_ptr<void const> owner;  ///< keeps the mapping
};

/// The element type that a safetensors dtype names (F64, F32, BF16, F16), or nothing.
std::optional<DataType> data_type_from_safetensors(std::string_view dtype);
/// Its inverse.
std::string_view to_safetensors(DataType type);
/// Bytes of one element.
std::size_t size_of(DataType type);

/// Maps the matrix of a file; reads its header only.
/// \param path .npy (little-endian f2, f4, f8 in C order) or .safetensors (F16, BF16, F32, F64)
/// \param name tensor in a .safetensors file; may be empty if the file has only one
/// \throws IoError naming path, tensor and byte offset if the file is damaged, has no such tensor
/// or
///         fewer than two dimensions; Unsupported for other extensions, element types, byte orders
///         and Fortran order
MatrixFile open_matrix(std::filesystem::path const& path, std::string_view name = {});
/// The same for a tensor of an open store.
MatrixFile open_matrix(TensorStore const& store, std::string_view name);

/// Reads out.extent(0) rows from `first_row` on and converts them to T (to nearest even).
/// Only those rows' bytes are read. Cost: rows * cols conversions on the host.
/// \throws InvalidArgument if the rows are outside the file, out.extent(1) is not file.cols or
///         out's rows are not contiguous
template <Element T>
void read_rows(MatrixFile const& file, offset_t first_row, HostMatrix<T> const& out);

/// The whole matrix as T. Allocates. \throws as open_matrix
template <Element T>
HostMatrix<T> read_matrix(std::filesystem::path const& path, std::string_view name = {});

/// Where the rows of a matrix that create_matrix() began are to be written.
struct MatrixOutput {
  std::filesystem::path path;
  DataType dtype = DataType::f32;  ///< of the elements in the file
  offset_t rows = 0;
  offset_t cols = 0;
  std::uint64_t data_offset = 0;  ///< of row 0
};

/// Creates a file of the full size with zeros as rows, which write_rows() then fills: from one
/// process or from several that see the same file. A .npy file holds bf16 as f32, which is exact;
/// .npy has no bfloat16.
/// \param name tensor in a .safetensors file
/// \throws Unsupported for other extensions, IoError naming the path
MatrixOutput create_matrix(std::filesystem::path const& path, DataType dtype, offset_t rows,
                           offset_t cols, std::string_view name = "y");
/// Writes in's rows as rows first_row.. of the file. Thread- and process-safe for disjoint rows.
/// \throws InvalidArgument if rows, columns or T do not fit the file or in's rows are not
///         contiguous; IoError naming the path
template <Element T>
void write_rows(MatrixOutput const& file, offset_t first_row, HostMatrix<T const> const& in);
/// create_matrix and write_rows in one.
template <Element T>
void write_matrix(std::filesystem::path const& path, HostMatrix<T> const& in,
                  std::string_view name = "y");

}  // namespace io
}  // namespace KMOE_API
