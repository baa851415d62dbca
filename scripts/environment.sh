#!/usr/bin/env bash
# Sourced by the scripts that people start first: puts a Python environment with the pinned requirements in place.
#
#   use_environment requirements.txt
#
# An active environment (virtualenv, conda, the project's image) is used; without one, .venv is made in the project's
# folder. INSTALL=0 takes the active environment as it is, for example one with a vendor's own PyTorch.

INSTALL=${INSTALL:-1}
PYTHON=${PYTHON:-python3}

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PROJECT_DIR
# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"

use_environment() {
  local requirements=$PROJECT_DIR/$1
  unset PYTHONDONTWRITEBYTECODE # each start of Python would compile PyTorch again
  if [[ $INSTALL == 0 ]]; then
    return
  fi
  if [[ -z ${VIRTUAL_ENV:-} && -z ${CONDA_PREFIX:-} ]]; then
    if [[ ! -x $PROJECT_DIR/.venv/bin/python ]]; then
      echo "No Python environment is active: making $PROJECT_DIR/.venv"
      "$PYTHON" -m venv "$PROJECT_DIR/.venv"
    fi
    # shellcheck disable=SC1091  # made by the line above
    source "$PROJECT_DIR/.venv/bin/activate"
  fi
  echo "Installing ${1} into ${VIRTUAL_ENV:-$CONDA_PREFIX} (nothing to do when it is there already)"
  # Python compiles what is imported as it is; pip would compile all of PyTorch and more, which takes longer than the rest.
  python3 -m pip install --quiet --disable-pip-version-check --no-compile --requirement "$requirements"
}
