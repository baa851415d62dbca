#!/usr/bin/env bash
# Eight H100 with 80 GB: Google's recipe for BERT-large.
# Not tried on such a card.
NUM_GPUS=${NUM_GPUS:-8}
PRECISION=${PRECISION:-bf16}
COMPILE=${COMPILE:-1}

GLOBAL_BATCH=${GLOBAL_BATCH:-32} # = 8 x 4 x 1 accumulated
MICRO_BATCH=${MICRO_BATCH:-4}
PREDICT_BATCH=${PREDICT_BATCH:-64}
EPOCHS=${EPOCHS:-2}
LEARNING_RATE=${LEARNING_RATE:-3e-5}
WARMUP=${WARMUP:-0.1}
