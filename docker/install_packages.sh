#!/usr/bin/env bash
# In the image's build: what requirements.txt pins, into the Python environment that is first on the PATH.
#
#   TORCH_INDEX_URL=... bash install_packages.sh requirements.txt
#
# PyTorch comes from TORCH_INDEX_URL where that is given; all else, and PyTorch too where it is empty, from pip's index.
set -euo pipefail

requirements=$1

give_up() {
  echo "error: $1." >&2
  exit 1
}

if [[ -n ${TORCH_INDEX_URL:-} ]]; then
  torch=$(grep --only-matching '^torch==[0-9.]*' "$requirements")
  python3 -m pip install --no-cache-dir --index-url "$TORCH_INDEX_URL" "$torch" ||
    give_up "$torch could not be installed from ${TORCH_INDEX_URL/:\/\/*@/://}; name another index that has it for this CUDA by TORCH_INDEX_URL, or take another CUDA_VARIANT"
fi
python3 -m pip install --no-cache-dir --requirement "$requirements" ||
  give_up "What requirements.txt pins could not be installed; name a package index that this network reaches by PIP_INDEX_URL, or its proxy by HTTPS_PROXY"
