#!/usr/bin/env bash
# MLPerf's BERT: train from MLCommons' checkpoint to a masked-LM accuracy of 0.72, and print the time that it took.
#
#   bash scripts/run_mlperf_bert.sh
#   GLOBAL_BATCH=768 NUM_GPUS=8 PRECISION=fp8 OUTPUT_DIR=results/mlperf_8gpu bash scripts/run_mlperf_bert.sh
#   for RUN in 0 1 2 3 4 5 6 7 8 9; do RUN=$RUN bash scripts/run_mlperf_bert.sh; done
#
# It trains on what data/mlperf_bert.sh makes. A global batch stands for a published set of hyperparameters, a line of
# scripts/mlperf_bert.txt, and each of them can be set. The configuration stands below; edit it, or set it in the environment.
# Extra flags go to run_pretraining.py.
#
# OUTPUT_DIR/result_RUN.txt is the run as MLPerf logs it. At the end stands how it learned beside published runs, and the
# seconds from run_start to run_stop. The script ends with 0 where the target was reached, and with 3 where the last step was
# done before. On SIGTERM, SIGUSR1, SIGHUP and Ctrl-C it ends with 75, and with 130 after Ctrl-C; with CHECKPOINTS=1 it saves
# before, and resumes when it is started again. Results are unverified by MLCommons; docs/mlperf.md says what the clock counts.
set -euo pipefail

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"

OUTPUT_DIR=${OUTPUT_DIR:-$PROJECT_DIR/results/mlperf_bert}
RUN=${RUN:-0}                                   # number of the run, for result_RUN.txt; MLPerf wants ten in a folder, 0 to 9
SEED=${SEED:-}                                  # of dropout, heads and the order of the data; empty: the clock's nanoseconds

DATA_DIR=${DATA_DIR:-${BERT_PREP_WORKING_DIR:-$PROJECT_DIR/data}/mlperf_bert} # what data/mlperf_bert.sh made
INPUT_DIR=${INPUT_DIR:-$DATA_DIR/training}
EVAL_DIR=${EVAL_DIR:-$DATA_DIR/eval}
CONFIG_FILE=${CONFIG_FILE:-$DATA_DIR/bert_config_tanh.json}
VOCAB_FILE=${VOCAB_FILE:-$DATA_DIR/vocab.txt}
INIT_CHECKPOINT=${INIT_CHECKPOINT:-$DATA_DIR/model.ckpt-28252}
MAX_SEQ_LENGTH=${MAX_SEQ_LENGTH:-512}
MAX_PREDICTIONS_PER_SEQ=${MAX_PREDICTIONS_PER_SEQ:-76}

GLOBAL_BATCH=${GLOBAL_BATCH:-448}               # sequences per optimizer step, over all GPUs: a line of scripts/mlperf_bert.txt
LEARNING_RATE=${LEARNING_RATE:-}                # empty, as the six below: that line's
STEPS=${STEPS:-}                                # over which the rate falls to 0, and after which the run ends
WARMUP_STEPS=${WARMUP_STEPS:-}
START_WARMUP_STEP=${START_WARMUP_STEP:-}        # that the warm-up is counted from
BETA1=${BETA1:-}
BETA2=${BETA2:-}
WEIGHT_DECAY=${WEIGHT_DECAY:-}

TARGET=${TARGET:-0.72}                          # masked-LM accuracy at which training stops
SAMPLES_PER_EVALUATION=${SAMPLES_PER_EVALUATION:-} # empty: by the rules, from GLOBAL_BATCH
EVALUATE_FIRST=${EVALUATE_FIRST:-1}             # 1: score the weights before training, which the clock counts
EXPECTED_ACCURACY=${EXPECTED_ACCURACY:-}        # of these weights, or a warning; empty: 0.34085 where they are model.ckpt-28252
DIVISION=${DIVISION:-closed}                    # closed: all is as the rules have it, which is checked; or open
CLEAR_CACHES=${CLEAR_CACHES:-0}                 # 1: clear the system's caches before, with sudo, as the rules want

MICRO_BATCH=${MICRO_BATCH:-}                    # sequences that one GPU holds at once; empty: the most that fits its memory
PRECISION=${PRECISION:-}                        # bf16, fp16, tf32, fp32, or fp8 with the Triton kernels; empty: bf16 on GPUs that have it, else fp32
COMPILE=${COMPILE:-0}                           # 1: fuse element-wise work with torch.compile
KERNELS=${KERNELS:-}                            # torch, or triton: layers and optimizer on Triton kernels; empty: triton on Hopper GPUs, else torch
SHARD_OPTIMIZER=${SHARD_OPTIMIZER:-0}           # 1: divide the optimizer's state among the GPUs
REDUCE_DTYPE=${REDUCE_DTYPE:-}                  # fp32, fp16 or bf16: what gradients are averaged in; empty: fp32
LOG_FREQ=${LOG_FREQ:-50}                        # optimizer steps from one log line to the next
CHECKPOINTS=${CHECKPOINTS:-0}                   # 1: save before each evaluation, which the clock counts, and resume

# shellcheck source=scripts/launch.sh
source "$PROJECT_DIR/scripts/launch.sh" # NUM_GPUS, PROFILER and what else concerns the processes

show_help "${1:-}" "$PROJECT_DIR"/scripts/{launch,profilers}.sh

are_numbers=1 # those that are computed with here
check_settings "$@"
resolve_launch || are_numbers=0
expect_numbers GLOBAL_BATCH MICRO_BATCH || are_numbers=0
expect_switches EVALUATE_FIRST CLEAR_CACHES COMPILE SHARD_OPTIMIZER CHECKPOINTS
check_profiler
[[ $RUN =~ ^(0|[1-9][0-9]{0,8})$ ]] || problems+=("RUN is '$RUN'; set it to a whole number.")

known=()
while read -r batch set_of_batch; do
  known+=("$batch")
  # shellcheck disable=SC2086  # several words
  if [[ $batch == "$GLOBAL_BATCH" ]]; then set_where_empty $set_of_batch; fi
done < <(grep -v '^#' "$PROJECT_DIR/scripts/mlperf_bert.txt")
if [[ -z $LEARNING_RATE || -z $STEPS ]]; then
  problems+=("GLOBAL_BATCH is '$GLOBAL_BATCH', for which scripts/mlperf_bert.txt has no hyperparameters; choose one of ${known[*]}, or set LEARNING_RATE and STEPS.")
  are_numbers=0
fi
if ((are_numbers)); then
  expect_divisible GLOBAL_BATCH MICRO_BATCH || MICRO_BATCH= # the program need not say it again
  # The rules: 0.05 (230.23 GLOBAL_BATCH + 3,000,000), down to a multiple of 25,000.
  # shellcheck disable=SC2017
  set_where_empty SAMPLES_PER_EVALUATION=$(((23023 * GLOBAL_BATCH + 300000000) / 50000000 * 25000))
fi
if [[ ${INIT_CHECKPOINT##*/} == model.ckpt-28252* ]]; then set_where_empty EXPECTED_ACCURACY=0.34085; fi

seed_file=$OUTPUT_DIR/seed.txt # of the run that is resumed
if [[ -z $SEED && $NNODES != 1 ]]; then
  problems+=("SEED is empty, and each machine would draw its own; set the same on all, such as SEED=$(date +%s%N).")
elif [[ -z $SEED ]]; then
  if [[ $CHECKPOINTS == 1 && -f $seed_file ]]; then SEED=$(<"$seed_file"); else SEED=$(date +%s%N); fi
fi

result=$OUTPUT_DIR/result_$RUN.txt
flags=(--do_train --schedule mlperf --mllog "$result")
flag --global_batch_size GLOBAL_BATCH
flag --micro_batch_size MICRO_BATCH
flag --max_steps STEPS
flag --target_mlm_accuracy TARGET
flag --num_samples_per_evaluation SAMPLES_PER_EVALUATION
flag --mllog_division DIVISION
flags_of OUTPUT_DIR INPUT_DIR EVAL_DIR CONFIG_FILE VOCAB_FILE INIT_CHECKPOINT MAX_SEQ_LENGTH MAX_PREDICTIONS_PER_SEQ \
  LEARNING_RATE WARMUP_STEPS START_WARMUP_STEP BETA1 BETA2 WEIGHT_DECAY SEED PRECISION KERNELS REDUCE_DTYPE LOG_FREQ
switch --evaluate_first EVALUATE_FIRST
if [[ $EVALUATE_FIRST == 1 ]]; then flag --expected_mlm_accuracy EXPECTED_ACCURACY; fi
switch --mllog_caches_cleared CLEAR_CACHES
switch --compile COMPILE
switch --shard_optimizer SHARD_OPTIMIZER
if [[ $CHECKPOINTS == 1 ]]; then flags+=(--resume_from_checkpoint --num_steps_per_checkpoint "$STEPS"); else flags+=(--skip_checkpoint); fi

refuse_flags "${flags[@]}" --seed --train_batch_size -- "$@"
if activate_environment && ((are_numbers)); then entry_problems "" run_pretraining.py "${flags[@]}" "$@"; fi
report_problems

if only_checks "$@" && (($(n_processes) == 1)); then
  echo "Nothing is wrong; nothing was trained."
  exit
fi
if ! only_checks "$@"; then
  mkdir -p "$OUTPUT_DIR"
  echo "$SEED" >"$seed_file"
  if [[ $CLEAR_CACHES == 1 ]]; then
    echo "== clearing the system's caches"
    sync
    sudo sysctl -q vm.drop_caches=3
  fi
fi
echo "== global batch $GLOBAL_BATCH, learning rate $LEARNING_RATE, $STEPS steps at most, seed $SEED"
status=0
launch "$PROJECT_DIR/run_pretraining.py" "${flags[@]}" "$@" || status=$?
if only_checks "$@" || ((status != 0 && status != 3)); then exit "$status"; fi
if [[ -f $result ]]; then python3 "$PROJECT_DIR/benchmark/mlperf_curve.py" "$result"; fi # the first machine has it
echo "Results: $OUTPUT_DIR"
exit "$status"
