#!/usr/bin/env bash
# What the kernels written by hand are worth on this machine's GPU: they are tested on it, timed by themselves and in
# whole training steps beside PyTorch's kernels and Hugging Face's model, and what they learn is held against bf16.
#
#   bash scripts/measure_fast_paths.sh
#   PARTS="steps curves" DATA_DIR=data bash scripts/measure_fast_paths.sh
#
# Each part prints tables and leaves them in RESULTS_DIR. A part that fails is shown, and the others go on.
set -euo pipefail

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

PARTS=${PARTS:-tests kernels steps curves}   # any of them, in this order
WORKLOADS=${WORKLOADS:-phase1 phase2 unpadded squad}   # of `steps`
VARIANTS=${VARIANTS:-eager compiled triton triton-attention triton-attention+graphs fp8 fp8+graphs hf hf-compiled}   # of `steps`; benchmark/training_step.py explains them
BERT_MODEL=${BERT_MODEL:-large}              # tiny, base or large
OPTIMIZER=${OPTIMIZER:-adamw}                # of ours in `steps`; Hugging Face's is adamw
PHASE1_BATCH_SIZES=${PHASE1_BATCH_SIZES:-128 256}
PHASE2_BATCH_SIZES=${PHASE2_BATCH_SIZES:-32 64}      # `unpadded` takes twice as many
SQUAD_BATCH_SIZES=${SQUAD_BATCH_SIZES:-32 64}
CURVE_STEPS=${CURVE_STEPS:-500}              # optimizer steps of `curves`
CURVE_BATCH_SIZE=${CURVE_BATCH_SIZE:-256}
CURVE_LEARNING_RATE=${CURVE_LEARNING_RATE:-1e-3}
CURVE_BOUND=${CURVE_BOUND:-0.05}             # between means of 50 steps of bf16 and of the others
DATA_DIR=${DATA_DIR:-}                       # real shards for `curves`; empty: that part is left out
RESULTS_DIR=${RESULTS_DIR:-$PROJECT_DIR/results/fast_paths}

# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"
show_help "${1:-}"
check_settings "$@"

known() { # NAME ALLOWED...: each word of the variable is one of these
  local name=$1 word
  shift
  for word in ${!name}; do
    [[ " $* " == *" $word "* ]] || problems+=("$name has '$word'; it takes any of $*.")
  done
}
known PARTS tests kernels steps curves
known WORKLOADS phase1 phase2 unpadded squad
known VARIANTS {eager,compiled,triton,triton-attention,fp8}{,+graphs} hf hf-compiled
known BERT_MODEL tiny base large
[[ " $PHASE2_BATCH_SIZES" =~ ^([[:space:]]+[1-9][0-9]{0,8})*[[:space:]]*$ ]] ||
  problems+=("PHASE2_BATCH_SIZES is '$PHASE2_BATCH_SIZES'; set it to whole numbers from 1 to 999999999.")
if [[ -n $DATA_DIR && ! -d $DATA_DIR ]]; then
  problems+=("DATA_DIR is '$DATA_DIR', and there is no such folder; name one that data/create_datasets_from_start.sh filled.")
fi
activate_environment || true
report_problems

mkdir -p "$RESULTS_DIR"
failed=()

part() { # NAME COMMAND...: run it, and keep what it prints
  local name=$1
  shift
  echo "== $name"
  if ! "$@" 2>&1 | tee "$RESULTS_DIR/$name.txt"; then failed+=("$name"); fi
}

steps() { # BATCH_SIZES FLAGS...: all variants at these batch sizes
  local sizes variants
  read -r -a sizes <<<"$1"
  read -r -a variants <<<"$VARIANTS"
  shift
  python3 "$PROJECT_DIR/benchmark/training_step.py" --bert_model "$BERT_MODEL" --batch_size "${sizes[@]}" \
    --variants "${variants[@]}" --optimizer "$OPTIMIZER" "$@"
}

measure_steps() {
  local phase2=(--max_seq_length 512 --max_predictions_per_seq 80) size twice=
  for size in $PHASE2_BATCH_SIZES; do twice+="$((2 * size)) "; done
  local workload
  for workload in $WORKLOADS; do
    case $workload in
      phase1) part steps_phase1 steps "$PHASE1_BATCH_SIZES" --max_seq_length 128 --max_predictions_per_seq 20 ;;
      phase2) part steps_phase2 steps "$PHASE2_BATCH_SIZES" "${phase2[@]}" ;;
      unpadded) part steps_unpadded steps "$twice" "${phase2[@]}" --mean_length 254 ;;
      squad) part steps_squad steps "$SQUAD_BATCH_SIZES" --max_seq_length 384 --task squad ;;
    esac
  done
}

train() { # NAME FLAGS...: a run on real shards, for its curve
  local name=$1
  shift
  python3 "$PROJECT_DIR/run_pretraining.py" --do_train --bert_model "$BERT_MODEL" --input_dir "$DATA_DIR" \
    --max_seq_length 128 --max_predictions_per_seq 20 --train_batch_size "$CURVE_BATCH_SIZE" --max_steps "$CURVE_STEPS" \
    --learning_rate "$CURVE_LEARNING_RATE" --warmup_proportion 0.1 --log_freq 10 --seed 1 --skip_checkpoint --compile \
    --output_dir "$RESULTS_DIR/curves/$name" "$@"
}

measure_curves() {
  [[ -n $DATA_DIR ]] || { echo "curves: left out, as DATA_DIR names no shards"; return; }
  part curve_bf16 train bf16 --precision bf16 --kernels torch
  part curve_triton train triton --precision bf16 --kernels triton --attention triton
  part curve_fp8 train fp8 --precision fp8 --kernels triton --attention triton
  local name
  for name in triton fp8; do # a log is appended to: where training failed, its last curve is an earlier run's
    if [[ " ${failed[*]} " == *" curve_bf16 "* || " ${failed[*]} " == *" curve_$name "* ]]; then continue; fi
    part "curves_bf16_$name" python3 "$PROJECT_DIR/benchmark/curves.py" "$RESULTS_DIR/curves/bf16/dllogger.json" \
      "$RESULTS_DIR/curves/$name/dllogger.json" --bound "$CURVE_BOUND"
  done
}

for name in $PARTS; do
  case $name in
    tests)
      part tests python3 -m pytest --rootdir "$PROJECT_DIR" "$PROJECT_DIR/tests/kernels" \
        "$PROJECT_DIR/tests/tasks/pretraining/test_gpu.py"
      ;;
    kernels)
      part attention python3 "$PROJECT_DIR/benchmark/attention.py"
      part optimizer python3 "$PROJECT_DIR/benchmark/optimizer.py" --bert_model "$BERT_MODEL"
      part products python3 "$PROJECT_DIR/benchmark/floor.py" --bert_model "$BERT_MODEL"
      ;;
    steps) measure_steps ;;
    curves) measure_curves ;;
  esac
done

if ((${#failed[@]})); then
  echo "Failed: ${failed[*]}. The output of each is in $RESULTS_DIR." >&2
  exit 1
fi
echo "Tables: $RESULTS_DIR"
