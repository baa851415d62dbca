#!/usr/bin/env bash
# Train BERT from random weights to an accuracy on held-out text, ours and Hugging Face's, and print the seconds it took.
#
#   TEXT_SOURCE=texts bash scripts/run_time_to_quality.sh
#   TEXT_SOURCE=texts VARIANTS="bf16 huggingface" SEEDS="1 2 3 4 5" TARGET=0.43 bash scripts/run_time_to_quality.sh
#
# TEXT_SOURCE is a folder of text files, a document each. The script makes shards of them, of which it holds out some, and
# trains each variant with each seed on the same batches, until an evaluation finds the share TARGET of the held-out
# masked tokens predicted. docs/time_to_quality.md says what the clock counts. The configuration stands below; edit it, or
# set it in the environment. Extra flags go to every run.
#
# OUTPUT_DIR/VARIANT/seed_SEED is a run. Started again with the same folder, the script keeps the data and the runs that
# are finished. A run that was not starts over, as a time is one clock; with CHECKPOINTS=1 it resumes, its time is the sum
# of its parts, and the table says so. A run that does not reach TARGET in STEPS is finished too: the table says so, and
# the status is 0. On SIGTERM, SIGUSR1, SIGHUP and Ctrl-C the script ends, with 130 after Ctrl-C and else with 75.
set -euo pipefail

PROJECT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck source=scripts/configuration.sh
source "$PROJECT_DIR/scripts/configuration.sh"

TEXT_SOURCE=${TEXT_SOURCE:-}                    # a folder of text files; Parquet and JSON lines are read too, see docs/data.md
TEXT_DOCUMENTS=${TEXT_DOCUMENTS:-file}          # what a document is in a text file: the whole file, or each line
VARIANTS=${VARIANTS:-bf16 fp8 huggingface}      # of ours by precision: bf16, fp8, fp8_weights (its weight gradients too), fp16, tf32, fp32; and Hugging Face's model
SEEDS=${SEEDS:-1 2 3}                           # of initialization, dropout and the order of the data; a run for each
TARGET=${TARGET:-0.43}                          # masked-LM accuracy on held-out tokens at which a run ends, 0 to 1
TARGETS=${TARGETS:-0.40}                        # others on the way to which the table has the seconds

OUTPUT_DIR=${OUTPUT_DIR:-$PROJECT_DIR/results/time_to_quality}
DATA_DIR=${DATA_DIR:-$OUTPUT_DIR/data}          # where the shards are made, and reused
VOCAB_FILE=${VOCAB_FILE:-}                      # an uncased vocabulary; empty: one is trained on the text
VOCAB_SIZE=${VOCAB_SIZE:-}                      # its tokens; empty: as many as the model has
BERT_MODEL=${BERT_MODEL:-base}                  # tiny, base or large
CONFIG_FILE=${CONFIG_FILE:-}                    # a bert_config.json instead
N_TRAINING_SHARDS=${N_TRAINING_SHARDS:-16}
FRACTION_TEST_SET=${FRACTION_TEST_SET:-0.01}    # of the sentences, held out in whole documents
DUPE_FACTOR=${DUPE_FACTOR:-3}                   # times that the text is masked anew
N_PROCESSES=${N_PROCESSES:-$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)} # that make the shards

STEPS=${STEPS:-4400}                            # that the schedule spans, and the most that are taken
STEPS_PER_EVALUATION=${STEPS_PER_EVALUATION:-100}
GLOBAL_BATCH=${GLOBAL_BATCH:-512}               # sequences of 128 tokens per optimizer step, over all GPUs
MICRO_BATCH=${MICRO_BATCH:-}                    # that one GPU holds at once; empty: the most that fits its memory
HUGGINGFACE_MICRO_BATCH=${HUGGINGFACE_MICRO_BATCH:-} # likewise of Hugging Face's model; empty: the most up to 256 on a GPU, which has to hold it
LEARNING_RATE=${LEARNING_RATE:-5e-4}            # of AdamW
WARMUP=${WARMUP:-0.15}                          # share of the steps; after that the rate falls in a line to zero
COMPILE=${COMPILE:-}                            # 1: torch.compile, for all variants; empty: 1 on a GPU, else 0
LOG_FREQ=${LOG_FREQ:-50}                        # optimizer steps from one log line to the next
CHECKPOINTS=${CHECKPOINTS:-0}                   # 1: save at each evaluation, which the clock counts, and resume what was stopped
NUM_GPUS=${NUM_GPUS:-1}

# shellcheck source=scripts/launch.sh
source "$PROJECT_DIR/scripts/launch.sh" # what concerns the processes

show_help "${1:-}" "$PROJECT_DIR"/scripts/{launch,profilers}.sh

TARGET_MISSED=3 # the status of a run that ends below its target
are_numbers=1   # those that are computed with here
check_settings "$@"
resolve_launch || are_numbers=0
expect_numbers VOCAB_SIZE STEPS STEPS_PER_EVALUATION GLOBAL_BATCH MICRO_BATCH HUGGINGFACE_MICRO_BATCH || are_numbers=0
n_gpus=$(count_gpus)
if [[ -z $COMPILE ]]; then COMPILE=$((n_gpus > 0)); fi
expect_switches COMPILE CHECKPOINTS
check_profiler
if ((are_numbers)); then
  for name in MICRO_BATCH HUGGINGFACE_MICRO_BATCH; do
    expect_divisible GLOBAL_BATCH "$name" || printf -v "$name" '' # the program need not say it again
  done
fi
if ((are_numbers && n_gpus)) && [[ -z $HUGGINGFACE_MICRO_BATCH ]]; then
  size=256
  while ((size > 1 && GLOBAL_BATCH % (size * NUM_GPUS))); do size=$((size - 1)); done
  HUGGINGFACE_MICRO_BATCH=$size
fi

read -ra variants <<<"$VARIANTS"
read -ra seeds <<<"$SEEDS"
read -ra targets <<<"$TARGETS $TARGET"
((${#variants[@]})) || problems+=("VARIANTS is empty; name some, such as bf16 and huggingface.")
((${#seeds[@]})) || problems+=("SEEDS is empty; give numbers, such as 1 2 3.")
expect_once() { # NAME WORDS...
  local word
  for word in $(printf '%s\n' "${@:2}" | sort | uniq -d); do
    problems+=("$1 holds '$word' twice; name each once.")
  done
}
expect_once SEEDS "${seeds[@]}"
expect_once VARIANTS "${variants[@]}"
for seed in "${seeds[@]}"; do
  [[ $seed =~ ^(0|[1-9][0-9]{0,17})$ ]] || problems+=("SEEDS holds '$seed'; give whole numbers.")
done
known=()
for variant in "${variants[@]}"; do
  if [[ $variant =~ ^(bf16|fp8|fp8_weights|fp16|tf32|fp32|huggingface)$ ]]; then
    known+=("$variant")
  else
    problems+=("VARIANTS holds '$variant'; its words are bf16, fp8, fp8_weights, fp16, tf32, fp32 and huggingface.")
  fi
done
are_shares=1
for target in "${targets[@]}"; do
  if [[ ! $target =~ ^0?\.[0-9]*[1-9][0-9]*$ ]]; then
    problems+=("TARGET and TARGETS hold '$target'; give shares between 0 and 1, such as 0.43 for 43 %.")
    are_shares=0
  fi
done
highest=$(printf '%s\n' "${targets[@]}" | LC_ALL=C sort -gs | tail -n 1) # of equal ones the last, which is TARGET
if ((are_shares)) && [[ $highest != "$TARGET" ]]; then
  problems+=("TARGETS holds $highest, and a run ends at TARGET, $TARGET; raise TARGET, or leave the other out.")
fi

flags=(--do_train --optimizer adamw --schedule linear --max_seq_length 128 --max_predictions_per_seq 20)
flag --global_batch_size GLOBAL_BATCH
flag --max_steps STEPS
flag --warmup_proportion WARMUP
flags_of LEARNING_RATE LOG_FREQ
switch --compile COMPILE
evaluation=(--resume_from_checkpoint --evaluate_first --num_steps_per_evaluation "$STEPS_PER_EVALUATION" --target_mlm_accuracy "$TARGET")
if [[ $CHECKPOINTS == 1 ]]; then
  evaluation+=(--num_steps_per_checkpoint "$STEPS_PER_EVALUATION" --keep_checkpoints 1)
else
  evaluation+=(--skip_checkpoint)
fi
data=(--dataset text --input_dir "$DATA_DIR" --eval_dir "$DATA_DIR" --config_file "$OUTPUT_DIR/bert_config.json")
variable_of[--precision]=VARIANTS
model=(--bert_model "$BERT_MODEL")
variable_of[--bert_model]=BERT_MODEL variable_of[--config_file]=CONFIG_FILE
if [[ -n $CONFIG_FILE ]]; then model=(--config_file "$CONFIG_FILE"); fi

variant_flags() { # VARIANT: what it is besides `flags`, and the program that trains it
  program=run_pretraining.py of_variant=()
  if [[ $1 == huggingface ]]; then
    program=benchmark/huggingface_pretraining.py
    flag_of_variant --micro_batch_size HUGGINGFACE_MICRO_BATCH
  else
    of_variant=(--precision "${1%_weights}")
    if [[ $1 == fp8_weights ]]; then of_variant+=(--fp8_weight_gradients); fi
    flag_of_variant --micro_batch_size MICRO_BATCH
  fi
}

flag_of_variant() { # NAME SETTING
  variable_of[$1]=$2
  if [[ -n ${!2} ]]; then of_variant+=("$1" "${!2}"); fi
}

prepare() { # STAGES [FLAGS]
  CORPUS=text STAGES=$1 BERT_PREP_WORKING_DIR=$DATA_DIR TEXT_SOURCE=$TEXT_SOURCE EXTRA_DOWNLOADS='' VOCAB_FILE=$VOCAB_FILE \
    DO_LOWER_CASE=1 N_PROCESSES=$N_PROCESSES SCHEDULER='' PYTHON=python3 N_TRAINING_SHARDS=$N_TRAINING_SHARDS N_TEST_SHARDS=1 \
    FRACTION_TEST_SET=$FRACTION_TEST_SET DUPE_FACTOR=$DUPE_FACTOR MASKED_LM_PROB=0.15 WHOLE_WORD_MASKING=0 COMPRESSION=gzip \
    RANDOM_SEED=12345 bash "$PROJECT_DIR/data/create_datasets_from_start.sh" \
    --max_seq_length 128 --max_predictions_per_seq 20 --text_documents "$TEXT_DOCUMENTS" "${@:2}"
}

data_problems() { # what the preparation finds wrong with its settings and the text, to `problems`
  local found line stages="download text_formatting sharding"
  if [[ -n $VOCAB_FILE ]]; then stages+=" create_hdf5_files"; fi
  echo "== data: checking the settings and the text"
  found=$(prepare "$stages" --print_output_dir 2>&1 >/dev/null) && return
  while IFS= read -r line; do
    if [[ $line == *"error: "* ]]; then problems+=("${line#*error: }"); fi
  done <<<"${found//--source/TEXT_SOURCE}"
  [[ $found == *"error: "* ]] || problems+=("$found") # no complaint of ours, so something broke
}

settings_of_run() { # EXTRA FLAGS...: what makes a run of this variant another one
  printf '%s\n' "${model[@]}" "${flags[@]}" "${evaluation[@]}" "${of_variant[@]}" "$@"
}

refuse_flags --seed --output_dir --train_batch_size --gradient_accumulation_steps --steps_this_run --synthetic --init_checkpoint \
  --bert_model "${flags[@]}" "${evaluation[@]}" --skip_checkpoint "${data[@]}" --precision --micro_batch_size -- "$@"
for variant in "${variants[@]}"; do
  variant_flags "$variant"
  for folder in "${seeds[@]/#/$OUTPUT_DIR/$variant/seed_}"; do
    if [[ -f $folder/settings && $(cat "$folder/settings") != "$(settings_of_run "$@")" ]]; then
      problems+=("$folder is a run with other settings; choose another OUTPUT_DIR, or remove it: rm -r '$folder'")
    fi
  done
done
if activate_environment; then
  data_problems
  if ((!are_numbers)); then known=(); fi
  for variant in "${known[@]}"; do # the data may not be there yet
    variant_flags "$variant"
    entry_problems "$variant: " "$program" "${flags[@]}" "${model[@]}" "${of_variant[@]}" --synthetic full \
      --output_dir "$OUTPUT_DIR/$variant" "$@"
  done
fi
report_problems
if only_checks "$@"; then
  echo "Nothing is wrong; nothing was trained."
  exit
fi
own "$OUTPUT_DIR/.time_to_quality"
report_problems

config=${CONFIG_FILE:-$PROJECT_DIR/bert_configs/$BERT_MODEL.json}
if [[ -z $VOCAB_FILE ]]; then
  prepare "download text_formatting sharding"
  VOCAB_FILE=$DATA_DIR/vocab.txt
  if [[ ! -f $VOCAB_FILE ]]; then
    echo "== vocabulary"
    python3 "$PROJECT_DIR/data/train_vocab.py" --vocab_file "$VOCAB_FILE" --input_files "$DATA_DIR/formatted_one_article_per_line" \
      --vocab_size "${VOCAB_SIZE:-$(sed -nE 's/.*"vocab_size": *([0-9]+).*/\1/p' "$config")}"
  fi
  prepare "create_hdf5_files verify"
else
  prepare "download text_formatting sharding create_hdf5_files verify"
fi
# The shape that was asked for, with as many tokens as the vocabulary has.
sed -E "s/(\"vocab_size\": *)[0-9]+/\1$(grep -c '' "$VOCAB_FILE")/" "$config" >"$OUTPUT_DIR/bert_config.json"

logs=()
for seed in "${seeds[@]}"; do
  for variant in "${variants[@]}"; do
    if ((stopped)); then exit "$REQUEUE_STATUS"; fi # came as the run before ended well
    folder=$OUTPUT_DIR/$variant/seed_$seed
    logs+=("$folder/dllogger.json")
    echo "== $variant, seed $seed"
    if [[ -f $folder/finished ]]; then
      echo "finished before"
      continue
    fi
    variant_flags "$variant"
    mkdir -p "$folder"
    settings_of_run "$@" >"$folder/settings"
    status=0
    launch "$PROJECT_DIR/$program" "${flags[@]}" "${evaluation[@]}" "${data[@]}" "${of_variant[@]}" --vocab_file "$VOCAB_FILE" \
      --seed "$seed" --output_dir "$folder" "$@" || status=$?
    if ((status != 0 && status != TARGET_MISSED)); then exit "$status"; fi
    touch "$folder/finished"
  done
done
echo
python3 "$PROJECT_DIR/benchmark/summarize_time_to_quality.py" "${logs[@]}" --targets "${targets[@]}"
echo "Results: $OUTPUT_DIR"
