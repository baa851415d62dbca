"""Runs of scripts/run_pretraining.sh that take seconds: phase 1 only, on shards of its lengths, of a tiny model."""

import h5py
import numpy as np
from pretraining_runs import write_config
from ranks import free_port
from shards import write_shards

SEQ_LENGTH, PREDICTIONS = 128, 20
FOLDER = "hdf5_lower_case_1_seq_len_128_max_pred_20_masked_lm_prob_0.15_random_seed_12345_dupe_factor_5"


def make_data(folder):
    """Shards where the preparation leaves them under `folder`; returns it."""
    shards = write_shards(folder / FOLDER / "books_wiki_en_corpus", seq_length=SEQ_LENGTH)
    for path in shards.glob("*.hdf5"):
        with h5py.File(path, "r+") as file:
            for name in ("masked_lm_positions", "masked_lm_ids"):
                values = file[name][:]
                del file[name]
                file[name] = np.pad(values, ((0, 0), (0, PREDICTIONS - values.shape[1])))
    return folder


def settings(folder, steps, **changes):
    """Variables of a run on data that is made in `folder`, with its output there, one CPU process per machine."""
    return {
        "BERT_PREP_WORKING_DIR": make_data(folder / "data"),
        "OUTPUT_DIR": folder / "out",
        "CONFIG_FILE": write_config(folder / "config.json", max_position_embeddings=SEQ_LENGTH),
        "RUN_PHASE2": 0,
        "PHASE1_STEPS": steps,
        "PHASE1_GLOBAL_BATCH": 8,
        "PHASE1_MICRO_BATCH": 4,
        "PHASE1_LEARNING_RATE": 0.01,
        "NUM_GPUS": 1,
        "CUDA_VISIBLE_DEVICES": "",
        "MASTER_PORT": free_port(),
        "OMP_WAIT_POLICY": "passive",
        **changes,
    }
