#!/usr/bin/env bash
# Sourced by the scripts that users start: settings of known hardware, --help, the Python environment, and one list of all
# that is wrong (`problems`).
#
# A setting is a line NAME=${NAME:-default} of a script. --help reads those lines, so a setting is written once. Here only
# that is checked which bash itself computes with; all else is checked by the Python program that gets it as a flag.

problems=()
export BERT_LAUNCHERS="${BERT_LAUNCHERS:+$BERT_LAUNCHERS }$$" # whose end is that of all they started (common/lifetime.py)

set_where_empty() { # NAME=VALUE...
  local setting variable
  for setting in "$@"; do
    variable=${setting%%=*}
    [[ -n ${!variable:-} ]] || printf -v "$variable" %s "${setting#*=}"
  done
}

read_hardware() { # TASK: settings for CONFIG, a name in scripts/hardware.txt or the path of a file that is sourced
  if [[ -z $CONFIG ]]; then return; fi
  if [[ -f $CONFIG && $CONFIG == */* ]]; then
    # shellcheck source=/dev/null  # the user's own
    source "$CONFIG"
    return
  fi
  local name task settings known=()
  while read -r name task settings; do
    if [[ $task != "$1" ]]; then continue; fi
    known+=("$name")
    if [[ $name != "$CONFIG" ]]; then continue; fi
    # shellcheck disable=SC2086  # several words
    set_where_empty $settings
    return
  done < <(grep -v '^#' "$PROJECT_DIR/scripts/hardware.txt")
  echo "error: CONFIG is '$CONFIG', and there is no such name in scripts/hardware.txt and no such file; choose one of ${known[*]}, or give a path." >&2
  exit 2
}

without_secrets() { # a filter: addresses lose user, password, query and fragment
  sed -E 's|(://)[^/?#[:space:]]*@|\1|g; s|(://[^?#[:space:]]*)[?#][^[:space:]]*|\1|g'
}

settings=() # names of the variables that the script reads

show_help() { # ARGUMENT [FILES...]: if it asks for help, the head of the script, its settings and those of the files it sources
  local name wanted=${1:-}
  shift
  mapfile -t settings < <(sed -snE '1,/^show_help/s/^(export )?([A-Z][A-Z0-9_]*)=\$\{\2:?-.*/\2/p' "$0" "$@")
  if [[ $wanted != --help && $wanted != -h ]]; then return; fi
  sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"
  echo
  echo "Variables and their values now:"
  for name in "${settings[@]}"; do
    echo "  $name=${!name}"
  done | without_secrets
  exit 0
}

check_settings() { # ARGUMENTS...: ends the script where its user speaks NVIDIA's names, or names that are almost its own
  local n_gpus=${NUM_GPUS:-} found status=0
  if [[ -z $n_gpus ]] && declare -F count_gpus >/dev/null; then n_gpus=$(count_gpus); fi
  found=$(NUM_GPUS=$n_gpus python3 "$PROJECT_DIR/scripts/settings_check.py" "$0" "${settings[@]}" -- "$@") || status=$?
  if ((status != 2)); then return; fi # a broken Python is told of later
  mapfile -t -O "${#problems[@]}" problems < <(without_secrets <<<"$found")
  report_problems
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

declare -A variable_of # which setting a flag comes from

flag() { # NAME SETTING: into the array `flags`, unless the setting is empty
  variable_of[$1]=$2
  if [[ -n ${!2} ]]; then flags+=("$1" "${!2}"); fi
}

flags_of() { # SETTINGS...: that have the names of their flags
  local name
  for name in "$@"; do flag "--${name,,}" "$name"; done
}

lists_of() { # SETTINGS...: likewise, each of several words; one that is empty is left out
  local name list
  for name in "$@"; do
    read -r -a list <<<"${!name}"
    if ((${#list[@]})); then flags+=("--${name,,}" "${list[@]}"); fi
  done
}

switch() { # NAME SETTING: into the array `flags`, if the setting is 1
  variable_of[$1]=$2
  if [[ ${!2} == 1 ]]; then flags+=("$1"); fi
}

refuse_flags() { # FLAGS -- ARGUMENTS...: arguments may not repeat what the settings come to
  local taken=" " given
  while [[ $1 != -- ]]; do
    taken+="$1 "
    shift
  done
  for given in "${@:2}"; do
    given=${given%%=*}
    if [[ $given == --* && $taken == *" $given "* ]]; then
      problems+=("$given is set by ${variable_of[$given]:-$0}${variable_of[$given]:+ of $0}; ${variable_of[$given]:+set that variable, and }leave the flag out.")
    fi
  done
}

own() { # FILE: lock it until this script and its processes have ended, or say in `problems` who holds it
  command -v flock >/dev/null || return 0
  mkdir -p "$(dirname "$1")"
  exec {owned}>>"$1"
  local status=0
  flock --nonblock "$owned" || status=$?
  if ((status == 1)); then
    problems+=("$(dirname "$1") is in use by $(<"$1"); wait until it ends, or choose another folder.")
    return
  fi
  ((status == 0)) || echo "warning: $(dirname "$1") lies on a file system without locks; start no second command there" >&2
  echo "${0##*/}, process $$ on $HOSTNAME, since $(date '+%F %T %Z')" >"$1"
}

report_problems() { # ends the script if there are any
  if ((${#problems[@]} == 0)); then return; fi
  printf 'error: %s\n' "${problems[@]}" | without_secrets >&2
  exit 2
}

lacks() { # PACKAGE
  ! python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)' "$1" 2>/dev/null
}

activate_environment() { # [PACKAGE]: the project's own where none with PyTorch, or PACKAGE, is active; where there is none, to `problems`
  local package=${1:-torch}
  if lacks "$package" && [[ -f $PROJECT_DIR/.venv/bin/activate ]]; then
    # shellcheck disable=SC1091  # made by scripts/environment.sh
    source "$PROJECT_DIR/.venv/bin/activate"
  fi
  if lacks "$package"; then
    problems+=("No Python environment with the package $package is active, and $PROJECT_DIR/.venv has none; activate one with requirements.txt installed, or let this make .venv: bash $PROJECT_DIR/scripts/quickstart.sh.")
    return 1
  fi
}

only_checks() { # ARGUMENTS...
  [[ " $* " == *" --check_only "* ]]
}

entry_problems() { # PREFIX ENTRY [FLAGS]: what run_*.py finds wrong with its flags and files, to `problems`
  local prefix=$1 entry=$2 found line name names=()
  shift 2
  echo "== ${prefix}checking the settings, the model and the data"
  found=$(python3 "$PROJECT_DIR/$entry" "$@" --check_only 2>&1 >/dev/null) && return
  for name in "${!variable_of[@]}"; do # the user knows the variable
    if [[ " ${*} " == *" $name "* ]]; then names+=(-e "s/$name([^a-z_-]|$)/${variable_of[$name]}\1/g"); fi
  done
  if ((${#names[@]})); then found=$(sed -E "${names[@]}" <<<"$found"); fi
  if [[ $found != *"error: "* ]]; then # no complaint of ours, so something broke
    problems+=("$prefix$found")
    return
  fi
  while IFS= read -r line; do
    if [[ $line != *"error: "* ]]; then continue; fi
    line=${line#*error: }
    if [[ ${problems[*]} != *"$line"* ]]; then problems+=("$prefix$line"); fi # said of one phase, it holds for the next
  done <<<"$found"
}
