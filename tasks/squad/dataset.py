"""Windows of SQuAD to flat batches: in an endless, reproducible stream for training, once and by length for prediction.

The stream is that of pre-training (`data/loading/pretraining_dataset.py`): all windows of all epochs form one sequence
that follows from the seed, each epoch a permutation, and a position in it is one integer, the windows consumed by all
ranks.

For prediction windows are sorted by length, so that batches of one bucket follow each other and compiled code and CUDA
graphs meet few shapes.

All windows are in memory, and a batch is a few gathers from flat arrays: a tenth of a millisecond, for which no
background thread is worth its trouble.
"""

import itertools
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from common.errors import Problems, UserError
from common.work import Work
from data.loading.flat_batch import FlatBatch, lay_out, padded
from tasks.squad.features import SquadFeatures


@dataclass(frozen=True)
class SquadBatch(FlatBatch):
    """B windows; their token types are 0 up to the question's [SEP] and 1 from the context on."""

    start_positions: torch.Tensor  # (B,) int64: the answer's first token in its window; 0, [CLS], if it is not there
    end_positions: torch.Tensor  # (B,) int64: the answer's last token
    feature_indices: torch.Tensor  # (B,) int64: which of the features' windows these are


class SquadDataset:
    """Micro-batches for one rank.

    The global micro-batch k is the windows [k * B * world_size, (k + 1) * B * world_size) of the stream; rank r takes
    the r-th B of them.

    Args:
        features: N windows.
        micro_batch_size: B, windows per batch and rank.
        max_seq_length: S; no window is longer.
        seed: of the order of the windows in training; not negative.
        rank, world_size: this process among those that share the windows.
        pin_memory: page-locked batches; by default if there is a GPU.

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
        problems.check(micro_batch_size >= 1, f"The micro-batch holds {micro_batch_size} sequences", "take at least 1")
        problems.check(seed >= 0, f"The seed {seed} is negative", "give 0 or more")
        problems.check(0 <= rank < world_size, f"Rank {rank} is not among the {world_size} ranks, counted from 0.")
        longest = int(features.lengths.max(initial=0))
        problems.check(
            longest <= max_seq_length,
            f"The longest window has {longest} tokens, more than --max_seq_length {max_seq_length}",
            "give the length that the features were made with",
        )
        problems.raise_if_any()
        self.features = features
        self.n_samples = len(features)
        self.micro_batch_size = micro_batch_size
        self.max_seq_length = max_seq_length
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory

    def epoch(self, position: int) -> int:
        """Returns the epoch, from 0, of the stream's window at `position`."""
        return position // self.n_samples

    @contextmanager
    def iterate(self, start_sample: int = 0) -> Iterator[Iterator[SquadBatch]]:
        """Context of an endless iterator over this rank's batches from `start_sample` of the stream on.

        Each batch takes micro_batch_size * world_size windows of the stream.

        Raises:
            UserError: fewer windows than that in all, so that one would be in a batch twice.
        """
        needed = self.micro_batch_size * self.world_size
        if self.n_samples < needed:
            raise UserError(
                f"The training questions make {self.n_samples} windows, and one micro-batch on all ranks takes "
                f"{needed}",
                "give more questions or take a smaller batch",
            )
        with closing(self._training_batches(start_sample)) as batches:
            yield batches

    @contextmanager
    def evaluation_batches(self) -> Iterator[Iterator[SquadBatch]]:
        """Context of one pass over all windows, the longest first.

        Batches go to the ranks in turn. The last one may hold fewer windows, and on some of several ranks be missing.
        """
        with closing(self._evaluation_batches()) as batches:
            yield batches

    def _training_batches(self, start_sample: int) -> Generator[SquadBatch, None, None]:
        n_wanted = self.micro_batch_size * self.world_size
        epoch = self.epoch(start_sample)
        ahead = self._permutation(epoch)[start_sample % self.n_samples :]
        mine = slice(self.rank * self.micro_batch_size, (self.rank + 1) * self.micro_batch_size)
        for first in itertools.count(start_sample, n_wanted):
            if len(ahead) < n_wanted:
                epoch += 1
                ahead = np.concatenate([ahead, self._permutation(epoch)])
            yield self._batch(ahead[:n_wanted][mine], first + mine.start)
            ahead = ahead[n_wanted:]

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.n_samples)

    def _evaluation_batches(self) -> Generator[SquadBatch, None, None]:
        longest_first = np.argsort(-self.features.lengths, kind="stable")
        step = self.micro_batch_size * self.world_size
        for first in range(self.rank * self.micro_batch_size, self.n_samples, step):
            yield self._batch(longest_first[first : first + self.micro_batch_size], first)

    def _batch(self, windows: np.ndarray, first_sample: int) -> SquadBatch:
        features = self.features
        lengths = features.offsets[windows + 1] - features.offsets[windows]
        n_tokens = int(lengths.sum())
        cu_seqlens, position_ids = lay_out(lengths, self.micro_batch_size, self.max_seq_length)
        positions = position_ids[:n_tokens]
        input_ids = features.input_ids[np.repeat(features.offsets[windows], lengths) + positions]
        token_type_ids = positions >= np.repeat(features.question_lengths[windows], lengths)
        batch = SquadBatch(
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
        return batch.pin() if self.pin_memory else batch
