#!/usr/bin/env bash
# Sourced by the scripts that users start: settings of known hardware, --help, the Python environment, and one list of all
# that is wrong (`problems`).
#
# A setting is a line NAME=${NAME:-default} of a script. --help reads those lines, so a setting is written once. Here only
# that is checked which bash itself computes with; all else is checked by the Python program that gets it as a flag.

problems=()
export BERT_LAUNCHERS="${BERT_LAUNCHERS:+$BERT_LAUNCHERS }$$" # whose end is that of all they started (common/lifetime.py)

read_hardware() { # TASK: settings for CONFIG, a name in scripts/hardware.txt or the path of a file that is sourced
  if [[ -z $CONFIG ]]; then return; fi
  if [[ -f $CONFIG && $CONFIG == */* ]]; then
    # shellcheck source=/dev/null  # the user's own
    source "$CONFIG"
    return
  fi
  local name task settings setting variable known=()
  while read -r name task settings; do
    if [[ $task != "$1" ]]; then continue; fi
    known+=("$name")
    if [[ $name != "$CONFIG" ]]; then continue; fi
    for setting in $settings; do
      variable=${setting%%=*}
      [[ -n ${!variable:-} ]] || printf -v "$variable" %s "${setting#*=}"
    done
    return
  done < <(grep -v '^#' "$PROJECT_DIR/scripts/hardware.txt")
  echo "error: CONFIG is '$CONFIG', and there is no such name in scripts/hardware.txt and no such file; choose one of ${known[*]}, or give a path." >&2
  exit 2
}

without_secrets() { # a filter: addresses lose user, password, query and fragment
  sed -E 's|(://)[^/?#[:space:]]*@|\1|g; s|(://[^?#[:space:]]*)[?#][^[:space:]]*|\1|g'
}

show_help() { # ARGUMENT [FILES...]: if it asks for help, the head of the script, its settings and those of the files it sources
  if [[ ${1:-} != --help && ${1:-} != -h ]]; then return; fi
  shift
  local name
  sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"
  echo
  echo "Variables and their values now:"
  while read -r name; do
    echo "  $name=${!name}"
  done < <(sed -snE '1,/^show_help/s/^(export )?([A-Z][A-Z0-9_]*)=\$\{\2:?-.*/\2/p' "$0" "$@") | without_secrets
  exit 0
}

expect_switches() { # NAMES...
  local name
  for name in "$@"; do
    [[ ${!name} == [01] ]] || problems+=("$name is '${!name}'; set it to 1 or 0.")
  done
}

expect_numbers() { # NAMES...: what is empty is left to a default; returns 1 where one is no number
  local name status=0
  for name in "$@"; do
    if [[ ! ${!name} =~ ^([1-9][0-9]{0,8})?$ ]]; then
      problems+=("$name is '${!name}'; set it to a whole number from 1 to 999999999.")
      status=1
    fi
  done
  return "$status"
}

flag() { # NAME VALUE: into the array `flags`, unless the value is empty
  if [[ -n $2 ]]; then flags+=("$1" "$2"); fi
}

flags_of() { # NAMES...: of settings that have the names of their flags
  local name
  for name in "$@"; do flag "--${name,,}" "${!name}"; done
}

switch() { # NAME VALUE: into the array `flags`, if the value is 1
  if [[ $2 == 1 ]]; then flags+=("$1"); fi
}

refuse_flags() { # FLAGS -- ARGUMENTS...: arguments may not repeat what the settings come to
  local taken=" " given
  while [[ $1 != -- ]]; do
    taken+="$1 "
    shift
  done
  for given in "${@:2}"; do
    if [[ $given == --* && $taken == *" ${given%%=*} "* ]]; then
      problems+=("${given%%=*} is set by the configuration of $0; change it there.")
    fi
  done
}

report_problems() { # ends the script if there are any
  if ((${#problems[@]} == 0)); then return; fi
  printf 'error: %s\n' "${problems[@]}" | without_secrets >&2
  exit 2
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
    if [[ $line == *"error: "* ]]; then problems+=("$prefix${line#*error: }"); fi
  done <<<"$found"
}
