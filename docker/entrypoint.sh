#!/usr/bin/env bash
# What runs first in a container: says whether training can run, then becomes the command, or a shell.
#
# Set by start_container.sh: CHECK_ENVIRONMENT=0 leaves the check out; PROFILING=1 says that the container may have the
# capability SYS_ADMIN, with which Nsight Compute may read GPU counters.
set -euo pipefail

if [[ ${PROFILING:-0} == 1 && $(id -u) != 0 ]]; then
  unset PROFILING
  exec with-profiling --inh-caps=+sys_admin --ambient-caps=+sys_admin -- /bin/bash "${BASH_SOURCE[0]}" "$@"
fi

if [[ ! -w ${HOME:-/} ]]; then # a user that the image was not built for
  HOME=$(mktemp -d /tmp/home.XXXXXX)
  export HOME
fi

check=/workspace/bert/scripts/check_environment.sh
if [[ ${CHECK_ENVIRONMENT:-1} == 1 && -f $check ]]; then
  # On standard error: the output is the command's.
  bash "$check" >&2 || true
fi
exec "$@"
