// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The enums and option structs of a layer. Plain data, no Views: a checkpoint reader fills them,
/// ranks compare them, a report prints them. Every enum has to_string and from_string.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include <kmoe/core/element.hpp>
#include <kmoe/core/types.hpp>

namespace kmoe KMOE_API {

/// How logits become scores, and in which order relative to the top-k selection.
enum class Scoring : std::uint8_t {
  softmax,       ///< softmax over all experts, then select (Qwen, OLMoE, DeepSeek-V2)
  sigmoid,       ///< sigmoid of each logit, then select (DeepSeek-V3, MiniMax-M2)
  topk_softmax,  ///< select by logit, then softmax over the K selected (Mixtral, gpt-oss)
  topk_sigmoid,  ///< select by logit, then sigmoid of each selected (Llama 4)
  sparse_mixer,  ///< Phi-3.5-MoE, inference form: K <= 2, each weight from its own masked softmax
};

/// How a group of experts is scored when groups compete (num_groups > 1).
enum class GroupScore : std::uint8_t {
  max,       ///< the best expert of the group (DeepSeek-V2 group_limited_greedy)
  top2_sum,  ///< the sum of the two best biased scores (DeepSeek-V3)
};

/// Router semantics, applied to each token's row of logits in this order:
///  1. score s_e of each expert, by `scoring` (topk_softmax, topk_sigmoid: the logit itself);
///  2. selection score c_e = s_e + correction_bias_e, where there is a bias;
///  3. the topk_groups best groups survive, by `group_score` over c; c_e of experts elsewhere
///  becomes
///     masked_score (nothing happens if topk_groups = num_groups);
///  4. the K experts with the largest c, ties to the smaller id;
///  5. weight w_k = the score of the selected without bias (topk_softmax: softmax over the K
///  logits,
///     topk_sigmoid: sigmoid of each logit);
///  6. renormalize: w_k /= max(sum of w + renormalize_epsilon, renormalize_min_sum);
///  7. w_k *= routed_scaling_factor, whether renormalized or not.
struct RouterOptions {
  Scoring scoring = Scoring::softmax;
  GroupScore group_score = GroupScore::max;
  index_t num_groups = 1;   ///< experts are split into this many equal, contiguous groups
  index_t topk_groups = 1;  ///< groups that survive
  /// Selection score of experts outside the surviving groups: 0 for DeepSeek-V2, -infinity for V3.
  float masked_score = 0.0F;
  /// An expert outside the surviving groups that is selected all the same (K exceeds what survives,
  /// or masked_score beats a survivor) weighs 0: true for DeepSeek-V2, which masks the scores
  /// themselves. Otherwise it weighs its own score (V3).
  bool zero_masked_weights = false;
  /// Divide the K weights by their sum.
  bool renormalize = false;
  /// Added to that sum: 1e-20 for DeepSeek-V3, GLM-4, dots1 and AFMoE, 1e-6 for LFM2, else 0.
  float renormalize_epsilon = 0.0F;
  /// Smallest divisor: 1e-12 (moe_norm_min) for ERNIE 4.5, else 0. A divisor of 0 gives 1/K each.
  float renormalize_min_sum = 0.0F;
  /// Multiplies the weights. The router is the only owner of this factor: experts, dispatchers and
  /// the layer never apply it.
  float routed_scaling_factor = 1.0F;
  /// Sparse mixer only: experts whose logit is further than 2 * jitter_epsilon (relative) below the
  /// best are masked before its softmax.
  float jitter_epsilon = 0.01F;
  /// Shared experts that travel as extra slots: columns K .. K+S-1 get the ids E .. E+S-1 with
  /// weight 1, untouched by renormalization and by routed_scaling_factor.
  index_t num_fused_shared_experts = 0;

  bool operator==(RouterOptions const&) const = default;
};

/// Activation between the two GEMMs. Gated experts compute act(gate) * up, plain ones act(up).
enum class Activation : std::uint8_t {
  silu,        ///< x * sigmoid(x); gated: SwiGLU
  gelu_erf,    ///< x * Phi(x), exact; gated: GeGLU
  gelu_tanh,   ///< the tanh approximation of GELU
  relu,        ///< max(x, 0)
  relu2,       ///< max(x, 0)^2
  swiglu_oai,  ///< gpt-oss, gated only: g = min(gate, limit), u = clamp(up, -limit, limit),
               ///< g * sigmoid(alpha * g) * (u + 1)
};

/// Where gate and up rows lie in gate_up (w13): a property of the stored weights.
enum class GateUpLayout : std::uint8_t {
  gate_first,   ///< rows 0..I-1 gate, I..2I-1 up (Hugging Face, SGLang w13)
  up_first,     ///< rows 0..I-1 up, I..2I-1 gate (w31)
  interleaved,  ///< even rows gate, odd rows up (gpt-oss)
  plain,        ///< not gated: I rows, up only
};

/// Expert semantics.
struct ExpertOptions {
  Activation activation = Activation::silu;
  float swiglu_alpha = 1.702F;  ///< swiglu_oai only
  float swiglu_limit = 7.0F;    ///< swiglu_oai only
  /// Multiply the expert's input by the router weight (rounded to the element type) instead of its
  /// output (Llama 4). With biases the two differ; this follows the input side.
  bool router_weight_on_input = false;

  bool operator==(ExpertOptions const&) const = default;
};

/// Which dispatcher carries the tokens.
enum class DispatcherKind : std::uint8_t {
  standard,    ///< every rank sees every token, computes its own experts, results are reduced
  all_to_all,  ///< a token crosses once to each rank that hosts one of its experts
};

/// What the ids inside a dispatched payload mean.
enum class IdSpace : std::uint8_t {
  local,   ///< local slots 0..El-1, -1 elsewhere
  masked,  ///< global ids with a 0/1 expert mask; the local slot is the mask's prefix sum
};

/// How tokens travel to their experts. All but `element` round them (quantize_row.hpp), wherever
/// their experts are, so that the result still does not depend on ranks, placement or dispatcher.
enum class PayloadCode : std::uint8_t {
  element,  ///< as they are
  fp8,      ///< e4m3 with a float scale per 128 elements: 1.03 bytes per element
  mxfp4,    ///< e2m1 with e8m0 per 32: 0.53 bytes
  nvfp4,    ///< e2m1 with e4m3 per 16 and a float per token: 0.56 bytes
};

/// How the experts' rows travel home.
enum class CombineCode : std::uint8_t {
  element,  ///< as they are
  bf16,     ///< rows of float and double are rounded to bfloat16, those of their own rank too;
            ///< 16-bit elements stay as they are
};

/// Who holds which tokens when forward() is called.
enum class TokenLayout : std::uint8_t {
  replicated,     ///< every rank passes the same x and receives the same y (standard only)
  data_parallel,  ///< every rank passes its own, possibly empty, tokens
};

/// Everything that all ranks of a layer must agree on, apart from the placement.
struct MoeConfig {
  index_t hidden_size = 0;        ///< H
  index_t intermediate_size = 0;  ///< I of one routed expert
  index_t num_experts = 0;        ///< E, routed experts with weights
  /// Identity experts (LongCat): ids E .. E+Z-1 have router columns but no weights; such a slot
  /// contributes router weight * x. Not combinable with fused shared experts.
  index_t num_zero_experts = 0;
  /// Experts without weights that a function of the program computes, see
  /// MoeLayer::set_user_experts: the last U of the E experts, ids E-U .. E-1, placed on ranks like
  /// the others. Not combinable with fused shared experts.
  index_t num_user_experts = 0;
  index_t top_k = 0;  ///< K, without fused shared experts
  RouterOptions router;
  ExpertOptions experts;
  /// Shared expert next to the routed ones: one dense MLP on every token. 0 = none.
  index_t shared_intermediate_size = 0;
  /// Multiply the shared expert by sigmoid(x . g) (Qwen2-MoE, Qwen3-Next).
  bool shared_expert_gate = false;

  DispatcherKind dispatcher = DispatcherKind::standard;
  IdSpace id_space = IdSpace::local;
  TokenLayout token_layout = TokenLayout::data_parallel;
  PayloadCode dispatch_payload = PayloadCode::element;
  CombineCode combine_payload = CombineCode::element;
  /// Return the unweighted outputs of the K slots of each token, y [T * K, H], without adding them.
  bool no_combine = false;
  /// forward() works through the tokens in chunks so that its workspace stays under this many
  /// bytes per rank. The chunk does not change a bit of the result. At least one token per rank is
  /// always in flight, however small the limit.
  std::size_t workspace_limit_bytes = std::size_t{1} << 30;

  bool operator==(MoeConfig const&) const = default;

  /// Columns of topk_ids: K routed plus the fused shared experts.
  [[nodiscard]] index_t slots_per_token() const { return top_k + router.num_fused_shared_experts; }
  /// Columns of the router logits: experts with weights plus zero experts.
  [[nodiscard]] index_t num_router_columns() const { return num_experts + num_zero_experts; }
  /// Experts whose weights the layer holds: ids 0 .. E-U-1.
  [[nodiscard]] index_t num_mlp_experts() const { return num_experts - num_user_experts; }
  /// Ids that live on ranks: routed plus fused shared experts.
  [[nodiscard]] index_t num_placed_experts() const {
    return num_experts + router.num_fused_shared_experts;
  }
};

/// Checks ranges and combinations.
/// \throws InvalidArgument naming the first rule that is broken.
void validate(MoeConfig const& config);

/// One line per field, "name=value", in a fixed order: for logs, reports and for comparing ranks.
std::string to_string(MoeConfig const& config);

std::string_view to_string(Scoring value);
std::string_view to_string(GroupScore value);
std::string_view to_string(Activation value);
std::string_view to_string(GateUpLayout value);
std::string_view to_string(DispatcherKind value);
std::string_view to_string(IdSpace value);
std::string_view to_string(TokenLayout value);
std::string_view to_string(PayloadCode value);
std::string_view to_string(CombineCode value);
std::string_view to_string(DataType value);

/// Inverse of to_string: the enumerator of that name, or nothing. Defined for the enums above.
template <class Enum>
std::optional<Enum> from_string(std::string_view name);

}  // namespace KMOE_API
