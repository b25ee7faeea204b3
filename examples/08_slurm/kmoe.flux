#!/bin/bash
# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# kmoe on two nodes of CPUs under Flux: one rank per NUMA domain (here 4 a node), its cores as
# OpenMP threads. With GPUs: one rank per GPU, -g 1 in both places in place of the OMP lines.
# flux: -N 2 -n 8 -c 16
# flux: -t 30m
# flux: --job-name=kmoe

export OMP_NUM_THREADS=16
export OMP_PROC_BIND=close OMP_PLACES=cores

flux run -N 2 -n 8 -c 16 kmoe info
flux run -N 2 -n 8 -c 16 kmoe run --model "$MODEL" --layer 0 --input x.safetensors --output y.npy \
  --dispatcher all_to_all --report report.json --plot load.svg
