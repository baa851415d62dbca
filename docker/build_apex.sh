#!/usr/bin/env bash
# In the image's build: make a wheel of NVIDIA's apex with its C++ and CUDA extensions.
#
#   APEX_COMMIT=... TORCH_CUDA_ARCH_LIST='8.0;9.0' BUILD_JOBS=8 bash build_apex.sh FOLDER
#
# Never run for real: that it builds with the PyTorch of requirements.txt is not verified. It follows "From Source" in
# apex's README. APEX_PARALLEL_BUILD is left out: it compiles several extensions at once, each with MAX_JOBS files, and
# apex's authors measured 24 to 91 GiB so (https://github.com/NVIDIA/apex/pull/1882).
set -euo pipefail

APEX_URL=${APEX_URL:-https://github.com/NVIDIA/apex}
GIB_PER_JOB=4   # of memory, for a file that nvcc compiles for four architectures at once; a guess on the safe side

wheels=$1
memory_gib=$(awk '/^MemAvailable:/ {print int($2 / 2 ^ 20)}' /proc/meminfo)
cores=$(nproc)
jobs=$((memory_gib / GIB_PER_JOB < cores ? memory_gib / GIB_PER_JOB : cores))
jobs=${BUILD_JOBS:-$((jobs > 1 ? jobs : 1))}

give_up() {
  echo "error: $1. Nothing needs apex: build_image.sh builds without it when started with WITH_APEX=0." >&2
  exit 1
}

command -v nvcc >/dev/null || give_up "The base image has no CUDA compiler (nvcc), so apex cannot be built"
python3 -c 'import sys, torch; sys.exit(torch.version.cuda is None)' ||
  give_up "The PyTorch that was installed is not a CUDA build, so apex cannot be built"

source=$(mktemp -d)
git init --quiet "$source"
git -C "$source" fetch --quiet --depth 1 "$APEX_URL" "$APEX_COMMIT" || give_up "apex's commit $APEX_COMMIT could not be fetched from $APEX_URL"
git -C "$source" checkout --quiet FETCH_HEAD

python3 -m pip install --no-cache-dir setuptools==81.0.0 wheel==0.46.3 packaging==26.0 ninja==1.13.0 ||
  give_up "What apex is built with (setuptools, wheel, packaging, ninja) could not be installed"
echo "Building apex $APEX_COMMIT for $TORCH_CUDA_ARCH_LIST with $jobs jobs; this takes minutes per architecture on few cores."
APEX_CPP_EXT=1 APEX_CUDA_EXT=1 MAX_JOBS=$jobs NVCC_APPEND_FLAGS='--threads 4' \
  python3 -m pip wheel -v --no-build-isolation --no-deps --no-cache-dir --wheel-dir "$wheels" "$source" ||
  give_up "apex's commit $APEX_COMMIT could not be compiled; the reason stands above"
rm -rf "$source"
