#!/usr/bin/env bash
# A small stand-in for NVIDIA's base image, of Debian packages, for machines that reach no registry of images. Needs root.
#
#   DOCKER_HOST=... bash tests/docker/base_image.sh IMAGE
#
# Like Ubuntu's images it has a user `ubuntu` with the id 1000, and a .bashrc of root's that sets a prompt. Wheels of a folder PIP_FIND_LINKS are in it, so that
# PyTorch's build for CPUs need not be downloaded.
set -euo pipefail

SUITE=${SUITE:-bookworm}   # the release of Debian

image=$1
if docker image inspect "$image" >/dev/null 2>&1; then exit 0; fi
if ! command -v debootstrap >/dev/null; then
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq debootstrap; } >&2 || {
    echo "error: the package debootstrap could not be installed from the distribution's sources." >&2
    exit 1
  }
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root" # it becomes the image's /
debootstrap --variant=minbase "$SUITE" "$root" >"$root.log" 2>&1 || {
  tail -n 5 "$root.log" >&2
  echo "error: the packages of Debian $SUITE could not be fetched, so there is no base image to build on." >&2
  exit 1
}
rm -f "$root.log"
chroot "$root" useradd --uid 1000 --create-home ubuntu
cp "$root/etc/skel/.bashrc" "$root/root/.bashrc"
changes=()
if [[ -d ${PIP_FIND_LINKS:-} ]]; then
  mkdir "$root/wheels"
  cp "$PIP_FIND_LINKS"/*.whl "$root/wheels"
  changes+=(--change "ENV PIP_FIND_LINKS=/wheels")
fi
tar --directory "$root" --create . | docker import "${changes[@]}" - "$image"
