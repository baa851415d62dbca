#!/usr/bin/env bash
# From nothing to the verified HDF5 shards of both phases: phase 1 at sequence length 128, phase 2 at 512.
#
#   BOOKS_SOURCE=books/ bash data/create_datasets_from_start.sh
#   TEXT_SOURCE=wikipedia/20231101.en bash data/create_datasets_from_start.sh
#   CORPUS=wikicorpus_en WIKI_SOURCE=enwiki-latest-pages-articles.xml.bz2 VOCAB_FILE=vocab.txt EXTRA_DOWNLOADS= \
#     bash data/create_datasets_from_start.sh
#
# The first downloads Wikipedia, SQuAD and the weights and vocabulary of BERT-large, the second all but Wikipedia, of
# which it has the articles as Parquet, and the third nothing.
# Everything is written under BERT_PREP_WORKING_DIR. Started again, it verifies and skips what is finished and
# resumes where it stopped. Extra arguments go to every stage of data/bertPrep.py.
set -euo pipefail

DATA_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PROJECT_DIR=$(dirname "$DATA_DIR")

set -a # data/create_datasets.py reads these
TEXT_SOURCE=${TEXT_SOURCE:-}             # folders, files or addresses of Parquet, JSON lines or .txt, or files of addresses
# wikicorpus_en, bookscorpus, or books_wiki_en_corpus for both; text, which it is if there is a TEXT_SOURCE.
CORPUS=${CORPUS:-$([[ -n $TEXT_SOURCE ]] && echo text || echo books_wiki_en_corpus)}
WIKI_SOURCE=${WIKI_SOURCE:-latest}       # a dump: latest, a date (YYYYMMDD), an address, or a file (.xml.bz2)
BOOKS_SOURCE=${BOOKS_SOURCE:-}           # a folder of .txt files, an archive, the address of one, or a file of addresses
EXTRA_DOWNLOADS=${EXTRA_DOWNLOADS-squad google_pretrained_weights}   # what else to download; empty: nothing
PRETRAINED_MODELS=${PRETRAINED_MODELS:-bert_large_uncased}           # which weights; see data/bertPrep.py --help
VOCAB_FILE=${VOCAB_FILE:-}               # one token per line; empty: of the first of PRETRAINED_MODELS
DO_LOWER_CASE=${DO_LOWER_CASE:-1}        # 1 for uncased vocabularies
N_PROCESSES=${N_PROCESSES:-$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)}
SCHEDULER=${SCHEDULER:-}                 # of a Dask cluster (tcp://HOST:PORT); empty: processes of this machine
N_TRAINING_SHARDS=${N_TRAINING_SHARDS:-256}
N_TEST_SHARDS=${N_TEST_SHARDS:-256}
FRACTION_TEST_SET=${FRACTION_TEST_SET:-0.2}
DUPE_FACTOR=${DUPE_FACTOR:-5}
MASKED_LM_PROB=${MASKED_LM_PROB:-0.15}
WHOLE_WORD_MASKING=${WHOLE_WORD_MASKING:-0}   # 1: all pieces of a word are masked, or none
COMPRESSION=${COMPRESSION:-gzip}              # of the HDF5 files: gzip, lzf or none
RANDOM_SEED=${RANDOM_SEED:-12345}
STAGES=${STAGES:-download text_formatting sharding create_hdf5_files verify}
PYTHON=${PYTHON:-python3}
BERT_PREP_WORKING_DIR=${BERT_PREP_WORKING_DIR:-$DATA_DIR}
set +a

# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"
show_help "${1:-}"
check_settings "$@"
if [[ $PYTHON == python3 ]]; then activate_environment h5py || report_problems; fi

exec "$PYTHON" "$DATA_DIR/create_datasets.py" "$@"
