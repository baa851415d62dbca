#!/usr/bin/env bash
# Sourced by scripts/measure_throughput_pretrain.sh and _squad.sh: the way from their variables to a sweep.

STEPS_IN_WINDOW=20   # where only the window's beginning is given

# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"
problems=()
flags=()   # that only one of the two scripts has

print_help() { # NAMES...: the head of the script that was started, and its variables
  sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"
  echo
  echo "Variables and their values now:"
  local name
  for name in "$@"; do echo "  $name=${!name}"; done
}

read_window() { # [START [STOP]] FLAGS...: the window into `window`, the rest into `entry_flags`; what is wrong to `problems`
  window=()
  while ((${#window[@]} < 2)) && [[ ${1:-} != '' && ${1:-} != -* ]]; do
    [[ $1 =~ ^[0-9]+$ ]] || problems+=("'$1' is no optimizer step; give the window as two whole numbers, START STOP.")
    window+=("$1")
    shift
  done
  if ((${#window[@]} == 1)) && [[ ${window[0]} =~ ^[0-9]+$ ]]; then
    window+=($((10#${window[0]} + STEPS_IN_WINDOW)))
  fi
  entry_flags=("$@")
}

sweep() { # WORKLOAD [START [STOP]] FLAGS...: measure all points, or say all that is wrong
  local workload=$1 name
  shift
  read_window "$@"
  activate_environment || true
  [[ $MEASURE_PEAK == [01] ]] || problems+=("MEASURE_PEAK is '$MEASURE_PEAK'; set it to 1 or 0.")
  for name in COMPILE REPEATS FIRST_BATCH_SIZE LAST_BATCH_SIZE ACCUMULATION_STEPS POINT_TIMEOUT BATCH_SIZES NUM_GPUS; do
    [[ ${!name} =~ ^[0-9\ ]*$ ]] || problems+=("$name is '${!name}'; it takes whole numbers.")
  done
  if ((${#problems[@]})); then
    printf 'error: %s\n' "${problems[@]}" >&2
    exit 2
  fi

  local list
  for name in BATCH_SIZES PRECISIONS NUM_GPUS COMPILE; do
    read -r -a list <<<"${!name}"
    if ((${#list[@]})); then flags+=("--${name,,}" "${list[@]}"); fi
  done
  if [[ $MEASURE_PEAK == 1 ]]; then flags+=(--measure_peak); fi
  if ((${#window[@]})); then flags+=(--start "${window[0]}" --stop "${window[1]}"); fi
  exec python3 "$PROJECT_DIR/benchmark/sweep.py" "$workload" --output_dir "$RESULTS_DIR" --bert_model "$BERT_MODEL" \
    --first_batch_size "$FIRST_BATCH_SIZE" --last_batch_size "$LAST_BATCH_SIZE" --repeats "$REPEATS" \
    --accumulation_steps "$ACCUMULATION_STEPS" --optimizer "$OPTIMIZER" --timeout "$POINT_TIMEOUT" "${flags[@]}" \
    -- "${entry_flags[@]}"
}
