// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Hugging Face checkpoints: config.json and safetensors -> the MoE blocks of a model.
///
/// What differs between model types is one table, src/io/model_table.cpp: which layers have
/// experts, the keys and defaults of config.json, the names and forms of the tensors and the
/// router's semantics, all as the transformers library has them.

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <kmoe/core/options.hpp>
#include <kmoe/core/weights.hpp>
#include <kmoe/io/safetensors.hpp>

namespace kmoe KMOE_API {
namespace io {

/// One MoE block of a model.
struct MoeBlock {
  int layer = 0;
  std::string module;             ///< module path as transformers names it: "model.layers.3.mlp"
  MoeConfig config;               ///< semantics of this block (dispatch options at their defaults)
  bool gated = true;              ///< experts have a gate; the form that workspace_bytes() needs
  QuantScheme quantization = {};  ///< of the routed experts' weights, as they lie
  QuantScheme shared_quantization = {};  ///< of the shared expert's
};

/// What becomes of quantized weights.
enum class Quantized : std::uint8_t {
  keep,    ///< they stay as they lie in the file
  decode,  ///< they become elements; activations are then not quantized either
};

class Checkpoint;
/// Described below.
template <ExecutionSpace E, Element T>
LayerWeights<E, T> load_weights(E const& exec, Checkpoint const& checkpoint, MoeBlock const& block,
                                std::span<index_t const> experts,
                                Quantized quantized = Quantized::keep);

/// A checkpoint directory. Copies share it.
class Checkpoint {
 public:
  /// Reads config.json and the headers of the safetensors files; maps, does not read, the weights.
  /// \throws IoError (path, and config key or tensor and byte offset); Unsupported naming the
  ///         model type (and the known ones), activation or quantization method
  explicit Checkpoint(std::filesystem::path const& directory);

  /// As in config.json; of a nested text_config if that is the one that names a known type.
  [[nodiscard]] std::string const& model_type() const;
  /// The blocks in ascending layer order.
  [[nodiscard]] std::vector<MoeBlock> const& blocks() const;
  /// The block of decoder layer `layer`. \throws InvalidArgument naming the MoE layers there are.
  [[nodiscard]] MoeBlock const& block(int layer) const;
  /// The block of a module path, or nullptr: whatever precedes "layers.N.", and the names that
  /// other versions of transformers use (mlp, block_sparse_moe, feed_forward), are accepted.
  [[nodiscard]] MoeBlock const* find_module(std::string_view module) const;
  [[nodiscard]] TensorStore const& tensors() const;
  /// Tensors with elements under the blocks' prefixes that no rule uses (reported, not an error).
  [[nodiscard]] std::vector<std::string> unused_tensors() const;

  /// Known model types in alphabetical order.
  static std::vector<std::string> model_types();

 private:
  struct Impl;
  std::shared_ptr<Impl const> impl_;

  friend class CheckpointQuantizer;
  template <ExecutionSpace E, Element T>
  friend LayerWeights<E, T> load_weights(E const& exec, Checkpoint const& checkpoint,
                                         MoeBlock const& block, std::span<index_t const> experts,
                                         Quantized quantized);
};

/// Weights of `block` for the experts with the given global ids, in that order, converted to T (all
/// of the router and of the shared expert). Only those experts' bytes are read from the files.
///
/// Each tensor is converted from its own type (F64, F32, BF16, F16), rounded to nearest even (F64
/// by way of float to the 16-bit types). Quantized weights are kept as they lie, unless `quantized`
/// says otherwise: DeepSeek's and Qwen's fp8 (blocks or tensors), mxfp8, compressed-tensors (fp8,
/// int8, int4 in groups with or without zero points, nvfp4, mxfp4), gpt-oss' mxfp4 blocks,
/// modelopt's nvfp4 and fp8, Quark's mxfp4, as quantization_config tells; modules that it leaves
/// out are found by the type of their weights.
/// Tensors stored as [in, out] are transposed; interleaved gate and up rows stay so and are tagged.
/// Several shared experts are one MLP.
/// Allocates the result (and staging of the same size on a device); fences `exec`.
/// Cost: the bytes of the experts' tensors once from disk, one conversion per element.
/// Tested: end to end against block outputs of the transformers library, for every model type.
/// \param experts ids in 0..E-1, repeated or in any order; may be empty
/// \throws InvalidArgument for ids outside 0..E-1; IoError naming all missing and wrongly shaped
///         tensors (ten, and how many more), or a NaN or infinite router weight or bias;
///         Unsupported for a tensor of another type; IoError for scales that are not finite, are
///         negative, or do not fit their weights
template <ExecutionSpace E, Element T>
LayerWeights<E, T> load_weights(E const& exec, Checkpoint const& checkpoint, MoeBlock const& block,
                                std::span<index_t const> experts, Quantized quantized);

}  // namespace io
}  // namespace KMOE_API
