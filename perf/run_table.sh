#!/usr/bin/env bash
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# perf/run_table.sh PROGRAM RESULTS.json [option of kmoe_bench_layer...]
#
# Measures the peers' table (default: the whole layer, bf16, uniform routing, cold) into one JSON
# and compares it with the peers. Everything, as perf/results has it:
#     perf/run_table.sh build/perf/kmoe_bench_layer new.json \
#         --phases whole,permutation,experts,combine --caches cold,warm
#     perf/run_table.sh build/perf/kmoe_bench_layer skew.json --routings uniform,zipf,one
# Exit code: 1 if a result was wrong, or slower than the best peer by more than THRESHOLD percent
# (environment, default 10).
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
(($# >= 2)) || {
  sed -n '5,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
}
program=$1
results=$2
shift 2
[[ " $* " == *" --phases "* ]] || set -- --phases whole "$@"
[[ " $* " == *" --caches "* ]] || set -- --caches cold "$@"
status=0
start=$SECONDS
"$program" "$@" --benchmark_out="$results" --benchmark_out_format=json >"$results.log" || status=$?
echo "measured in $((SECONDS - start)) s, exit code $status"
((status <= 1)) || exit "$status"
# Where it was measured is not part of the result.
python3 - "$results" <<'PY'
import json, sys
data = json.load(open(sys.argv[1]))
for field in ("host_name", "executable", "load_avg"):
    data["context"].pop(field, None)
json.dump(data, open(sys.argv[1], "w"), indent=1)
PY
python3 "$here/compare.py" "$results" --peers --threshold "${THRESHOLD:-10}" || status=$?
exit "$status"
