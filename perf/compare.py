#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compares results of kmoe_bench_layer with older ones, or with the peers of peers.json.

    compare.py NEW.json OLD.json  [--threshold PERCENT]   every case that both have
    compare.py NEW.json --peers [FILE] [--threshold PERCENT]

A case is slower by more than the threshold (default 10 %) than the older result or than the best
peer: exit code 1; wrong results too. 2: a file that can not be used. 0 otherwise.
"""

import argparse
import json
import sys
from pathlib import Path

MICROSECONDS = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}
TOLERANCE = {"bf16": 5e-3, "f16": 5e-3, "f32": 1e-5, "f64": 1e-12}


class Unusable(Exception):
    pass


def load(path):
    """(context, {(phase, shape, tokens, dtype, routing, cache): case}); "us" is a case's time."""
    try:
        data = json.loads(Path(path).read_text())
        cases = {}
        for case in data["benchmarks"]:
            if case.get("run_type", "iteration") != "iteration" or case.get("error_occurred"):
                continue
            phase, shape, tokens, dtype, routing, cache = case["name"].split("/")[:6]
            case["us"] = case["real_time"] * MICROSECONDS[case["time_unit"]]
            key = (phase, shape, int(tokens.removeprefix("T:")), dtype, routing, cache)
            cases[key] = case
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unusable(f"{path}: {error}") from None
    if not cases:
        raise Unusable(f"{path}: no cases of kmoe_bench_layer")
    return data.get("context", {}), cases


def is_wrong(key, case):
    """NaN counts as wrong."""
    tolerance = TOLERANCE[key[3]]
    return case.get("unwritten", 0) != 0 or not case.get("error", 0.0) <= tolerance


def number(value):
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def table(head, rows):
    widths = [max(len(str(row[c])) for row in [head, *rows]) for c in range(len(head))]
    for row in [head, *rows]:
        left = [str(row[0]).ljust(widths[0])]
        print("  ".join(left + [str(v).rjust(w) for v, w in zip(row[1:], widths[1:])]).rstrip())


def against_results(new, old, threshold):
    """Cases that got slower by more than the threshold."""
    common = [key for key in new if key in old]
    if not common:
        raise Unusable("the two files have no case in common")
    rows, slower = [], []
    for key in common:
        a, b = new[key], old[key]
        change = 100 * (a["us"] / b["us"] - 1)
        if change > threshold:
            slower.append(key)
        mark = "SLOWER" if change > threshold else "faster" if change < -threshold else ""
        mark = "WRONG" if is_wrong(key, a) else mark
        fraction = number(a.get("fraction"))
        rows.append(
            [name(key), number(b["us"]), number(a["us"]), f"{change:+.1f} %", fraction, mark]
        )
    table(["case", "old us", "new us", "change", "of floor", ""], rows)
    print(f"\n{len(common)} cases in both files, {len(slower)} slower by more than {threshold} %")
    return slower


def name(key):
    phase, shape, tokens, dtype, routing, cache = key
    return f"{phase}/{shape}/T:{tokens}/{dtype}/{routing}/{cache}"


def against_peers(cases, peers, threshold):
    """Cells that are slower than the best peer by more than the threshold."""
    rows, slower, faster, at_goal, tenth_slower = [], [], 0, 0, 0
    found = 0
    for cell in peers["cells"]:
        key = (
            "whole", cell["shape"], cell["tokens"], peers["dtype"], peers["routing"], peers["cache"]
        )  # fmt: skip
        case = cases.get(key)
        if case is None:
            continue
        found += 1
        us, best, goal = case["us"], cell["best"], cell.get("goal", 0)
        faster += us < best
        at_goal += us <= goal
        tenth_slower += us > 1.1 * best
        if us > best * (1 + threshold / 100):
            slower.append(key)
        mark = "goal" if us <= goal else "ahead" if us < best else "SLOWER" if key in slower else ""
        mark = "WRONG" if is_wrong(key, case) else mark
        who = min(cell["peers"], key=cell["peers"].get)
        rows.append(
            [
                f"{cell['shape']} T {cell['tokens']}", number(us),
                number(cell["floor"] / us if "floor" in cell else None),
                number(case.get("fraction")), f"{best:.4g} {who}", number(us / best),
                number(goal or None), number(us / goal if goal else None), mark,
            ]
        )  # fmt: skip
    if not found:
        raise Unusable("no case of the peers' table was measured")
    head = ["cell", "us", "floor/us", "measured", "best peer", "us/best", "goal", "us/goal", ""]
    table(head, rows)
    with_goals = any("goal" in cell for cell in peers["cells"])
    goals = f"at or under the goal: {at_goal} of {found}\n" if with_goals else ""
    print(
        f"\nfloor/us: at 3.0 TB/s and 798 TFLOP/s; measured: at the rates of this run\n"
        f"measured: {found} of {len(peers['cells'])} cells\n"
        f"faster than the best peer: {faster} of {found}\n"
        f"{goals}"
        f"more than 10 % slower than the best peer: {tenth_slower} of {found}"
    )
    return slower


def skewed_routings(cases):
    """How much further from its floor than the uniform routing of the same cell."""
    rows, beyond = [], 0
    for key, case in cases.items():
        phase, shape, tokens, dtype, routing, cache = key
        uniform = cases.get((phase, shape, tokens, dtype, "uniform", cache))
        if phase != "whole" or routing == "uniform" or uniform is None:
            continue
        times = (case["us"] / case["floor"]) / (uniform["us"] / uniform["floor"])
        beyond += times > 1.3
        rows.append([name(key), number(case["us"]), number(case["fraction"]), f"{times:.2f}",
                     "BEYOND" if times > 1.3 else ""])  # fmt: skip
    if rows:
        print()
        table(["skewed routing", "us", "of floor", "us/floor to uniform's", ""], rows)
        print(f"\nmore than 1.3 times as far from the floor as uniform: {beyond} of {len(rows)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("new", help="results: JSON of kmoe_bench_layer")
    parser.add_argument("old", nargs="?", help="older results")
    parser.add_argument(
        "--peers",
        nargs="?",
        const=str(Path(__file__).resolve().parent / "peers.json"),
        help="compare with the peers; default: the peers.json beside this program",
    )
    parser.add_argument("--threshold", type=float, default=10.0, help="percent; default 10")
    args = parser.parse_args()
    if (args.old is None) == (args.peers is None):
        parser.error("give either older results or --peers")
    try:
        context, new = load(args.new)
        for what in ("device", "git_hash", "date"):
            if context.get(what):
                print(f"{what}: {context[what]}")
        print()
        if args.peers is not None:
            try:
                peers = json.loads(Path(args.peers).read_text())
            except (OSError, ValueError) as error:
                raise Unusable(f"{args.peers}: {error}") from None
            where = peers.get("device", "NVIDIA H100")
            if where not in context.get("device", ""):
                print(f"note: the peers were measured on one {where}\n")
            slower = against_peers(new, peers, args.threshold)
            skewed_routings(new)
        else:
            slower = against_results(new, load(args.old)[1], args.threshold)
    except Unusable as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    wrong = [key for key, case in new.items() if is_wrong(key, case)]
    for key in wrong:
        print(f"WRONG: {name(key)}: unwritten {new[key].get('unwritten')}, "
              f"error {new[key].get('error')}")  # fmt: skip
    return 1 if slower or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
