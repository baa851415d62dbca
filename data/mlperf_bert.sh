#!/usr/bin/env bash
# MLPerf BERT's data and starting checkpoint: fetched and checked, its 10,000 evaluation rows bit for bit, training shards.
#
#   bash data/mlperf_bert.sh
#   MLPERF_FILES=downloads/bert PARTS=500 bash data/mlperf_bert.sh
#
# The first downloads the files that MLCommons publishes, some 4.4 GB; the second takes them from a folder. Everything is
# written to mlperf_bert/ under BERT_PREP_WORKING_DIR. Started again, it resumes where it stopped and skips what is
# finished. Extra arguments go to data/mlperf_bert.py.
set -euo pipefail

DATA_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PROJECT_DIR=$(dirname "$DATA_DIR")

MLPERF_FILES=${MLPERF_FILES:-}   # a folder with the downloaded files, at any depth; empty: download them
PARTS=${PARTS:-12}               # parts of the training text, of 500: 12 hold more examples than any run sees
STAND_INS=${STAND_INS:-0}        # 1: take other files of these names too, for trials
COMPRESSION=${COMPRESSION:-gzip} # of the HDF5 files: gzip, lzf or none
N_PROCESSES=${N_PROCESSES:-$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)}
PYTHON=${PYTHON:-python3}
export BERT_PREP_WORKING_DIR=${BERT_PREP_WORKING_DIR:-$DATA_DIR}

# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"
show_help "${1:-}"
check_settings "$@"
if [[ $PYTHON == python3 ]]; then activate_environment h5py || report_problems; fi
expect_switches STAND_INS

flags=()
flag --files MLPERF_FILES
flags_of PARTS COMPRESSION N_PROCESSES
switch --stand_ins STAND_INS
refuse_flags "${flags[@]}" -- "$@"
report_problems

exec "$PYTHON" "$DATA_DIR/mlperf_bert.py" "${flags[@]}" "$@"
