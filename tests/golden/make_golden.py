#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Makes the golden data of this folder with the transformers library (5.17.0 and torch 2.13, on the
CPU).

    make_golden.py [NAME ...]       (default: all; see GOLDENS)

For each name a tiny random model is built with the library's own configuration and CausalLM
classes, saved with
save_pretrained (BF16 unless said otherwise, in the layout that checkpoints on the hub have unless
`fused`), loaded
again in float32, and each of its MoE blocks is run on random tokens:

    NAME/config.json, NAME/model.safetensors (or shards and an index)
    NAME/golden.safetensors     `<module>.input` and `<module>.output`, F32 [T, H], by the names of
    named_modules()

Tokens whose experts are not clear (a margin below 1e-4, or others in BF16) are drawn again.
mixtral, qwen3_moe,
deepseek_v3 and gpt_oss (MXFP4) were not made here: they came with the project.  check_golden.py
checks everything
without the library.
"""

import copy
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from check_golden import Model

HERE = Path(__file__).resolve().parent
TOKENS, MARGIN = 19, 1e-4

# ------------------------------------------------------------------------------------- sizes of the
# models
COMMON = {
    "vocab_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
EXPERTS = {"intermediate_size": 16, "moe_intermediate_size": 24, "num_experts_per_tok": 3}
MLA = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 4,
}
LINEAR_ATTENTION = {
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}
MAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4}

# Model type: the CausalLM class, and the settings of all its goldens.
MODELS = {
    "mixtral": ("MixtralForCausalLM", {"intermediate_size": 24, "num_local_experts": 8}),
    "phimoe": ("PhimoeForCausalLM", {"intermediate_size": 24, "num_local_experts": 8}),
    "minimax_m2": (
        "MiniMaxM2ForCausalLM",
        {
            "intermediate_size": 20,
            "num_local_experts": 12,
            "num_experts_per_tok": 3,
            "head_dim": 8,
            "num_hidden_layers": 1,
        },
    ),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        {**EXPERTS, "shared_expert_intermediate_size": 20, "num_experts": 8},
    ),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**EXPERTS, "num_experts": 8, "head_dim": 8}),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        {
            **EXPERTS,
            **LINEAR_ATTENTION,
            "shared_expert_intermediate_size": 20,
            "num_experts": 8,
            "head_dim": 8,
        },
    ),
    "olmoe": (
        "OlmoeForCausalLM",
        {"intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 3},
    ),
    "deepseek_v2": (
        "DeepseekV2ForCausalLM",
        {**EXPERTS, **MLA, "n_routed_experts": 12, "first_k_dense_replace": 1},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {**EXPERTS, **MLA, "n_routed_experts": 12, "first_k_dense_replace": 1},
    ),
    "glm4_moe": ("Glm4MoeForCausalLM", {**EXPERTS, "n_routed_experts": 12, "head_dim": 8}),
    "dots1": (
        "Dots1ForCausalLM",
        {
            **EXPERTS,
            "n_routed_experts": 12,
            "n_shared_experts": 2,
            "head_dim": 8,
            "first_k_dense_replace": 1,
        },
    ),
    "ernie4_5_moe": (
        "Ernie4_5_MoeForCausalLM",
        {"intermediate_size": 16, "moe_intermediate_size": 24, "moe_num_experts": 12, "moe_k": 3},
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        {"intermediate_size": 20, "num_local_experts": 8, "num_experts_per_tok": 3, "head_dim": 8},
    ),
    "llama4_text": (
        "Llama4ForCausalLM",
        {
            "intermediate_size": 24,
            "intermediate_size_mlp": 16,
            "num_local_experts": 8,
            "head_dim": 8,
        },
    ),
    "granitemoe": (
        "GraniteMoeForCausalLM",
        {"intermediate_size": 24, "num_local_experts": 8, "num_experts_per_tok": 3},
    ),
    "hunyuan_v1_moe": (
        "HunYuanMoEV1ForCausalLM",
        {"intermediate_size": 20, "num_experts": 8, "moe_topk": 3, "head_dim": 8},
    ),
    "jamba": (
        "JambaForCausalLM",
        {**MAMBA, "intermediate_size": 24, "num_experts": 12, "num_experts_per_tok": 3},
    ),
    "lfm2_moe": (
        "Lfm2MoeForCausalLM",
        {
            **EXPERTS,
            "num_dense_layers": 1,
            "num_experts": 12,
            "layer_types": ["conv", "full_attention"],
        },
    ),
    "afmoe": ("AfmoeForCausalLM", {**EXPERTS, "num_experts": 12, "head_dim": 8}),
    "longcat_flash": (
        "LongcatFlashForCausalLM",
        {
            **MLA,
            "num_layers": 1,
            "ffn_hidden_size": 8,
            "head_dim": 4,
            "expert_ffn_hidden_size": 24,
            "n_routed_experts": 8,
            "zero_expert_num": 5,
            "moe_topk": 4,
        },
    ),
}


@dataclass(frozen=True)
class Golden:
    type: str
    config: dict = field(default_factory=dict)  # on top of the settings of the type
    dtype: torch.dtype = torch.bfloat16
    f32_bias: bool = False  # keep the correction bias in F32, as most checkpoints on the hub do
    fused: bool = False  # save the fused experts as the library holds them in memory
    minimal: bool = (
        False  # leave the keys out of config.json that have the default of the configuration class
    )
    renamed: dict = field(
        default_factory=dict
    )  # keys of config.json that a hub checkpoint names otherwise, or None
    saved_type: str = ""  # another model_type that stands for the same code
    shard: str = "1GB"
    expert_std: float = 0.2
    router_std: float = 0.5


GOLDENS = {
    "mixtral_variant": Golden(
        "mixtral",
        {
            "num_local_experts": 7,
            "num_experts_per_tok": 3,
            "hidden_act": "gelu",
            "router_jitter_noise": 0.1,
        },
        shard="40KB",
    ),
    "mixtral_fused": Golden("mixtral", {"num_hidden_layers": 1}, fused=True),
    "phimoe": Golden("phimoe", minimal=True),
    "phimoe_variant": Golden(
        "phimoe",
        {"router_jitter_noise": 0.3, "num_experts_per_tok": 4, "num_hidden_layers": 1},
        router_std=0.2,
    ),
    "phimoe_fused": Golden("phimoe", {"num_hidden_layers": 1}, fused=True),
    "minimax_m2": Golden("minimax_m2"),
    "minimax_m2_fused": Golden("minimax_m2", f32_bias=True, fused=True),
    "qwen2_moe": Golden("qwen2_moe", {"mlp_only_layers": [0]}, minimal=True),
    "qwen2_moe_variant": Golden(
        "qwen2_moe",
        {
            "norm_topk_prob": True,
            "decoder_sparse_step": 2,
            "hidden_act": "gelu_pytorch_tanh",
            "num_experts_per_tok": 1,
        },
    ),
    "qwen3_moe_variant": Golden(
        "qwen3_moe",
        {"mlp_only_layers": [1], "moe_intermediate_size": 23, "num_experts": 9},
        dtype=torch.float16,
        minimal=True,
        renamed={"num_local_experts": "num_experts"},
    ),
    "qwen3_moe_fused": Golden(
        "qwen3_moe", {"num_hidden_layers": 1, "hidden_act": "relu"}, fused=True
    ),
    "qwen3_next": Golden(
        "qwen3_next", {"layer_types": ["linear_attention", "full_attention"]}, minimal=True
    ),
    "qwen3_next_variant": Golden(
        "qwen3_next",
        {
            "decoder_sparse_step": 2,
            "norm_topk_prob": False,
            "layer_types": ["full_attention", "linear_attention"],
        },
    ),
    "olmoe": Golden("olmoe", minimal=True),
    "olmoe_variant": Golden(
        "olmoe", {"norm_topk_prob": True, "num_hidden_layers": 1}, dtype=torch.float32
    ),
    "deepseek_v2": Golden("deepseek_v2", minimal=True),
    "deepseek_v2_variant": Golden(
        "deepseek_v2",
        {
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 1.7,
            "norm_topk_prob": True,
            "mlp_bias": True,
            "n_shared_experts": 1,
        },
    ),
    "deepseek_v3_variant": Golden(
        "deepseek_v3",
        {"n_group": 2, "topk_group": 1, "norm_topk_prob": False, "n_shared_experts": 2},
        f32_bias=True,
        shard="60KB",
    ),
    "deepseek_v3_noshared": Golden(
        "deepseek_v3", {"n_group": 3, "topk_group": 2, "n_shared_experts": 0, "n_routed_experts": 9}
    ),
    "deepseek_v3_minimal": Golden(
        "deepseek_v3",
        {"n_routed_experts": 16, "num_experts_per_tok": 8, "moe_intermediate_size": 12},
        minimal=True,
    ),
    "kimi_k2": Golden(
        "deepseek_v3",
        {"n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.827},
        f32_bias=True,
        saved_type="kimi_k2",
    ),
    "glm4_moe": Golden("glm4_moe", f32_bias=True, minimal=True),
    "glm4_moe_variant": Golden(
        "glm4_moe",
        {"n_group": 3, "topk_group": 2, "routed_scaling_factor": 2.5, "norm_topk_prob": False},
    ),
    "dots1": Golden("dots1", minimal=True),
    "dots1_variant": Golden(
        "dots1",
        {"norm_topk_prob": True, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.5},
        f32_bias=True,
    ),
    "ernie4_5_moe": Golden(
        "ernie4_5_moe", f32_bias=True, minimal=True, renamed={"moe_layer_end_index": None}
    ),
    "ernie4_5_moe_variant": Golden(
        "ernie4_5_moe",
        {
            "use_bias": True,
            "moe_num_shared_experts": 1,
            "num_hidden_layers": 4,
            "moe_layer_interval": 2,
            "moe_layer_start_index": 2,
            "moe_layer_end_index": 3,
        },
    ),
    "ernie4_5_moe_noshared": Golden("ernie4_5_moe", {"moe_num_shared_experts": 0}, fused=True),
    "gpt_oss_variant": Golden("gpt_oss", expert_std=0.7),
    "llama4_text": Golden(
        "llama4_text", {"interleave_moe_layer_step": 2}, minimal=True, renamed={"moe_layers": None}
    ),
    "llama4_text_variant": Golden("llama4_text", {"num_experts_per_tok": 3, "moe_layers": [0]}),
    "granitemoe": Golden("granitemoe"),
    "granitemoe_fused": Golden("granitemoe", {"num_hidden_layers": 1}, fused=True),
    "hunyuan_v1_moe": Golden("hunyuan_v1_moe", {"num_hidden_layers": 1}),
    "hunyuan_v1_moe_variant": Golden("hunyuan_v1_moe", {"moe_topk": [1, 4]}),
    "jamba": Golden("jamba", minimal=True),
    "lfm2_moe": Golden("lfm2_moe", f32_bias=True, minimal=True),
    "lfm2_moe_variant": Golden(
        "lfm2_moe",
        {"use_expert_bias": False, "norm_topk_prob": False, "routed_scaling_factor": 2.0},
    ),
    "lfm2_moe_fused": Golden("lfm2_moe", {"routed_scaling_factor": 1.5}, fused=True),
    "afmoe": Golden("afmoe", f32_bias=True, minimal=True),
    "afmoe_variant": Golden(
        "afmoe",
        {
            "route_norm": False,
            "route_scale": 2.5,
            "num_shared_experts": 1,
            "num_dense_layers": 0,
            "num_hidden_layers": 1,
        },
    ),
    "longcat_flash": Golden("longcat_flash", f32_bias=True, minimal=True),
    "longcat_flash_variant": Golden(
        "longcat_flash",
        {
            "zero_expert_num": 0,
            "router_bias": True,
            "num_layers": 2,
            "n_routed_experts": 6,
            "routed_scaling_factor": 2.0,
        },
    ),
    "longcat_flash_fused": Golden("longcat_flash", fused=True),
}


def weights(model):
    return [*model.named_parameters(), *model.named_buffers()]


def is_correction_bias(name):
    return name.endswith(("e_score_correction_bias", "expert_bias"))


def randomize(model, golden):
    """Gives every weight a random value that matters: no zero biases, clear selections, outputs
    near one."""
    for name, value in weights(model):
        if is_correction_bias(name):  # of the order of the scores, so that it changes the selection
            std = 0.15 if golden.type in ("ernie4_5_moe", "longcat_flash") else 0.4
        elif ".router." in name or ".gate." in name or name.endswith("shared_expert_gate.weight"):
            std = golden.router_std
        elif name.endswith(("inv_freq", "A_log")) or "norm" in name:
            continue
        else:
            std = golden.expert_std
        with torch.no_grad():
            value.normal_(std=std)


def build(golden):
    """A random model, rounded to the type of the checkpoint."""
    class_name, settings = MODELS[golden.type]
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(**{**COMMON, **settings, **golden.config})
    model = model_class(config).eval()
    randomize(model, golden)
    biases = [(n, b.detach().clone()) for n, b in weights(model) if is_correction_bias(n)]
    model.to(golden.dtype)
    for name, bias in biases if golden.f32_bias else []:
        model.get_parameter_or_buffer(name).data = bias
    return model


def moe_blocks(model):
    return {n: m for n, m in model.named_modules() if hasattr(m, "experts")}


def simplify_config(folder, golden, config_class):
    """Makes config.json look like those on the hub, where keys are left out or have other names."""
    path = folder / "config.json"
    config, defaults = json.loads(path.read_text()), (
        config_class().to_dict() if golden.minimal else {}
    )
    keep = {
        k: v
        for k, v in config.items()
        if k == "model_type" or k not in defaults or defaults[k] != v
    }
    config = {golden.renamed.get(k, k): v for k, v in keep.items()}
    config.pop(None, None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def bfloat16(array):
    return torch.from_numpy(array).bfloat16().double().numpy()


def clear_tokens(reference, layer, hidden_size):
    """Random tokens whose experts and weights are clear: also after rounding tokens and router to
    BF16."""
    rounded, name = copy.copy(reference), reference.type.router
    rounded.layers = {
        layer: {**reference.layers[layer], name: bfloat16(reference.layers[layer][name])}
    }
    x = torch.empty(0, hidden_size)
    while len(x) < TOKENS:
        draw = torch.randn(TOKENS, hidden_size)
        ids, weights, margin = reference.route(layer, draw.double().numpy())
        other_ids, other_weights, _ = rounded.route(layer, bfloat16(draw.numpy()))
        order, other = ids.argsort(-1), other_ids.argsort(-1)
        take = np.take_along_axis
        clear = (take(ids, order, -1) == take(other_ids, other, -1)).all(-1) & (margin >= MARGIN)
        clear &= (
            abs(take(weights, order, -1) - take(other_weights, other, -1)) <= 0.05 * weights.max()
        ).all(-1)
        x = torch.cat([x, draw[torch.from_numpy(clear)]])
    return x[:TOKENS].contiguous()


def make(name):
    golden, folder = GOLDENS[name], HERE / name
    torch.manual_seed(sorted(GOLDENS).index(name))
    shutil.rmtree(folder, ignore_errors=True)
    model = build(golden)
    model.save_pretrained(
        folder, max_shard_size=golden.shard, save_original_format=not golden.fused
    )
    (folder / "generation_config.json").unlink(missing_ok=True)
    simplify_config(folder, golden, type(model.config))
    loaded, info = type(model).from_pretrained(
        folder, dtype=torch.float32, experts_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    reference, out = Model(folder), {}
    for module, block in moe_blocks(loaded.eval()).items():
        x = clear_tokens(reference, reference.layer_of(module), loaded.config.hidden_size)
        with torch.no_grad():
            y = block(x[None])
        out[module + ".input"] = x
        out[module + ".output"] = (
            (y[0] if isinstance(y, tuple) else y).reshape(TOKENS, -1).contiguous()
        )
    assert out, f"{name} has no MoE block"
    save_file(out, folder / "golden.safetensors")
    if golden.saved_type:
        config = json.loads((folder / "config.json").read_text())
        config["model_type"] = golden.saved_type
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:24} {size / 1024:6.0f} KiB  {len(out) // 2} blocks")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for wanted in sys.argv[1:] or GOLDENS:
        make(wanted)
