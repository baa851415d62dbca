#!/usr/bin/env bash
# scripts/run_pretraining.sh as a Slurm job that requeues itself until the run is done.
#
#   CONFIG=h200_8gpu sbatch --nodes=4 scripts/slurm_pretraining.sh
#
# From the project's folder, which all nodes share, and with the Python environment active; other sbatch options as your
# cluster wants them. Each node starts its own processes. Before the time is over Slurm signals them: they save, and the
# job goes back into the queue under its number, with the same output folder.
#SBATCH --job-name=bert-pretraining
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=bert-pretraining-%j.log
set -euo pipefail

# Slurm runs a copy of this file, so its own place says nothing.
PROJECT_DIR=${PROJECT_DIR:-${SLURM_SUBMIT_DIR:-$PWD}}

# Without it, Slurm may bind the one task of a node, and all its processes, to one core.
if [[ -n ${SLURM_CPUS_ON_NODE:-} ]]; then export SRUN_CPUS_PER_TASK=${SRUN_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}; fi

status=0
# One node that is done first must not make Slurm kill the others, which are still saving.
srun --kill-on-bad-exit=0 bash "$PROJECT_DIR/scripts/run_pretraining.sh" "$@" || status=$?
if ((status == 75)); then
  echo "Stopped before its end; back into the queue."
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
