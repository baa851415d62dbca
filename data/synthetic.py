"""Pre-training batches of random tokens: the work of real ones, without a corpus.

For measuring speed only. Lengths are stated, not hidden: all full, or drawn around a mean, as an unpadded corpus has.
"""

import numpy as np

from data.flat_batch import PaddedSamples, PretrainingBatch, flatten


def synthetic_batch(
    batch_size: int,
    max_seq_length: int,
    max_predictions_per_seq: int,
    vocab_size: int,
    mean_length: float | None = None,
    seed: int = 0,
) -> PretrainingBatch:
    """A flat batch of `batch_size` sequences of random ids.

    Args:
        mean_length: None: every sequence is `max_seq_length` long and has `max_predictions_per_seq` masked positions.
            A number: lengths are uniform around it, as wide as fits between 5 and `max_seq_length`, and masked
            positions are in proportion.
    """
    rng = np.random.default_rng(seed)
    if mean_length is None:
        lengths = np.full(batch_size, max_seq_length)
    else:
        half_width = min(mean_length - 5, max_seq_length - mean_length)
        lengths = rng.uniform(mean_length - half_width, mean_length + half_width, batch_size).round().astype(int)
    n_masked = np.maximum(1, max_predictions_per_seq * lengths // max_seq_length)
    columns = np.arange(max_predictions_per_seq)
    # Spread evenly over each sequence, and never on its first token, as [CLS] is not masked.
    positions = 1 + columns * (lengths[:, None] - 1) // n_masked[:, None]
    samples = PaddedSamples(
        input_ids=rng.integers(vocab_size, size=(batch_size, max_seq_length), dtype=np.int32),
        segment_ids=(np.arange(max_seq_length) >= lengths[:, None] // 2).astype(np.int8),
        lengths=lengths.astype(np.int32),
        masked_lm_positions=np.where(columns < n_masked[:, None], positions, 0).astype(np.int32),
        masked_lm_ids=rng.integers(vocab_size, size=(batch_size, max_predictions_per_seq), dtype=np.int32),
        n_masked=n_masked.astype(np.int32),
        next_sentence_labels=rng.integers(2, size=batch_size, dtype=np.int8),
    )
    return flatten(samples)
