# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Reads checkpoints into numpy arrays: safetensors files, their shards, and MXFP4 blocks."""

import json
import struct
from pathlib import Path

import numpy as np


def read_safetensors(path):
    """All tensors of one file: floating point ones as float64, bytes as they are."""
    raw = Path(path).read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    out = {}
    for name, info in json.loads(raw[8:start]).items():
        if name == "__metadata__":
            continue
        first, last = info["data_offsets"]
        data = raw[start + first : start + last]
        if info["dtype"] == "BF16":
            value = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            value = np.frombuffer(
                data, {"F16": "<f2", "F32": "<f4", "F64": "<f8", "U8": "u1"}[info["dtype"]]
            )
        out[name] = (value if info["dtype"] == "U8" else value.astype(np.float64)).reshape(
            info["shape"]
        )
    return out


def read_checkpoint(folder):
    index = folder / "model.safetensors.index.json"
    names = (
        set(json.loads(index.read_text())["weight_map"].values())
        if index.exists()
        else ["model.safetensors"]
    )
    return {k: v for n in sorted(names) for k, v in read_safetensors(folder / n).items()}


def mxfp4(blocks, scales):
    """[..., G, 16] bytes of two e2m1 values (low nibble first), [..., G] powers of two with bias
    127."""
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    pairs = np.stack([table[blocks & 15], table[blocks >> 4]], axis=-1)
    value = (
        pairs.reshape(*blocks.shape[:-1], 32) * np.exp2(scales.astype(np.float64) - 127)[..., None]
    )
    return value.reshape(*blocks.shape[:-2], -1)
