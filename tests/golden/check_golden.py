#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Numpy reference of the Mixture-of-Experts block of every supported Hugging Face model type.

    check_golden.py [DIR ...]       (default: every folder beside this file that has a
    golden.safetensors)

For each pair `<module>.input` / `<module>.output` of DIR/golden.safetensors the block is computed
in float64 from the
checkpoint and compared with what the transformers library gave.  All that differs between the types
is in TYPES.
"""

import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from checkpoint import mxfp4, read_checkpoint, read_safetensors

TOLERANCE = 1e-5


# --------------------------------------------------------------------------------------------------
# routing
def softmax(s):
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(s):
    return 1 / (1 + np.exp(-s))


def gather(scores, ids):
    return np.take_along_axis(scores, ids, -1)


def pick(scores, k):
    """Ids of the k largest (ties: the lower id), and how far the first one that is left out is
    below them."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    ranked = gather(scores, order)
    return order[:, :k], (
        ranked[:, k - 1] - ranked[:, k] if k < scores.shape[1] else np.full(len(scores), np.inf)
    )


def group_mask(choice, groups, keep, best):
    """True for the experts of the `keep` groups whose `best` largest scores have the largest
    sum."""
    grouped = choice.reshape(len(choice), groups, -1)
    kept, margin = pick(np.sort(grouped, axis=-1)[..., -best:].sum(axis=-1), keep)
    mask = np.zeros((len(choice), groups), bool)
    np.put_along_axis(mask, kept, True, -1)
    return np.repeat(mask, grouped.shape[2], axis=1), margin


def scored(score, norm=False, eps=0.0, floor=0.0, scale="", best=0):
    """Score all experts, select by score + bias, weigh by the score.

    norm: divide by max(sum + eps, floor) of the K; scale: key of a factor that comes last; best:
    how many scores of
    a group count for the group (DeepSeek-V2 takes 1 and no bias, DeepSeek-V3 takes 2)."""

    def route(c, logits, bias, k):
        s, margin = score(logits), np.inf
        choice = s if bias is None else s + bias
        if best == 2 and (c("n_group") or 1) > 1:
            mask, margin = group_mask(choice, c("n_group"), c("topk_group"), 2)
            choice = np.where(mask, choice, -np.inf)
        elif best == 1 and c("topk_method") == "group_limited_greedy":
            mask, margin = group_mask(choice, c("n_group"), c("topk_group"), 1)
            s = choice = np.where(mask, s, 0.0)
        ids, picked = pick(choice, k)
        w = gather(s, ids)
        if c(norm) if isinstance(norm, str) else norm:
            w = w / np.maximum(w.sum(-1, keepdims=True) + eps, floor)
        return ids, w * (c(scale) if scale else 1.0), np.minimum(margin, picked)

    return route


def chosen(score):
    """Select by the logits, then score the K chosen ones alone."""

    def route(c, logits, bias, k):
        ids, margin = pick(logits, k)
        return ids, score(gather(logits, ids)), margin

    return route


def sparse_mixer(c, logits, bias, k):
    """Phi-3.5-MoE in inference: two rounds, whatever num_experts_per_tok says; the weights do not
    sum to 1."""
    eps, current, ids, weights, margin = 2 * c("router_jitter_noise"), logits, [], [], np.inf
    for _ in range(2):
        best, picked = pick(current, 1)
        top = gather(current, best)
        distance = (top - logits) / np.maximum(
            np.abs(logits), top
        )  # of the unmasked logits in both rounds
        margin = np.minimum(np.minimum(margin, picked), np.abs(distance - eps).min(-1))
        weights.append(gather(softmax(np.where(distance > eps, -np.inf, current)), best))
        ids.append(best)
        current = np.where(np.arange(logits.shape[1]) == best, -np.inf, current)
    return np.concatenate(ids, 1), np.concatenate(weights, 1), margin


# -------------------------------------------------------------------------------------------------
# the table
def ernie_layers(c, i):
    end = c("num_hidden_layers") - 1 if c("moe_layer_end_index") == -1 else c("moe_layer_end_index")
    return (i + 1) % c("moe_layer_interval") == 0 and c("moe_layer_start_index") <= i <= end


def shared(name, number, inter="moe_intermediate_size"):
    """A shared expert of this name and `number` (key) times the size `inter` (key); number "":
    once."""
    return {
        "shared": name,
        "shared_inter": lambda c: c(inter) * ((c(number) or 0) if number else 1),
    }


BASE = {
    "block": "mlp",  # on disk, below model.layers.N
    # in memory, so in golden.safetensors and in checkpoints with fused experts; "": as block
    "module": "",
    "experts": ["num_experts"],  # config keys; the first one that is there counts
    "topk": ["num_experts_per_tok"],  # an integer or a list by layer
    "inter": "moe_intermediate_size",
    "zero": "",  # key of the number of experts that return their input
    "is_moe": lambda c, i: True,
    "router": "gate.weight",
    "bias": "",  # correction bias
    "names": ["gate_proj", "up_proj", "down_proj"],  # experts.E.NAME.weight
    # fused experts: [E, 2I, H], gate rows first; "columns": [E, H, 2I]; "gpt_oss"
    "layout": "rows",
    "shared_inter": lambda c: 0,
    "scale_input": False,
    "renamed": {},  # other names of tensors
}
DENSE, W123 = {"inter": "intermediate_size"}, {"names": ["w1", "w3", "w2"]}
MIXTRAL = {"block": "block_sparse_moe", "module": "mlp", **DENSE, **W123}
LOCAL, GLOBAL = ["num_local_experts", "num_experts"], ["num_experts", "num_local_experts"]
ROUTED, MOE_TOPK = ["n_routed_experts", "num_local_experts", "num_experts"], [
    "moe_topk",
    "num_experts_per_tok",
]
QWEN = {"route": scored(softmax, "norm_topk_prob"), "norm_topk_prob": False}
QWEN_LAYERS = {
    "is_moe": lambda c, i: i not in (c("mlp_only_layers") or [])
    and (i + 1) % c("decoder_sparse_step") == 0,
    "decoder_sparse_step": 1,
    "mlp_only_layers": None,
}
QWEN_SHARED = shared("shared_expert", "", "shared_expert_intermediate_size")
DEEPSEEK = {
    "experts": ROUTED,
    "is_moe": lambda c, i: i >= c("first_k_dense_replace"),
    "routed_scaling_factor": 1.0,
    **shared("shared_experts", "n_shared_experts"),
}
V3 = {
    **DEEPSEEK,
    "route": scored(sigmoid, "norm_topk_prob", eps=1e-20, scale="routed_scaling_factor", best=2),
    "bias": "gate.e_score_correction_bias",
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
}

# Model type: what differs from BASE, and the defaults of config keys that may be missing.
TYPES = {
    "mixtral": {**MIXTRAL, "route": scored(softmax, True), "experts": LOCAL},
    "phimoe": {
        **MIXTRAL,
        "route": sparse_mixer,
        "experts": LOCAL[:1],
        "renamed": {"router.weight": "gate.weight"},
        "router_jitter_noise": 0.01,
    },
    "minimax_m2": {
        **MIXTRAL,
        "route": scored(sigmoid, True),
        "experts": LOCAL,
        "bias": "e_score_correction_bias",
    },
    "qwen2_moe": {**QWEN, **QWEN_LAYERS, **QWEN_SHARED},
    "qwen3_moe": {**QWEN, **QWEN_LAYERS, "experts": LOCAL},
    "qwen3_next": {**QWEN, **QWEN_LAYERS, **QWEN_SHARED, "norm_topk_prob": True},
    "olmoe": {**QWEN, **DENSE, "experts": GLOBAL},
    "deepseek_v2": {
        **DEEPSEEK,
        "route": scored(softmax, scale="routed_scaling_factor", best=1),
        "topk_method": "greedy",
        "first_k_dense_replace": 0,
        "n_shared_experts": 2,
    },
    "deepseek_v3": {
        **V3,
        "first_k_dense_replace": 3,
        "n_shared_experts": 1,
        "n_group": 8,
        "topk_group": 4,
        "routed_scaling_factor": 2.5,
    },
    "glm4_moe": {**V3, "first_k_dense_replace": 1, "n_shared_experts": 1},
    "dots1": {**V3, "first_k_dense_replace": 0, "n_shared_experts": None, "norm_topk_prob": False},
    "ernie4_5_moe": {
        **shared("shared_experts", "moe_num_shared_experts"),
        "route": scored(softmax, True, floor=1e-12),
        "experts": ["moe_num_experts", "num_experts"],
        "topk": ["moe_k", "num_experts_per_tok"],
        "is_moe": ernie_layers,
        "moe_num_shared_experts": 2,
        "moe_layer_interval": 1,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": -1,
        "bias": "moe_statics.e_score_correction_bias",
        "renamed": {
            "gate.moe_statics.e_score_correction_bias": "moe_statics.e_score_correction_bias"
        },
    },
    "gpt_oss": {
        **DENSE,
        "route": chosen(softmax),
        "experts": LOCAL,
        "router": "router.weight",
        "layout": "gpt_oss",
    },
    "llama4_text": {
        **DENSE,
        **shared("shared_expert", "", "intermediate_size"),
        "route": chosen(sigmoid),
        "block": "feed_forward",
        "experts": LOCAL[:1],
        "router": "router.weight",
        "layout": "columns",
        "is_moe": lambda c, i: (
            (i + 1) % c("interleave_moe_layer_step") == 0
            if c("moe_layers") is None
            else i in c("moe_layers")
        ),
        "scale_input": True,
        "moe_layers": None,
        "interleave_moe_layer_step": 1,
    },
    "granitemoe": {
        **DENSE,
        "route": chosen(softmax),
        "block": "block_sparse_moe",
        "experts": LOCAL[:1],
        "router": "router.weight",
        "renamed": {
            "router.layer.weight": "router.weight",
            "input_linear.weight": "experts.gate_up_proj",
            "output_linear.weight": "experts.down_proj",
        },
    },
    "hunyuan_v1_moe": {
        **DENSE,
        **shared("shared_mlp", "", "intermediate_size"),
        "route": scored(softmax, True),
        "experts": GLOBAL,
        "topk": MOE_TOPK,
        "router": "gate.wg.weight",
    },
    "jamba": {
        **DENSE,
        "route": scored(softmax),
        "block": "feed_forward",
        "experts": GLOBAL,
        "router": "router.weight",
        "is_moe": lambda c, i: i % c("expert_layer_period") == c("expert_layer_offset")
        and c("num_experts") > 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "lfm2_moe": {
        **W123,
        "route": scored(sigmoid, "norm_topk_prob", eps=1e-6, scale="routed_scaling_factor"),
        "block": "feed_forward",
        "is_moe": lambda c, i: i >= c("num_dense_layers"),
        "bias": "expert_bias",
        "num_dense_layers": 2,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
    },
    "afmoe": {
        **shared("shared_experts", "num_shared_experts"),
        "num_shared_experts": 2,
        "bias": "expert_bias",
        "route": scored(sigmoid, True, eps=1e-20, scale="route_scale"),
        "router": "router.gate.weight",
        "is_moe": lambda c, i: i >= c("num_dense_layers"),
        "num_dense_layers": 1,
        "route_scale": 1.0,
    },
    "longcat_flash": {
        "route": scored(softmax, scale="routed_scaling_factor"),
        "experts": ROUTED,
        "topk": MOE_TOPK,
        "inter": "expert_ffn_hidden_size",
        "zero": "zero_expert_num",
        "zero_expert_num": 256,
        "router": "router.classifier.weight",
        "bias": "router.e_score_correction_bias",
        "routed_scaling_factor": 6.0,
    },
}
# Defaults of the numbers of experts, of experts per token, and of the size of an expert; None: must
# be given.
SIZES = {
    "mixtral": (8, 2, 14336),
    "phimoe": (16, 2, 6400),
    "minimax_m2": (256, 8, 1536),
    "qwen2_moe": (60, 4, 1408),
    "qwen3_moe": (128, 8, 768),
    "qwen3_next": (512, 10, 512),
    "olmoe": (64, 8, 2048),
    "deepseek_v2": (64, None, 1407),
    "deepseek_v3": (256, 8, 2048),
    "glm4_moe": (128, 8, 1408),
    "dots1": (None, None, 1408),
    "ernie4_5_moe": (64, 6, 1536),
    "gpt_oss": (128, 4, 2880),
    "llama4_text": (16, 1, 8192),
    "granitemoe": (8, 2, 11008),
    "hunyuan_v1_moe": (1, 1, 11008),
    "jamba": (16, 2, 14336),
    "lfm2_moe": (32, 4, 1792),
    "afmoe": (64, 6, 1408),
    "longcat_flash": (512, 12, 2048),
}
TYPES["kimi_k2"], SIZES["kimi_k2"] = TYPES["deepseek_v3"], SIZES["deepseek_v3"]
ACTIVATIONS = {
    "silu": lambda x: x * sigmoid(x),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_pytorch_tanh": lambda x: 0.5
    * x
    * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


# -------------------------------------------------------------------------------------------------
# the block
class Model:
    """The MoE blocks of a checkpoint folder."""

    def __init__(self, folder):
        self.config = json.loads((Path(folder) / "config.json").read_text())
        self.type = t = SimpleNamespace(**{**BASE, **TYPES[self.config["model_type"]]})
        vars(t).update(zip((t.experts[0], t.topk[0], t.inter), SIZES[self.config["model_type"]]))
        self.act = ACTIVATIONS[self.config.get("hidden_act", "silu")]
        self.layers = {}  # layer: {name below the block: tensor}
        prefix = re.compile(rf"model\.layers\.(\d+)\.(?:{t.block}|{t.module or t.block})\.(.+)")
        for name, value in read_checkpoint(Path(folder)).items():
            if m := prefix.fullmatch(name):
                self.layers.setdefault(int(m[1]), {})[t.renamed.get(m[2], m[2])] = value

    def get(self, *keys):
        """The first of the keys that the config has, else the default of the type."""
        present = [k for k in keys if k in self.config]
        return self.config[present[0]] if present else getattr(self.type, keys[0])

    def layer_of(self, module):
        i = int(
            re.fullmatch(rf"model\.layers\.(\d+)\.{self.type.module or self.type.block}", module)[1]
        )
        assert self.type.is_moe(self.get, i), f"{module} is no MoE layer"
        return i

    def route(self, i, x):
        """(ids, weights, margin of the selection) of the tokens x."""
        t, tensors, k = self.type, self.layers[i], self.get(*self.type.topk)
        logits = x @ tensors[t.router].T + tensors.get("router.bias", 0.0)
        assert logits.shape[1] == self.get(*t.experts) + (self.get(t.zero) if t.zero else 0)
        bias = tensors[t.bias].reshape(-1) if t.bias in tensors else None
        return t.route(self.get, logits, bias, k[i] if isinstance(k, list) else k)

    def expert(self, i, e, x):
        t, tensors, inter = self.type, self.layers[i], self.get(self.type.inter)
        if t.layout == "gpt_oss":
            names = "experts.gate_up_proj", "experts.down_proj"
            if "experts.down_proj_blocks" in tensors:  # MXFP4: rows are outputs
                both, down = (
                    mxfp4(tensors[n + "_blocks"][e], tensors[n + "_scales"][e]).T for n in names
                )
            else:
                both, down = (tensors[n][e] for n in names)
            h = x @ both + tensors["experts.gate_up_proj_bias"][e]
            gate, up = np.minimum(h[:, ::2], 7.0), np.clip(h[:, 1::2], -7.0, 7.0)
            return ((up + 1) * gate * sigmoid(1.702 * gate)) @ down + tensors[
                "experts.down_proj_bias"
            ][e]
        if "experts.gate_up_proj" in tensors:
            both, down = tensors["experts.gate_up_proj"][e], tensors["experts.down_proj"][e]
            both, down = (both.T, down.T) if t.layout == "columns" else (both, down)
        else:
            gate, up, down = (tensors[f"experts.{e}.{n}.weight"] for n in t.names)
            both = np.concatenate([gate, up])
        assert both.shape == (2 * inter, x.shape[1]) and down.shape == (x.shape[1], inter)
        return (self.act(x @ both[:inter].T) * (x @ both[inter:].T)) @ down.T

    def shared(self, i, x):
        tensors = self.layers[i]

        def linear(name, v):
            name = f"{self.type.shared}.{name}"
            return v @ tensors[name + ".weight"].T + tensors.get(name + ".bias", 0.0)

        y = linear("down_proj", self.act(linear("gate_proj", x)) * linear("up_proj", x))
        gate = tensors.get("shared_expert_gate.weight")
        return y if gate is None else sigmoid(x @ gate.T) * y

    def forward(self, i, x):
        ids, weights, _ = self.route(i, x)
        y = np.zeros_like(x)
        for e in np.unique(ids):
            rows, slots = np.nonzero(ids == e)
            w = weights[rows, slots][:, None]
            if e >= self.get(*self.type.experts):  # a zero expert
                y[rows] += w * x[rows]
            elif self.type.scale_input:
                y[rows] += self.expert(i, e, w * x[rows])
            else:
                y[rows] += w * self.expert(i, e, x[rows])
        return y + self.shared(i, x) if self.type.shared_inter(self.get) else y


def main(folders):
    passed, failed, all_of_them = 0, 0, Path(__file__).resolve().parent.glob("*/golden.safetensors")
    for folder in [Path(f) for f in folders] or sorted(p.parent for p in all_of_them):
        model, golden = Model(folder), read_safetensors(folder / "golden.safetensors")
        for module in sorted(k.removesuffix(".input") for k in golden if k.endswith(".input")):
            i, x, want = (
                model.layer_of(module),
                golden[module + ".input"],
                golden[module + ".output"],
            )
            error = np.linalg.norm(model.forward(i, x) - want) / np.linalg.norm(want)
            margin, ok = model.route(i, x)[2].min(), error <= TOLERANCE
            passed, failed = passed + ok, failed + (not ok)
            print(
                f"{folder.name:24} {module:34} error {error:.2e}, margin {margin:.1e} "
                f"{'ok' if ok else 'FAILED'}"
            )
    print(f"{passed} passed, {failed} failed")
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
