#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Recorded routings, KMOE_SUMMARY and KMOE_LOG of the program kmoe.

    test_replay.py --kmoe PATH --mpiexec PATH DIR
"""

import argparse
import json
import os
import struct
import sys
import tempfile
from pathlib import Path

from test_cli import Failure, Program, expect, read_safetensors, write_safetensors


def check(program, folder, scratch, ranks):
    golden = folder / "golden.safetensors"

    def run(name, *more, on=ranks):
        program.ok(on, "run", "--model", folder, "--layer", 0, "--input", golden, "--output",
                   scratch / f"{name}.npy", "--quiet", *more)

    # A recording changes no result, and is the same file whatever the ranks.
    run("plain")
    run("one", "--record-routing", scratch / "one.safetensors", "--report", scratch / "one.json",
        on=1)
    run("all", "--record-routing", scratch / "all.safetensors")
    run("replicated", "--record-routing", scratch / "replicated.safetensors", "--split",
        "replicated")
    for name in "one", "all", "replicated":
        expect((scratch / f"{name}.npy").read_bytes() == (scratch / "plain.npy").read_bytes(),
               f"{name}: another result than without a recording")
        expect((scratch / f"{name}.safetensors").read_bytes()
               == (scratch / "one.safetensors").read_bytes(), f"{name}: another recording")

    # The loads of a replay are those of the run, on any ranks, placement and dispatcher.
    wanted = json.loads((scratch / "one.json").read_text())["tokens_per_expert"]
    for p in range(1, ranks + 1):
        for options in ([], ["--dispatcher", "all_to_all", "--placement", "round_robin"]):
            report = scratch / "replay.json"
            program.ok(p, "replay", scratch / "all.safetensors", "--quiet", "--report", report,
                       "--plot", scratch / "replay.svg", *options)
            found = json.loads(report.read_text())
            expect(found["tokens_per_expert"] == wanted, f"P={p} {options}: other loads")
            expect(found["ranks"] == p and found["model_type"] == "replay", "report")
    expect("tokens" in program.ok(1, "replay", scratch / "all.safetensors"), "no summary")

    program.fails(3, "sizes", ranks, ["replay", golden])
    program.fails(2, "routing", ranks, ["replay"])
    header, data = read_safetensors(scratch / "all.safetensors")
    at = header["topk_ids"]["data_offsets"][0]
    damaged = data[:at] + struct.pack("<i", 100000) + data[at + 4:]
    write_safetensors(scratch / "bad.safetensors", header, damaged)
    program.fails(3, "topk_ids.*100000", ranks, ["replay", scratch / "bad.safetensors"])

    # Each rank's summary, and lines on stderr only when asked for.
    everyone = range(ranks)
    command = ["replay", scratch / "all.safetensors", "--quiet"]
    _, out, err, _ = program.launch(ranks, command)
    expect(out == "" and "rank" not in err, f"not quiet: {out}{err}")
    program.variables = {i: [f"KMOE_SUMMARY={scratch}/s.%r.json", "KMOE_LOG=info"]
                         for i in everyone}
    _, _, err, _ = program.launch(ranks, *[command] * ranks)
    program.variables = {}
    expect(err.count("layer built") == ranks, f"KMOE_LOG: {err}")
    tokens = 0
    for r in everyone:
        layer, = json.loads((scratch / f"s.{r}.json").read_text())["layers"]
        tokens += layer["tokens"]
        expect(layer["phases"]["experts"]["count"] == layer["forward_calls"] == 1, str(layer))
    expect(tokens * json.loads((scratch / "replay.json").read_text())["config"]["top_k"]
           == sum(wanted), "tokens of the summaries")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kmoe", required=True)
    parser.add_argument("--mpiexec", default="")
    parser.add_argument("--numproc-flag", default="-n")
    parser.add_argument("--max-ranks", type=int, default=3)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    program = Program(os.path.abspath(args.kmoe), args.mpiexec, args.numproc_flag)
    try:
        with tempfile.TemporaryDirectory(prefix="kmoe-test-") as scratch:
            check(program, args.folder, Path(scratch), args.max_ranks if args.mpiexec else 1)
    except Failure as failure:
        print(f"FAILED  {failure}")
        return 1
    print(f"ok      {program.runs} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
