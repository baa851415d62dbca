"""Pre-training shards made row by row in plain Python after the published rules, with none of the project's code."""

import random

import h5py
import numpy as np

from tokenization import SPECIAL_TOKENS

S, P, VOCAB = 64, 10, 300
UNUSED, UNK, CLS, SEP, MASK = range(5)
N_ROWS = 400


def make_row(rng):
    """One row after the published rules: a dictionary of lists."""
    length = S if rng.random() < 0.8 else rng.randint(5, S)
    first = rng.randint(2, length - 3)
    words = [rng.randint(5, VOCAB - 1) for _ in range(length)]
    ids = [CLS, *words[1:first], SEP, *words[first + 1 : length - 1], SEP]
    candidates = [i for i in range(length) if i not in (0, first, length - 1)]
    n_masked = min(P, max(1, round(length * 0.15)), len(candidates))
    positions = sorted(rng.sample(candidates, n_masked))
    labels = [ids[i] for i in positions]
    for i in positions:
        fate = rng.random()
        ids[i] = MASK if fate < 0.8 else ids[i] if fate < 0.9 else rng.randrange(VOCAB)
    padding, unused = [0] * (S - length), [0] * (P - n_masked)
    return {
        "input_ids": ids + padding,
        "input_mask": [1] * length + padding,
        "segment_ids": [0] * (first + 1) + [1] * (length - first - 1) + padding,
        "masked_lm_positions": positions + unused,
        "masked_lm_ids": labels + unused,
        "next_sentence_labels": rng.randint(0, 1),
    }


def make_rows(n_rows=N_ROWS, seed=0):
    """Arrays of the published types. Row 3 is full, row 4 has padding and at least 20 tokens and 3 masked ones."""
    rng = random.Random(seed)
    rows = []
    while len(rows) < n_rows:
        row = make_row(rng)
        length = sum(row["input_mask"])
        if (len(rows) == 3 and length < S) or (len(rows) == 4 and not 20 <= length < S):
            continue
        rows.append(row)
    small = ("input_mask", "segment_ids", "next_sentence_labels")
    return {name: np.array([row[name] for row in rows], np.int8 if name in small else np.int32) for name in rows[0]}


def save(path, arrays, **kwargs):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **(kwargs or {"compression": "gzip"}))


def write_vocabulary(path):
    path.write_text("\n".join([*SPECIAL_TOKENS, *(f"w{i}" for i in range(VOCAB - 5))]) + "\n", encoding="utf-8")
    return path
