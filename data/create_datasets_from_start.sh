#!/usr/bin/env bash
# From raw text to the HDF5 shards of both phases: phase 1 at sequence length 128, phase 2 at 512.
#
#   WIKI_SOURCE=enwiki-latest-pages-articles.xml.bz2 BOOKS_SOURCE=books/ VOCAB_FILE=vocab.txt \
#     bash data/create_datasets_from_start.sh
#
# Wikipedia alone: CORPUS=wikicorpus_en. Everything is written under BERT_PREP_WORKING_DIR. Extra arguments go to every
# stage of data/bertPrep.py.
set -euo pipefail

DATA_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

CORPUS=${CORPUS:-books_wiki_en_corpus}   # wikicorpus_en, bookscorpus, or books_wiki_en_corpus for both
WIKI_SOURCE=${WIKI_SOURCE:-}             # a Wikipedia dump (.xml.bz2)
BOOKS_SOURCE=${BOOKS_SOURCE:-}           # a folder of books as .txt files, or one such file
VOCAB_FILE=${VOCAB_FILE:-}               # the vocabulary, one token per line
DO_LOWER_CASE=${DO_LOWER_CASE:-1}        # 1 for uncased vocabularies
N_PROCESSES=${N_PROCESSES:-$(nproc)}
N_TRAINING_SHARDS=${N_TRAINING_SHARDS:-256}
N_TEST_SHARDS=${N_TEST_SHARDS:-256}
FRACTION_TEST_SET=${FRACTION_TEST_SET:-0.2}
DUPE_FACTOR=${DUPE_FACTOR:-5}
MASKED_LM_PROB=${MASKED_LM_PROB:-0.15}
RANDOM_SEED=${RANDOM_SEED:-12345}
STAGES=${STAGES:-download text_formatting sharding create_hdf5_files}
PYTHON=${PYTHON:-python3}
export BERT_PREP_WORKING_DIR=${BERT_PREP_WORKING_DIR:-$DATA_DIR}

# Length and masked positions of each phase's sequences.
PHASES=("128 20" "512 80")

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  echo
  echo "Variables and their values now:"
  for name in CORPUS WIKI_SOURCE BOOKS_SOURCE VOCAB_FILE DO_LOWER_CASE N_PROCESSES N_TRAINING_SHARDS N_TEST_SHARDS \
    FRACTION_TEST_SET DUPE_FACTOR MASKED_LM_PROB RANDOM_SEED STAGES BERT_PREP_WORKING_DIR; do
    echo "  $name=${!name}"
  done
  exit 0
fi

declare -A sources=([wikicorpus_en]=$WIKI_SOURCE [bookscorpus]=$BOOKS_SOURCE)
declare -A source_names=([wikicorpus_en]=WIKI_SOURCE [bookscorpus]=BOOKS_SOURCE)
corpora=()
problems=()

case $CORPUS in
  wikicorpus_en | bookscorpus) corpora=("$CORPUS") ;;
  books_wiki_en_corpus) corpora=(bookscorpus wikicorpus_en) ;;
  *) problems+=("CORPUS is '$CORPUS'; choose wikicorpus_en, bookscorpus or books_wiki_en_corpus.") ;;
esac
if [[ " $STAGES " == *" download "* ]]; then
  for corpus in "${corpora[@]}"; do
    name=${source_names[$corpus]}
    if [[ -z ${sources[$corpus]} ]]; then
      problems+=("$name is empty; set it to where the raw text of $corpus lies on this machine.")
      if [[ $CORPUS == books_wiki_en_corpus && $corpus == bookscorpus ]]; then
        problems+=("Without books, prepare Wikipedia alone: CORPUS=wikicorpus_en bash ${BASH_SOURCE[0]}")
      fi
    elif [[ ! -e ${sources[$corpus]} ]]; then
      problems+=("$name is '${sources[$corpus]}', and there is nothing there; correct it.")
    fi
  done
fi
for stage in $STAGES; do
  case $stage in
    download | text_formatting | sharding) ;;
    create_hdf5_files)
      if [[ ! -f $VOCAB_FILE ]]; then
        problems+=("VOCAB_FILE is '$VOCAB_FILE', and there is no such file; set it to the vocabulary to tokenize with.")
      fi
      ;;
    *) problems+=("STAGES holds '$stage'; its words are download, text_formatting, sharding and create_hdf5_files.") ;;
  esac
done

prepare() { # ACTION DATASET [FLAGS]
  local action=$1 dataset=$2
  shift 2
  "$PYTHON" "$DATA_DIR/bertPrep.py" --action "$action" --dataset "$dataset" --n_processes "$N_PROCESSES" "$@"
}

shards=(--n_training_shards "$N_TRAINING_SHARDS" --n_test_shards "$N_TEST_SHARDS"
  --fraction_test_set "$FRACTION_TEST_SET")
hdf5=("${shards[@]}" --do_lower_case "$DO_LOWER_CASE" --dupe_factor "$DUPE_FACTOR"
  --masked_lm_prob "$MASKED_LM_PROB" --random_seed "$RANDOM_SEED")
if [[ -f $VOCAB_FILE ]]; then hdf5+=(--vocab_file "$VOCAB_FILE"); fi

# bertPrep.py knows which numbers and vocabularies will do. It is asked now: the last stage begins after hours.
if ((${#corpora[@]})); then
  if ! complaints=$(prepare create_hdf5_files "$CORPUS" "${hdf5[@]}" --max_seq_length 128 --print_output_dir "$@" \
    2>&1 >/dev/null); then
    mapfile -t found < <(sed -n 's/^.*error: //p' <<<"$complaints")
    if ((${#found[@]})); then problems+=("${found[@]}"); else problems+=("$complaints"); fi
  fi
fi
if ((${#problems[@]})); then
  printf 'error: %s\n' "${problems[@]}" >&2
  exit 2
fi

for stage in $STAGES; do
  echo "== $stage: $CORPUS"
  case $stage in
    download)
      for corpus in "${corpora[@]}"; do prepare download "$corpus" --source "${sources[$corpus]}" "$@"; done ;;
    text_formatting)
      for corpus in "${corpora[@]}"; do prepare text_formatting "$corpus" "$@"; done ;;
    sharding)
      prepare sharding "$CORPUS" "${shards[@]}" "$@" ;;
    create_hdf5_files)
      for phase in "${PHASES[@]}"; do
        read -r length predictions <<<"$phase"
        prepare create_hdf5_files "$CORPUS" "${hdf5[@]}" --max_seq_length "$length" \
          --max_predictions_per_seq "$predictions" "$@"
      done ;;
  esac
done

if [[ " $STAGES " == *" create_hdf5_files "* ]]; then
  echo "The shards of both phases are ready:"
  for phase in "${PHASES[@]}"; do
    read -r length predictions <<<"$phase"
    prepare create_hdf5_files "$CORPUS" "${hdf5[@]}" --max_seq_length "$length" \
      --max_predictions_per_seq "$predictions" --print_output_dir "$@"
  done
fi
