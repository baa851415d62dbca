"""Batches of random tokens: the work of real ones, without a corpus.

For measuring speed only. Lengths are stated, not hidden: all full, or spread evenly around a mean.
Pre-training's batches are made beforehand and used in turn, so that what is measured is the training alone; what the
loader costs, `benchmark/loader.py` measures.
"""

import dataclasses
import itertools
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from data.loading.flat_batch import PaddedSamples, PretrainingBatch, flatten
from tasks.squad.features import SquadFeatures

FULL = "full"
SHORTEST = 5  # [CLS], a token, [SEP], a token, [SEP]
# Different ones, so that a model cannot learn one by heart within a measurement; the usual windows of 20 steps use each
# equally often.
N_BATCHES = 10
N_WINDOWS = 4096
QUESTION_LENGTH = 16  # tokens of a made question, or half of a shorter window


def mean_length(lengths: str) -> float | None:
    """What `--synthetic` asks for: None for full sequences, or the mean of evenly spread lengths.

    Raises:
        ValueError: neither the word nor a number.
    """
    return None if lengths == FULL else float(lengths)


def synthetic_problem(lengths: str, max_seq_length: int) -> str | None:
    """Why these lengths cannot be made, a sentence for the user; None where they can."""
    try:
        mean = mean_length(lengths)
    except ValueError:
        return f"--synthetic is {lengths!r}; give {FULL}, or the mean length of the sequences."
    problem = mean is not None and mean_length_problem(mean, max_seq_length)
    return f"--synthetic {problem}" if problem else None


def mean_length_problem(mean: float, max_seq_length: int) -> str | None:
    """Why sequences cannot have this mean length, for a sentence that begins with a flag; None where they can."""
    if SHORTEST <= mean <= max_seq_length:
        return None
    return f"{mean:g} is no mean length between {SHORTEST} and --max_seq_length {max_seq_length}."


class SyntheticPretraining:
    """In the place of a `PretrainingDataset`: batches of random ids for one rank, the same few again and again.

    Args:
        lengths: "full", or the mean of the lengths as text.
        micro_batch_size, max_seq_length, max_predictions_per_seq, seed, rank, world_size, pin_memory: as there.
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
        *,
        pin_memory: bool | None = None,
    ) -> None:
        self.seed, self.rank = seed, rank
        self._samples_per_batch = micro_batch_size * world_size
        self._shape = (micro_batch_size, max_seq_length, max_predictions_per_seq, vocab_size, mean_length(lengths))
        self._pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.n_samples = N_BATCHES * self._samples_per_batch
        self.source = f"random tokens, {describe_lengths(lengths)}"

    def epoch(self, position: int) -> int:
        """Returns how often all batches have been used at this position."""
        return position // self.n_samples

    @contextmanager
    def iterate(self, start_sample: int = 0) -> Iterator[Iterator[PretrainingBatch]]:
        """Context of an endless iterator over this rank's batches."""
        yield self._batches(start_sample)

    def _batches(self, start_sample: int) -> Generator[PretrainingBatch, None, None]:
        per_rank, max_seq_length, max_predictions_per_seq, vocab_size, mean = self._shape
        # Spread over all batches and not within each: that batches and ranks differ in length has its price, and a
        # measurement without it would flatter.
        rng = np.random.default_rng([self.seed, self.rank])
        lengths = _spread_lengths(rng, N_BATCHES * per_rank, max_seq_length, mean).reshape(N_BATCHES, per_rank)
        made = [
            _batch_of(row, max_seq_length, max_predictions_per_seq, vocab_size, [self.seed, self.rank, number])
            for number, row in enumerate(lengths)
        ]
        if self._pin_memory:
            made = [batch.pin() for batch in made]
        for place in itertools.count(start_sample // self._samples_per_batch):
            first_sample = place * self._samples_per_batch + self.rank * per_rank
            yield dataclasses.replace(made[place % N_BATCHES], first_sample=first_sample)


def synthetic_batch(
    batch_size: int,
    max_seq_length: int,
    max_predictions_per_seq: int,
    vocab_size: int,
    mean_length: float | None = None,
    seed: int | list[int] = 0,
) -> PretrainingBatch:
    """A flat batch of `batch_size` sequences of random ids.

    Args:
        mean_length: None: every sequence is `max_seq_length` long and has `max_predictions_per_seq` masked positions.
            A number: lengths are spread evenly around it, as wide as fits between 5 and `max_seq_length`, and masked
            positions are in proportion.
    """
    lengths = _spread_lengths(np.random.default_rng(seed), batch_size, max_seq_length, mean_length)
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


def synthetic_features(
    n_windows: int, max_seq_length: int, vocab_size: int, mean_length: float | None = None, seed: int = 0
) -> SquadFeatures:
    """Windows of random ids, which no question belongs to; each holds an answer of at most three tokens.

    Args:
        mean_length: as in `synthetic_batch`.
    """
    rng = np.random.default_rng(seed)
    lengths = _spread_lengths(rng, n_windows, max_seq_length, mean_length).astype(np.int64)
    n_tokens = int(lengths.sum())
    question_lengths = np.minimum(QUESTION_LENGTH, lengths // 2).astype(np.int32)
    starts = rng.integers(question_lengths, lengths)
    nowhere = np.full(n_tokens, -1, dtype=np.int32)
    return SquadFeatures(
        input_ids=rng.integers(vocab_size, size=n_tokens, dtype=np.int32),
        char_starts=nowhere,
        char_ends=nowhere,
        is_max_context=np.zeros(n_tokens, dtype=bool),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        question_lengths=question_lengths,
        example_index=np.zeros(n_windows, dtype=np.int32),
        start_positions=starts,
        end_positions=np.minimum(starts + rng.integers(3, size=n_windows), lengths - 1),
    )


def describe_lengths(lengths: str) -> str:
    """How long they are, for people and for results."""
    mean = mean_length(lengths)
    return "of full length" if mean is None else f"with lengths evenly around {mean:g}"


def _spread_lengths(
    rng: np.random.Generator, n_sequences: int, max_seq_length: int, mean_length: float | None
) -> np.ndarray:
    """At even distances, in random order: drawn ones would miss the mean by some per cent, and rates likewise."""
    if mean_length is None:
        return np.full(n_sequences, max_seq_length)
    half_width = min(mean_length - SHORTEST, max_seq_length - mean_length)
    places = (np.arange(n_sequences) + 0.5) / n_sequences
    return rng.permutation((mean_length + half_width * (2 * places - 1)).round().astype(int))
