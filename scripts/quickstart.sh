#!/usr/bin/env bash
# The whole job in small: the embedded sample corpus to HDF5, a tiny BERT pre-trained on it through both phases, and
# fine-tuned on questions about it, on the GPU if there is one, else on the CPU; its throughput, and a report of it all.
#
#   bash scripts/quickstart.sh
#   VOCAB_FILE=vocab.txt OUTPUT_DIR=/tmp/quickstart bash scripts/quickstart.sh
#
# Without an active Python environment it makes .venv in the project's folder; it installs requirements.txt either way
# (INSTALL=0: it does not). Extra flags go to run_pretraining.py.
#
# Each start begins anew and replaces what an earlier quickstart left in OUTPUT_DIR.
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

OUTPUT_DIR=${OUTPUT_DIR:-$PROJECT_DIR/results/quickstart}
VOCAB_FILE=${VOCAB_FILE:-}                     # an uncased vocabulary; empty: one is trained on the sample
VOCAB_SIZE=${VOCAB_SIZE:-2000}                 # tokens of the vocabulary that is trained
N_PROCESSES=${N_PROCESSES:-$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)}           # for the data preparation

# The sample is far too small to learn a language from: these make the losses fall visibly in a minute on two cores.
export BERT_MODEL=tiny
export PHASE1_GLOBAL_BATCH=${PHASE1_GLOBAL_BATCH:-32}
export PHASE1_MICRO_BATCH=${PHASE1_MICRO_BATCH:-32}
export PHASE1_STEPS=${PHASE1_STEPS:-300}
export PHASE1_LEARNING_RATE=${PHASE1_LEARNING_RATE:-1.2e-2}
export PHASE2_GLOBAL_BATCH=${PHASE2_GLOBAL_BATCH:-8}
export PHASE2_MICRO_BATCH=${PHASE2_MICRO_BATCH:-8}
export PHASE2_STEPS=${PHASE2_STEPS:-75}
export PHASE2_LEARNING_RATE=${PHASE2_LEARNING_RATE:-1.2e-2}
SQUAD_STEPS=${SQUAD_STEPS:-200}
SQUAD_LEARNING_RATE=${SQUAD_LEARNING_RATE:-1.5e-3}
export LOG_FREQ=${LOG_FREQ:-25}
export NUM_GPUS=${NUM_GPUS:-1}                 # batches this small gain nothing from several

# On a machine that does other things too, CPU threads that wait by spinning make training several times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

show_help "${1:-}" "$PROJECT_DIR/scripts/environment.sh" # INSTALL, PYTHON
check_settings "$@"

SAMPLE=$PROJECT_DIR/data/sample
MARK=$OUTPUT_DIR/.quickstart # says that the folder is a quickstart's, so that replacing it loses nothing of yours
LOG=$OUTPUT_DIR/pretraining/dllogger.json SQUAD_LOG=$OUTPUT_DIR/squad/dllogger.json

if [[ -n $VOCAB_FILE && ! -f $VOCAB_FILE ]]; then
  problems+=("VOCAB_FILE is '$VOCAB_FILE', and there is no such file; correct it, or leave it empty to train one.")
fi
if [[ -e $OUTPUT_DIR && ! -f $MARK && (! -d $OUTPUT_DIR || -n $(ls -A "$OUTPUT_DIR")) ]]; then
  problems+=("OUTPUT_DIR $OUTPUT_DIR is there and no earlier quickstart made it; choose another folder.")
fi
expect_numbers VOCAB_SIZE N_PROCESSES SQUAD_STEPS || true
report_problems

use_environment requirements.txt
SECONDS=0 # installation does not count

if (($#)); then # a slip in a flag must not cost the results of before
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  python3 "$PROJECT_DIR/run_pretraining.py" --check_only --do_train --synthetic full --bert_model tiny --max_steps 1 \
    --output_dir "$scratch" "$@" >/dev/null
fi

own "$MARK"
report_problems
touch "$MARK"
rm -rf "$OUTPUT_DIR/data" "$OUTPUT_DIR/pretraining" "$OUTPUT_DIR/squad" "$OUTPUT_DIR/throughput" \
  "$OUTPUT_DIR/report" "$OUTPUT_DIR/vocab.txt" "$OUTPUT_DIR/bert_config.json"

prepare() { # STAGES
  CORPUS=$DATASET STAGES=$1 WIKI_SOURCE=$SAMPLE/wikicorpus_sample.xml.bz2 BOOKS_SOURCE=$SAMPLE/books EXTRA_DOWNLOADS='' \
    VOCAB_FILE=$VOCAB_FILE DO_LOWER_CASE=1 N_PROCESSES=$N_PROCESSES PYTHON=python3 \
    N_TRAINING_SHARDS=4 N_TEST_SHARDS=1 FRACTION_TEST_SET=0.1 DUPE_FACTOR=5 MASKED_LM_PROB=0.15 RANDOM_SEED=12345 \
    bash "$PROJECT_DIR/data/create_datasets_from_start.sh"
}

export DATASET=books_wiki_en_corpus BERT_PREP_WORKING_DIR=$OUTPUT_DIR/data
prepare "download text_formatting sharding"
if [[ -z $VOCAB_FILE ]]; then
  VOCAB_FILE=$OUTPUT_DIR/vocab.txt
  echo "== vocabulary"
  python3 "$PROJECT_DIR/data/train_vocab.py" --vocab_size "$VOCAB_SIZE" --vocab_file "$VOCAB_FILE" \
    --input_files "$BERT_PREP_WORKING_DIR/formatted_one_article_per_line"
fi
prepare "create_hdf5_files verify"

# The shipped shape, with as many tokens as the vocabulary has.
sed "s/\"vocab_size\": [0-9]*/\"vocab_size\": $(grep -c '' "$VOCAB_FILE")/" "$PROJECT_DIR/bert_configs/tiny.json" \
  >"$OUTPUT_DIR/bert_config.json"

unset PHASE1_DATA_DIR PHASE2_DATA_DIR INIT_CHECKPOINT
env OUTPUT_DIR="$OUTPUT_DIR/pretraining" CONFIG_FILE="$OUTPUT_DIR/bert_config.json" EVALUATE=1 RUN_PHASE1=1 RUN_PHASE2=1 \
  bash "$PROJECT_DIR/scripts/run_pretraining.sh" --vocab_file "$VOCAB_FILE" "$@"

answer() { # MODE QUESTIONS
  env OUTPUT_DIR="$OUTPUT_DIR/squad" CONFIG_FILE="$OUTPUT_DIR/bert_config.json" VOCAB_FILE="$VOCAB_FILE" \
    INIT_CHECKPOINT="$(newest_checkpoint)" BERT_MODEL='' SQUAD_VERSION=2.0 MODE="$1" TRAIN_FILE="$SAMPLE/squad/train-v2.0.json" \
    PREDICT_FILE="$SAMPLE/squad/$2-v2.0.json" GLOBAL_BATCH=16 MICRO_BATCH=16 MAX_STEPS="$SQUAD_STEPS" \
    LEARNING_RATE="$SQUAD_LEARNING_RATE" bash "$PROJECT_DIR/scripts/run_squad.sh"
}

newest_checkpoint() { # of pre-training
  find "$OUTPUT_DIR/pretraining" -name 'ckpt_*.pt' | sort -V | tail -n 1
}

echo "== fine-tuning on questions about the sample"
answer "train eval" train
echo "== other questions"
answer "predict eval" dev

echo "== throughput over batch sizes, on random tokens"
env RESULTS_DIR="$OUTPUT_DIR/throughput" BERT_MODEL="$OUTPUT_DIR/bert_config.json" PHASES=1 BATCH_SIZES="8 32" REPEATS=1 \
  COMPILE=0 PRECISIONS='' SYNTHETIC=full DATA_DIR='' MEASURE_PEAK=0 ACCUMULATION_STEPS=1 OPTIMIZER=lamb \
  bash "$PROJECT_DIR/scripts/measure_throughput_pretrain.sh" 2 8

echo
python3 "$PROJECT_DIR/benchmark/summarize.py" "$LOG"
echo
python3 "$PROJECT_DIR/benchmark/summarize_squad.py" "$SQUAD_LOG"
echo
python3 "$PROJECT_DIR/benchmark/report.py" "$OUTPUT_DIR/throughput" "$OUTPUT_DIR/pretraining" "$OUTPUT_DIR/squad" \
  --output_dir "$OUTPUT_DIR/report" --title "BERT on the sample corpus" >/dev/null
echo "Done in $SECONDS seconds. Results: $OUTPUT_DIR"
echo "Report: $OUTPUT_DIR/report/report.html"
