"""Rows of any lengths one after the other, two bytes a token where the vocabulary allows; padded when batches are cut.

A file's rows padded to 512 tokens of four bytes would take several times the memory.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.loading.padded_samples import PaddedSamples


@dataclass(frozen=True)
class TokenRows:
    """n rows; `[rows]` gives copies of some of them, padded to S tokens and P masked positions (0: without masks)."""

    widths: tuple[int, int]  # S and P
    ids: np.ndarray  # (tokens,) integers of two or four bytes, special ones included
    lengths: np.ndarray  # (n,) int32
    first_lengths: np.ndarray  # (n,) int32: tokens of segment 0, [CLS] and [SEP] included
    positions: np.ndarray  # (masked,) int32: within the row
    labels: np.ndarray  # (masked,) of the type of `ids`
    n_masked: np.ndarray  # (n,) int32
    next_sentence_labels: np.ndarray  # (n,) int8

    @functools.cached_property
    def _starts(self) -> tuple[np.ndarray, np.ndarray]:
        return starts_of(self.lengths), starts_of(self.n_masked)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: np.ndarray | slice) -> PaddedSamples:
        seq_length, max_predictions = self.widths
        lengths, n_masked = self.lengths[rows], self.n_masked[rows]
        first_token, first_masked = (starts[rows] for starts in self._starts)
        tokens, masked = indices_of_ranges(first_token, lengths), indices_of_ranges(first_masked, n_masked)
        columns = np.arange(seq_length)
        is_second = (columns >= self.first_lengths[rows][:, None]) & (columns < lengths[:, None])
        return PaddedSamples(
            input_ids=_padded(self.ids[tokens], lengths, seq_length),
            segment_ids=is_second.astype(np.int8),
            lengths=lengths,
            masked_lm_positions=_padded(self.positions[masked], n_masked, max_predictions),
            masked_lm_ids=_padded(self.labels[masked], n_masked, max_predictions),
            n_masked=n_masked,
            next_sentence_labels=self.next_sentence_labels[rows],
        )

    @staticmethod
    def concatenate(parts: Sequence["TokenRows"]) -> "TokenRows":
        if len(parts) == 1:
            return parts[0]
        names = [field.name for field in dataclasses.fields(TokenRows)][1:]
        return TokenRows(parts[0].widths, *(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """(n,) int64: where parts of these lengths begin that lie one after the other."""
    return np.cumsum(lengths, dtype=np.int64) - lengths


def indices_of_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(sum of lengths,) int64: of each range its start and the `lengths` - 1 indices after it."""
    return np.arange(int(lengths.sum())) + np.repeat(starts - starts_of(lengths), lengths)


def _padded(values: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    result = np.zeros((len(lengths), width), dtype=np.int32)
    result[np.arange(width) < lengths[:, None]] = values
    return result
