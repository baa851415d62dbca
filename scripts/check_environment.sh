#!/usr/bin/env bash
# Can training run here? Checks GPU, driver, CUDA and PyTorch, NCCL, Nsight and its permission, memory, disk, packages and
# data; prints a table, and for each problem what to do about it. Changes nothing.
#
#   bash scripts/check_environment.sh
#   BERT_PREP_WORKING_DIR=/data/bert bash scripts/check_environment.sh --verify_data --all_reduce --json environment.json
#
# Ends with 0 where training can run, if only on the CPU, and with 1 where it cannot. Started when a container starts,
# and by hand on any machine; without an active Python environment it takes the project's .venv if there is one. Flags
# go to scripts/check_environment.py, which says of them more with --help.
set -euo pipefail

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"

if ! command -v python3 >/dev/null; then
  echo "error: There is no python3 on the PATH; install Python 3.11 to 3.14." >&2
  exit 1
fi

problems=()
activate_environment || true # what is missing is a line of the table
exec python3 "$PROJECT_DIR/scripts/check_environment.py" "$@"
