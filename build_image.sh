#!/usr/bin/env bash
# Build the image tbd-bert-pytorch:latest: CUDA, PyTorch and what else requirements.txt names, apex, Nsight Compute and
# Nsight Systems. start_container.sh starts it. The project is not in it, so it is built again only for other packages.
#
#   bash build_image.sh
#   TORCH_CUDA_ARCH_LIST=9.0 bash build_image.sh              # apex for an H100 or H200 alone, in a fraction of the time
#   WITH_APEX=0 WITH_NSIGHT=0 bash build_image.sh --no-cache  # extra arguments go to `docker build`
#
# Without an internet connection that reaches everything: proxies (HTTPS_PROXY and the like), package indexes
# (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_TRUSTED_HOST, PIP_FIND_LINKS) and certificates (SSL_CERT_FILE and the like, and
# all docker/certificates/*.crt) are taken from the environment. What is in the address of an index can be read from
# the image (`docker history`), a password too; proxies cannot. An installer docker/nsight-compute-linux-*.run is used
# where it is there, in place of NVIDIA's package repository.
#
# Containers run as you: the image is built with your user and group id. Under sudo, with those of who called it.
set -euo pipefail

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

CUDA_VARIANT=${CUDA_VARIANT:-}       # cu130 or cu126: the CUDA of PyTorch and base image; empty: what the driver here can run
BASE_IMAGE=${BASE_IMAGE:-}           # another image to build on; empty: NVIDIA's for the variant
TORCH_INDEX_URL=${TORCH_INDEX_URL:-}      # another package index for PyTorch; empty: where the variant lies
WITH_APEX=${WITH_APEX:-1}            # 0: without apex, which takes long to build
WITH_NSIGHT=${WITH_NSIGHT:-1}        # 0: without Nsight, with which one profiles
WITH_PUNKT=${WITH_PUNKT:-1}          # 0: without trained parameters for splitting text into sentences
APEX_COMMIT=${APEX_COMMIT:-}         # of https://github.com/NVIDIA/apex; empty: the one that docker/Dockerfile pins
TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-}   # what apex is built for; empty: all GPUs that the variant knows
BUILD_JOBS=${BUILD_JOBS:-}           # files of apex compiled at once; empty: one per core, or fewer, so that each has 4 GiB of memory
DISK_GB=${DISK_GB:-60}               # free space that Docker must have

IMAGE=tbd-bert-pytorch:latest

# shellcheck source=docker/host.sh
source "$PROJECT_DIR/docker/host.sh"
show_help "${1:-}"

free_gb() { # of the file system under Docker's folder; nothing where Docker runs elsewhere
  local folder
  folder=$(docker info --format '{{.DockerRootDir}}' 2>/dev/null)
  [[ -d $folder ]] || return 0
  df --block-size=1G --output=avail "$folder" 2>/dev/null | tail -n 1 | tr -d ' '
}

pytorch_index() { # VARIANT: where it lies; nothing where the usual index has it
  # PyPI has the build for CUDA 13.0 for x86 only.
  [[ $1 == cu130 && $(uname -m) == x86_64 ]] || echo "https://download.pytorch.org/whl/$1"
}

choose_variant() { # into `variant`, from the driver and the GPUs; says why
  local driver major lowest highest capabilities gpus=
  driver=$(nvidia_smi driver_version | sed -n 1p)
  if [[ ! $driver =~ ^[1-9][0-9]{0,8}\. ]]; then
    variant=${CUDA_VARIANT:-cu130}
    echo "No NVIDIA driver answers here. Building for CUDA ${cuda_of[$variant]}; where the image runs on GPUs, it needs driver ${driver_of[$variant]} or newer."
    return
  fi
  major=${driver%%.*}
  # In tenths: 7.0 is 70. A driver that cannot tell is an old one.
  mapfile -t capabilities < <(nvidia_smi compute_cap | tr -d . | grep -E '^[1-9][0-9]{1,8}$' | sort -n)
  lowest=${capabilities[0]:-} highest=${capabilities[*]: -1}
  if [[ -n $lowest ]]; then
    gpus=", GPUs of compute capability ${lowest%?}.${lowest: -1}"
    if ((highest > lowest)); then gpus+=" to ${highest%?}.${highest: -1}"; fi
  fi
  variant=$CUDA_VARIANT
  if [[ -z $variant ]]; then
    if ((major >= driver_of[cu130] && ${lowest:-80} >= 75)); then variant=cu130; else variant=cu126; fi
  fi
  echo "Driver $driver$gpus: building for CUDA ${cuda_of[$variant]} ($variant)."
  if ((major < driver_of[$variant])); then
    local other=
    if [[ $variant == cu130 ]] && ((major >= driver_of[cu126])); then other=", or take CUDA_VARIANT=cu126"; fi
    problems+=("CUDA ${cuda_of[$variant]} needs NVIDIA driver ${driver_of[$variant]} or newer, and this machine's is $driver; update the driver$other.")
  fi
  if [[ $variant == cu130 ]] && ((${lowest:-80} < 75)); then
    problems+=("CUDA 13.0 has no code for GPUs older than compute capability 7.5, and there is one here; take CUDA_VARIANT=cu126.")
  elif [[ $variant == cu126 ]] && ((${highest:-80} >= 100)); then
    problems+=("PyTorch for CUDA 12.6 has no code for GPUs of compute capability 10.0 and newer, and there is one here; update the driver to ${driver_of[cu130]} or newer and take CUDA_VARIANT=cu130.")
  fi
}

# NVIDIA's table of drivers: CUDA 13 runs from 580 on, and all of CUDA 12 from 525 on (minor-version compatibility).
declare -A cuda_of=([cu130]=13.0 [cu126]=12.6) driver_of=([cu130]=580 [cu126]=525)
declare -A architectures_of=([cu130]='7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX' [cu126]='7.0;7.5;8.0;8.6;8.9;9.0+PTX')
declare -A base_of=(
  [cu130]='' # as docker/Dockerfile has it
  [cu126]=nvidia/cuda:12.6.3-cudnn-devel-ubuntu24.04@sha256:0f8250615943f311785f9ce6379a49520a4b53c124d22b42ba859edf93af3991
)

expect_switches WITH_APEX WITH_NSIGHT WITH_PUNKT
expect_numbers BUILD_JOBS || true
expect_numbers DISK_GB || DISK_GB=0 # which is compared below
[[ $TORCH_CUDA_ARCH_LIST =~ ^([0-9]+\.[0-9]a?(\+PTX)?([\; ]|$))*$ ]] ||
  problems+=("TORCH_CUDA_ARCH_LIST is '$TORCH_CUDA_ARCH_LIST'; set it to compute capabilities such as 8.0;9.0.")
case $CUDA_VARIANT in
  '' | cu126 | cu130) choose_variant ;;
  *) problems+=("CUDA_VARIANT is '$CUDA_VARIANT'; choose cu130 or cu126, or leave it empty.") ;;
esac
mapfile -t installers < <(compgen -G "$PROJECT_DIR/docker/nsight-compute-linux-*.run")
((${#installers[@]} < 2)) ||
  problems+=("There are ${#installers[@]} installers docker/nsight-compute-linux-*.run; leave one of them there.")
certificates=()
for name in SSL_CERT_FILE PIP_CERT REQUESTS_CA_BUNDLE CURL_CA_BUNDLE; do
  file=${!name:-}
  if [[ -z $file || " ${certificates[*]} " == *" $file "* ]]; then continue; fi
  if [[ -r $file && ! -d $file ]]; then certificates+=("$file"); else problems+=("$name is '$file', and there is no such file to read; correct it or unset it."); fi
done
if check_docker; then
  free=$(free_gb)
  if [[ $free =~ ^[0-9]{1,18}$ ]] && ((free < DISK_GB)); then
    problems+=("Docker has $free GB of free disk space in $(docker info --format '{{.DockerRootDir}}'), and building takes $DISK_GB; free some (docker system prune), or set DISK_GB to less if you know better.")
  fi
fi
report_problems

# Certificates that the host trusts by a variable; a file that has not changed keeps the builder's cache.
trusted=$PROJECT_DIR/docker/certificates/host.crt
if ((${#certificates[@]})); then
  cat "${certificates[@]}" | cmp --silent - "$trusted" || {
    rm -f "$trusted" # which may be root's, who once built under sudo
    cat "${certificates[@]}" >"$trusted"
  }
else
  rm -f "$trusted"
fi

arguments=(--file "$PROJECT_DIR/docker/Dockerfile" --tag "$IMAGE")
give() { # NAME [VALUE]: to the Dockerfile, unless it is empty
  if [[ -n ${2:-} ]]; then arguments+=(--build-arg "$1=$2"); fi
}
give BASE_IMAGE "${BASE_IMAGE:-${base_of[$variant]}}"
[[ -n $TORCH_INDEX_URL ]] || give TORCH_INDEX_URL "$(pytorch_index "$variant")"
for name in WITH_APEX WITH_NSIGHT WITH_PUNKT APEX_COMMIT BUILD_JOBS; do give "$name" "${!name}"; done
give TORCH_CUDA_ARCH_LIST "${TORCH_CUDA_ARCH_LIST:-${architectures_of[$variant]}}"
give USER_NAME "$(user_name)"
give USER_ID "$(user_id)"
give GROUP_ID "$(group_id)"
# By name only, so that no password of a proxy or an index is in the list of processes.
for name in {HTTP,HTTPS,FTP,NO,ALL}_PROXY {http,https,ftp,no,all}_proxy TORCH_INDEX_URL PIP_INDEX_URL \
  PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT; do
  if [[ -n ${!name:-} ]]; then export "${name?}" && arguments+=(--build-arg "$name"); fi
done
# A folder of the host is not in the image.
if [[ ${PIP_FIND_LINKS:-} == *://* ]]; then arguments+=(--build-arg PIP_FIND_LINKS); fi

if ! docker build "${arguments[@]}" "$@" "$PROJECT_DIR"; then
  echo "error: docker build failed, and the lines above say at what; started again, it goes on where it stopped." >&2
  exit 1
fi
echo "Image: $IMAGE. Start it: bash start_container.sh DATASET_FOLDER"
