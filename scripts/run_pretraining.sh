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

CONFIG=${CONFIG:-}   # defaults for known hardware: a file, or the name of one in scripts/configs, such as h200_8gpu
# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"
read_configuration pretrain

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
SEED=${SEED:-42}                                # of initialisation, dropout and the order of the data
SHARD_OPTIMIZER=${SHARD_OPTIMIZER:-0}           # 1: divide the optimizer's state among the GPUs
REDUCE_DTYPE=${REDUCE_DTYPE:-}                  # fp32, fp16 or bf16: what gradients are averaged in; empty: fp32

LOG_FREQ=${LOG_FREQ:-1}                         # optimizer steps from one log line to the next
STEPS_PER_CHECKPOINT=${STEPS_PER_CHECKPOINT:-100}
KEEP_CHECKPOINTS=${KEEP_CHECKPOINTS:-3}         # newest ones of each phase that are kept
KEEP_EVERY=${KEEP_EVERY:-}                      # besides, checkpoints of a multiple of this step stay
EVALUATE=${EVALUATE:-0}                         # 1: score the test shards at the end of each phase
STEPS_PER_EVALUATION=${STEPS_PER_EVALUATION:-}  # and every so many steps
TENSORBOARD=${TENSORBOARD:-0}                   # 1: TensorBoard scalars in OUTPUT_DIR/tensorboard

DATASET=${DATASET:-books_wiki_en_corpus}        # wikicorpus_en, bookscorpus, or books_wiki_en_corpus for both

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

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  sed -n '2,/^set -/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  echo
  echo "Variables and their values now:"
  for name in CONFIG NUM_GPUS NNODES MASTER_ADDR MASTER_PORT MAX_RESTARTS PROFILER OUTPUT_DIR RUN_PHASE1 RUN_PHASE2 \
    BERT_MODEL CONFIG_FILE INIT_CHECKPOINT PRECISION COMPILE KERNELS OPTIMIZER SCHEDULE SEED SHARD_OPTIMIZER REDUCE_DTYPE \
    LOG_FREQ STEPS_PER_CHECKPOINT KEEP_CHECKPOINTS KEEP_EVERY EVALUATE STEPS_PER_EVALUATION TENSORBOARD DATASET \
    PHASE{1,2}_{DATA_DIR,GLOBAL_BATCH,MICRO_BATCH,STEPS,LEARNING_RATE,WARMUP}; do
    echo "  $name=${!name}"
  done
  exit 0
fi

problems=()

resolve_launch
if ((${#problems[@]})); then all_numbers=0; else all_numbers=1; fi
check_profiler
for name in RUN_PHASE1 RUN_PHASE2 COMPILE EVALUATE SHARD_OPTIMIZER TENSORBOARD; do
  [[ ${!name} == [01] ]] || problems+=("$name is '${!name}'; set it to 1 or 0.")
done
may_be_empty=" PHASE1_MICRO_BATCH PHASE2_MICRO_BATCH KEEP_EVERY STEPS_PER_EVALUATION "
for name in PHASE{1,2}_{GLOBAL_BATCH,MICRO_BATCH,STEPS} LOG_FREQ STEPS_PER_CHECKPOINT KEEP_CHECKPOINTS KEEP_EVERY \
  STEPS_PER_EVALUATION; do
  if [[ ! ${!name} =~ ^[1-9][0-9]*$ && ! (-z ${!name} && $may_be_empty == *" $name "*) ]]; then
    problems+=("$name is '${!name}'; set it to a whole number from 1 on.")
    all_numbers=0
  fi
done
if ((all_numbers)); then
  processes=$(n_processes)
  for phase in 1 2; do
    global=PHASE${phase}_GLOBAL_BATCH micro=PHASE${phase}_MICRO_BATCH
    divisor=$((processes * ${!micro:-1}))
    if ((${!global} % divisor)); then
      problems+=("$global ${!global} is not a multiple of $divisor ($processes processes${!micro:+ times $micro ${!micro}}); choose numbers that divide it.")
    fi
  done
fi
if [[ -n $STEPS_PER_EVALUATION && $EVALUATE == 0 ]]; then
  problems+=("STEPS_PER_EVALUATION is $STEPS_PER_EVALUATION and EVALUATE is 0; set EVALUATE=1, or leave it empty.")
fi

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
elif [[ $RUN_PHASE2 == 1 && ! -f $phase1_end ]] && ((all_numbers && newest > PHASE1_STEPS)); then
  problems+=("$OUTPUT_DIR has a checkpoint of step $newest and no ckpt_$PHASE1_STEPS.pt, so its phase 1 had another number of steps than PHASE1_STEPS; correct that, or choose another OUTPUT_DIR.")
fi

phase_flags() { # PHASE: what run_pretraining.py is told in this phase, into the array `flags`
  local length=128 predictions=20
  if [[ $1 == 2 ]]; then length=512 predictions=80; fi
  local data=PHASE$1_DATA_DIR global=PHASE$1_GLOBAL_BATCH micro=PHASE$1_MICRO_BATCH steps=PHASE$1_STEPS
  local rate=PHASE$1_LEARNING_RATE warmup=PHASE$1_WARMUP
  flags=(--do_train --input_dir "${!data}" --dataset "$DATASET" --output_dir "$OUTPUT_DIR"
    --max_seq_length "$length" --max_predictions_per_seq "$predictions"
    --global_batch_size "${!global}" --resume_from_checkpoint
    --max_steps "${!steps}" --learning_rate "${!rate}" --warmup_proportion "${!warmup}"
    --optimizer "$OPTIMIZER" --schedule "$SCHEDULE" --seed "$SEED" --log_freq "$LOG_FREQ"
    --num_steps_per_checkpoint "$STEPS_PER_CHECKPOINT" --keep_checkpoints "$KEEP_CHECKPOINTS")
  if [[ -n $CONFIG_FILE ]]; then flags+=(--config_file "$CONFIG_FILE"); else flags+=(--bert_model "$BERT_MODEL"); fi
  if [[ -n $PRECISION ]]; then flags+=(--precision "$PRECISION"); fi
  if [[ $COMPILE == 1 ]]; then flags+=(--compile); fi
  if [[ -n $KERNELS ]]; then flags+=(--kernels "$KERNELS"); fi
  if [[ $EVALUATE == 1 ]]; then flags+=(--eval_dir "${!data}"); fi
  if [[ $TENSORBOARD == 1 ]]; then flags+=(--tensorboard_dir "$OUTPUT_DIR/tensorboard"); fi
  if [[ $SHARD_OPTIMIZER == 1 ]]; then flags+=(--shard_optimizer); fi
  if [[ -n $REDUCE_DTYPE ]]; then flags+=(--reduce_dtype "$REDUCE_DTYPE"); fi
  if [[ -n ${!micro} ]]; then flags+=(--micro_batch_size "${!micro}"); fi
  if [[ -n $KEEP_EVERY ]]; then flags+=(--keep_every "$KEEP_EVERY"); fi
  if [[ -n $STEPS_PER_EVALUATION ]]; then flags+=(--num_steps_per_evaluation "$STEPS_PER_EVALUATION"); fi
  if [[ $1 == 1 && -n $INIT_CHECKPOINT ]]; then flags+=(--init_checkpoint "$INIT_CHECKPOINT"); fi
  if [[ $1 == 2 ]]; then flags+=(--phase2 --phase1_end_step "$PHASE1_STEPS"); fi
}

if ((all_numbers)); then
  phase_flags 2
  taken=" ${flags[*]} --bert_model --config_file --init_checkpoint --train_batch_size --gradient_accumulation_steps "
  taken+="--micro_batch_size "
  for given in "$@"; do
    if [[ $given == --* && $taken == *" ${given%%=*} "* ]]; then
      problems+=("${given%%=*} is set by the configuration of ${BASH_SOURCE[0]}; change it there.")
    fi
  done
fi

if activate_environment && ((all_numbers)); then
  # Both phases before the first, or a slip in phase 2 would show days later.
  for phase in "${phases[@]}"; do
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
if ((${#problems[@]})); then
  printf 'error: %s\n' "${problems[@]}" >&2
  exit 2
fi

for phase in "${phases[@]}"; do
  # Came as the last step of phase 1 was done; phase 2 would hear of it no more.
  if ((stopped)); then exit "$REQUEUE_STATUS"; fi
  # A checkpoint of phase 2 says that phase 1 is done, its evaluation included.
  if [[ $phase == 1 && $RUN_PHASE2 == 1 ]] && ((newest > PHASE1_STEPS)); then
    echo "== phase 1 is done: $phase1_end"
    continue
  fi
  if [[ $phase == 2 && ! -f $phase1_end ]]; then
    echo "Stopped before the end of phase 1; start again to go on: $OUTPUT_DIR"
    exit 0
  fi
  echo "== phase $phase"
  phase_flags "$phase"
  launch "$PROJECT_DIR/run_pretraining.py" "${flags[@]}" "$@"
done
echo "Results: $OUTPUT_DIR"
