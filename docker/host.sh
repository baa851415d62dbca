#!/usr/bin/env bash
# Sourced by build_image.sh and start_container.sh: what both ask the host. Problems go to the array `problems`.

# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh" # show_help, problems and report_problems

for name in SUDO_UID SUDO_GID; do # which go into the image's build and to docker
  [[ ${!name:-0} =~ ^[0-9]{1,10}$ ]] || problems+=("$name is '${!name}', which is no number; start again after: unset $name")
done

check_docker() { # whether Docker is there, runs, and may be used
  local answer
  if ! command -v docker >/dev/null; then
    problems+=("There is no docker on the PATH; install Docker Engine: https://docs.docker.com/engine/install")
    return 1
  fi
  answer=$(docker info --format '{{.ServerVersion}}' 2>&1) && return
  case $answer in
    *"permission denied"*)
      problems+=("This user may not talk to the Docker daemon; join the group docker (sudo usermod -aG docker $(id -un), then log in again), or use sudo.") ;;
    *) problems+=("The Docker daemon does not answer ($(tail -n 1 <<<"$answer")); start it: sudo systemctl start docker") ;;
  esac
  return 1
}

nvidia_smi() { # QUERY: one line per GPU; nothing where there is no GPU, or a driver that does not answer
  local answer
  # It prints what is wrong where it prints what it is asked for.
  if answer=$(nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null); then echo "$answer"; fi
}

# Files belong to who called sudo, not to root. Where Docker itself runs without root, its root is the user.
is_rootless() {
  [[ $(docker info --format '{{json .SecurityOptions}}' 2>/dev/null) == *rootless* ]]
}

user_id() {
  if is_rootless; then echo 0; else echo "${SUDO_UID:-$(id -u)}"; fi
}

group_id() {
  if is_rootless; then echo 0; else echo "${SUDO_GID:-$(id -g)}"; fi
}

# What else the user may read and write, such as a folder that a group of people shares.
group_ids() {
  is_rootless || id -G ${SUDO_USER:+-- "$SUDO_USER"} 2>/dev/null || true
}

user_name() { # in letters that Linux distributions allow
  local name
  name=${SUDO_USER:-$(id -un 2>/dev/null || echo bert)}
  name=${name,,}
  name=${name//[!a-z0-9_-]/_}
  if [[ $name != [a-z_]* ]]; then name=_$name; fi
  echo "${name:0:32}"
}

make_folder() { # FOLDER: for the user of the container
  [[ -d $1 ]] && return
  mkdir -p -- "$1" 2>/dev/null || return
  if [[ -n ${SUDO_UID:-} ]]; then chown -- "$(user_id):$(group_id)" "$1"; fi
}
