#!/usr/bin/env bash
# Eight V100 with 32 GB: NVIDIA's recipe for BERT-large.
# It has no bf16 and no FlashAttention. The micro-batches follow from an estimate of memory that was checked on an
# H200; not run on this card, compiled or not. For the one with 16 GB take a quarter.
NUM_GPUS=${NUM_GPUS:-8}
BERT_MODEL=${BERT_MODEL:-large}
PRECISION=${PRECISION:-fp16}
COMPILE=${COMPILE:-0}

PHASE1_GLOBAL_BATCH=${PHASE1_GLOBAL_BATCH:-65536} # = 8 x 64 x 128 accumulated
PHASE1_MICRO_BATCH=${PHASE1_MICRO_BATCH:-64}
PHASE1_STEPS=${PHASE1_STEPS:-7038}
PHASE1_LEARNING_RATE=${PHASE1_LEARNING_RATE:-6e-3}
PHASE1_WARMUP=${PHASE1_WARMUP:-0.2843} # 2,001 steps

PHASE2_GLOBAL_BATCH=${PHASE2_GLOBAL_BATCH:-32768} # = 8 x 16 x 256 accumulated
PHASE2_MICRO_BATCH=${PHASE2_MICRO_BATCH:-16}
PHASE2_STEPS=${PHASE2_STEPS:-1563}
PHASE2_LEARNING_RATE=${PHASE2_LEARNING_RATE:-4e-3}
PHASE2_WARMUP=${PHASE2_WARMUP:-0.128} # 200 steps
