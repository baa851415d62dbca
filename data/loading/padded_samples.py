"""Rows of pre-training shards in memory, padded, before a batch is made of them.

Apart from `flat_batch.py`, as that imports PyTorch, which verification does without.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PaddedSamples:
    """Rows of pre-training shards; n samples of S tokens and P masked positions at most, zero-padded at the right."""

    input_ids: np.ndarray  # (n, S) int32
    segment_ids: np.ndarray  # (n, S) int8: 0 first segment, 1 second
    lengths: np.ndarray  # (n,) int32: real tokens, 1..S
    masked_lm_positions: np.ndarray  # (n, P) int32
    masked_lm_ids: np.ndarray  # (n, P) int32: the tokens that were there before masking
    n_masked: np.ndarray  # (n,) int32: real entries of the two above
    next_sentence_labels: np.ndarray  # (n,) int8: 1 if the second segment is random

    def __getitem__(self, rows: np.ndarray) -> "PaddedSamples":
        """Returns copies of the given rows, in their order."""
        return PaddedSamples(*(array[rows] for array in vars(self).values()))

    def as_datasets(self) -> dict[str, np.ndarray]:
        """The rows by the names of a shard's datasets."""
        is_token = np.arange(self.input_ids.shape[1]) < self.lengths[:, None]
        names = "input_ids", "segment_ids", "masked_lm_positions", "masked_lm_ids", "next_sentence_labels"
        return {name: getattr(self, name) for name in names} | {"input_mask": is_token.astype(np.int8)}

    @staticmethod
    def concatenate(parts: list["PaddedSamples"]) -> "PaddedSamples":
        """All rows, with as many masked positions as those of the widest part."""
        if len(parts) == 1:
            return parts[0]
        n_positions = max(part.masked_lm_positions.shape[1] for part in parts)
        parts = [part._with_room_for(n_positions) for part in parts]
        return PaddedSamples(*map(np.concatenate, zip(*(vars(part).values() for part in parts), strict=True)))

    def _with_room_for(self, n_positions: int) -> "PaddedSamples":
        missing = (0, 0), (0, n_positions - self.masked_lm_positions.shape[1])
        if not missing[1][1]:
            return self
        positions, ids = (np.pad(array, missing) for array in (self.masked_lm_positions, self.masked_lm_ids))
        return dataclasses.replace(self, masked_lm_positions=positions, masked_lm_ids=ids)
