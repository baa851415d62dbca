#!/usr/bin/env bash
# Sourced by scripts/measure_throughput_pretrain.sh and _squad.sh: the settings that both have, and the way to a sweep.

BERT_MODEL=${BERT_MODEL:-large}       # tiny, base, large, or a bert_config.json
BATCH_SIZES=${BATCH_SIZES:-}          # sequences per GPU and optimizer step; empty: doubling until memory ends
FIRST_BATCH_SIZE=${FIRST_BATCH_SIZE:-8}    # where doubling begins
LAST_BATCH_SIZE=${LAST_BATCH_SIZE:-8192}   # where it ends at the latest
ACCUMULATION_STEPS=${ACCUMULATION_STEPS:-1}   # micro-batches per optimizer step
PRECISIONS=${PRECISIONS:-}            # of fp8, bf16, fp16, tf32, fp32; empty: bf16 on GPUs that have it, else fp32
COMPILE=${COMPILE:-0}                 # 0, 1, or "0 1" for both
NUM_GPUS=${NUM_GPUS:-}                # numbers of processes, such as "1 2 4 8"; empty: all GPUs, else 1
REPEATS=${REPEATS:-3}                 # measurements of each point
SYNTHETIC=${SYNTHETIC:-full}          # random tokens: full sequences, or a mean length
MEASURE_PEAK=${MEASURE_PEAK:-1}       # 1: each process also times the model's matrix products by themselves
POINT_TIMEOUT=${POINT_TIMEOUT:-1800}  # seconds for one process

# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"
flags=()

sweep() { # WORKLOAD [START [STOP]] FLAGS...: measure all points; benchmark/sweep.py checks what it is told
  local workload=$1
  shift
  check_settings "$@"
  if [[ ${1:-} =~ ^[^-] ]]; then flags+=(--start "$1") && shift; fi
  if [[ ${1:-} =~ ^[^-] ]]; then flags+=(--stop "$1") && shift; fi
  lists_of BATCH_SIZES PRECISIONS NUM_GPUS COMPILE
  expect_switches MEASURE_PEAK
  switch --measure_peak MEASURE_PEAK
  activate_environment || true
  report_problems
  exec python3 "$PROJECT_DIR/benchmark/sweep.py" "$workload" --output_dir "$RESULTS_DIR" --bert_model "$BERT_MODEL" \
    --first_batch_size "$FIRST_BATCH_SIZE" --last_batch_size "$LAST_BATCH_SIZE" --repeats "$REPEATS" \
    --accumulation_steps "$ACCUMULATION_STEPS" --optimizer "$OPTIMIZER" --timeout "$POINT_TIMEOUT" "${flags[@]}" -- "$@"
}
