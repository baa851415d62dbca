#!/usr/bin/env bash
# One H200 with 141 GB: Google's recipe for BERT-large.
# Measured on such a card (docs/performance-log.md).
NUM_GPUS=${NUM_GPUS:-1}
PRECISION=${PRECISION:-bf16}
COMPILE=${COMPILE:-1}

GLOBAL_BATCH=${GLOBAL_BATCH:-32} # = 1 x 32 x 1 accumulated
MICRO_BATCH=${MICRO_BATCH:-32}
PREDICT_BATCH=${PREDICT_BATCH:-64}
EPOCHS=${EPOCHS:-2}
LEARNING_RATE=${LEARNING_RATE:-3e-5}
WARMUP=${WARMUP:-0.1}
