#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Tests of `kmoe bench` and of perf/compare.py; needs nothing but Python.

    test_bench.py --kmoe PATH --mpiexec PATH --compare PATH
"""

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from test_cli import Failure, Program, expect

SIZES = ["--hidden-size", 24, "--intermediate-size", 40, "--num-experts", 6, "--top-k", 2]
PHASES = ("layer", "route", "dispatch", "experts", "combine")


def check_reports(program, scratch, max_ranks):
    report = scratch / "report.json"
    for ranks, dtype, tokens, more in (
        (1, "f32", 50, []),
        (1, "f64", 1, ["--experts", "masked"]),
        (max_ranks, "bf16", 50, ["--dispatcher", "all_to_all"]),
        (max_ranks, "f16", 50, ["--split", "replicated", "--placement", "round_robin"]),
        (max_ranks, "f32", 50, ["--split", ",".join(["0"] * (max_ranks - 1) + ["50"])]),
    ):
        common = ["bench", *SIZES, "--tokens", tokens, "--repetitions", 4, "--warmup", 1, *more]
        out = program.ok(ranks, *common, "--dtype", dtype, "--report", report)
        expect("custom: H 24, I 40, E 6, K 2" in out, out)
        expect(all(re.search(rf"^{phase} +[\d.]+", out, re.M) for phase in PHASES), out)
        facts = json.loads(report.read_text())
        wanted = {"dtype": dtype, "ranks": ranks, "tokens": tokens, "num_experts": 6, "top_k": 2}
        expect({k: facts[k] for k in wanted} == wanted, facts)
        for phase in PHASES:
            t = facts["seconds"][phase]
            expect(0 <= t["min"] <= t["median"] <= t["max"] and len(t["all"]) == 4, facts)
        seconds = facts["seconds"]["layer"]["median"]
        expect(facts["flops"] == 6 * tokens * 2 * 24 * 40, facts)
        size = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2}[dtype]
        active = facts["active_experts"]
        expect((active == 2 if tokens == 1 else 2 < active <= 6), facts)
        expect(facts["bytes"] == (3 * active * 24 * 40 + 2 * tokens * 24) * size, facts)
        expect(abs(facts["tokens_per_second"] * seconds / tokens - 1) < 1e-6, facts)
        for what, ceiling in (("copy", "copy_bytes"), ("gemm", "gemm_flops")):
            expect(facts["ceilings"][f"{ceiling}_per_second"] > 0, facts)
            expect(facts[f"fraction_of_{what}"] > 0, facts)
    out = program.ok(1, "bench", *SIZES, "--repetitions", 1, "--quiet")
    expect(out == "", out)


def check_errors(program, scratch, ranks):
    def fails(code, says, *arguments):
        program.fails(code, says, ranks, ["bench", *arguments])

    fails(2, "--hidden-size or --preset is required")
    fails(2, "--top-k or --preset is required", *SIZES[:-2])
    fails(2, "no-such-model", "--preset", "no-such-model")
    fails(2, "--tokens", *SIZES, "--tokens", 0)
    fails(2, "--repetitions", *SIZES, "--repetitions", 0)
    fails(2, "--warmup", *SIZES, "--warmup", -1)
    fails(2, "below 2\\^31", *SIZES, "--tokens", 2**30)
    fails(2, "top_k must be at most", *SIZES[:-1], 7)
    fails(2, "--split must add up", *SIZES, "--split", ",".join(["1"] * ranks))
    fails(2, "--model", *SIZES, "--model", "x")
    fails(3, "no_folder", *SIZES, "--report", scratch / "no_folder" / "r.json")
    if ranks > 1:
        one, other = ["bench", *SIZES, "--tokens", 4], ["bench", *SIZES, "--tokens", 5]
        program.fails(2, "disagree.*--tokens", ranks, one, other)


def check_compare(script, scratch):
    """Made-up results: what is counted, and which exit code a slowdown gives."""
    peers = json.loads((script.parent / "peers.json").read_text())
    cells = [(c["shape"], c["tokens"], c) for c in peers["cells"]]
    expect(len(cells) == 35, f"peers.json: {len(cells)} cells")

    def results(time):
        return {
            "context": {"device": "made up"},
            "benchmarks": [
                {
                    "name": f"whole/{shape}/T:{t}/bf16/uniform/cold/iterations:1/manual_time",
                    "real_time": time(cell),
                    "time_unit": "us",
                    "floor": cell["floor"],
                    "fraction": cell["floor"] / time(cell),
                    "unwritten": 0,
                    "error": 1e-3,
                }
                for shape, t, cell in cells
            ],
        }

    def write(name, data):
        (scratch / name).write_text(json.dumps(data))
        return scratch / name

    def compare(code, *arguments):
        command = [sys.executable, str(script), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        expect(
            done.returncode == code,
            f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}",
        )
        return done.stdout

    goal = results(lambda cell: cell["goal"])
    slow = results(lambda cell: cell["best"] * 1.2)
    a, b = write("a.json", goal), write("b.json", slow)
    out = compare(0, a, "--peers")
    expect("at or under the goal: 35 of 35" in out, out)
    expect("more than 10 % slower than the best peer: 0 of 35" in out, out)
    out = compare(1, b, "--peers", "--threshold", 10)
    expect("faster than the best peer: 0 of 35" in out, out)
    expect("more than 10 % slower than the best peer: 35 of 35" in out, out)
    compare(0, b, "--peers", "--threshold", 30)
    out = compare(1, b, "--peers", script.parent / "results" / "nvidia-h200-peers.json")
    expect("measured: 35 of 35" in out and "under the goal" not in out, out)
    compare(0, a, a)
    compare(1, b, a)
    compare(0, a, b)
    skewed = copy.deepcopy(goal)
    for case in goal["benchmarks"]:
        twice = {"real_time": 2 * case["real_time"], "fraction": case["fraction"] / 2}
        name = case["name"].replace("uniform", "zipf")
        skewed["benchmarks"].append({**case, **twice, "name": name})
    out = compare(0, write("skewed.json", skewed), "--peers")
    expect("as far from the floor as uniform: 35 of 35" in out, out)
    wrong = copy.deepcopy(goal)
    wrong["benchmarks"][3]["unwritten"] = 7
    out = compare(1, write("wrong.json", wrong), "--peers")
    expect("WRONG" in out, out)
    compare(2, scratch / "nowhere.json", "--peers")
    compare(2, write("empty.json", {"benchmarks": []}), "--peers")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kmoe", required=True)
    parser.add_argument("--compare", required=True, type=Path)
    parser.add_argument("--mpiexec", default="", help="empty: no MPI, one rank")
    parser.add_argument("--numproc-flag", default="-n")
    parser.add_argument("--max-ranks", type=int, default=3)
    args = parser.parse_args()
    max_ranks = args.max_ranks if args.mpiexec else 1
    program = Program(os.path.abspath(args.kmoe), args.mpiexec, args.numproc_flag)
    try:
        with tempfile.TemporaryDirectory(prefix="kmoe-test-") as folder:
            scratch = Path(folder)
            check_compare(args.compare.resolve(), scratch)
            check_errors(program, scratch, max_ranks)
            check_reports(program, scratch, max_ranks)
    except Failure as failure:
        print(f"FAILED  {failure}")
        return 1
    print(f"ok      {program.runs} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
