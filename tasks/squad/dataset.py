"""Windows of SQuAD to flat batches: the stream of `data/loading/stream.py`, all of it one part in memory.

For prediction windows are sorted by length, so that batches of one bucket follow each other and compiled code and CUDA
graphs meet few shapes. A batch is a few gathers from flat arrays: a tenth of a millisecond, for which no background
thread is worth its trouble.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from common.errors import Problems
from common.work import Work
from data.loading.flat_batch import FlatBatch, lay_out, padded
from data.loading.stream import SampleStream
from data.loading.synthetic import spread_lengths
from tasks.squad.features import SquadFeatures

QUESTION_LENGTH = 16  # tokens of a made question, or half of a shorter window


@dataclass(frozen=True)
class SquadBatch(FlatBatch):
    """B windows; their token types are 0 up to the question's [SEP] and 1 from the context on."""

    start_positions: torch.Tensor  # (B,) int64: the answer's first token in its window; 0, [CLS], if it is not there
    end_positions: torch.Tensor  # (B,) int64: the answer's last token
    feature_indices: torch.Tensor  # (B,) int64: which of the features' windows these are


class SquadDataset(SampleStream[SquadBatch]):
    """Micro-batches for one rank.

    Args:
        features: N windows; training needs as many as a micro-batch on all ranks takes.
        max_seq_length: S; no window is longer.
        micro_batch_size, seed, rank, world_size: see `BatchStream`.
    """

    def __init__(
        self,
        features: SquadFeatures,
        micro_batch_size: int,
        max_seq_length: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        problems = Problems()
        super().__init__(micro_batch_size, seed, rank, world_size, problems)
        problems.raise_if_any()
        self.features = features
        self.n_samples = len(features)
        self.max_seq_length = max_seq_length

    def _order(self, epoch: int | None) -> Iterator[tuple[int, np.ndarray]]:
        if epoch is None:
            yield 0, np.argsort(-self.features.lengths, kind="stable")  # the longest first
        else:
            yield 0, np.random.default_rng([self.seed, epoch]).permutation(self.n_samples)

    def _read(self, part: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(self.n_samples), rows

    def _make_batch(self, samples: list[np.ndarray], first_sample: int) -> SquadBatch:
        features, windows = self.features, np.concatenate(samples)
        lengths = features.offsets[windows + 1] - features.offsets[windows]
        n_tokens = int(lengths.sum())
        cu_seqlens, position_ids = lay_out(lengths, self.micro_batch_size, self.max_seq_length)
        positions = position_ids[:n_tokens]
        input_ids = features.input_ids[np.repeat(features.offsets[windows], lengths) + positions]
        token_type_ids = positions >= np.repeat(features.question_lengths[windows], lengths)
        return SquadBatch(
            input_ids=padded(input_ids, len(position_ids)),
            token_type_ids=padded(token_type_ids, len(position_ids)),
            position_ids=torch.from_numpy(position_ids),
            cu_seqlens=torch.from_numpy(cu_seqlens),
            max_seqlen=self.max_seq_length,
            work=Work(len(windows), n_tokens, int(np.square(lengths).sum())),
            first_sample=first_sample,
            start_positions=torch.from_numpy(features.start_positions[windows]),
            end_positions=torch.from_numpy(features.end_positions[windows]),
            feature_indices=torch.from_numpy(windows.astype(np.int64)),
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
