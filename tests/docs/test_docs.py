#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs what the documents say.

    test_docs.py --source DIR --build DIR PAGE.md...

The line before each fenced block of code must be one of
    <!-- run -->                 a shell script, run in a folder that looks like the root of a clone
    <!-- run: launchers -->      the same, where srun, flux and mpiexec are stand-ins on two ranks
    <!-- run: torch -->          the same, left out where Python lacks torch, numpy or safetensors
    <!-- run: benchmarks -->     the same, left out without perf/ or matplotlib
    <!-- from: FILE -->          lines of a file of the clone, which something else builds and runs
    <!-- not run: REASON -->     neither, and why
A block without such a line is an error, so that no command escapes; blocks that name no language
are drawings. Relative links must lead to files that exist. The exit status is 1 after a failure, 77
if something was left out, which can not be inside the environments of .ci/env.sh.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# `make exec CMD='...'` in the environment that make exec would enter.
PRELUDE = """set -eu -o pipefail
make() { test "$1" = exec && bash -c "${2#CMD=}"; }
export -f make
"""

LAUNCHERS = {
    "srun": 'exec mpirun -n 2 "$@"',
    "mpiexec": 'test "$1" = -n || exit 99; shift 2; exec mpirun -n 2 "$@"',
    "flux": 'test "$1 $2 $4 $6" = "run -N -n -c" || exit 99; shift 7; exec mpirun -n 2 "$@"',
}


# What a block may need that is not everywhere.
MODULES = {"torch": "numpy, safetensors, torch", "benchmarks": "matplotlib"}


def lacks(mark, build):
    """Whether a block with this mark can not be run here: never in the environments of CI."""
    if mark not in MODULES or "KMOE_INSIDE" in os.environ:
        return False
    probe = ["python3", "-c", f"import {MODULES[mark]}"]
    return (subprocess.run(probe, capture_output=True, check=False).returncode != 0 or
            (mark == "benchmarks" and not (build / "perf").exists()))


def blocks(text):
    """(line number, mark, language, code) of each fenced block."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        fence = re.fullmatch(r"```(\S*)", lines[at])
        if not fence:
            at += 1
            continue
        end = lines.index("```", at + 1)
        mark = re.fullmatch(r"<!-- (run|from|not run)(?:: (.*))? -->", lines[at - 1])
        yield at + 1, mark, fence[1], "\n".join(lines[at + 1:end]) + "\n"
        at = end + 1


def run(script, source, build, launchers):
    with tempfile.TemporaryDirectory(prefix="kmoe-docs-") as name:
        scratch, path = Path(name), [str(build / "bin")]
        for entry in "examples", "tests", "perf", "include", "src", "README.md":
            (scratch / entry).symlink_to(source / entry)
        (scratch / "build").mkdir()
        for entry in "examples", "perf":
            (scratch / "build" / entry).symlink_to(build / entry)
        if launchers:
            (scratch / "launchers").mkdir()
            for tool, body in LAUNCHERS.items():
                file = scratch / "launchers" / tool
                file.write_text(f"#!/bin/sh\n{body}\n")
                file.chmod(0o755)
            path.insert(0, str(scratch / "launchers"))
        environment = dict(os.environ, PATH=":".join([*path, os.environ["PATH"]]),
                           SLURM_CPUS_PER_TASK="1")
        return subprocess.run(["bash", "-c", PRELUDE + script], cwd=scratch, env=environment,
                              capture_output=True, text=True, timeout=240, check=False)


def check(page, source, build):
    failures, ran, left_out = [], 0, 0
    text = page.read_text()
    for line, mark, language, code in blocks(text):
        where = f"{page.name}:{line}"
        if not language and not mark:
            continue
        if not mark:
            failures.append(f"{where}: the line before this block does not say how it is tested")
        elif mark[1] == "from":
            if code not in (source / mark[2]).read_text():
                failures.append(f"{where}: these lines are not in {mark[2]}")
            ran += 1
        elif mark[1] == "run":
            if language != "sh":
                failures.append(f"{where}: only sh can be run")
                continue
            if lacks(mark[2], build):
                print(f"{where}: SKIPPED, what {mark[2]} need is not here")
                left_out += 1
                continue
            done = run(code, source, build, mark[2] == "launchers")
            ran += 1
            if done.returncode != 0:
                failures.append(f"{where}: exit status {done.returncode}\n{done.stdout[-2000:]}"
                                f"{done.stderr[-2000:]}")
        elif not mark[2]:
            failures.append(f"{where}: not run, but why?")
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in link and not (page.parent / link).exists():
            failures.append(f"{page.name}: link to {link}, which does not exist")
    return failures, ran, left_out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("pages", nargs="+")
    args = parser.parse_args()
    failed, skipped = False, 0
    for page in args.pages:
        failures, ran, left_out = check(
            args.source / page, args.source.resolve(), args.build.resolve())
        for failure in failures:
            print(failure)
        failed = failed or bool(failures)
        skipped += left_out
        print(f"{page}: {ran} blocks run or compared, {left_out} left out, "
              f"{len(failures)} failures")
    return 1 if failed else 77 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
