#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Draws results of kmoe_bench_layer as SVG (needs matplotlib: apt install python3-matplotlib).

    plot.py RESULTS.json [--out FOLDER] [--prefix NAME] [--dtype bf16] [--routing uniform]

NAME-time.svg: time of the whole layer against tokens, with floor and peers, a panel per shape.
NAME-fraction.svg: fraction of the floor that layer and peers reach. NAME-phases.svg: where the
time goes, of the layer's parts.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

from compare import load  # noqa: E402

PEERS = Path(__file__).resolve().parent / "peers.json"
KMOE = "#c0392b"
# Colours that stay apart for colour-blind readers (Okabe and Ito); markers differ too.
STYLES = {
    "sglang": ("#56b4e9", "v"),
    "sgl-tuned": ("#0072b2", "^"),
    "torch": ("#e69f00", "s"),
    "DeepGEMM": ("#009e73", "D"),
    "tk": ("#cc79a7", "P"),
}
PARTS = {"permutation": "#999999", "experts": "#0072b2", "combine": "#e69f00"}

plt.rcParams.update(
    {
        "svg.hashsalt": "kmoe",  # the same file for the same numbers
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.grid": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)


def series(cases, phase, shape, dtype, routing, cache):
    """[(tokens, case)] by tokens."""
    found = [
        (key[2], case)
        for key, case in cases.items()
        if (key[0], key[1], key[3], key[4], key[5]) == (phase, shape, dtype, routing, cache)
    ]
    return sorted(found, key=lambda item: item[0])


def shapes_of(cases, dtype, routing):
    names = []
    for phase, shape, _, d, r, _ in cases:
        if (phase, d, r) == ("whole", dtype, routing) and shape not in names:
            names.append(shape)
    return names


def short(n):
    if n % 1000000 == 0:
        return f"{n // 1000000}M"
    return f"{n // 1024}k" if n >= 1024 and n % 1024 == 0 else str(n)


def ticks(axis, tokens):
    axis.set_xscale("log", base=2)
    axis.set_xticks(tokens, [short(t) for t in tokens])
    axis.minorticks_off()
    axis.set_xlabel("tokens")


def panels(names, title, width=4.6, height=3.6):
    columns = min(3, len(names))
    rows = (len(names) + columns - 1) // columns
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows + 0.9), squeeze=False
    )
    flat = list(axes.flat)
    for axis in flat[len(names) :]:
        axis.axis("off")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure, flat


def finish(figure, axes, path):
    """One legend for all panels, in the free place or below."""
    entries = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    figure.legend(
        entries.values(), entries.keys(), loc="lower center", ncol=len(entries), frameon=False
    )
    figure.tight_layout(rect=(0, 0.06, 1, 0.98))
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    print(path)


def peers_of(cells, shape, value):
    """{peer: [(tokens, value(cell, microseconds))]}"""
    lines = {}
    for cell in cells:
        if cell["shape"] == shape:
            for peer, us in cell["peers"].items():
                lines.setdefault(peer, []).append((cell["tokens"], value(cell, us)))
    return lines


def draw_peers(axis, lines):
    for peer, (color, marker) in STYLES.items():
        if peer in lines:
            axis.plot(*zip(*lines[peer]), color=color, marker=marker, ms=4, lw=1, label=peer)


def draw_time(cases, names, cells, title, options, path):
    figure, axes = panels(names, title)
    for axis, shape in zip(axes, names):
        for cache, style in (("cold", "-"), ("warm", ":")):
            points = series(cases, "whole", shape, options.dtype, options.routing, cache)
            if not points:
                continue
            tokens = [t for t, _ in points]
            axis.plot(
                tokens, [c["us"] for _, c in points], style, color=KMOE, marker="o", ms=5, lw=2,
                zorder=5, label=f"kmoe, {cache}",
            )  # fmt: skip
            if cache == "cold":
                floor = [c["floor"] for _, c in points]
                axis.plot(tokens, floor, "--", color="black", lw=1.2, label="floor of this run")
            ticks(axis, tokens)
        draw_peers(axis, peers_of(cells, shape, lambda _, us: us))
        axis.set_yscale("log")
        axis.set_ylabel("microseconds")
        axis.set_title(shape, loc="left", fontsize=10)
    finish(figure, axes, path)


def draw_fraction(cases, names, cells, title, options, path):
    figure, axes = panels(names, title)
    for axis, shape in zip(axes, names):
        points = series(cases, "whole", shape, options.dtype, options.routing, "cold")
        fixed = all("floor_fixed" in c for _, c in points)
        floor = "floor_fixed" if fixed else "floor"
        tokens = [t for t, _ in points]
        axis.plot(
            tokens, [c[floor] / c["us"] for _, c in points], color=KMOE, marker="o", ms=5, lw=2,
            zorder=5, label="kmoe",
        )  # fmt: skip
        draw_peers(axis, peers_of(cells, shape, lambda cell, us: cell["floor"] / us))
        axis.axhline(1, color="black", lw=1.2, ls="--")
        ticks(axis, tokens)
        axis.set_ylim(0, 1.1)
        axis.set_ylabel("floor / time")
        axis.set_title(shape, loc="left", fontsize=10)
    finish(figure, axes, path)


def draw_phases(cases, names, title, options, path):
    figure, axes = panels(names, title)
    for axis, shape in zip(axes, names):
        whole = series(cases, "whole", shape, options.dtype, options.routing, "cold")
        labels = [short(t) for t, _ in whole]
        bottom = [0.0] * len(whole)
        for part, color in PARTS.items():
            times = dict(series(cases, part, shape, options.dtype, options.routing, "cold"))
            share = [times[t]["us"] / c["us"] if t in times else 0.0 for t, c in whole]
            axis.bar(labels, share, 0.7, bottom=bottom, color=color, label=part)
            bottom = [b + s for b, s in zip(bottom, share)]
        axis.axhline(1, color=KMOE, lw=1.5, label="whole layer")
        axis.set_xlabel("tokens")
        axis.set_ylabel("time of the part alone / layer")
        axis.set_title(shape, loc="left", fontsize=10)
    finish(figure, axes, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results")
    parser.add_argument("--out", type=Path, default=PEERS.parent / "results")
    parser.add_argument("--prefix", default="layer")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--routing", default="uniform")
    options = parser.parse_args()
    context, cases = load(options.results)
    peers = json.loads(PEERS.read_text())
    same = (options.dtype, options.routing) == (peers["dtype"], peers["routing"])
    # The peers' numbers are an H100's: they do not belong beside another device's.
    cells = peers["cells"] if same and "H100" in context.get("device", "") else []
    names = shapes_of(cases, options.dtype, options.routing)
    if not names:
        parser.error(f"no whole layer in {options.dtype} with {options.routing} routing")
    options.out.mkdir(parents=True, exist_ok=True)
    where = f"{options.dtype}, {options.routing} routing, {context.get('device', '')}"

    def path(kind):
        return options.out / f"{options.prefix}-{kind}.svg"

    draw_time(cases, names, cells, f"Time of a layer: {where}", options, path("time"))
    draw_fraction(
        cases, names, cells, f"Floor over time, cold: {where}", options, path("fraction")
    )
    if any(key[0] in PARTS for key in cases):
        draw_phases(cases, names, f"Parts of a layer, cold: {where}", options, path("phases"))


if __name__ == "__main__":
    main()
