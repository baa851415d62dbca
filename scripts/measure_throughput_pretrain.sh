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
OPTIMIZER=${OPTIMIZER:-lamb}
DATA_DIR=${DATA_DIR:-}                # real shards instead: a folder that data/create_datasets_from_start.sh filled

# shellcheck source=scripts/measure_throughput.sh
source "$PROJECT_DIR/scripts/measure_throughput.sh" # BERT_MODEL, BATCH_SIZES, PRECISIONS, NUM_GPUS, REPEATS and so on
show_help "${1:-}" "$PROJECT_DIR/scripts/measure_throughput.sh"

lengths=()
for phase in $PHASES; do
  case $phase in
    1) lengths+=(128) ;;
    2) lengths+=(512) ;;
    *) problems+=("PHASES has '$phase'; set it to 1, 2, or both.") ;;
  esac
done
if [[ -n $DATA_DIR ]]; then flags+=(--input_dir "$DATA_DIR"); else flags+=(--synthetic "$SYNTHETIC"); fi
flags+=(--max_seq_lengths "${lengths[@]}")
sweep pretrain "$@"
