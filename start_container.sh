#!/usr/bin/env bash
# Start a container of the image that build_image.sh built: a shell, or a command whose exit code becomes this script's.
#
#   bash start_container.sh DATASET_FOLDER
#   bash start_container.sh /data/bert bash scripts/run_pretraining.sh
#   bash start_container.sh --profile /data/bert      # Nsight Compute may read the GPUs' counters
#
# In the container you are yourself, and this project is /workspace/bert: edits on either side are seen on the other.
# The dataset folder is /workspace/dataset, where preparation writes to and training reads from, and its folders (download,
# hdf5_... and so on) are also in /workspace/bert/data, beside the scripts. Those with other names than the recipe's, as
# other numbers of shards give them, are there from the next start on. Results are written to results/ of the project.
# The container has the host's network and is gone when it ends; several can run side by side.
#
# It starts with scripts/check_environment.sh, whose table is printed on standard error. Nothing of the environment is
# passed on but what DOCKER_ARGS says; the settings of a command are given in the container:
#
#   bash start_container.sh /data/bert env CONFIG=h200_8gpu bash scripts/run_pretraining.sh
set -euo pipefail

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

IMAGE=${IMAGE:-tbd-bert-pytorch:latest}
GPUS=${GPUS:-all}                 # all, none, or numbers or UUIDs of nvidia-smi: 0,1
SHM_SIZE=${SHM_SIZE:-16g}         # most that NCCL and others may share between processes; costs nothing until it is used
RESULTS_DIR=${RESULTS_DIR:-$PROJECT_DIR/results}   # what /workspace/bert/results is
CHECK_ENVIRONMENT=${CHECK_ENVIRONMENT:-1}          # 0: no check at the start
DOCKER_ARGS=${DOCKER_ARGS:-}      # more for `docker run`, such as --env=WANDB_MODE --volume=/weights:/weights

# shellcheck source=docker/host.sh
source "$PROJECT_DIR/docker/host.sh"
show_help "${1:-}"

profile=0
if [[ ${1:-} == --profile ]]; then
  profile=1
  shift
fi

absolute() { # FOLDER: its path without links
  if [[ $1 != /* ]]; then set -- "./$1"; fi # `-` alone would be the folder before
  (CDPATH='' cd -- "$1" && pwd -P)
}

mount() { # SOURCE TARGET: for docker, whose options are fields of CSV
  arguments+=(--mount "type=bind,\"source=${1//\"/\"\"}\",\"target=${2//\"/\"\"}\"")
}

resolve_gpus() { # adds --gpus where the GPUs can be reached; says so where not
  local cpu="The container will have the CPU only."
  if [[ $GPUS == none ]]; then return; fi
  if [[ ! $GPUS =~ ^(all|((GPU|MIG)-)?[0-9a-f-]+(,((GPU|MIG)-)?[0-9a-f-]+)*)$ ]]; then
    problems+=("GPUS is '$GPUS'; set it to all, none, or numbers such as 0,1.")
  elif [[ -z $(nvidia_smi name) ]]; then
    echo "warning: nvidia-smi shows no GPU here, so there is none or its driver is not installed. $cpu" >&2
  elif [[ $(docker info --format '{{json .Runtimes}}' 2>/dev/null) != *nvidia* ]] && ! command -v nvidia-container-runtime-hook >/dev/null; then
    echo "warning: Docker has no NVIDIA runtime. $cpu Install the NVIDIA Container Toolkit, then: sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker" >&2
  elif [[ $GPUS == all ]]; then
    arguments+=(--gpus all)
  else
    arguments+=(--gpus "\"device=$GPUS\"")
  fi
}

# What the preparation makes has the names of data/artifacts/layout.py. The dataset folder cannot lie over data/, since the scripts
# are there; so each of its folders is mounted into data/ by itself. The places to mount them at must exist. They are
# empty folders of the checkout, which git ignores, and containers with other data are not disturbed by them.
mount_views() {
  local recipe=masked_lm_prob_0.15_random_seed_12345_dupe_factor_5 name folder
  local names=(download extracted formatted_one_article_per_line
    sharded_training_shards_256_test_shards_256_fraction_0.2
    "hdf5_lower_case_1_seq_len_128_max_pred_20_$recipe" "hdf5_lower_case_1_seq_len_512_max_pred_80_$recipe")
  for folder in "$dataset"/{sharded,hdf5}_*/; do
    name=${folder%/} name=${name##*/}
    if [[ ! -d $folder || " ${names[*]} " == *" $name "* ]]; then continue; fi
    if [[ $name == *[[:cntrl:]]* ]]; then
      echo "warning: the folder ${name@Q} of the dataset is left out of data/, as its name has a control character." >&2
    else
      names+=("$name")
    fi
  done
  for name in "${names[@]}"; do
    # A dataset folder that may only be read shows what it has.
    if make_folder "$dataset/$name" && make_folder "$PROJECT_DIR/data/$name"; then
      mount "$dataset/$name" "/workspace/bert/data/$name"
    fi
  done
}

dataset=
if (($# == 0)) || [[ $1 == -* ]]; then
  problems+=("${1:+$1 is no folder, and }the dataset folder is not given; start: bash start_container.sh DATASET_FOLDER [COMMAND...]")
elif [[ ! -e $1 ]]; then
  problems+=("There is no folder '$1'; make it (mkdir -p), empty or with a prepared dataset.")
elif [[ ! -d $1 ]]; then
  problems+=("'$1' is a file; give the folder of the dataset.")
elif ! dataset=$(absolute "$1" 2>/dev/null); then
  problems+=("The folder '$1' may not be entered by this user; give it the right to (chmod), or choose another.")
fi
if (($#)); then shift; fi
if [[ ${1:-} == -* ]]; then
  problems+=("$1 is no command; --profile stands before the dataset folder, and options of docker are given by DOCKER_ARGS.")
fi
if (($# == 0)) && [[ ! -t 0 || ! -t 1 ]]; then
  problems+=("There is no terminal for a shell; give a command: bash start_container.sh DATASET_FOLDER COMMAND...")
fi
for folder in "$PROJECT_DIR" "$RESULTS_DIR" "$dataset"; do
  [[ $folder != *[[:cntrl:]]* ]] || problems+=("The path ${folder@Q} has a control character, and Docker cannot mount it; rename the folder.")
done
[[ $IMAGE != -* ]] || problems+=("IMAGE is '$IMAGE', which docker would read as an option; set it to the name of an image.")
expect_switches CHECK_ENVIRONMENT
[[ $SHM_SIZE =~ ^[1-9][0-9]*[bkmgBKMG]?$ ]] || problems+=("SHM_SIZE is '$SHM_SIZE'; set it to a size such as 16g.")

arguments=(--rm --init --stop-timeout 180) # as long as saving a checkpoint may take
if check_docker; then
  docker image inspect "$IMAGE" >/dev/null 2>&1 || problems+=("There is no image $IMAGE; build it: bash build_image.sh")
  resolve_gpus
fi
if ((${#problems[@]} == 0)); then
  if ! make_folder "$RESULTS_DIR"; then
    problems+=("$RESULTS_DIR cannot be made; set RESULTS_DIR to a folder that this user may write to.")
  elif ! make_folder "$PROJECT_DIR/results"; then
    problems+=("$PROJECT_DIR/results, where RESULTS_DIR is mounted, cannot be made; have the project's owner make it, or use a checkout of your own.")
  fi
fi
report_problems
[[ -w $dataset ]] || echo "warning: $dataset may not be written by this user: data can be read from it, and not prepared in it." >&2

if [[ -t 0 && -t 1 ]]; then arguments+=(--interactive --tty); fi
for group in $(group_ids); do arguments+=(--group-add "$group"); done
arguments+=(--user "$(user_id):$(group_id)" --env "USER=$(user_name)" --network host --shm-size "$SHM_SIZE")
# As NVIDIA advises: memory that InfiniBand adapters reach, and the stack. A daemon without all of root's rights, as in
# rootless Docker, may not raise limits, and says so only when a container starts.
limits=(--ulimit memlock=-1 --ulimit stack=67108864)
if docker run --rm --network host "${limits[@]}" --entrypoint /bin/true "$IMAGE" >/dev/null 2>&1; then
  arguments+=("${limits[@]}")
else
  echo "warning: Docker may not raise limits here, so locked memory stays limited; InfiniBand adapters need it unlimited." >&2
fi
mount "$PROJECT_DIR" /workspace/bert
mount "$(absolute "$RESULTS_DIR")" /workspace/bert/results
mount "$dataset" /workspace/dataset
mount_views
arguments+=(--workdir /workspace/bert --env BERT_PREP_WORKING_DIR=/workspace/dataset --env "CHECK_ENVIRONMENT=$CHECK_ENVIRONMENT")
if ((profile)); then arguments+=(--cap-add SYS_ADMIN --env PROFILING=1); fi
read -r -d '' -a more <<<"$DOCKER_ARGS" || true # lines too; its status says that there is no NUL

exec docker run "${arguments[@]}" "${more[@]}" "$IMAGE" "$@"
