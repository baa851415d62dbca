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

CONFIG=${CONFIG:-}   # defaults for known hardware: a file, or the name of one in scripts/configs, such as h200_1gpu
# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"
read_configuration squad

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

# shellcheck source=scripts/launch.sh
source "$PROJECT_DIR/scripts/launch.sh" # NUM_GPUS, PROFILER and what else concerns the processes

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  sed -n '2,/^set -/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  echo
  echo "Variables and their values now:"
  for name in CONFIG NUM_GPUS NNODES MASTER_ADDR MASTER_PORT MAX_RESTARTS PROFILER OUTPUT_DIR INIT_CHECKPOINT VOCAB_FILE \
    CONFIG_FILE BERT_MODEL MODE SQUAD_VERSION SQUAD_DIR TRAIN_FILE PREDICT_FILE EVAL_SCRIPT EPOCHS MAX_STEPS \
    GLOBAL_BATCH MICRO_BATCH PREDICT_BATCH LEARNING_RATE WARMUP MAX_SEQ_LENGTH DOC_STRIDE PRECISION COMPILE KERNELS SEED \
    LOG_FREQ STEPS_PER_CHECKPOINT; do
    echo "  $name=${!name}"
  done
  exit 0
fi

problems=()
resolve_launch
all_numbers=$((${#problems[@]} == 0))
check_profiler
[[ $SQUAD_VERSION == 1.1 || $SQUAD_VERSION == 2.0 ]] || problems+=("SQUAD_VERSION is '$SQUAD_VERSION'; set it to 1.1 or 2.0.")
[[ $COMPILE == [01] ]] || problems+=("COMPILE is '$COMPILE'; set it to 1 or 0.")
for name in GLOBAL_BATCH PREDICT_BATCH MAX_SEQ_LENGTH DOC_STRIDE LOG_FREQ STEPS_PER_CHECKPOINT MAX_STEPS MICRO_BATCH; do
  if [[ ! ${!name} =~ ^[1-9][0-9]*$ && ! (-z ${!name} && " MAX_STEPS MICRO_BATCH " == *" $name "*) ]]; then
    problems+=("$name is '${!name}'; set it to a whole number from 1 on.")
    all_numbers=0
  fi
done
if ((all_numbers)); then
  divisor=$(($(n_processes) * ${MICRO_BATCH:-1}))
  if ((GLOBAL_BATCH % divisor)); then
    problems+=("GLOBAL_BATCH $GLOBAL_BATCH is not a multiple of $divisor ($(n_processes) processes${MICRO_BATCH:+ times MICRO_BATCH $MICRO_BATCH}); choose numbers that divide it.")
  fi
fi

flags=(--output_dir "$OUTPUT_DIR" --init_checkpoint "$INIT_CHECKPOINT" --resume_from_checkpoint
  --num_train_epochs "$EPOCHS" --global_batch_size "$GLOBAL_BATCH" --predict_batch_size "$PREDICT_BATCH"
  --learning_rate "$LEARNING_RATE" --warmup_proportion "$WARMUP" --max_seq_length "$MAX_SEQ_LENGTH"
  --doc_stride "$DOC_STRIDE" --seed "$SEED" --log_freq "$LOG_FREQ" --num_steps_per_checkpoint "$STEPS_PER_CHECKPOINT")
read -ra modes <<<"$MODE"
((${#modes[@]})) || problems+=("MODE is empty; its words are train, predict and eval.")
for mode in "${modes[@]}"; do
  case $mode in
    train) flags+=(--do_train --train_file "$TRAIN_FILE") ;;
    predict) flags+=(--do_predict) ;;
    eval) flags+=(--do_eval) ;;
    *) problems+=("MODE holds '$mode'; its words are train, predict and eval.") ;;
  esac
done
if [[ " $MODE " == *" predict "* || " $MODE " == *" eval "* ]]; then flags+=(--predict_file "$PREDICT_FILE"); fi
if [[ $SQUAD_VERSION == 2.0 ]]; then flags+=(--version_2_with_negative); fi
if [[ -n $VOCAB_FILE ]]; then flags+=(--vocab_file "$VOCAB_FILE"); fi
if [[ -n $CONFIG_FILE ]]; then flags+=(--config_file "$CONFIG_FILE"); fi
if [[ -n $BERT_MODEL ]]; then flags+=(--bert_model "$BERT_MODEL"); fi
if [[ -n $EVAL_SCRIPT ]]; then flags+=(--eval_script "$EVAL_SCRIPT"); fi
if [[ -n $MAX_STEPS ]]; then flags+=(--max_steps "$MAX_STEPS"); fi
if [[ -n $MICRO_BATCH ]]; then flags+=(--micro_batch_size "$MICRO_BATCH"); fi
if [[ -n $PRECISION ]]; then flags+=(--precision "$PRECISION"); fi
if [[ $COMPILE == 1 ]]; then flags+=(--compile); fi
if [[ -n $KERNELS ]]; then flags+=(--kernels "$KERNELS"); fi

for given in "$@"; do
  if [[ $given == --* && " ${flags[*]} --train_batch_size " == *" ${given%%=*} "* ]]; then
    problems+=("${given%%=*} is set by the configuration of ${BASH_SOURCE[0]}; change it there.")
  fi
done
if activate_environment && ((all_numbers)); then
  entry_problems "" run_squad.py "${flags[@]}" "$@"
fi
if ((${#problems[@]})); then
  printf 'error: %s\n' "${problems[@]}" >&2
  exit 2
fi

launch "$PROJECT_DIR/run_squad.py" "${flags[@]}" "$@"
echo "Results: $OUTPUT_DIR"
