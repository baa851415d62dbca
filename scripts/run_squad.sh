#!/usr/bin/env bash
# Fine-tune BERT on SQuAD, answer the questions of the development set, and score the answers.
#
#   bash scripts/run_squad.sh
#   SQUAD_VERSION=2.0 INIT_CHECKPOINT=results/pretraining/ckpt_8601.pt VOCAB_FILE=vocab.txt bash scripts/run_squad.sh
#   CONFIG=h200_1gpu COMPILE=0 bash scripts/run_squad.sh --max_answer_length 40
#
# By default it starts from Google's bert-large-uncased and takes the files that data/create_datasets_from_start.sh
# downloads. The configuration stands below; edit it, or set it in the environment. Extra flags go to run_squad.py.
#
# OUTPUT_DIR is the run: checkpoints, the log, predictions.json, nbest_predictions.json and, for v2.0, null_odds.json.
# Started again with the same folder, the script goes on after the newest checkpoint there. On SIGTERM, SIGUSR1, SIGHUP
# and Ctrl-C it saves first; it ends with 130 after Ctrl-C, and after the others with 75.
set -euo pipefail

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"
CONFIG=${CONFIG:-}   # defaults for known hardware: a name in scripts/hardware.txt, such as h200_1gpu, or a file of your own
read_hardware squad

OUTPUT_DIR=${OUTPUT_DIR:-$PROJECT_DIR/results/squad}
INIT_CHECKPOINT=${INIT_CHECKPOINT:-bert-large-uncased} # a published name, a Hugging Face or Google folder, a .pt file
VOCAB_FILE=${VOCAB_FILE:-}                      # empty: the one beside INIT_CHECKPOINT
CONFIG_FILE=${CONFIG_FILE:-}                    # a bert_config.json; empty: INIT_CHECKPOINT's
BERT_MODEL=${BERT_MODEL:-}                      # tiny, base or large instead, for a bare .pt file
MODE=${MODE:-train predict eval}                # any of these three

SQUAD_VERSION=${SQUAD_VERSION:-1.1}             # 1.1, or 2.0 with questions that have no answer
SQUAD_DIR=${SQUAD_DIR:-${BERT_PREP_WORKING_DIR:-$PROJECT_DIR/data}/download/squad/v$SQUAD_VERSION}
TRAIN_FILE=${TRAIN_FILE:-$SQUAD_DIR/train-v$SQUAD_VERSION.json}
PREDICT_FILE=${PREDICT_FILE:-$SQUAD_DIR/dev-v$SQUAD_VERSION.json}
EVAL_SCRIPT=${EVAL_SCRIPT:-}                    # the official evaluate-v*.py, to be shown beside our own scores

EPOCHS=${EPOCHS:-2}
MAX_STEPS=${MAX_STEPS:-}                        # optimizer steps instead of EPOCHS
GLOBAL_BATCH=${GLOBAL_BATCH:-32}                # sequences per optimizer step, over all GPUs
MICRO_BATCH=${MICRO_BATCH:-}                    # that one GPU holds at once; empty: the most that fits its memory
PREDICT_BATCH=${PREDICT_BATCH:-32}              # that one GPU answers at once
LEARNING_RATE=${LEARNING_RATE:-3e-5}
WARMUP=${WARMUP:-0.1}
MAX_SEQ_LENGTH=${MAX_SEQ_LENGTH:-384}
DOC_STRIDE=${DOC_STRIDE:-128}
PRECISION=${PRECISION:-}                        # bf16, fp16, tf32, fp32, or fp8 on the kernels written by hand; empty: bf16 on GPUs that have it, else fp32
COMPILE=${COMPILE:-0}                           # 1: fuse element-wise work with torch.compile
KERNELS=${KERNELS:-}                            # torch, or triton: layers and optimizer on kernels written by hand; empty: triton on Hopper GPUs, else torch
SEED=${SEED:-42}                                # of the answers' head, dropout and the order of the data
LOG_FREQ=${LOG_FREQ:-50}                        # optimizer steps from one log line to the next
STEPS_PER_CHECKPOINT=${STEPS_PER_CHECKPOINT:-1000}
WANDB=${WANDB:-}                                # a project of Weights & Biases to log to as well
MLFLOW=${MLFLOW:-}                              # an experiment of MLflow to log to as well, at MLFLOW_TRACKING_URI

# shellcheck source=scripts/launch.sh
source "$PROJECT_DIR/scripts/launch.sh" # NUM_GPUS, PROFILER and what else concerns the processes

show_help "${1:-}" "$PROJECT_DIR"/scripts/{launch,profilers}.sh

are_numbers=1 # those that are computed with here
check_settings "$@"
resolve_launch || are_numbers=0
expect_numbers GLOBAL_BATCH MICRO_BATCH || are_numbers=0
expect_switches COMPILE
check_profiler
[[ $SQUAD_VERSION == 1.1 || $SQUAD_VERSION == 2.0 ]] || problems+=("SQUAD_VERSION is '$SQUAD_VERSION'; set it to 1.1 or 2.0.")
if ((are_numbers)); then
  expect_divisible GLOBAL_BATCH MICRO_BATCH || MICRO_BATCH= # the program need not say it again
fi

flags=(--resume_from_checkpoint)
flag --num_train_epochs EPOCHS
flag --global_batch_size GLOBAL_BATCH
flag --micro_batch_size MICRO_BATCH
flag --predict_batch_size PREDICT_BATCH
flag --warmup_proportion WARMUP
flag --num_steps_per_checkpoint STEPS_PER_CHECKPOINT
flag --wandb_project WANDB
flag --mlflow_experiment MLFLOW
flags_of OUTPUT_DIR INIT_CHECKPOINT VOCAB_FILE CONFIG_FILE BERT_MODEL EVAL_SCRIPT MAX_STEPS LEARNING_RATE MAX_SEQ_LENGTH \
  DOC_STRIDE PRECISION KERNELS SEED LOG_FREQ
switch --compile COMPILE
read -ra modes <<<"$MODE"
((${#modes[@]})) || problems+=("MODE is empty; its words are train, predict and eval.")
for mode in "${modes[@]}"; do
  case $mode in
    train) flags+=(--do_train) && flag --train_file TRAIN_FILE ;;
    predict) flags+=(--do_predict) ;;
    eval) flags+=(--do_eval) ;;
    *) problems+=("MODE holds '$mode'; its words are train, predict and eval.") ;;
  esac
done
if [[ " $MODE " == *" predict "* || " $MODE " == *" eval "* ]]; then flag --predict_file PREDICT_FILE; fi
if [[ $SQUAD_VERSION == 2.0 ]]; then flags+=(--version_2_with_negative); fi

refuse_flags "${flags[@]}" --train_batch_size -- "$@"
if activate_environment && ((are_numbers)); then
  entry_problems "" run_squad.py "${flags[@]}" "$@"
fi
report_problems

if only_checks "$@" && (($(n_processes) == 1)); then
  echo "Nothing is wrong; nothing was trained."
  exit
fi
launch "$PROJECT_DIR/run_squad.py" "${flags[@]}" "$@"
only_checks "$@" || echo "Results: $OUTPUT_DIR"
