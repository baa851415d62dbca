#!/usr/bin/env bash
# Measure the throughput of pre-training over batch sizes, by fresh processes on random tokens or real shards.
#
#   bash scripts/measure_throughput_pretrain.sh                # phase 1 and 2 of BERT-large, on all GPUs
#   bash scripts/measure_throughput_pretrain.sh 20 120         # the window: optimizer steps 21 to 120 of each process
#   PHASES=1 BATCH_SIZES="64 128 256" COMPILE="0 1" bash scripts/measure_throughput_pretrain.sh
#   BERT_MODEL=tiny BATCH_SIZES="8 16" bash scripts/measure_throughput_pretrain.sh 2 12
#
# Each point is measured REPEATS times, each time by a new process; the tables show the median, the lowest and the
# highest. Out of memory is recorded as a result, any other failure is shown, and the sweep goes on. Started again with
# the same RESULTS_DIR, it measures what is missing. CUDA_VISIBLE_DEVICES chooses the GPUs. What follows the window goes to
# run_pretraining.py. docs/benchmarking.md defines the figures.
set -euo pipefail

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

RESULTS_DIR=${RESULTS_DIR:-$PROJECT_DIR/results/throughput_pretrain}   # points.jsonl, and the logs in runs/
PHASES=${PHASES:-1 2}                 # 1: sequence length 128, 2: 512
BERT_MODEL=${BERT_MODEL:-large}       # tiny, base, large, or a bert_config.json
BATCH_SIZES=${BATCH_SIZES:-}          # sequences per GPU and optimizer step; empty: doubling until memory ends
FIRST_BATCH_SIZE=${FIRST_BATCH_SIZE:-8}    # where doubling begins
LAST_BATCH_SIZE=${LAST_BATCH_SIZE:-8192}   # where it ends at the latest
ACCUMULATION_STEPS=${ACCUMULATION_STEPS:-1}   # micro-batches per optimizer step
PRECISIONS=${PRECISIONS:-}            # of bf16, fp16, tf32, fp32; empty: bf16 on GPUs that have it, else fp32
COMPILE=${COMPILE:-0}                 # 0, 1, or "0 1" for both
NUM_GPUS=${NUM_GPUS:-}                # numbers of processes, such as "1 2 4 8"; empty: all GPUs, else 1
OPTIMIZER=${OPTIMIZER:-lamb}
REPEATS=${REPEATS:-3}                 # measurements of each point
SYNTHETIC=${SYNTHETIC:-full}          # random tokens: full sequences, or a mean length
DATA_DIR=${DATA_DIR:-}                # real shards instead: a folder that data/create_datasets_from_start.sh filled
MEASURE_PEAK=${MEASURE_PEAK:-1}       # 1: each process also times the model's matrix products by themselves
POINT_TIMEOUT=${POINT_TIMEOUT:-1800}  # seconds for one process

# shellcheck source=scripts/measure_throughput.sh
source "$PROJECT_DIR/scripts/measure_throughput.sh"
if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  print_help PHASES BERT_MODEL BATCH_SIZES FIRST_BATCH_SIZE LAST_BATCH_SIZE ACCUMULATION_STEPS PRECISIONS COMPILE \
    NUM_GPUS OPTIMIZER REPEATS SYNTHETIC DATA_DIR MEASURE_PEAK POINT_TIMEOUT RESULTS_DIR
  exit 0
fi

lengths=()
for phase in $PHASES; do
  case $phase in
    1) lengths+=(128) ;;
    2) lengths+=(512) ;;
    *) problems+=("PHASES has '$phase'; set it to 1, 2, or both.") ;;
  esac
done
[[ -n ${PHASES// /} ]] || problems+=("PHASES is empty; set it to 1, 2, or both.")
if [[ -n $DATA_DIR ]]; then flags+=(--input_dir "$DATA_DIR"); else flags+=(--synthetic "$SYNTHETIC"); fi
flags+=(--max_seq_lengths "${lengths[@]}")
sweep pretrain "$@"
