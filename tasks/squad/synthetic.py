"""SQuAD windows of random tokens, for measuring speed without questions (see data/loading/synthetic.py)."""

import numpy as np

from data.loading.synthetic import spread_lengths
from tasks.squad.features import SquadFeatures

N_WINDOWS = 4096
QUESTION_LENGTH = 16  # tokens of a made question, or half of a shorter window


def synthetic_features(
    n_windows: int, max_seq_length: int, vocab_size: int, mean_length: float | None = None, seed: int = 0
) -> SquadFeatures:
    """Windows of random ids, which no question belongs to; each holds an answer of at most three tokens.

    Args:
        mean_length: as in `spread_lengths`.
    """
    rng = np.random.default_rng(seed)
    lengths = spread_lengths(rng, n_windows, max_seq_length, mean_length)
    n_tokens = int(lengths.sum())
    question_lengths = np.minimum(QUESTION_LENGTH, lengths // 2).astype(np.int32)
    starts = rng.integers(question_lengths, lengths)
    nowhere = np.full(n_tokens, -1, dtype=np.int32)
    return SquadFeatures(
        input_ids=rng.integers(vocab_size, size=n_tokens, dtype=np.int32),
        char_starts=nowhere,
        char_ends=nowhere,
        is_max_context=np.zeros(n_tokens, dtype=bool),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        question_lengths=question_lengths,
        example_index=np.zeros(n_windows, dtype=np.int32),
        start_positions=starts,
        end_positions=np.minimum(starts + rng.integers(3, size=n_windows), lengths - 1),
    )
