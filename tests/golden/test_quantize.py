# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The part of test_cli.py that quantizes checkpoints."""

import re

# What a format may cost a block's output, against the recorded one.
FORMATS = {
    "fp8_tensor": 0.1,
    "fp8_channel": 0.1,
    "fp8_block": 0.1,
    "mxfp8": 0.12,
    "mxfp4": 0.3,
    "mxfp4_a8": 0.3,
    "mxfp4_a4": 0.4,
    "nvfp4": 0.25,
    "nvfp4_a4": 0.3,
    "int8": 0.03,
    "int4": 0.25,
    "int4_zero": 0.25,
}


def check_quantize(expect, program, folder, scratch, ranks):
    golden = folder / "golden.safetensors"

    def quantize(model, out, kind):
        return ["quantize", "--model", model, "--format", kind, "--out", out]

    for kind, tolerance in FORMATS.items():
        outs = [scratch / f"{kind}-{p}" for p in sorted({1, ranks})]
        for p, out in zip(sorted({1, ranks}), outs):
            text = program.ok(p, *quantize(folder, out, kind))
            expect(f" as {kind} in " in text and "experts.0." in text, f"no report in {text}")
        files = [{f.name: f.read_bytes() for f in out.iterdir()} for out in outs]
        expect(all(f == files[0] for f in files), f"{kind}: other files with {ranks} ranks")
        expect("config.json" in files[0], f"{kind}: no config.json")
        errors = set()
        for p in sorted({1, ranks}):
            for dispatcher in ("standard", "all_to_all"):
                text = program.ok(
                    p, "verify", "--model", outs[0], "--golden", golden,
                    "--tolerance", tolerance, "--dispatcher", dispatcher, "--split", "even",
                )  # fmt: skip
                errors.add(tuple(re.findall(r"error (\S+) tolerance", text)))
        expect(len(errors) == 1, f"{kind}: errors differ: {errors}")
        expect(all(float(e) > 1e-3 for e in errors.pop()), f"{kind}: is not quantized")
    model = scratch / "mxfp4-1"
    program.fails(4, "quantized already", 1, quantize(model, scratch / "x", "int8"))
    program.fails(2, "own directory", ranks, quantize(folder, folder, "int8"))
    program.fails(2, "--format", ranks, quantize(folder, scratch / "x", "int3"))
    for payload, tolerance in (("fp8", 0.1), ("mxfp4", 0.3), ("nvfp4", 0.25)):
        program.ok(
            ranks, "verify", "--model", folder, "--golden", golden, "--split", "even",
            "--tolerance", tolerance, "--payload", payload, "--combine", "bf16",
        )  # fmt: skip
