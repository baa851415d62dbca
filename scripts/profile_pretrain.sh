#!/usr/bin/env bash
# Profile some optimizer steps of pre-training, and print what the profiler saw.
#
#   bash scripts/profile_pretrain.sh nsys            # the time line: launches, gaps, ranges, kernels
#   bash scripts/profile_pretrain.sh ncu             # each kernel of a layer: how far it uses which unit of the GPU, the roofline
#   bash scripts/profile_pretrain.sh torch 20 25     # steps 21 to 25, by torch.profiler; everywhere, without a GPU too
#   PHASE=2 BATCH_SIZE=32 COMPILE=1 bash scripts/profile_pretrain.sh torch --seed 3
#
# nsys and ncu are NVIDIA's Nsight Systems and Nsight Compute. nvprof, which does not run on today's GPUs, means nsys. ncu
# runs each kernel several times and prints a line for it. Layers but the last are alike, so by default it sees a model
# of two. What follows the steps goes to run_pretraining.py. docs/profiling.md says what the tables mean.
set -euo pipefail

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

OUTPUT_DIR=${OUTPUT_DIR:-$PROJECT_DIR/results/profile_pretrain}   # of the log, and of what the profiler writes, in profile/
BERT_MODEL=${BERT_MODEL:-large}       # tiny, base, large, or a bert_config.json
PHASE=${PHASE:-1}                     # 1: sequence length 128, 2: 512
LAYERS=${LAYERS:-}                    # encoder layers in place of the model's; empty: all, but for ncu two
BATCH_SIZE=${BATCH_SIZE:-32}          # sequences per GPU and optimizer step
PRECISION=${PRECISION:-}              # bf16, fp16, tf32, fp32, or fp8 on the kernels written by hand; empty: bf16 on GPUs that have it, else fp32
COMPILE=${COMPILE:-0}                 # 1: fuse element-wise work with torch.compile
KERNELS=${KERNELS:-}                  # torch, or triton: layers and optimizer on kernels written by hand; empty: triton on Hopper GPUs, else torch
OPTIMIZER=${OPTIMIZER:-lamb}
SYNTHETIC=${SYNTHETIC:-full}          # random tokens: full sequences, or a mean length
DATA_DIR=${DATA_DIR:-}                # real shards instead: a folder that data/create_datasets_from_start.sh filled
TOP=${TOP:-20}                        # kernels in the table

PROFILER=
# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"
# shellcheck source=scripts/launch.sh
source "$PROJECT_DIR/scripts/launch.sh" # NUM_GPUS, LAUNCH_COUNT, CLOCK_CONTROL and what else concerns the processes

show_help "${1:-}" "$PROJECT_DIR/scripts/launch.sh" "$PROJECT_DIR/scripts/profilers.sh"

check_settings "$@"
if [[ -z ${1:-} || ${1:-} == -* ]]; then
  problems+=("No profiler is named; give nsys, ncu or torch first.")
else
  PROFILER=$1
  shift
fi
steps=()
while ((${#steps[@]} < 2)) && [[ ${1:-} =~ ^[^-] ]]; do
  [[ $1 =~ ^[0-9]{1,9}$ ]] || problems+=("'$1' is no optimizer step; give the steps as two whole numbers, START STOP.")
  steps+=("$1")
  shift
done
activate_environment || true
check_profiler
start=${steps[0]:-10}
length=3
if [[ $PROFILER == ncu ]]; then
  length=1
  LAYERS=${LAYERS:-2}
fi
if ((${#problems[@]} == 0)); then
  start=$((10#$start))
  stop=${steps[1]:-$((start + length))}
  stop=$((10#$stop))
  ((stop > start)) || problems+=("Steps from $start to $stop are none; give a STOP above START.")
fi
case $PHASE in
  1) lengths=(--max_seq_length 128 --max_predictions_per_seq 20) ;;
  2) lengths=(--max_seq_length 512 --max_predictions_per_seq 80) ;;
  *) problems+=("PHASE is '$PHASE'; set it to 1 or 2.") ;;
esac
expect_switches COMPILE
resolve_launch || true
report_problems

flags=(--do_train "${lengths[@]}" --train_batch_size "$BATCH_SIZE"
  --max_steps "$((stop + 1))" --log_freq "$((stop + 1))" --skip_checkpoint --disable_progress_bar
  --profile-start "$start" --profile-steps "$((stop - start))" --output_dir "$OUTPUT_DIR")
# The throughput that the log names is of the steps before: those that are profiled are slower.
if ((start > 0)); then flags+=(--benchmark_start "$((start / 2))" --benchmark_stop "$start"); fi
if [[ $BERT_MODEL == *.json ]]; then flag --config_file BERT_MODEL; else flag --bert_model BERT_MODEL; fi
flag --num_hidden_layers LAYERS
if [[ -n $DATA_DIR ]]; then flag --input_dir DATA_DIR; else flag --synthetic SYNTHETIC; fi
flags_of OPTIMIZER PRECISION KERNELS
switch --compile COMPILE

if ! only_checks "$@"; then # what an earlier profile left there would be taken for this one's
  own "$OUTPUT_DIR/.lock"   # the run's own, which it takes again
  report_problems
  rm -f "$OUTPUT_DIR"/profile/{ncu.ncu-rep,ncu.csv,nsys.nsys-rep,nsys.sqlite,kernels.json,timeline.json} \
    "$OUTPUT_DIR"/profile/trace_rank*.json "$OUTPUT_DIR"/profile/*.timeline.json
  exec {owned}>&-
fi
launch "$PROJECT_DIR/run_pretraining.py" "${flags[@]}" "$@" || exit
if only_checks "$@"; then exit; fi

files=("$OUTPUT_DIR"/profile/trace_rank*.json)
case $PROFILER in
  ncu) files=("$OUTPUT_DIR/profile/ncu.csv") ;;
  nsys) files=("$OUTPUT_DIR/profile/nsys.sqlite") ;;
esac
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | sed -n 1p) || gpu=
python3 "$PROJECT_DIR/benchmark/nsight.py" "${files[@]}" --top "$TOP" ${gpu:+--gpu "$gpu"}
