#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Trains the surrogate: two Mixture-of-Experts blocks, as surrogate.hpp runs them.

    train.py [--epochs N] [--minutes M] [--start FOLDER] --out FOLDER SAMPLES.npy...

Needs torch, numpy and safetensors; runs on a CPU. SAMPLES come from `simulation --sample`. The
folder it writes is a checkpoint of model type mixtral, whose MoE blocks these are, with inputs and
outputs of the blocks in golden.safetensors, for `kmoe verify`.
"""
import argparse
import json
import pathlib
import sys
import time

import numpy as np
import torch
from safetensors.torch import load_file, save_file

WEIGHTS = 1e-3 * np.array([2.01588, 31.9988, 1.00794, 15.9994, 17.00734, 18.01528, 33.00674,
                           34.01468])
DT, PRESSURE = 5e-6, 506625.0
SPECIES, REACTIVE = 9, 8
MAJOR = np.array([1, 1, 0, 0, 0, 1, 0, 0])  # H2, O2 and H2O; the others span many decades


def features(n, h, t):
    """As features() in surrogate.hpp."""
    mass = np.maximum(n[:, :REACTIVE] * WEIGHTS, 0)
    one = np.ones((len(n), 1))
    return np.hstack([one, h * 1e-6, t * 1e-3, 1e3 / t, mass, root(mass)])


def root(mass):
    return np.sqrt(np.sqrt(np.maximum(mass, 0)))


def raw_target(change, floor, n):
    """What the network is to say: asinh(change / floor) of the major species, and the change of the
    fourth root of the others."""
    before = n[:, :REACTIVE] * WEIGHTS
    return np.where(MAJOR > 0, np.arcsinh(change / np.where(floor > 0, floor, 1)),
                    root(before + change) - root(before))


def change_of(output, floor, n):
    """Its inverse, as apply() in surrogate.hpp."""
    before = n[:, :REACTIVE] * WEIGHTS
    return np.where(MAJOR > 0, floor * np.sinh(output * MAJOR),
                    np.maximum(root(before) + output, 0)**4 - before)


class Block(torch.nn.Module):
    """softmax over the top-k of the router's logits; experts down(silu(gate x) * up x)."""

    def __init__(self, hidden, inner, experts, top_k):
        super().__init__()
        self.top_k = top_k
        self.router = torch.nn.Parameter(torch.randn(experts, hidden) * 0.3)
        self.gate = torch.nn.Parameter(torch.randn(experts, inner, hidden) / 4)
        self.up = torch.nn.Parameter(torch.randn(experts, inner, hidden) / 4)
        self.down = torch.nn.Parameter(torch.randn(experts, hidden, inner) / inner**0.5 / 4)

    def forward(self, x):
        logits = x @ self.router.T
        top, ids = logits.topk(self.top_k, dim=1)
        weights = top.softmax(dim=1)
        y = torch.zeros_like(x)
        for e in range(len(self.router)):
            token, slot = (ids == e).nonzero(as_tuple=True)
            if len(token) == 0:
                continue
            row = x[token]
            inner = torch.nn.functional.silu(row @ self.gate[e].T) * (row @ self.up[e].T)
            out = inner @ self.down[e].T
            y = y.index_add(0, token, out * weights[token, slot, None])
        # Load balance as in Switch Transformers: fractions of tokens times mean probabilities.
        share = torch.zeros(len(self.router)).index_add(0, ids.flatten(), torch.ones(ids.numel()))
        balance = (share / ids.numel() * logits.softmax(dim=1).mean(dim=0)).sum() * len(self.router)
        return y, balance


class Model(torch.nn.Module):
    def __init__(self, args):
        super().__init__()
        self.blocks = torch.nn.ModuleList(
            Block(args.hidden, args.inner, args.experts, args.top_k) for _ in range(2))

    def forward(self, x):
        y, balance = self.blocks[0](x)
        z, more = self.blocks[1](x + y)
        return z, balance + more


def module(layer):
    return f"model.layers.{layer}.block_sparse_moe"


def save(model, args, scaling):
    tensors = {f"surrogate.{k}": torch.tensor(v, dtype=torch.float64).reshape(1, -1)
               for k, v in scaling.items()}
    for layer, block in enumerate(model.blocks):
        prefix = module(layer)
        tensors[f"{prefix}.gate.weight"] = block.router.detach()
        for e in range(args.experts):
            for name, weight in ("w1", block.gate), ("w3", block.up), ("w2", block.down):
                tensors[f"{prefix}.experts.{e}.{name}.weight"] = weight.detach()[e]
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, args.out / "model.safetensors",
              metadata={"format": "pt"})
    config = {"model_type": "mixtral", "hidden_act": "silu", "hidden_size": args.hidden,
              "intermediate_size": args.inner, "num_local_experts": args.experts,
              "num_experts_per_tok": args.top_k, "num_hidden_layers": 2}
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load(model, folder):
    tensors = load_file(folder / "model.safetensors")
    for layer, block in enumerate(model.blocks):
        prefix = module(layer)
        block.router.data = tensors[f"{prefix}.gate.weight"]
        for name, weight in ("w1", block.gate), ("w3", block.up), ("w2", block.down):
            weight.data = torch.stack([tensors[f"{prefix}.experts.{e}.{name}.weight"]
                                       for e in range(len(block.router))])
    return {k.split(".")[1]: v.numpy().ravel() for k, v in tensors.items()
            if k.startswith("surrogate.")}


def record(model, x, folder):
    """What each block makes of these inputs."""
    tensors = {}
    for layer, block in enumerate(model.blocks):
        with torch.no_grad():
            y, _ = block(x)
        tensors[f"{module(layer)}.input"], tensors[f"{module(layer)}.output"] = x, y
        x = x + y
    save_file(tensors, folder / "golden.safetensors")


def rms(values):
    return np.sqrt((values**2).mean(axis=0))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("samples", nargs="+")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--start", type=pathlib.Path, help="go on from this checkpoint")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop the schedule at this time")
    parser.add_argument("--max-error", type=float, default=np.inf,
                        help="exit with 1 if a species' error / rms is larger in the end")
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--inner", type=int, default=64)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--top-k", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(1)

    rows = np.concatenate([np.load(name) for name in args.samples])
    n, after = rows[:, :SPECIES], rows[:, SPECIES + 2:]
    x = features(n, rows[:, SPECIES:SPECIES + 1], rows[:, SPECIES + 1:SPECIES + 2])
    change = (after - n[:, :REACTIVE]) * WEIGHTS
    model = Model(args)
    if args.start:
        scaling = load(model, args.start)
    else:
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        varies = deviation > 1e-9 * np.abs(mean)
        scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0)
        mean[0], scale[0] = 0, 1  # the constant feature is what makes biases
        floor = 0.05 * rms(change) * MAJOR
        scaling = {"mean": mean, "scale": scale, "floor": floor,
                   "output": raw_target(change, floor, n).std(axis=0),
                   "conditions": np.array([DT, PRESSURE])}
    margin = 0.03 * (x.max(axis=0) - x.min(axis=0)) + 1e-6
    scaling["low"], scaling["high"] = x.min(axis=0) - margin, x.max(axis=0) + margin
    scaling["low"][4:] = np.where(np.tile(MAJOR, 2) > 0, scaling["low"][4:], 0)

    inputs = torch.zeros(len(x), args.hidden)
    inputs[:, :x.shape[1]] = torch.tensor((x - scaling["mean"]) * scaling["scale"])
    target = torch.tensor(raw_target(change, scaling["floor"], n) / scaling["output"],
                          dtype=torch.float32)
    low, high = (v.double().numpy() for v in (target.min(dim=0).values, target.max(dim=0).values))
    scaling["least"], scaling["most"] = low - 0.02 * abs(low), high + 0.02 * abs(high)
    order = torch.randperm(len(x))
    check, train = order[:len(x) // 20], order[len(x) // 20:]
    print(f"{len(x)} samples, {sum(p.numel() for p in model.parameters())} parameters", flush=True)

    def tell(epoch, text):
        """Prints, and returns, errors of the change of each species, on what is not trained on."""
        with torch.no_grad():
            y = model(inputs[check])[0][:, :REACTIVE].numpy().astype(float)
        found = change_of(y * scaling["output"], scaling["floor"], n[check.numpy()])
        errors = rms(found - change[check.numpy()]) / rms(change)
        print(f"epoch {epoch}{text}: error / rms", *(f"{v:.4f}" for v in errors), flush=True)
        return errors

    errors = tell(0, "")
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.99),
                                  weight_decay=1e-4)
    begin, step, epoch = time.time(), 0, 0
    steps = args.epochs * (len(train) // args.batch)
    # Errors of large changes count more: d(change)/d(output) = floor cosh.
    output = torch.tensor(scaling["output"] * MAJOR, dtype=torch.float32)
    while step < steps:
        for batch in train[torch.randperm(len(train))].split(args.batch)[:-1]:
            done = max(step / steps, (time.time() - begin) / 60 / args.minutes)
            if done >= 1:
                step = steps
                break
            for group in optimizer.param_groups:
                group["lr"] = args.rate * min(1, step / 200) * (0.5 + 0.5 * np.cos(np.pi * done))
            y, balance = model(inputs[batch])
            error = y[:, :REACTIVE] - target[batch]
            large = 1 + 0.05 * torch.cosh(target[batch] * output)
            loss = (error**2 * large).mean() + 1e-3 * balance
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
        epoch += 1
        if epoch % 5 == 0 or step >= steps:
            errors = tell(epoch, f", {time.time() - begin:.0f} s, loss {loss.item():.5f}")
            save(model, args, scaling)
    save(model, args, scaling)
    record(model, inputs[check[:256]], args.out)
    if not errors.max() <= args.max_error:
        sys.exit(f"train.py: the error is larger than {args.max_error}")


if __name__ == "__main__":
    main()
