"""The stream of `data/loading/stream.py` over sequences in memory, as fine-tuning has them: all of it is one part.

For scoring, sequences are sorted by length, so that batches of one bucket follow each other and compiled code and CUDA
graphs meet few shapes. A batch is a few gathers from flat arrays: a tenth of a millisecond, for which no background
thread is worth its trouble.
"""

import abc
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from common.errors import Problems
from common.work import Work
from data.loading.flat_batch import lay_out, padded
from data.loading.stream import Batch, SampleStream


class InMemoryStream(SampleStream[Batch]):
    """Micro-batches for one rank.

    Args:
        input_ids: (T,) int32, the tokens of N sequences, one after the other; training needs as many sequences as a
            micro-batch on all ranks takes.
        offsets: (N + 1,) int64; sequence i has the tokens offsets[i]:offsets[i + 1].
        first_lengths: (N,) tokens of type 0, which come first; those behind them are of type 1.
        max_seq_length: S; no sequence is longer.
        micro_batch_size, seed, rank, world_size: see `BatchStream`.
    """

    def __init__(
        self,
        input_ids: np.ndarray,
        offsets: np.ndarray,
        first_lengths: np.ndarray,
        micro_batch_size: int,
        max_seq_length: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        problems = Problems()
        super().__init__(micro_batch_size, seed, rank, world_size, problems)
        problems.raise_if_any()
        self.input_ids, self.offsets, self.first_lengths = input_ids, offsets, first_lengths
        self.n_samples = len(first_lengths)
        self.max_seq_length = max_seq_length

    @abc.abstractmethod
    def _with_labels(self, indices: np.ndarray, **encoder_fields: Any) -> Batch:
        """The batch of these sequences (B,), for all that a `FlatBatch` has."""

    def _order(self, epoch: int | None) -> Iterator[tuple[int, np.ndarray]]:
        if epoch is None:
            yield 0, np.argsort(-np.diff(self.offsets), kind="stable")  # the longest first
        else:
            yield 0, np.random.default_rng([self.seed, epoch]).permutation(self.n_samples)

    def _read(self, part: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(self.n_samples), rows

    def _lengths(self, part: int, rows: np.ndarray) -> np.ndarray:
        return self.offsets[rows + 1] - self.offsets[rows]

    def _make_batch(self, samples: list[np.ndarray], places: np.ndarray, first_sample: int) -> Batch:
        indices = np.concatenate(samples)
        lengths = self._lengths(0, indices)
        n_tokens = int(lengths.sum())
        cu_seqlens, position_ids = lay_out(lengths, self.micro_batch_size, self.max_seq_length)
        positions = position_ids[:n_tokens]
        input_ids = self.input_ids[np.repeat(self.offsets[indices], lengths) + positions]
        token_type_ids = positions >= np.repeat(self.first_lengths[indices], lengths)
        return self._with_labels(
            indices.astype(np.int64),
            input_ids=padded(input_ids, len(position_ids)),
            token_type_ids=padded(token_type_ids, len(position_ids)),
            position_ids=torch.from_numpy(position_ids),
            cu_seqlens=torch.from_numpy(cu_seqlens),
            max_seqlen=self.max_seq_length,
            work=Work(len(indices), n_tokens, int(np.square(lengths).sum())),
            first_sample=first_sample,
        )
