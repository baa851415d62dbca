#!/usr/bin/env bash
# Pre-train BERT: phase 1 at sequence length 128, then phase 2 at 512, by NVIDIA's recipe for BERT-large.
#
#   bash scripts/run_pretraining.sh
#   CONFIG=h200_8gpu bash scripts/run_pretraining.sh
#   NUM_GPUS=4 COMPILE=1 OUTPUT_DIR=results/compiled bash scripts/run_pretraining.sh --max_grad_norm 0.5
#
# It trains on the shards that data/create_datasets_from_start.sh makes. The configuration stands below; edit it, or set
# it in the environment. Extra flags go to run_pretraining.py in both phases.
#
# OUTPUT_DIR is the run. Started again with the same folder, the script goes on after the newest checkpoint there, in
# whichever phase that is; it never starts over in a folder that has checkpoints. For a new run choose a new folder.
# Checkpoints of another model, optimizer, seed or amount of data are refused. Batches, rates, steps and precision that
# were changed count from the checkpoint on. On SIGTERM, SIGUSR1, SIGHUP and Ctrl-C it saves first; it ends with 130
# after Ctrl-C, and after the others with 75. docs/distributed.md is about several GPUs and machines.
set -euo pipefail

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"
CONFIG=${CONFIG:-}   # defaults for known hardware: a name in scripts/hardware.txt, such as h200_8gpu, or a file of your own
read_hardware pretrain

OUTPUT_DIR=${OUTPUT_DIR:-$PROJECT_DIR/results/pretraining}   # checkpoints, and the log dllogger.json
RUN_PHASE1=${RUN_PHASE1:-1}                     # 0: leave phase 1 out
RUN_PHASE2=${RUN_PHASE2:-1}                     # 0: leave phase 2 out

BERT_MODEL=${BERT_MODEL:-large}                 # tiny, base or large
CONFIG_FILE=${CONFIG_FILE:-}                    # a bert_config.json instead
INIT_CHECKPOINT=${INIT_CHECKPOINT:-}            # weights that a new run starts from; empty: random ones
PRECISION=${PRECISION:-}                        # bf16, fp16, tf32, fp32, or fp8 on the kernels written by hand; empty: bf16 on GPUs that have it, else fp32
COMPILE=${COMPILE:-0}                           # 1: fuse element-wise work with torch.compile
KERNELS=${KERNELS:-}                            # torch, or triton: layers and optimizer on kernels written by hand; empty: triton on Hopper GPUs, else torch
OPTIMIZER=${OPTIMIZER:-lamb}
SCHEDULE=${SCHEDULE:-poly}
SEED=${SEED:-42}                                # of initialization, dropout and the order of the data
SHARD_OPTIMIZER=${SHARD_OPTIMIZER:-0}           # 1: divide the optimizer's state among the GPUs
REDUCE_DTYPE=${REDUCE_DTYPE:-}                  # fp32, fp16 or bf16: what gradients are averaged in; empty: fp32

LOG_FREQ=${LOG_FREQ:-1}                         # optimizer steps from one log line to the next
STEPS_PER_CHECKPOINT=${STEPS_PER_CHECKPOINT:-100}
KEEP_CHECKPOINTS=${KEEP_CHECKPOINTS:-3}         # newest ones of each phase that are kept
KEEP_EVERY=${KEEP_EVERY:-}                      # besides, checkpoints of a multiple of this step stay
EVALUATE=${EVALUATE:-0}                         # 1: score the test shards at the end of each phase
STEPS_PER_EVALUATION=${STEPS_PER_EVALUATION:-}  # and every so many steps
TENSORBOARD=${TENSORBOARD:-0}                   # 1: TensorBoard scalars in OUTPUT_DIR/tensorboard
WANDB=${WANDB:-}                                # a project of Weights & Biases to log to as well
MLFLOW=${MLFLOW:-}                              # an experiment of MLflow to log to as well, at MLFLOW_TRACKING_URI

DATASET=${DATASET:-books_wiki_en_corpus}        # wikicorpus_en, bookscorpus, books_wiki_en_corpus for both, or text

# A global batch is what one optimizer step takes, a micro-batch what one GPU holds at once; empty: the most that fits its
# memory. Micro-batches and the number of GPUs change speed, not the result of training. A data folder is one of shards, or
# the preparation's working folder, in which the shards of DATASET and of the phase's lengths are looked up.
PHASE1_DATA_DIR=${PHASE1_DATA_DIR:-${BERT_PREP_WORKING_DIR:-$PROJECT_DIR/data}}
PHASE1_GLOBAL_BATCH=${PHASE1_GLOBAL_BATCH:-65536}
PHASE1_MICRO_BATCH=${PHASE1_MICRO_BATCH:-}
PHASE1_STEPS=${PHASE1_STEPS:-7038}
PHASE1_LEARNING_RATE=${PHASE1_LEARNING_RATE:-6e-3}
PHASE1_WARMUP=${PHASE1_WARMUP:-0.2843}

PHASE2_DATA_DIR=${PHASE2_DATA_DIR:-${BERT_PREP_WORKING_DIR:-$PROJECT_DIR/data}}
PHASE2_GLOBAL_BATCH=${PHASE2_GLOBAL_BATCH:-32768}
PHASE2_MICRO_BATCH=${PHASE2_MICRO_BATCH:-}
PHASE2_STEPS=${PHASE2_STEPS:-1563}
PHASE2_LEARNING_RATE=${PHASE2_LEARNING_RATE:-4e-3}
PHASE2_WARMUP=${PHASE2_WARMUP:-0.128}

# shellcheck source=scripts/launch.sh
source "$PROJECT_DIR/scripts/launch.sh" # NUM_GPUS, PROFILER and what else concerns the processes

show_help "${1:-}" "$PROJECT_DIR"/scripts/{launch,profilers}.sh

are_numbers=1 # those that are computed with here
check_settings "$@"
resolve_launch || are_numbers=0
expect_numbers PHASE1_STEPS PHASE{1,2}_{GLOBAL,MICRO}_BATCH || are_numbers=0
expect_switches RUN_PHASE1 RUN_PHASE2 COMPILE EVALUATE SHARD_OPTIMIZER TENSORBOARD
check_profiler

phases=()
[[ $RUN_PHASE1 != 1 ]] || phases+=(1)
[[ $RUN_PHASE2 != 1 ]] || phases+=(2)
((${#phases[@]})) || problems+=("RUN_PHASE1 and RUN_PHASE2 are both off; switch one on.")

phase1_end=$OUTPUT_DIR/ckpt_$PHASE1_STEPS.pt
newest=0 # step of the newest checkpoint, counted over both phases
for file in "$OUTPUT_DIR"/ckpt_*.pt; do
  step=${file##*/ckpt_} step=${step%.pt}
  if [[ $step =~ ^[1-9][0-9]*$ ]] && ((step > newest)); then newest=$step; fi
done
if [[ $RUN_PHASE1$RUN_PHASE2 == 01 && ! -f $phase1_end ]]; then
  problems+=("$phase1_end, which phase 2 starts from, is not there; run phase 1, or correct OUTPUT_DIR or PHASE1_STEPS.")
elif [[ $RUN_PHASE2 == 1 && ! -f $phase1_end ]] && ((are_numbers && newest > PHASE1_STEPS)); then
  problems+=("$OUTPUT_DIR has a checkpoint of step $newest and no ckpt_$PHASE1_STEPS.pt, so its phase 1 had another number of steps than PHASE1_STEPS; correct that, or choose another OUTPUT_DIR.")
fi

phase_flags() { # PHASE: what run_pretraining.py is told in this phase, into the array `flags`
  flags=(--do_train --resume_from_checkpoint)
  flag --input_dir "PHASE$1_DATA_DIR"
  flag --global_batch_size "PHASE$1_GLOBAL_BATCH"
  flag --micro_batch_size "PHASE$1_MICRO_BATCH"
  flag --max_steps "PHASE$1_STEPS"
  flag --learning_rate "PHASE$1_LEARNING_RATE"
  flag --warmup_proportion "PHASE$1_WARMUP"
  flag --num_steps_per_checkpoint STEPS_PER_CHECKPOINT
  flag --num_steps_per_evaluation STEPS_PER_EVALUATION
  flag --wandb_project WANDB
  flag --mlflow_experiment MLFLOW
  flags_of DATASET OUTPUT_DIR OPTIMIZER SCHEDULE SEED LOG_FREQ PRECISION KERNELS REDUCE_DTYPE KEEP_CHECKPOINTS KEEP_EVERY
  if [[ -n $CONFIG_FILE ]]; then flag --config_file CONFIG_FILE; else flag --bert_model BERT_MODEL; fi
  switch --compile COMPILE
  switch --shard_optimizer SHARD_OPTIMIZER
  if [[ $EVALUATE == 1 ]]; then flag --eval_dir "PHASE$1_DATA_DIR"; fi
  if [[ $TENSORBOARD == 1 ]]; then flags+=(--tensorboard_dir "$OUTPUT_DIR/tensorboard"); fi
  if [[ $1 == 1 ]]; then
    flags+=(--max_seq_length 128 --max_predictions_per_seq 20)
    flag --init_checkpoint INIT_CHECKPOINT
  else
    flags+=(--max_seq_length 512 --max_predictions_per_seq 80 --phase2 --phase1_end_step "$PHASE1_STEPS")
  fi
}

phase_flags 2
refuse_flags "${flags[@]}" --bert_model --config_file --init_checkpoint --train_batch_size --micro_batch_size \
  --gradient_accumulation_steps -- "$@"

if ((are_numbers)); then
  for phase in "${phases[@]}"; do # the program need not say it again
    expect_divisible "PHASE${phase}_GLOBAL_BATCH" "PHASE${phase}_MICRO_BATCH" || printf -v "PHASE${phase}_MICRO_BATCH" ''
  done
fi
if activate_environment && ((are_numbers)); then
  for phase in "${phases[@]}"; do # both before the first, or a slip in phase 2 would show days later
    phase_flags "$phase"
    entry_problems "phase $phase: " run_pretraining.py "${flags[@]}" "$@"
  done
fi
if [[ $RUN_PHASE1$RUN_PHASE2 == 11 ]]; then
  for given in "$@"; do
    case $given in
      --skip_checkpoint | --resume_step | --resume_step=* | --resume_phase2)
        problems+=("${given%%=*} makes sense in one phase only; run one (RUN_PHASE1=0 or RUN_PHASE2=0), or leave it out.") ;;
    esac
  done
fi
report_problems
if only_checks "$@" && (($(n_processes) == 1)); then phases=(); fi # done; several processes are yet to meet

for phase in "${phases[@]}"; do
  # Came as the last step of phase 1 was done; phase 2 would hear of it no more.
  if ((stopped)); then exit "$REQUEUE_STATUS"; fi
  # A checkpoint of phase 2 says that phase 1 is done, its evaluation included.
  if [[ $phase == 1 && $RUN_PHASE2 == 1 ]] && ((newest > PHASE1_STEPS)); then
    echo "== phase 1 is done: $phase1_end"
    continue
  fi
  if [[ $phase == 2 && ! -f $phase1_end ]] && ! only_checks "$@"; then
    echo "Stopped before the end of phase 1; start again to go on: $OUTPUT_DIR"
    exit 0
  fi
  echo "== phase $phase"
  phase_flags "$phase"
  launch "$PROJECT_DIR/run_pretraining.py" "${flags[@]}" "$@"
done
if only_checks "$@"; then echo "Nothing is wrong; nothing was trained."; else echo "Results: $OUTPUT_DIR"; fi
