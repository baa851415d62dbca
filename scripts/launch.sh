#!/usr/bin/env bash
# Sourced, after configuration.sh, by the scripts that train: how many processes there are, how they start, and what
# becomes of signals.
#
# One process runs as plain Python. Several are started by torchrun, one per GPU. SIGTERM and SIGUSR1, which Slurm sends
# before a job's time is over, go on to all of them: they save, and the script ends with REQUEUE_STATUS, which asks to be
# started again. So does SIGHUP, of a terminal that is closed. Ctrl-C does the same and ends with 130; a second one does
# not wait. From the line that sources this file on, no signal is lost: one that comes between two launches ends the
# script, and one that comes as a launch ends well is left in `stopped`. Where this script is killed itself, its processes
# notice (common/lifetime.py), save and end.

NUM_GPUS=${NUM_GPUS:-}                          # processes on this machine, one per GPU; empty: all its GPUs, else 1
NNODES=${NNODES:-${SLURM_NNODES:-${PET_NNODES:-1}}} # machines; MIN:MAX lets torchrun go on with fewer after a failure
if [[ ! ${SLURM_JOB_ID:-0} =~ ^[0-9]{1,18}$ ]]; then # looked at before bash computes with it, which would run code in it
  problems+=("SLURM_JOB_ID is '$SLURM_JOB_ID', which is no number of a job; start again after: unset SLURM_JOB_ID")
  unset SLURM_JOB_ID
fi
MASTER_ADDR=${MASTER_ADDR:-}                    # one of them, by name; empty: the first of the Slurm job, else this one
MASTER_PORT=${MASTER_PORT:-$((20000 + 10#${SLURM_JOB_ID:-9500} % 20000))}
MAX_RESTARTS=${MAX_RESTARTS:-0}                 # times that torchrun starts all processes again after a failure
NUMA_BINDING=${NUMA_BINDING:-}                  # cores of a process, by its GPU: node, socket, exclusive, core-complex, none; empty: node where memory is divided

REQUEUE_STATUS=${REQUEUE_STATUS:-75}            # of a script that was stopped and saved; Kubeflow starts again from 128 on

# Of the processes, which torchrun numbers. Kubeflow numbers pods by them, and gives PET_NNODES, torchrun's own name, too.
unset RANK WORLD_SIZE

# shellcheck source=scripts/profilers.sh
source "$PROJECT_DIR/scripts/profilers.sh" # PROFILER

SAVED=75        # status of processes that were stopped and saved
child=          # process of the launch under way; `starting` before it has a number
stopped=0
interrupts=0
trap 'stopped=1; end_child TERM "$REQUEUE_STATUS"' TERM USR1 HUP
trap '((interrupts += 1)); end_child "$( ((interrupts > 1)) && echo KILL || echo TERM)" 130' INT

end_child() { # SIGNAL STATUS: the signal for the launch under way; without one, the end of this script
  case $child in
    '') exit "$2" ;;
    starting) ;; # launch looks once it has the number
    *) kill "-$1" "$child" 2>/dev/null || true ;;
  esac
}

count_gpus() { # those that this shell's processes would see
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    local devices
    IFS=, read -r -a devices <<<"$CUDA_VISIBLE_DEVICES"
    if [[ ${devices[0]:-} == -1 ]]; then devices=(); fi
    echo "${#devices[@]}"
  else
    nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true
  fi
}

resolve_launch() { # fills in what was left empty; what is wrong goes to `problems`, and returns 1
  local before=${#problems[@]}
  if [[ -z $NUM_GPUS ]]; then
    NUM_GPUS=$(count_gpus)
    if ((NUM_GPUS == 0)); then NUM_GPUS=1; fi
  fi
  if [[ -z $MASTER_ADDR && -n ${SLURM_JOB_NODELIST:-} ]]; then
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
  fi
  expect_numbers NUM_GPUS MASTER_PORT || true
  [[ $MAX_RESTARTS =~ ^(0|[1-9][0-9]{0,8})$ ]] || problems+=("MAX_RESTARTS is '$MAX_RESTARTS'; set it to a whole number.")
  if [[ ! $REQUEUE_STATUS =~ ^[1-9][0-9]{0,2}$ ]] || ((REQUEUE_STATUS > 255)); then
    problems+=("REQUEUE_STATUS is '$REQUEUE_STATUS'; set it to a whole number from 1 to 255.")
    REQUEUE_STATUS=$SAVED
  fi
  if [[ ! $NNODES =~ ^[1-9][0-9]{0,8}(:[1-9][0-9]{0,8})?$ ]]; then
    problems+=("NNODES is '$NNODES'; set it to a number of machines, or to MIN:MAX.")
  elif [[ $NNODES != 1 && -z $MASTER_ADDR ]]; then
    problems+=("NNODES is $NNODES and MASTER_ADDR is empty; name the machine where all are to meet.")
  fi
  if [[ ! $NUMA_BINDING =~ ^(node|socket|exclusive|core-complex|none|)$ ]]; then
    problems+=("NUMA_BINDING is '$NUMA_BINDING'; set it to node, socket, exclusive, core-complex or none.")
  elif [[ -n $NUMA_BINDING && $NUMA_BINDING != none ]] && ! type -P numactl >/dev/null; then
    problems+=("NUMA_BINDING is '$NUMA_BINDING' and there is no numactl; install it: apt-get install numactl")
  fi
  ((${#problems[@]} == before))
}

has_divided_memory() { # several NUMA nodes, and what binds processes to one
  [[ -d /sys/devices/system/node/node1 ]] && type -P numactl >/dev/null && (($(count_gpus)))
}

n_processes() { # over all machines, when all are there
  echo $((NUM_GPUS * ${NNODES##*:}))
}

expect_divisible() { # GLOBAL MICRO: names of a global batch and of a micro-batch, which may be empty
  local processes divisor
  processes=$(n_processes) divisor=$((processes * ${!2:-1}))
  if ((${!1} % divisor)); then
    problems+=("$1 ${!1} is not a multiple of $divisor (processes: $processes${!2:+, $2: ${!2}}); choose numbers that divide it.")
    return 1
  fi
}

launch() { # SCRIPT [FLAGS]: run it in all processes; returns its status, 75 where a signal stopped it
  local command=(python3) profile=() profiler=()
  profiler_command || return
  if [[ $NNODES != 1 ]]; then
    command+=("$PROJECT_DIR/scripts/torchrun.py" --nnodes "$NNODES" --nproc_per_node "$NUM_GPUS" --max_restarts "$MAX_RESTARTS"
      --rdzv_backend c10d --rdzv_endpoint "$MASTER_ADDR:$MASTER_PORT" --rdzv_id "bert-${SLURM_JOB_ID:-$MASTER_PORT}")
  elif ((NUM_GPUS > 1 || MAX_RESTARTS > 0)); then
    command+=("$PROJECT_DIR/scripts/torchrun.py" --standalone --nproc_per_node "$NUM_GPUS" --max_restarts "$MAX_RESTARTS")
  fi

  if ((${#command[@]} > 1)); then
    local binding=$NUMA_BINDING
    if [[ -z $binding ]] && has_divided_memory; then binding=node; fi
    if [[ ${binding:-none} != none ]]; then command+=(--numa-binding "$binding"); fi
    # torchrun would give each process one thread, and say so at length.
    local threads=$(($(nproc) / NUM_GPUS))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
    # Seconds from torchrun's SIGTERM to its SIGKILL; a checkpoint of BERT-large on a slow disk takes more than its 30.
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-150}
  fi

  local status=0
  child=starting
  # A terminal and Slurm may signal all processes, and torchrun saves on SIGTERM alone: SIGINT would end it at once, and
  # SIGUSR1 kill it. In a session of its own, and deaf to SIGUSR1, it hears of them from this script only.
  (trap '' USR1 && exec setsid "${profiler[@]}" "${command[@]}" "$@" "${profile[@]}") &
  child=$!
  if ((stopped || interrupts)); then kill -TERM "$child" 2>/dev/null || true; fi
  while kill -0 "$child" 2>/dev/null; do
    wait "$child" || true # a signal ends the wait, and not the child
  done
  wait "$child" || status=$?
  child=
  if [[ $PROFILER == ncu ]]; then write_profile || status=$((status ? status : 1)); fi
  if ((interrupts)); then return 130; fi
  # torchrun itself ends with 1 when it was stopped, whatever its processes end with.
  if ((status == SAVED || (stopped && status != 0))); then return "$REQUEUE_STATUS"; fi
  return "$status"
}
