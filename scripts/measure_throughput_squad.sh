#!/usr/bin/env bash
# Measure the throughput of fine-tuning on SQuAD over batch sizes, by fresh processes on random tokens or real questions.
#
#   bash scripts/measure_throughput_squad.sh                   # BERT-large at 384 tokens, on all GPUs
#   bash scripts/measure_throughput_squad.sh 20 120            # the window: optimizer steps 21 to 120 of each process
#   BATCH_SIZES="16 32" PRECISIONS="bf16 fp16" bash scripts/measure_throughput_squad.sh
#
# As scripts/measure_throughput_pretrain.sh, which see. What follows the window goes to run_squad.py.
set -euo pipefail

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

RESULTS_DIR=${RESULTS_DIR:-$PROJECT_DIR/results/throughput_squad}   # points.jsonl, and the logs in runs/
MAX_SEQ_LENGTH=${MAX_SEQ_LENGTH:-384} # tokens of question and context; several for several tables
BERT_MODEL=${BERT_MODEL:-large}       # tiny, base, large, or a bert_config.json
BATCH_SIZES=${BATCH_SIZES:-}          # sequences per GPU and optimizer step; empty: doubling until memory ends
FIRST_BATCH_SIZE=${FIRST_BATCH_SIZE:-8}    # where doubling begins
LAST_BATCH_SIZE=${LAST_BATCH_SIZE:-8192}   # where it ends at the latest
ACCUMULATION_STEPS=${ACCUMULATION_STEPS:-1}   # micro-batches per optimizer step
PRECISIONS=${PRECISIONS:-}            # of bf16, fp16, tf32, fp32; empty: bf16 on GPUs that have it, else fp32
COMPILE=${COMPILE:-0}                 # 0, 1, or "0 1" for both
NUM_GPUS=${NUM_GPUS:-}                # numbers of processes, such as "1 2 4 8"; empty: all GPUs, else 1
OPTIMIZER=${OPTIMIZER:-adamw}
REPEATS=${REPEATS:-3}                 # measurements of each point
SYNTHETIC=${SYNTHETIC:-full}          # random tokens: full windows, or a mean length
TRAIN_FILE=${TRAIN_FILE:-}            # real questions instead: a SQuAD .json file,
VOCAB_FILE=${VOCAB_FILE:-}            # and the vocabulary to read it with
MEASURE_PEAK=${MEASURE_PEAK:-1}       # 1: each process also times the model's matrix products by themselves
POINT_TIMEOUT=${POINT_TIMEOUT:-1800}  # seconds for one process

# shellcheck source=scripts/measure_throughput.sh
source "$PROJECT_DIR/scripts/measure_throughput.sh"
if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  print_help MAX_SEQ_LENGTH BERT_MODEL BATCH_SIZES FIRST_BATCH_SIZE LAST_BATCH_SIZE ACCUMULATION_STEPS PRECISIONS \
    COMPILE NUM_GPUS OPTIMIZER REPEATS SYNTHETIC TRAIN_FILE VOCAB_FILE MEASURE_PEAK POINT_TIMEOUT RESULTS_DIR
  exit 0
fi

if [[ -n $TRAIN_FILE ]]; then
  flags+=(--train_file "$TRAIN_FILE" --vocab_file "$VOCAB_FILE")
else
  flags+=(--synthetic "$SYNTHETIC")
fi
read -r -a lengths <<<"$MAX_SEQ_LENGTH"
flags+=(--max_seq_lengths "${lengths[@]}")
sweep squad "$@"
