#!/usr/bin/env bash
# A Docker engine for the tests alone, beside any other of this machine: its own images, its own socket. Needs root.
#
#   bash tests/docker/engine.sh        # starts it unless it runs; the last line is its DOCKER_HOST
#   bash tests/docker/engine.sh stop
#
# It has no bridge network and touches no firewall, so what builds and runs on it needs `--network host`. Docker is
# installed from the distribution's packages where it is missing and CI is set.
set -euo pipefail

STATE=${STATE:-${TMPDIR:-/tmp}/bert-docker-tests}   # images, logs, socket

export DOCKER_HOST=unix://$STATE/docker.sock

if [[ ${1:-} == stop ]]; then
  if [[ -f $STATE/dockerd.pid ]]; then kill "$(cat "$STATE/dockerd.pid")"; fi
  exit 0
fi
if command -v docker >/dev/null && docker version >/dev/null 2>&1; then
  echo "$DOCKER_HOST"
  exit 0
fi
if [[ $(id -u) != 0 ]]; then
  echo "error: only root can start a Docker engine." >&2
  exit 1
fi
if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
  if [[ -z ${CI:-} ]]; then
    echo "error: Docker (docker and dockerd) is not installed." >&2
    exit 1
  fi
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq docker.io; } >&2 || {
    echo "error: the package docker.io could not be installed from the distribution's sources." >&2
    exit 1
  }
fi

mkdir -p "$STATE"
chmod 755 "$STATE"
rm -f "$STATE/dockerd.pid"
setsid dockerd --host "$DOCKER_HOST" --data-root "$STATE/data" --exec-root "$STATE/exec" --pidfile "$STATE/dockerd.pid" \
  --bridge none --iptables=false >"$STATE/dockerd.log" 2>&1 </dev/null &
for ((attempt = 0; attempt < 120; attempt++)); do
  if docker version >/dev/null 2>&1; then
    echo "$DOCKER_HOST"
    exit 0
  fi
  sleep 0.5
done
tail -n 20 "$STATE/dockerd.log" >&2
echo "error: the Docker engine did not start; see $STATE/dockerd.log." >&2
exit 1
