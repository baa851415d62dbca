#!/usr/bin/env bash
# Fill a scaling table in one call of at most ten minutes: BERT-large on 1, 2, 4, 8 GPUs, each with the same work.
#
#   bash scripts/measure_scaling.sh
#   ESTIMATE=1 bash scripts/measure_scaling.sh                # how long it would take, and nothing measured
#   WORKLOADS="phase1 squad" NUM_GPUS="1 2" TIME_LIMIT=240 bash scripts/measure_scaling.sh
#   BERT_MODEL=tiny WORKLOADS=phase1 MICRO_BATCH=4 bash scripts/measure_scaling.sh 2 12   # the window: steps 3 to 12
#
# What does not fit into TIME_LIMIT is left out, the least wanted first: one GPU and all GPUs come before the numbers
# between, and ACCUMULATION_STEPS in their order. Started again with the same RESULTS_DIR, it measures what is missing.
# CUDA_VISIBLE_DEVICES chooses the GPUs. What follows the window goes to run_pretraining.py and run_squad.py.
# docs/benchmarking.md defines the columns.
set -euo pipefail

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

RESULTS_DIR=${RESULTS_DIR:-$PROJECT_DIR/results/scaling}   # scaling.md, scaling.jsonl, points.jsonl, logs in runs/
BERT_MODEL=${BERT_MODEL:-large}       # tiny, base, large, or a bert_config.json
WORKLOADS=${WORKLOADS:-phase1 phase2 unpadded squad}   # unpadded: 512 tokens at most, 254 in the mean
NUM_GPUS=${NUM_GPUS:-}                # numbers of processes; empty: those of 1 2 4 8 that there are, and all
PRECISIONS=${PRECISIONS:-}            # empty: bf16, and fp8 where Triton kernels are the default; else fp32
ACCUMULATION_STEPS=${ACCUMULATION_STEPS:-1 4}   # micro-batches per reduction and update
MICRO_BATCH=${MICRO_BATCH:-}          # sequences; empty: 256 of 128 tokens, 64 of 512, 128 of 254, 32 of 384
COMPILE=${COMPILE:-0}                 # 1: with --compile
SIDE_BY_SIDE=${SIDE_BY_SIDE:-1}       # 0: a measurement of few GPUs has the machine for itself
TIME_LIMIT=${TIME_LIMIT:-570}         # seconds of this call
POINT_TIMEOUT=${POINT_TIMEOUT:-180}   # seconds for one measurement
ESTIMATE=${ESTIMATE:-0}               # 1: only say how long it would take

# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"
show_help "${1:-}"
check_settings "$@"

flags=()
if [[ ${1:-} =~ ^[^-] ]]; then flags+=(--start "$1") && shift; fi
if [[ ${1:-} =~ ^[^-] ]]; then flags+=(--stop "$1") && shift; fi
lists_of WORKLOADS NUM_GPUS PRECISIONS ACCUMULATION_STEPS
flags_of MICRO_BATCH
expect_switches ESTIMATE
switch --estimate ESTIMATE
activate_environment || true
report_problems
exec python3 "$PROJECT_DIR/benchmark/scaling.py" --output_dir "$RESULTS_DIR" --bert_model "$BERT_MODEL" \
  --compile "$COMPILE" --side_by_side "$SIDE_BY_SIDE" --time_limit "$TIME_LIMIT" --timeout "$POINT_TIMEOUT" \
  "${flags[@]}" -- "$@"
