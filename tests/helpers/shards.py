"""Small pre-training shards for tests, with something to learn: a masked token is its left neighbor plus one."""

from pathlib import Path

import h5py
import numpy as np


def write_shard(path, n_rows, seq_length=16, predictions=3, vocab_size=40, seed=0):
    """One shard in the published layout: [CLS] = 1, [SEP] = 2, [MASK] = 3, words from 5 on; rows are 8 or longer."""
    rng = np.random.default_rng(seed)
    columns = np.arange(seq_length)
    lengths = rng.integers(8, seq_length + 1, n_rows)
    first = rng.integers(5, vocab_size, (n_rows, 1))
    ids = 5 + (first - 5 + columns) % (vocab_size - 5)
    middle = lengths // 2
    ids[:, 0] = 1
    ids[np.arange(n_rows), middle] = 2
    ids[np.arange(n_rows), lengths - 1] = 2
    mask = columns < lengths[:, None]
    segments = (columns > middle[:, None]) & mask
    candidates = np.array([np.sort(rng.choice(np.arange(1, m), predictions, replace=False)) for m in middle])
    masked_ids = np.take_along_axis(ids, candidates, 1)
    np.put_along_axis(ids, candidates, 3, 1)
    with h5py.File(path, "w") as file:
        file["input_ids"] = (ids * mask).astype(np.int32)
        file["input_mask"] = mask.astype(np.int8)
        file["segment_ids"] = segments.astype(np.int8)
        file["masked_lm_positions"] = candidates.astype(np.int32)
        file["masked_lm_ids"] = masked_ids.astype(np.int32)
        file["next_sentence_labels"] = (first[:, 0] % 2).astype(np.int8)


def write_shards(folder, rows_per_file=(30, 25), name="training", **shape):
    """A folder of shards; returns it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for index, n_rows in enumerate(rows_per_file):
        write_shard(folder / f"sample_{name}_{index}.hdf5", n_rows, seed=index + 100 * (name == "test"), **shape)
    return folder
