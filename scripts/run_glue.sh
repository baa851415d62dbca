#!/usr/bin/env bash
# Fine-tune BERT on tasks of GLUE, each with several seeds, and print a table of their scores.
#
#   bash scripts/run_glue.sh
#   GLUE_TASKS="rte cola" SEEDS="1 2 3" INIT_CHECKPOINT=results/pretraining/ckpt_8601.pt VOCAB_FILE=vocab.txt bash scripts/run_glue.sh
#   CONFIG=h200_1gpu MODE="train eval predict" GLUE_TASKS="mnli ax" bash scripts/run_glue.sh --weight_decay 0.1
#
# By default it starts from Google's bert-large-uncased, on MRPC. The files of a task come by
# python3 data/bertPrep.py --action download --dataset mrpc, of all by --dataset glue. The configuration stands below; edit it,
# or set it in the environment. Extra flags go to run_glue.py.
#
# OUTPUT_DIR/TASK/seed_SEED is a run: checkpoints, the log and, with MODE's predict, the predictions for GLUE's server. The
# diagnostic set, ax, is predicted by the runs of mnli, in their folders. Started again with the same folder, the script goes
# on after the newest checkpoint there. On SIGTERM, SIGUSR1, SIGHUP and Ctrl-C it saves first; it ends with 130 after Ctrl-C,
# and after the others with 75.
set -euo pipefail

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"
CONFIG=${CONFIG:-}   # defaults for known hardware: a name in scripts/hardware.txt, such as h200_1gpu, or a file of your own
read_hardware glue

GLUE_TASKS=${GLUE_TASKS:-mrpc}                  # any of cola sst-2 mrpc sts-b qqp mnli qnli rte wnli ax, in this order
SEEDS=${SEEDS:-2}                               # of the head, dropout and the order of the data; a run for each
MODE=${MODE:-train eval}                        # any of train, eval and predict

OUTPUT_DIR=${OUTPUT_DIR:-$PROJECT_DIR/results/glue}
INIT_CHECKPOINT=${INIT_CHECKPOINT:-bert-large-uncased} # a published name, a Hugging Face or Google folder, a .pt file
VOCAB_FILE=${VOCAB_FILE:-}                      # empty: the one beside INIT_CHECKPOINT
CONFIG_FILE=${CONFIG_FILE:-}                    # a bert_config.json; empty: INIT_CHECKPOINT's
BERT_MODEL=${BERT_MODEL:-}                      # tiny, base or large instead, for a bare .pt file
DATA_DIR=${DATA_DIR:-${BERT_PREP_WORKING_DIR:-$PROJECT_DIR/data}/download/glue} # GLUE's folders, or one task's

EPOCHS=${EPOCHS:-3}
MAX_STEPS=${MAX_STEPS:-}                        # optimizer steps instead of EPOCHS
GLOBAL_BATCH=${GLOBAL_BATCH:-32}                # sequences per optimizer step, over all GPUs
MICRO_BATCH=${MICRO_BATCH:-}                    # that one GPU holds at once; empty: the most that fits its memory
EVAL_BATCH=${EVAL_BATCH:-128}                   # that one GPU scores at once
LEARNING_RATE=${LEARNING_RATE:-2e-5}
WARMUP=${WARMUP:-0.1}
MAX_SEQ_LENGTH=${MAX_SEQ_LENGTH:-128}
PRECISION=${PRECISION:-}                        # bf16, fp16, tf32, fp32, or fp8 with the Triton kernels; empty: bf16 on GPUs that have it, else fp32
COMPILE=${COMPILE:-0}                           # 1: fuse element-wise work with torch.compile
KERNELS=${KERNELS:-}                            # torch, or triton: layers and optimizer on Triton kernels; empty: triton on Hopper GPUs, else torch
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
if ((are_numbers)); then
  expect_divisible GLOBAL_BATCH MICRO_BATCH || MICRO_BATCH= # the program need not say it again
fi

flags=(--resume_from_checkpoint)
flag --num_train_epochs EPOCHS
flag --global_batch_size GLOBAL_BATCH
flag --micro_batch_size MICRO_BATCH
flag --eval_batch_size EVAL_BATCH
flag --warmup_proportion WARMUP
flag --num_steps_per_checkpoint STEPS_PER_CHECKPOINT
flag --wandb_project WANDB
flag --mlflow_experiment MLFLOW
flags_of INIT_CHECKPOINT VOCAB_FILE CONFIG_FILE BERT_MODEL DATA_DIR MAX_STEPS LEARNING_RATE MAX_SEQ_LENGTH PRECISION KERNELS \
  LOG_FREQ
switch --compile COMPILE
read -ra tasks <<<"$GLUE_TASKS"
read -ra seeds <<<"$SEEDS"
read -ra modes <<<"$MODE"
((${#tasks[@]})) || problems+=("GLUE_TASKS is empty; name tasks, such as mrpc.")
((${#seeds[@]})) || problems+=("SEEDS is empty; give numbers, such as 1 2 3.")
((${#modes[@]})) || problems+=("MODE is empty; its words are train, eval and predict.")
for seed in "${seeds[@]}"; do
  [[ $seed =~ ^(0|[1-9][0-9]{0,17})$ ]] || problems+=("SEEDS holds '$seed'; give whole numbers.")
done
for mode in "${modes[@]}"; do
  [[ $mode == train || $mode == eval || $mode == predict ]] || problems+=("MODE holds '$mode'; its words are train, eval and predict.")
done

task_flags() { # TASK SEED: what a run is besides `flags`
  local mode folder=$1 does=()
  for mode in "${modes[@]}"; do
    if [[ $1 != ax || $mode == predict ]]; then does+=("--do_$mode"); fi
  done
  if [[ $1 == ax ]]; then folder=mnli; fi
  run_flags=(--task_name "$1" --seed "$2" --output_dir "$OUTPUT_DIR/$folder/seed_$2" "${does[@]}" "${flags[@]}")
}

refuse_flags --task_name --seed --output_dir --do_train --do_eval --do_predict --train_batch_size "${flags[@]}" -- "$@"
if activate_environment && ((are_numbers)); then
  for task in "${tasks[@]}"; do
    task_flags "$task" "${seeds[0]:-0}"
    entry_problems "" run_glue.py "${run_flags[@]}" "$@"
  done
fi
report_problems

if only_checks "$@" && (($(n_processes) == 1)); then
  echo "Nothing is wrong; nothing was trained."
  exit
fi
logs=()
for task in "${tasks[@]}"; do
  for seed in "${seeds[@]}"; do
    echo "== $task, seed $seed"
    task_flags "$task" "$seed"
    launch "$PROJECT_DIR/run_glue.py" "${run_flags[@]}" "$@"
    if [[ $task != ax ]]; then logs+=("$OUTPUT_DIR/$task/seed_$seed/dllogger.json"); fi
  done
done
if only_checks "$@"; then exit; fi
if [[ " $MODE " == *" eval "* ]] && ((${#logs[@]})); then python3 "$PROJECT_DIR/benchmark/summarize_glue.py" "${logs[@]}"; fi
echo "Results: $OUTPUT_DIR"
