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
OPTIMIZER=${OPTIMIZER:-adamw}
TRAIN_FILE=${TRAIN_FILE:-}            # real questions instead: a SQuAD .json file,
VOCAB_FILE=${VOCAB_FILE:-}            # and the vocabulary to read it with

# shellcheck source=scripts/measure_throughput.sh
source "$PROJECT_DIR/scripts/measure_throughput.sh" # BERT_MODEL, BATCH_SIZES, PRECISIONS, NUM_GPUS, REPEATS and so on
show_help "${1:-}" "$PROJECT_DIR/scripts/measure_throughput.sh"

if [[ -n $TRAIN_FILE ]]; then
  flags+=(--train_file "$TRAIN_FILE" --vocab_file "$VOCAB_FILE")
else
  flags+=(--synthetic "$SYNTHETIC")
fi
read -r -a lengths <<<"$MAX_SEQ_LENGTH"
flags+=(--max_seq_lengths "${lengths[@]}")
sweep squad "$@"
