"""Windows of SQuAD to flat batches: the stream of `data/loading/stream.py`, all of it one part in memory.

For prediction windows are sorted by length, so that batches of one bucket follow each other and compiled code and CUDA
graphs meet few shapes.

A batch is a few gathers from flat arrays: a tenth of a millisecond, for which no background thread is worth its
trouble.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from common.errors import Problems, UserError
from common.work import Work
from data.loading.flat_batch import FlatBatch, lay_out, padded
from data.loading.stream import SampleStream
from tasks.squad.features import SquadFeatures


@dataclass(frozen=True)
class SquadBatch(FlatBatch):
    """B windows; their token types are 0 up to the question's [SEP] and 1 from the context on."""

    start_positions: torch.Tensor  # (B,) int64: the answer's first token in its window; 0, [CLS], if it is not there
    end_positions: torch.Tensor  # (B,) int64: the answer's last token
    feature_indices: torch.Tensor  # (B,) int64: which of the features' windows these are


class SquadDataset(SampleStream[SquadBatch]):
    """Micro-batches for one rank.

    Args:
        features: N windows.
        micro_batch_size, seed, rank, world_size, pin_memory: see `BatchStream`.
        max_seq_length: S; no window is longer.

    Raises:
        UserError: all that is wrong with the arguments.
    """

    def __init__(
        self,
        features: SquadFeatures,
        micro_batch_size: int,
        max_seq_length: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        *,
        pin_memory: bool | None = None,
    ) -> None:
        problems = Problems()
        super().__init__(micro_batch_size, seed, rank, world_size, pin_memory, problems)
        longest = int(features.lengths.max(initial=0))
        problems.check(
            longest <= max_seq_length,
            f"The longest window has {longest} tokens, more than --max_seq_length {max_seq_length}",
            "give the length that the features were made with",
        )
        problems.raise_if_any()
        self.features = features
        self.n_samples = len(features)
        self.max_seq_length = max_seq_length

    @contextmanager
    def iterate(self, start_sample: int = 0) -> Iterator[Iterator[SquadBatch]]:
        """As `BatchStream.iterate`.

        Raises:
            UserError: fewer windows than a micro-batch on all ranks takes, so that one would be in a batch twice.
        """
        needed = self.micro_batch_size * self.world_size
        if self.n_samples < needed:
            raise UserError(
                f"The training questions make {self.n_samples} windows, and one micro-batch on all ranks takes "
                f"{needed}",
                "give more questions or take a smaller batch",
            )
        with super().iterate(start_sample) as batches:
            yield batches

    def _sizes(self, epoch: int) -> Iterable[tuple[int, int]]:
        return [(0, self.n_samples)]

    def _permutation(self, epoch: int, part: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.n_samples)

    def _evaluation_order(self) -> Iterator[tuple[int, np.ndarray]]:
        longest_first = np.argsort(-self.features.lengths, kind="stable")
        return iter([(0, longest_first)])

    def _read(self, part: int) -> np.ndarray:
        return np.arange(self.n_samples)

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
