#!/usr/bin/env bash
# A small stand-in for NVIDIA's base image, of Debian packages, for machines that reach no registry of images. Needs root.
#
#   DOCKER_HOST=... bash tests/docker/base_image.sh IMAGE
#
# Like Ubuntu's images it has a user `ubuntu` with the id 1000, and a .bashrc of root's that sets a prompt. Wheels of a
# folder PIP_FIND_LINKS are in it, so that PyTorch's build for CPUs need not be downloaded.
set -euo pipefail

SUITE=${SUITE:-bookworm}   # the release of Debian

image=$1
if docker image inspect "$image" >/dev/null 2>&1; then exit 0; fi
if ! command -v mmdebstrap >/dev/null; then
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mmdebstrap debian-archive-keyring; } >&2 || {
    echo "error: the package mmdebstrap could not be installed from the distribution's sources." >&2
    exit 1
  }
fi

# shellcheck disable=SC2016  # mmdebstrap sets $1, the image's /
hooks=(--customize-hook='chroot "$1" useradd --uid 1000 --create-home ubuntu'
  --customize-hook='cp "$1/etc/skel/.bashrc" "$1/root/.bashrc"')
changes=()
if [[ -d ${PIP_FIND_LINKS:-} ]]; then
  # shellcheck disable=SC2016
  hooks+=(--customize-hook='mkdir "$1/wheels" && cp "$PIP_FIND_LINKS"/*.whl "$1/wheels"')
  changes+=(--change "ENV PIP_FIND_LINKS=/wheels")
fi
mmdebstrap --quiet --variant=minbase "${hooks[@]}" "$SUITE" - | docker import "${changes[@]}" - "$image" || {
  docker image rm "$image" >/dev/null 2>&1 || true # an incomplete one
  echo "error: the packages of Debian $SUITE could not be fetched, so there is no base image to build on." >&2
  exit 1
}
