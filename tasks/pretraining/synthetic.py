"""Pre-training batches of random tokens, for measuring speed without a corpus (see data/loading/synthetic.py).

They are made beforehand and used in turn, so that what is measured is the training alone.
"""

import dataclasses
import itertools
from collections.abc import Generator

import numpy as np

from common.errors import Problems
from data.loading.dealing import deal
from data.loading.flat_batch import PaddedSamples, PretrainingBatch, flatten
from data.loading.stream import BatchStream
from data.loading.synthetic import N_BATCHES, describe_lengths, mean_length, spread_lengths


class SyntheticPretraining(BatchStream[PretrainingBatch]):
    """In the place of a `PretrainingDataset`: batches of random ids for one rank, the same few again and again.

    `lengths` is "full", or the mean of the lengths as text.
    """

    def __init__(
        self,
        lengths: str,
        micro_batch_size: int,
        max_seq_length: int,
        max_predictions_per_seq: int,
        vocab_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        problems = Problems()
        super().__init__(micro_batch_size, seed, rank, world_size, problems)
        problems.raise_if_any()
        self._shape = max_seq_length, max_predictions_per_seq, vocab_size
        self._mean_length = mean_length(lengths)
        self.n_samples = N_BATCHES * micro_batch_size * world_size
        self.source = f"random tokens, {describe_lengths(lengths)}"

    def _training_batches(self, start_sample: int, n_batches: int) -> Generator[PretrainingBatch, None, None]:
        # Spread over all batches and not within each: where nothing is dealt, batches and ranks differ in length, which
        # has its price, and a measurement without it would flatter.
        rng = np.random.default_rng([self.seed, self.rank])
        lengths = spread_lengths(rng, N_BATCHES * self.micro_batch_size, self._shape[0], self._mean_length)
        if n_batches > 1:
            lengths = lengths[np.argsort(deal(lengths, N_BATCHES, self.micro_batch_size), kind="stable")]
        rows = enumerate(lengths.reshape(N_BATCHES, -1))
        made = [_batch_of(row, *self._shape, [self.seed, self.rank, number]) for number, row in rows]
        made = [batch.pin() for batch in made] if self.pin_memory else made
        samples_per_batch = self.micro_batch_size * self.world_size
        for number in itertools.count(start_sample // samples_per_batch):
            first_sample = number * samples_per_batch + self.rank * self.micro_batch_size
            yield dataclasses.replace(made[number % N_BATCHES], first_sample=first_sample)


def synthetic_batch(
    batch_size: int,
    max_seq_length: int,
    max_predictions_per_seq: int,
    vocab_size: int,
    mean_length: float | None = None,
    seed: int | list[int] = 0,
) -> PretrainingBatch:
    """A flat batch of random ids. Lengths are as in `spread_lengths`, masked positions in proportion."""
    lengths = spread_lengths(np.random.default_rng(seed), batch_size, max_seq_length, mean_length)
    return _batch_of(lengths, max_seq_length, max_predictions_per_seq, vocab_size, seed)


def _batch_of(
    lengths: np.ndarray, max_seq_length: int, max_predictions_per_seq: int, vocab_size: int, seed: int | list[int]
) -> PretrainingBatch:
    rng, batch_size = np.random.default_rng(seed), len(lengths)
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
