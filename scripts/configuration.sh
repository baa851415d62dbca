#!/usr/bin/env bash
# Sourced by the scripts that train: named configurations, and the Python environment.

read_configuration() { # KIND: sources the file that CONFIG names, of those called scripts/configs/KIND_*.sh
  if [[ -z $CONFIG ]]; then return; fi
  local config_file=$CONFIG known
  if [[ $CONFIG != */* ]]; then config_file=$PROJECT_DIR/scripts/configs/$1_$CONFIG.sh; fi
  if [[ ! -f $config_file ]]; then
    known=$(cd "$PROJECT_DIR/scripts/configs" && printf '%s ' "$1"_*.sh | sed "s/$1_//g; s/\.sh//g")
    echo "error: CONFIG is '$CONFIG', and there is no file $config_file; choose one of ${known% }, or give a path." >&2
    exit 2
  fi
  # shellcheck source=/dev/null  # whichever was chosen
  source "$config_file"
}

has_torch() {
  python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null
}

activate_environment() { # the project's own where none with PyTorch is active; where there is none, to `problems`
  if ! has_torch && [[ -f $PROJECT_DIR/.venv/bin/activate ]]; then
    # shellcheck disable=SC1091  # made by scripts/environment.sh
    source "$PROJECT_DIR/.venv/bin/activate"
  fi
  if ! has_torch; then
    problems+=("No Python environment with PyTorch is active and $PROJECT_DIR/.venv has none; activate one with requirements.txt installed, or let 'bash scripts/quickstart.sh' make .venv.")
    return 1
  fi
}

entry_problems() { # PREFIX ENTRY [FLAGS]: what run_*.py finds wrong with its flags and files, to `problems`
  local prefix=$1 entry=$2 found line
  shift 2
  found=$(python3 "$PROJECT_DIR/$entry" "$@" --check_only 2>&1 >/dev/null) && return
  if [[ $found != *"error: "* ]]; then # no complaint of ours, so something broke
    problems+=("$prefix$found")
    return
  fi
  while IFS= read -r line; do
    # A batch that does not divide is reported by the variables' names.
    if [[ $line == *"error: "* && $line != *"is not a multiple of --micro_batch_size"* ]]; then
      problems+=("$prefix${line#*error: }")
    fi
  done <<<"$found"
}
