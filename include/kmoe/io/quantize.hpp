// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Writing a checkpoint whose experts are quantized.

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <kmoe/core/quantization.hpp>
#include <kmoe/io/checkpoint.hpp>

namespace kmoe KMOE_API {
namespace io {

/// What quantization did to one weight matrix.
struct TensorError {
  std::string name;           ///< of the linear layer, "...experts.3.up_proj"
  double relative_error = 0;  ///< ||w - decoded|| / ||w||
  double largest_error = 0;   ///< largest |w - decoded|
  double largest = 0;         ///< largest |w|
};

/// From a checkpoint with dense weights to one in which the routed experts of its MoE blocks are
/// quantized, in the tensors and the quantization_config that other readers of the format know
/// (DeepSeek's fp8 and mxfp8, modelopt's nvfp4_a4, Quark's mxfp4, else compressed-tensors). Llama
/// 4's experts, which lie in one tensor, become one linear layer each, and those of gpt-oss its own
/// mxfp4 blocks. All other tensors are copied. The files are the same for any division of the
/// shards.
///
/// Shards can be written by different processes at the same time; one of them writes the rest.
class CheckpointQuantizer {
 public:
  /// Plans the files; reads no weights. Creates `out` if it is missing.
  /// \param shard_bytes about the size of a file
  /// \throws Unsupported for a checkpoint that is quantized, a model type whose checkpoints have no
  ///         quantized form that is read here (granitemoe; gpt_oss but mxfp4), or a format that
  ///         checkpoints do not have; InvalidArgument if `out` is the checkpoint's own directory
  CheckpointQuantizer(Checkpoint const& checkpoint, std::filesystem::path const& directory,
                      QuantScheme const& scheme, std::filesystem::path const& out,
                      std::size_t shard_bytes = std::size_t{4} << 30);

  [[nodiscard]] index_t num_shards() const;
  /// Quantizes and writes one file; the errors of its matrices, in its order. Holds one shard's
  /// quantized tensors in memory.
  std::vector<TensorError> write_shard(index_t shard) const;
  /// config.json, the index, and the files beside them that are no weights (tokenizers and so on).
  void write_rest() const;

 private:
  struct Impl;
  std::shared_ptr<Impl const> impl_;
};

}  // namespace io
}  // namespace KMOE_API
