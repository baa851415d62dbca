"""Lengths of random sequences, for measuring speed without a corpus: all full, or spread evenly around a mean."""

import numpy as np

from common.errors import Problem

FULL = "full"
SHORTEST = 5  # [CLS], a token, [SEP], a token, [SEP]
# Different ones, so that a model cannot learn one by heart within a measurement; the usual windows of 20 steps use each
# equally often.
N_BATCHES = 10


def mean_length(lengths: str) -> float | None:
    """What `--synthetic` asks for: None for full sequences, or the mean; raises ValueError if it is neither."""
    return None if lengths == FULL else float(lengths)


def synthetic_problem(
    lengths: str | float, max_seq_length: int, flag: str = "--synthetic", limit_flag: str = "--max_seq_length"
) -> Problem | None:
    """Why `flag` cannot have these lengths where sequences have at most `max_seq_length` tokens; None if it can."""
    try:
        mean = mean_length(lengths)
    except ValueError:
        return Problem(f"{flag} is {lengths!r}", f"give {FULL}, or the mean length of the sequences")
    if mean is None or SHORTEST <= mean <= max_seq_length:
        return None
    return Problem(f"{flag} {mean:g} is no mean length between {SHORTEST} and {limit_flag} {max_seq_length}.")


def describe_lengths(lengths: str) -> str:
    """How long they are, for people and for results."""
    mean = mean_length(lengths)
    return "of full length" if mean is None else f"with lengths evenly around {mean:g}"


def spread_lengths(
    rng: np.random.Generator, n_sequences: int, max_seq_length: int, mean_length: float | None
) -> np.ndarray:
    """(n_sequences,) int64: all `max_seq_length` or, around a mean, as wide as fits between SHORTEST and that.

    They are at even distances, in random order: drawn ones would miss the mean by some per cent, and rates likewise.
    """
    if mean_length is None:
        return np.full(n_sequences, max_seq_length)
    half_width = min(mean_length - SHORTEST, max_seq_length - mean_length)
    quantiles = (np.arange(n_sequences) + 0.5) / n_sequences
    return rng.permutation((mean_length + half_width * (2 * quantiles - 1)).round().astype(int))
