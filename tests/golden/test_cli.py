#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Tests of the program kmoe on real-format checkpoints; needs nothing but Python.

    test_cli.py --kmoe PATH --mpiexec PATH verify --ranks P [--brief] DIR...
    test_cli.py --kmoe PATH --mpiexec PATH identical DIR...
    test_cli.py --kmoe PATH --mpiexec PATH errors DIR
    test_cli.py --kmoe PATH --mpiexec PATH quantize DIR...

verify: the block outputs that the transformers library recorded, on P ranks, for each dispatcher,
id space,
placement, element type and split. identical: the files that `kmoe run` writes are the same bytes
for all of these
at one to four ranks. errors: damaged files and wrong options give the right exit code on every
rank, in time. quantize: checkpoints in each format are the same files for any number of ranks and
compute nearly what the dense one does.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from test_quantize import check_quantize

# Prints the exit code of every rank; the launcher itself would stop at the first one that is not 0.
WRAPPER = """case ${PMIX_RANK:-${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-0}}} in
%s
esac
echo "exit code $?"
"""


class Failure(Exception):
    pass


def expect(holds, message):
    if not holds:
        raise Failure(message)


# ------------------------------------------------------------------------------------------------
# running kmoe
class Program:
    def __init__(self, kmoe, mpiexec, numproc_flag):
        self.kmoe, self.mpiexec, self.numproc_flag = kmoe, mpiexec, numproc_flag
        self.runs = 0
        self.variables = {}  # index of the program -> ["NAME=value"]

    def launch(self, ranks, *programs, limit=60.0):
        """Runs kmoe with the first arguments on rank 0, the second on rank 1 ..., the last on all
        the others."""
        lines = [
            shlex.join(["env", *self.variables.get(i, []), self.kmoe, *map(str, arguments)]) + " ;;"
            for i, arguments in enumerate(programs)
        ]
        cases = [f"{rank}) {line}" for rank, line in enumerate(lines[:-1])] + [f"*) {lines[-1]}"]
        command = [self.mpiexec, self.numproc_flag, str(ranks)] if self.mpiexec else []
        command += ["sh", "-c", WRAPPER % "\n".join(cases)]
        self.runs += 1
        start = time.monotonic()
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired as late:
            raise Failure(
                f"no end after {limit} s: {' '.join(command)}\n{late.stdout}\n{late.stderr}"
            ) from None
        codes = [int(c) for c in re.findall(r"exit code (-?\d+)", done.stdout)]
        output = re.sub(r"exit code -?\d+\n", "", done.stdout)
        if done.returncode and len(codes) < ranks:  # MPI_Abort: the launcher ended the other ranks
            codes += [done.returncode] * (ranks - len(codes))
        return codes, output, done.stderr, time.monotonic() - start

    def ok(self, ranks, *arguments):
        codes, out, err, _ = self.launch(ranks, arguments)
        expect(
            codes == [0] * ranks,
            f"P={ranks} {' '.join(map(str, arguments))}: exit codes {codes}\n{out}\n{err}",
        )
        return out

    def fails(self, code, says, ranks, *programs, limit=10.0):
        """Every rank ends with `code`, within `limit`, and one line on stderr tells why, in these
        words."""
        codes, out, err, seconds = self.launch(ranks, *programs)
        what = f"P={ranks} {' : '.join(' '.join(map(str, p)) for p in programs)}"
        expect(codes == [code] * ranks, f"{what}: exit codes {codes}, not {code}\n{out}\n{err}")
        expect(seconds < limit, f"{what}: took {seconds:.1f} s")
        told = [line for line in err.splitlines() if line.startswith("kmoe: error: ")]
        expect(len(told) == 1, f"{what}: expected one error line\n{out}\n{err}")
        expect(re.search(says, told[0]), f"{what}: expected /{says}/ in\n{told[0]}")


# ------------------------------------------------------------------------------------------------
# files
def read_safetensors(path):
    raw = Path(path).read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8:start]), raw[start:]


def write_safetensors(path, header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_npy(path, rows, cols, data, kind="<f4"):
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({rows}, {cols}), }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    Path(path).write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data
    )


def npy_data(path):
    raw = Path(path).read_bytes()
    expect(raw[:6] == b"\x93NUMPY", f"{path} is no .npy file")
    return raw[10 + struct.unpack("<H", raw[8:10])[0] :]


def first_input(folder):
    """(layer, module, rows, cols, float32 data) of the first recorded input."""
    header, data = read_safetensors(folder / "golden.safetensors")
    name = min(
        (n for n in header if n.endswith(".input")),
        key=lambda n: int(re.search(r"layers\.(\d+)", n)[1]),
    )
    begin, end = header[name]["data_offsets"]
    expect(header[name]["dtype"] == "F32", f"{folder}: {name} is not F32")
    *rows, cols = header[name]["shape"]
    tokens = 1
    for n in rows:
        tokens *= n
    return (
        int(re.search(r"layers\.(\d+)", name)[1]),
        name[: -len(".input")],
        tokens,
        cols,
        data[begin:end],
    )


def num_experts(folder):
    config = json.loads((folder / "config.json").read_text())
    return next(
        config[k]
        for k in ("num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts")
        if k in config
    )


def splits(ranks, tokens):
    """One split with empty ranks, one that is ragged."""
    empty = [0] * ranks
    empty[ranks // 2] = tokens
    ragged = [10, 0, tokens - 10, 0][:ranks] if ranks > 2 else [tokens - 10, 10][-ranks:]
    ragged[-1] += tokens - sum(ragged)
    return [",".join(map(str, s)) for s in (empty, ragged)]


def placements(folder, ranks):
    """All but the first expert on the last rank: some ranks have none."""
    return ["round_robin", ",".join(["0"] + [str(ranks - 1)] * (num_experts(folder) - 1))]


# ------------------------------------------------------------------------------------------------
# the tests
def combinations(folder, ranks, tokens):
    """Options of `verify` and `run` that must not change a bit."""
    empty, ragged = splits(ranks, tokens)
    for experts in ("local", "masked"):
        common = ["--experts", experts]
        yield [*common, "--dispatcher", "standard", "--split", "replicated"]
        for dispatcher in ("standard", "all_to_all"):
            for split in ("even", empty, ragged) if ranks > 1 else ("even",):
                yield [*common, "--dispatcher", dispatcher, "--split", split]
    for dispatcher in ("standard", "all_to_all"):
        for placement in placements(folder, ranks) if ranks > 1 else ():
            yield ["--dispatcher", dispatcher, "--placement", placement]
        yield ["--dispatcher", dispatcher, "--workspace-limit", "64KiB"]


def check_verify(program, folder, ranks, brief):
    golden = folder / "golden.safetensors"
    modules = sorted(
        n[: -len(".input")] for n in read_safetensors(golden)[0] if n.endswith(".input")
    )
    tokens = first_input(folder)[2]
    if brief:
        choices = [
            ["--split", splits(ranks, tokens)[1]],
            ["--dispatcher", "all_to_all", "--experts", "masked"],
        ]
    else:
        choices = [
            ["--dispatcher", dispatcher, "--experts", experts, *split]
            for dispatcher in ("standard", "all_to_all")
            for experts in ("local", "masked")
            for split in ([], ["--split", splits(ranks, tokens)[0]])
        ]
        choices += [
            ["--dtype", d, "--dispatcher", a]
            for d, a in (("f64", "standard"), ("bf16", "all_to_all"), ("f16", "standard"))
        ]
    for options in choices:
        out = program.ok(ranks, "verify", "--model", folder, "--golden", golden, *options)
        told = re.findall(r"^(\S+) error (\S+) tolerance (\S+) PASS$", out, re.M)
        expect(
            sorted(t[0] for t in told) == modules,
            f"{folder} {options}: expected a line for each of {modules}\n{out}",
        )
        expect(all(0 <= float(error) <= float(limit) for _, error, limit in told), out)


def check_identical(program, folder, scratch, max_ranks):
    layer, _, tokens, cols, data = first_input(folder)
    x, y = scratch / "x.npy", scratch / "y.npy"
    write_npy(x, tokens, cols, data)
    run = ["run", "--model", folder, "--layer", layer, "--input", x, "--output", y, "--quiet"]
    program.ok(1, *run)
    wanted = y.read_bytes()
    expect(
        len(set(npy_data(y)[i : i + 4] for i in range(0, 4 * cols * tokens, 4))) > cols,
        f"{folder}: y is constant",
    )
    for ranks in range(1, max_ranks + 1):
        for options in combinations(folder, ranks, tokens):
            y.unlink()
            program.ok(ranks, *run, *options)
            expect(
                y.read_bytes() == wanted, f"{folder} P={ranks} {options}: other bytes than at P=1"
            )
    # A token's result depends on neither the other tokens nor their number.
    write_npy(x, 7, cols, data[4 * cols * 20 : 4 * cols * 27])
    program.ok(min(3, max_ranks), *run)
    expect(
        npy_data(y) == npy_data_of(wanted)[4 * cols * 20 : 4 * cols * 27],
        f"{folder}: seven tokens alone differ",
    )


def npy_data_of(raw):
    return raw[10 + struct.unpack("<H", raw[8:10])[0] :]


def check_files(program, folder, scratch, max_ranks):
    """Formats, element types, report and plot."""
    layer, module, tokens, cols, data = first_input(folder)
    golden, report, plot = (
        folder / "golden.safetensors",
        scratch / "report.json",
        scratch / "load.svg",
    )
    common = ["run", "--model", folder, "--layer", layer]
    ranks = min(3, max_ranks)
    for dtype, name, kind, size in (
        ("f32", "F32", "<f4", 4),
        ("f64", "F64", "<f8", 8),
        ("f16", "F16", "<f2", 2),
        ("bf16", "BF16", "<f4", 2),
    ):
        npy, st = scratch / f"{dtype}.npy", scratch / f"{dtype}.safetensors"
        for path in (npy, st):
            program.ok(
                ranks, *common, "--input", golden, "--output", path, "--dtype", dtype, "--quiet"
            )
        header, values = read_safetensors(st)
        tensor = header[f"{module}.output"]
        expect(tensor["dtype"] == name and tensor["shape"] == [tokens, cols], f"{st}: {tensor}")
        expect(len(values) == tokens * cols * size, f"{st}: {len(values)} bytes")
        if dtype == "bf16":  # widened exactly
            values = b"".join(b"\0\0" + values[i : i + 2] for i in range(0, len(values), 2))
        expect(
            kind in npy.read_bytes()[:80].decode("latin-1") and npy_data(npy) == values,
            f"{npy} and {st} differ",
        )
    # Told once, also without a launcher.
    for direct, p in ((program, ranks), (Program(program.kmoe, "", ""), 1)):
        out = direct.ok(p, "--version")
        expect(re.fullmatch(r"kmoe \d.*\nKokkos \d.*\nMPI library .*\n", out), out)
        expect(direct.ok(p, "run", "--help").count("Usage: kmoe run") == 1, "--help")
        out = direct.ok(p, "info")
        mpi = json.loads(direct.ok(p, "info", "--json"))["mpi"]
        devices = mpi["devices"]
        expect(f"\nranks              {p}\n" in out and mpi["ranks"] == p, "info")
        expect(len(devices) == p, f"devices of {p} ranks: {devices}")
        for rank, device in enumerate(devices):
            line = f"\n  rank {rank}".ljust(20) + device
            expect((line in out) == (device != "host"), f"{line} in {out}")
    # Every variable that the sources read is listed, and is in the manual.
    source = Path(__file__).resolve().parents[2] / "src"
    for path in source.rglob("*.cpp"):
        for name in re.findall(r'getenv\("(KMOE_\w+)"\)', path.read_text()):
            expect(name in program.ok(1, "info"), f"kmoe info does not list {name}")
            expect(name in (source / "cli/kmoe.1").read_text(), f"kmoe.1 does not list {name}")
    files = ["--output", scratch / "y.npy", "--report", report, "--plot", plot]
    out = program.ok(ranks, *common, "--input", golden, *files)
    expect("\x1b" not in out, "colours without a terminal")
    expect(f"{tokens} tokens" in out and "Tokens from each rank" in out, out)
    facts = json.loads(report.read_text())
    expect(
        facts["ranks"] == ranks and facts["tokens"] == tokens and facts["module"] == module, facts
    )
    slots = tokens * facts["config"]["top_k"]
    table = facts["tokens_from_rank_to_expert"]
    expect(
        len(table) == ranks
        and sum(map(sum, table)) + sum(facts["zero_expert_tokens_from_rank"]) == slots,
        facts,
    )
    expect([sum(c) for c in zip(*table)] == facts["tokens_per_expert"], facts)
    expect(sum(facts["tokens_per_rank"]) == sum(facts["tokens_per_expert"]), facts)
    expect(sum(facts["own_tokens_per_rank"]) == tokens, facts)
    expect(all(b > 0 for b in facts["workspace_bytes_per_rank"]), facts)
    expect((sum(facts["bytes_sent_per_rank"]) > 0) == (ranks > 1), facts)
    for phase in ("route", "dispatch", "experts", "combine", "shared", "forward"):
        t = facts["seconds"][phase]
        expect(0 <= t["min"] <= t["median"] <= t["max"] and len(t["per_rank"]) == ranks, facts)
    expect(
        plot.read_text().startswith("<svg")
        and f"expert {num_experts(folder) - 1} on rank" in plot.read_text(),
        "plot",
    )
    expect(
        [p.name for p in scratch.iterdir() if p.name.startswith(".")] == [],
        "unfinished files are left",
    )


def damaged(folder, scratch, name, change):
    """A copy of the checkpoint whose model.safetensors went through change(bytearray)."""
    copy = scratch / name
    shutil.copytree(folder, copy)
    raw = bytearray((copy / "model.safetensors").read_bytes())
    (copy / "model.safetensors").write_bytes(change(raw))
    return copy


def with_header(change):
    def apply(raw):
        size = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + size])
        data = change(header, raw[8 + size :])
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    return apply


def check_errors(program, folder, scratch, max_ranks):
    layer, module, tokens, cols, data = first_input(folder)
    golden = folder / "golden.safetensors"
    ranks = min(3, max_ranks)

    def verify(model=folder, file=golden, *more):
        return ["verify", "--model", model, "--golden", file, *more]

    def run(*more, model=folder, x=golden):
        return [
            "run",
            "--model",
            model,
            "--layer",
            layer,
            "--input",
            x,
            "--output",
            scratch / "never.npy",
            "--quiet",
            *more,
        ]

    def fails(code, says, *programs):
        program.fails(code, says, ranks, *programs)

    # Verification that must not pass: another reference, and NaN.
    header, values = read_safetensors(golden)
    for name, change in (
        ("off", lambda v: struct.pack("<f", struct.unpack("<f", v)[0] + 0.5)),
        ("nan", lambda v: struct.pack("<f", float("nan"))),
    ):
        begin = header[f"{module}.output"]["data_offsets"][0]
        write_safetensors(
            scratch / name,
            header,
            values[:begin] + change(values[begin : begin + 4]) + values[begin + 4 :],
        )
        (scratch / name).rename(scratch / f"{name}.safetensors")
        codes, out, err, _ = program.launch(ranks, verify(folder, scratch / f"{name}.safetensors"))
        expect(
            codes == [1] * ranks and f"{module} error" in out and "FAIL" in out,
            f"{name}: {codes}\n{out}\n{err}",
        )

    # Usage.
    fails(2, "subcommand", [])
    fails(2, "--bogus", verify(folder, golden, "--bogus"))
    fails(2, "f31", verify(folder, golden, "--dtype", "f31"))
    fails(
        2,
        "--split must have one entry per rank",
        verify(folder, golden, "--split", ",".join(["0"] * ranks) + f",{tokens}"),
    )
    fails(2, "--split must add up", verify(folder, golden, "--split", ",".join(["1"] * ranks)))
    fails(
        2, "--split must add up", verify(folder, golden, "--split", ",".join([str(2**62)] * ranks))
    )
    fails(
        2,
        "replicated needs",
        verify(folder, golden, "--split", "replicated", "--dispatcher", "all_to_all"),
    )
    fails(
        2,
        "--placement must have one entry per expert",
        verify(folder, golden, "--placement", "0,0"),
    )
    fails(
        2,
        "--placement: ranks must be below",
        verify(folder, golden, "--placement", ",".join(["99"] * num_experts(folder))),
    )
    fails(2, "4711", verify(folder, golden, "--layer", "4711"))

    # Checkpoints.
    router = next(
        n
        for n in read_safetensors(folder / "model.safetensors")[0]
        if n.endswith(("gate.weight", "router.weight"))
    )

    def nan_router(head, raw):
        begin = head[router]["data_offsets"][0]
        nan = {"BF16": b"\xc0\x7f", "F16": b"\x00\x7e", "F32": b"\0\0\xc0\x7f"}[
            head[router]["dtype"]
        ]
        return raw[:begin] + nan + raw[begin + len(nan) :]

    def outside(head, raw):
        head[router]["data_offsets"][1] += 1 << 40
        return raw

    def missing(head, raw):
        head["renamed"] = head.pop(router)
        return raw

    def transposed(head, raw):
        head[router]["shape"].reverse()
        return raw

    for name, says, change in (
        ("truncated", "model.safetensors", lambda raw: raw[: len(raw) // 2]),
        ("short", "model.safetensors", lambda raw: raw[:5]),
        ("huge_header", "header", lambda raw: struct.pack("<Q", 1 << 63) + raw[8:]),
        ("outside", re.escape(router), with_header(outside)),
        ("missing", re.escape(router), with_header(missing)),
        ("transposed", re.escape(router), with_header(transposed)),
        ("nan_router", re.escape(router), with_header(nan_router)),
    ):
        model = damaged(folder, scratch, name, change)
        fails(3, says, verify(model))
        fails(3, says, run(model=model))
    model = scratch / "unknown"
    shutil.copytree(folder, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "gpt9_moe"}))
    fails(4, "gpt9_moe", verify(model))
    (model / "config.json").write_text("{")
    fails(3, "config.json", verify(model))
    fails(3, "nowhere", verify(scratch / "nowhere"))

    # Golden files and inputs.
    fails(3, "no pair", verify(folder, folder / "model.safetensors"))
    fails(3, "nowhere.safetensors", verify(folder, scratch / "nowhere.safetensors"))
    strange = {
        n.replace("layers.", "layers.99") if n != "__metadata__" else n: v
        for n, v in header.items()
    }
    write_safetensors(scratch / "strange.safetensors", strange, values)
    fails(3, "no MoE block", verify(folder, scratch / "strange.safetensors"))
    wide = {
        n: {**v, "shape": [v["shape"][0] * 2, v["shape"][1] // 2]} if n.endswith("put") else v
        for n, v in header.items()
    }
    write_safetensors(scratch / "wide.safetensors", wide, values)
    fails(3, "hidden_size", verify(folder, scratch / "wide.safetensors"))
    write_npy(scratch / "narrow.npy", tokens * 2, cols // 2, data)
    fails(3, "hidden_size", run(x=scratch / "narrow.npy"))
    write_npy(scratch / "short.npy", tokens, cols, data[:-4])
    fails(3, "short.npy", run(x=scratch / "short.npy"))
    fails(3, "no_such_tensor", run("--tensor", "no_such_tensor"))
    fails(4, "x.txt", run(x=scratch / "x.txt"))
    fails(3, "no_folder", [*run()[:-3], "--output", scratch / "no_folder" / "y.npy"])

    # Ranks that were started with different options.
    if ranks > 1:
        for one, other in (
            (run("--experts", "local"), run("--experts", "masked")),
            (run(), verify()),
            (verify(), verify(folder, golden, "--dtype", "f64")),
            (verify(), ["--help"]),
        ):
            fails(2, "disagree", one, other)
        # A rank that fails where the others do not look: it ends the job.
        program.variables = {1: ["KMOE_ISA=nonsense"]}
        fails(4, "rank 1.*KMOE_ISA", verify(), verify(), verify())
        program.variables = {}
        fails(2, "rank 1: .*--bogus", verify(), verify(folder, golden, "--bogus"))

    left = [p.name for p in scratch.iterdir() if "never" in p.name]
    expect(left == [], f"failed runs left {left}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kmoe", required=True)
    parser.add_argument("--mpiexec", default="", help="empty: no MPI, one rank")
    parser.add_argument("--numproc-flag", default="-n")
    parser.add_argument("--max-ranks", type=int, default=4)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("test", choices=["verify", "identical", "files", "errors", "quantize"])
    parser.add_argument("folders", nargs="+", type=Path)
    args = parser.parse_args()
    max_ranks = args.max_ranks if args.mpiexec else 1
    program = Program(os.path.abspath(args.kmoe), args.mpiexec, args.numproc_flag)
    failed = 0
    for folder in args.folders:
        runs, start = program.runs, time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="kmoe-test-") as scratch:
                if args.test == "verify":
                    check_verify(program, folder, args.ranks, args.brief)
                else:
                    {
                        "identical": check_identical,
                        "files": check_files,
                        "errors": check_errors,
                        "quantize": lambda *a: check_quantize(expect, *a),
                    }[args.test](program, folder, Path(scratch), max_ranks)
            print(
                f"ok      {folder.name}: {program.runs - runs} runs, "
                f"{time.monotonic() - start:.1f} s",
                flush=True,
            )
        except Failure as failure:
            failed += 1
            print(f"FAILED  {folder.name}: {failure}", flush=True)
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
