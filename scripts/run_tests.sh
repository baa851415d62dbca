#!/usr/bin/env bash
# Set up what the tests need and run them. Extra arguments go to pytest:
#
#   bash scripts/run_tests.sh                  # all but the slow ones; without a GPU those marked `gpu` skip with a reason
#   CI=true bash scripts/run_tests.sh          # the slow ones too, as .ci/run does
#   bash scripts/run_tests.sh -m gpu           # only those that need a GPU
#   INSTALL=0 bash scripts/run_tests.sh        # in the active environment as it is
set -euo pipefail

PROCESSES=${PROCESSES:-2}   # tests run side by side in this many processes

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
show_help "${1:-}"
use_environment requirements-dev.txt

cd "$PROJECT_DIR"
selected=(-m "not slow")
[[ ${CI:-} == true ]] && selected=()
# One thread each: the processes already share the cores among them.
# A file is one process's, so that what its tests share is made once; tests/conftest.py says in which order.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python3 -m pytest --numprocesses "$PROCESSES" --dist loadfile \
  --no-loadscope-reorder "${selected[@]}" "$@"
