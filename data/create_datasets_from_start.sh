#!/usr/bin/env bash
# From nothing to the verified HDF5 shards of both phases: phase 1 at sequence length 128, phase 2 at 512.
#
#   BOOKS_SOURCE=books/ bash data/create_datasets_from_start.sh
#   CORPUS=wikicorpus_en WIKI_SOURCE=enwiki-latest-pages-articles.xml.bz2 VOCAB_FILE=vocab.txt EXTRA_DOWNLOADS= \
#     bash data/create_datasets_from_start.sh
#
# The first downloads Wikipedia, SQuAD and the weights and vocabulary of BERT-large; the second downloads nothing.
# Everything is written under BERT_PREP_WORKING_DIR. Started again, it verifies and skips what is finished and goes on
# where it was stopped. Extra arguments go to every stage of data/bertPrep.py.
set -euo pipefail

DATA_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

CORPUS=${CORPUS:-books_wiki_en_corpus}   # wikicorpus_en, bookscorpus, or books_wiki_en_corpus for both
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
export BERT_PREP_WORKING_DIR=${BERT_PREP_WORKING_DIR:-$DATA_DIR}

# Length and masked positions of each phase's sequences.
LENGTHS=(--max_seq_length 128 512 --max_predictions_per_seq 20 80)

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  sed -n '2,/^set -/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  echo
  echo "Variables and their values now:"
  for name in CORPUS WIKI_SOURCE BOOKS_SOURCE EXTRA_DOWNLOADS PRETRAINED_MODELS VOCAB_FILE DO_LOWER_CASE N_PROCESSES \
    SCHEDULER N_TRAINING_SHARDS N_TEST_SHARDS FRACTION_TEST_SET DUPE_FACTOR MASKED_LM_PROB WHOLE_WORD_MASKING \
    COMPRESSION RANDOM_SEED STAGES BERT_PREP_WORKING_DIR; do
    echo "  $name=${!name}"
  done
  exit 0
fi

without_books="Without books, prepare Wikipedia alone: CORPUS=wikicorpus_en bash ${BASH_SOURCE[0]}"
declare -A sources=([wikicorpus_en]=$WIKI_SOURCE [bookscorpus]=$BOOKS_SOURCE)
corpora=()
problems=()

case $CORPUS in
  wikicorpus_en | bookscorpus) corpora=("$CORPUS") ;;
  books_wiki_en_corpus) corpora=(bookscorpus wikicorpus_en) ;;
  *) problems+=("CORPUS is '$CORPUS'; choose wikicorpus_en, bookscorpus or books_wiki_en_corpus.") ;;
esac
read -ra models <<<"$PRETRAINED_MODELS"
read -ra extras <<<"$EXTRA_DOWNLOADS"
needs_vocabulary=0
for stage in $STAGES; do
  case $stage in
    download | text_formatting | sharding | verify) ;;
    create_hdf5_files) needs_vocabulary=1 ;;
    *) problems+=("STAGES holds '$stage'; its words are download, text_formatting, sharding, create_hdf5_files and verify.") ;;
  esac
done
for extra in "${extras[@]}"; do
  [[ $extra == squad || $extra == google_pretrained_weights ]] ||
    problems+=("EXTRA_DOWNLOADS holds '$extra'; its words are squad and google_pretrained_weights.")
done
for name in WHOLE_WORD_MASKING DO_LOWER_CASE; do
  [[ ${!name} == [01] ]] || problems+=("$name is '${!name}'; set it to 1 or 0.")
done
if [[ " $STAGES " == *" download "* && " ${corpora[*]} " == *" bookscorpus "* && -z $BOOKS_SOURCE ]]; then
  problems+=("BOOKS_SOURCE is empty; set it to a folder of .txt files, an archive of them, the address of one, or a file of addresses.")
  if [[ $CORPUS == books_wiki_en_corpus ]]; then problems+=("$without_books"); fi
fi
vocabulary_comes=0 # with the weights, in the stage download
if ((needs_vocabulary)) && [[ -z $VOCAB_FILE ]]; then
  if ((${#models[@]})) && [[ " $STAGES " == *" download "* && " ${extras[*]} " == *" google_pretrained_weights "* ]]; then
    vocabulary_comes=1
  else
    problems+=("VOCAB_FILE is empty; set it to the vocabulary to tokenize with, or download one: EXTRA_DOWNLOADS=google_pretrained_weights.")
  fi
elif ((needs_vocabulary)) && [[ ! -f $VOCAB_FILE ]]; then
  problems+=("VOCAB_FILE is '$VOCAB_FILE', and there is no such file; set it to the vocabulary to tokenize with.")
fi

flags=(--n_processes "$N_PROCESSES")
if [[ -n $SCHEDULER ]]; then flags+=(--scheduler "$SCHEDULER"); fi
prepare() { # STAGE DATASET [FLAG...]
  local action=$1 dataset=$2
  shift 2
  "$PYTHON" "$DATA_DIR/bertPrep.py" --action "$action" --dataset "$dataset" "${flags[@]}" "$@"
}

shards=(--n_training_shards "$N_TRAINING_SHARDS" --n_test_shards "$N_TEST_SHARDS"
  --fraction_test_set "$FRACTION_TEST_SET")
hdf5=("${shards[@]}" "${LENGTHS[@]}" --do_lower_case "$DO_LOWER_CASE" --dupe_factor "$DUPE_FACTOR"
  --masked_lm_prob "$MASKED_LM_PROB" --random_seed "$RANDOM_SEED" --compression "$COMPRESSION")
if [[ $WHOLE_WORD_MASKING == 1 ]]; then hdf5+=(--whole_word_masking); fi
if [[ -f $VOCAB_FILE ]]; then hdf5+=(--vocab_file "$VOCAB_FILE"); fi

# bertPrep.py knows which sources, numbers and vocabularies will do. It is asked now: the last stage begins after hours.
ask() { # STAGE DATASET [FLAG...]: what bertPrep.py says to these, into `problems`
  local complaints found
  if ! complaints=$(prepare "$@" --print_output_dir 2>&1 >/dev/null); then
    mapfile -t found < <(sed -n 's/^.*error: //p' <<<"$complaints")
    if ((${#found[@]})); then problems+=("${found[@]}"); else problems+=("$complaints"); fi
  fi
}
[[ -n ${STAGES// /} ]] || problems+=("STAGES is empty; its words are download, text_formatting, sharding, create_hdf5_files and verify.")
all_numbers=1
for name in N_PROCESSES N_TRAINING_SHARDS N_TEST_SHARDS DUPE_FACTOR RANDOM_SEED; do
  if [[ ! ${!name} =~ ^-?[0-9]+$ ]]; then
    problems+=("$name is '${!name}'; set it to a whole number.")
    all_numbers=0
  fi
done
if ((${#corpora[@]} && all_numbers)); then
  ask create_hdf5_files "$CORPUS" "${hdf5[@]}" "$@"
  if [[ " $STAGES " == *" download "* ]]; then
    for corpus in "${corpora[@]}"; do
      known=${#problems[@]}
      [[ -z ${sources[$corpus]} ]] || ask download "$corpus" --source "${sources[$corpus]}"
      if ((${#problems[@]} > known)) && [[ $corpus == bookscorpus && $CORPUS == books_wiki_en_corpus ]]; then
        problems+=("$without_books")
      fi
    done
    if [[ " ${extras[*]} " == *" google_pretrained_weights "* ]]; then
      ask download google_pretrained_weights --models "${models[@]}"
    fi
  fi
fi
if ((${#problems[@]})); then
  printf 'error: %s\n' "${problems[@]}" >&2
  exit 2
fi
if ((vocabulary_comes)); then
  hdf5+=(--vocab_file "$(prepare download google_pretrained_weights --models "${models[0]}" --print_output_dir)/vocab.txt")
fi

for stage in $STAGES; do
  echo "== $stage: $CORPUS"
  case $stage in
    download)
      for extra in "${extras[@]}"; do
        if [[ $extra == google_pretrained_weights ]]; then
          prepare download "$extra" --models "${models[@]}" "$@"
        else
          prepare download "$extra" "$@"
        fi
      done
      for corpus in "${corpora[@]}"; do
        prepare download "$corpus" --source "${sources[$corpus]}" "$@" || {
          status=$?
          [[ $corpus != bookscorpus || $CORPUS != books_wiki_en_corpus ]] || echo "error: $without_books" >&2
          exit "$status"
        }
      done
      ;;
    text_formatting)
      for corpus in "${corpora[@]}"; do prepare text_formatting "$corpus" "$@"; done ;;
    sharding)
      prepare sharding "$CORPUS" "${shards[@]}" "$@" ;;
    create_hdf5_files)
      prepare create_hdf5_files "$CORPUS" "${hdf5[@]}" "$@" ;;
    verify) # what was made here; in the working folder there may be older things
      mapfile -t made < <(
        prepare sharding "$CORPUS" "${shards[@]}" --print_output_dir "$@"
        prepare create_hdf5_files "$CORPUS" "${hdf5[@]}" --print_output_dir "$@"
      )
      if [[ " $STAGES " != *" create_hdf5_files "* ]]; then made=(); fi
      prepare verify "$CORPUS" "$@" ${made[0]:+--input_files "${made[@]}"} ;;
  esac
done

if ((needs_vocabulary)); then
  echo "The shards of both phases are ready:"
  prepare create_hdf5_files "$CORPUS" "${hdf5[@]}" --print_output_dir "$@"
fi
