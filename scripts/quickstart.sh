#!/usr/bin/env bash
# The whole job in small: the embedded sample corpus to HDF5, a tiny BERT pre-trained on it through both phases, and
# fine-tuned on questions about it, on the GPU if there is one, else on the CPU; a report of it all, and what to do next.
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

export OUTPUT_DIR=${OUTPUT_DIR:-$PROJECT_DIR/results/quickstart}
export VOCAB_FILE=${VOCAB_FILE:-}         # an uncased vocabulary; empty: one is trained on the sample
export VOCAB_SIZE=${VOCAB_SIZE:-2000}     # tokens of the vocabulary that is trained
export N_PROCESSES=${N_PROCESSES:-$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)}   # for the data preparation

# The sample is far too small to learn a language from: these make the losses fall visibly in a minute on two cores.
# One GPU is used, as batches this small gain nothing from several.
export PHASE1_GLOBAL_BATCH=${PHASE1_GLOBAL_BATCH:-32}
export PHASE1_MICRO_BATCH=${PHASE1_MICRO_BATCH:-32}
export PHASE1_STEPS=${PHASE1_STEPS:-150}
export PHASE1_LEARNING_RATE=${PHASE1_LEARNING_RATE:-1.2e-2}
export PHASE2_GLOBAL_BATCH=${PHASE2_GLOBAL_BATCH:-8}
export PHASE2_MICRO_BATCH=${PHASE2_MICRO_BATCH:-8}
export PHASE2_STEPS=${PHASE2_STEPS:-40}
export PHASE2_LEARNING_RATE=${PHASE2_LEARNING_RATE:-1.2e-2}
export SQUAD_STEPS=${SQUAD_STEPS:-200}
export SQUAD_LEARNING_RATE=${SQUAD_LEARNING_RATE:-2e-3}
export LOG_FREQ=${LOG_FREQ:-25}

# On a machine that does other things too, CPU threads that wait by spinning make training several times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

show_help "${1:-}" "$PROJECT_DIR/scripts/environment.sh" # INSTALL, PYTHON
check_settings "$@"

MARK=$OUTPUT_DIR/.quickstart # says that the folder is a quickstart's, so that replacing it loses nothing of yours

if [[ -n $VOCAB_FILE && ! -f $VOCAB_FILE ]]; then
  problems+=("VOCAB_FILE is '$VOCAB_FILE', and there is no such file; correct it, or leave it empty to train one.")
fi
if [[ -e $OUTPUT_DIR && ! -f $MARK && (! -d $OUTPUT_DIR || -n $(ls -A "$OUTPUT_DIR")) ]]; then
  problems+=("OUTPUT_DIR $OUTPUT_DIR is there and no earlier quickstart made it; choose another folder.")
fi
expect_numbers VOCAB_SIZE N_PROCESSES SQUAD_STEPS || true
report_problems

use_environment requirements.txt

if (($#)); then # a slip in a flag must not cost the results of before
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  python3 "$PROJECT_DIR/run_pretraining.py" --check_only --do_train --synthetic full --bert_model tiny --max_steps 1 \
    --output_dir "$scratch" "$@" >/dev/null
fi

own "$MARK"
report_problems
touch "$MARK"
rm -rf "$OUTPUT_DIR/data" "$OUTPUT_DIR/pretraining" "$OUTPUT_DIR/squad" "$OUTPUT_DIR/report" \
  "$OUTPUT_DIR/quickstart.log" "$OUTPUT_DIR/vocab.txt" "$OUTPUT_DIR/bert_config.json"

export BERT_PREP_WORKING_DIR=$OUTPUT_DIR/data
python3 "$PROJECT_DIR/benchmark/quickstart.py" "$@"
