#!/usr/bin/env bash
# In the image's build: Nsight Compute (ncu) and Nsight Systems (nsys).
#
#   bash install_nsight.sh installer   # runs nsight-compute-linux-*.run beside this script, if there is one
#   bash install_nsight.sh packages    # what is missing, from the CUDA package repository of the base image
#
# Never run for real. The installer's command is in Nsight Compute's release notes, "Known Issues"; it is perl, which
# build-essential brings. cuda-nsight-compute-X-Y and cuda-nsight-systems-X-Y are the meta-packages for CUDA X.Y; as in
# NVIDIA's HPC Container Maker, they put ncu into /opt/nvidia/nsight-compute/VERSION, which is not on the PATH.
set -euo pipefail

TARGET=/opt/nsight-compute

give_up() {
  echo "error: $1. Only profiling needs Nsight: build_image.sh builds without it when started with WITH_NSIGHT=0." >&2
  exit 1
}

link() { # COMMAND PATTERN...: the newest of these files on the PATH
  local command=$1 newest
  shift
  newest=$(compgen -G "$1" | sort --version-sort | tail -n 1) || true
  if [[ -n $newest ]]; then ln -sf "$newest" "/usr/local/bin/$command"; fi
}

case $1 in
  installer)
    file=$(compgen -G "$(dirname "${BASH_SOURCE[0]}")/nsight-compute-linux-*.run" | sed -n 1p) || exit 0
    sh "$file" --quiet -- -noprompt -targetpath="$TARGET" || give_up "The installer ${file##*/} failed"
    [[ -x $TARGET/ncu ]] || give_up "The installer ${file##*/} left no ncu"
    ;;
  packages)
    version=${CUDA_VERSION:-} # a variable of NVIDIA's base images
    [[ -n $version ]] || give_up "The base image does not say its CUDA version (CUDA_VERSION), so Nsight cannot be installed"
    IFS=. read -r major minor _ <<<"$version"
    packages=("cuda-nsight-systems-$major-$minor")
    [[ -x $TARGET/ncu ]] || packages+=("cuda-nsight-compute-$major-$minor")
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${packages[@]}"; } ||
      give_up "${packages[*]} could not be installed from the base image's package repositories"
    rm -rf /var/lib/apt/lists/*
    command -v ncu >/dev/null || link ncu '/opt/nvidia/nsight-compute/*/ncu'
    command -v nsys >/dev/null || link nsys '/opt/nvidia/nsight-systems/*/bin/nsys'
    for command in ncu nsys; do
      "$command" --version >/dev/null || give_up "$command does not run after its installation"
    done
    ;;
esac
