"""Windows of SQuAD to flat batches, with where their answers are; and windows of random tokens."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.loading.flat_batch import FlatBatch
from data.loading.in_memory import InMemoryStream
from data.loading.synthetic import spread_lengths
from tasks.squad.features import SquadFeatures

QUESTION_LENGTH = 16  # tokens of a made question, or half of a shorter window


@dataclass(frozen=True)
class SquadBatch(FlatBatch):
    """B windows; their token types are 0 up to the question's [SEP] and 1 from the context on."""

    start_positions: torch.Tensor  # (B,) int64: the answer's first token in its window; 0, [CLS], if it is not there
    end_positions: torch.Tensor  # (B,) int64: the answer's last token
    feature_indices: torch.Tensor  # (B,) int64: which of the features' windows these are


class SquadDataset(InMemoryStream[SquadBatch]):
    """Micro-batches of N windows for one rank; see `InMemoryStream`."""

    def __init__(
        self,
        features: SquadFeatures,
        micro_batch_size: int,
        max_seq_length: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        tokens = features.input_ids, features.offsets, features.question_lengths
        super().__init__(*tokens, micro_batch_size, max_seq_length, seed, rank, world_size)
        self.features = features

    def _with_labels(self, indices: np.ndarray, **encoder_fields: Any) -> SquadBatch:
        return SquadBatch(
            **encoder_fields,
            start_positions=torch.from_numpy(self.features.start_positions[indices]),
            end_positions=torch.from_numpy(self.features.end_positions[indices]),
            feature_indices=torch.from_numpy(indices),
        )


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
