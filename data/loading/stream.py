"""One endless, reproducible stream of samples, of which each rank cuts its micro-batches.

Epoch e is a permutation of the data's parts (files, or one part in memory), and within each part a permutation of its
samples. Epochs follow each other without a gap and micro-batches cross the borders of parts, so every sample is used
exactly once per epoch, whatever the numbers of parts, samples and ranks. A position in the data is therefore one
integer, the samples consumed by all ranks together, and all follows from it, the seed and the data.

The global micro-batch k is the samples [k * B * world_size, (k + 1) * B * world_size); rank r takes the r-th B of them.
"""

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from common.errors import Problems
from data.loading.flat_batch import FlatBatch

Batch = TypeVar("Batch", bound=FlatBatch)
Item = TypeVar("Item")

BATCHES_AHEAD = 8
PARTS_AHEAD = 1


class BatchStream(ABC, Generic[Batch]):
    """What training asks of its data: batches for one rank from any position, and the epoch of a position.

    Each of the `world_size` ranks takes batches of B = `micro_batch_size` sequences in the order that `seed` makes.
    """

    n_samples: int
    source: str  # where the samples are from, for people and for checks of a resumed run
    reading: str = "read as they are"  # what is done to them on the way; a resumed run must do the same

    def __init__(self, micro_batch_size: int, seed: int, rank: int, world_size: int, problems: Problems) -> None:
        problems.check(micro_batch_size >= 1, f"The micro-batch holds {micro_batch_size} sequences", "take at least 1")
        problems.check(seed >= 0, f"The seed {seed} is negative", "give 0 or more")
        problems.check(0 <= rank < world_size, f"Rank {rank} is not among the {world_size} ranks, counted from 0.")
        self.micro_batch_size = micro_batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.pin_memory = torch.cuda.is_available()

    def epoch(self, position: int) -> int:
        """Returns the epoch, from 0, of the stream's sample at `position`."""
        return position // self.n_samples

    def iterate(self, start_sample: int = 0) -> AbstractContextManager[Iterator[Batch]]:
        """Context of an endless iterator over this rank's batches from `start_sample` of the stream on.

        Each batch takes micro_batch_size * world_size samples of the stream. Leaving the context ends the threads.
        """
        return closing(self._training_batches(start_sample))

    @abstractmethod
    def _training_batches(self, start_sample: int) -> Generator[Batch, None, None]: ...


class SampleStream(BatchStream[Batch]):
    """Batches of samples that lie in parts, each of which is read as a whole."""

    num_workers = 0  # any other: a thread reads the next part while another cuts batches out of the current one

    def evaluation_batches(self) -> AbstractContextManager[Iterator[Batch]]:
        """Context of one pass over all samples in a fixed order.

        The last batch may hold fewer sequences, and on some of several ranks be missing.
        """
        return closing(self._batches(self._order(None), 0))

    @abstractmethod
    def _order(self, epoch: int | None) -> Iterator[tuple[int, np.ndarray]]:
        """Each part's number and its samples, in the order of an epoch; in that of an evaluation for None."""

    @abstractmethod
    def _read(self, part: int, rows: np.ndarray) -> tuple[Any, np.ndarray]:
        """Samples of a part, at least those asked for, and the places of those among them.

        `[places]` of them gives some, which do not keep the others in memory.
        """

    @abstractmethod
    def _make_batch(self, samples: list[Any], first_sample: int) -> Batch:
        """The batch of samples that were taken out of one or more parts."""

    def _training_batches(self, start_sample: int) -> Generator[Batch, None, None]:
        return self._batches(self._training_order(start_sample), start_sample)

    def _training_order(self, start_sample: int) -> Iterator[tuple[int, np.ndarray]]:
        n_skipped = start_sample % self.n_samples
        for epoch in itertools.count(self.epoch(start_sample)):
            for part, rows in self._order(epoch):
                if n_skipped < len(rows):
                    yield part, rows[n_skipped:]
                n_skipped = max(0, n_skipped - len(rows))

    def _batches(self, order: Iterator[tuple[int, np.ndarray]], start: int) -> Generator[Batch, None, None]:
        pieces = self._pieces(order)
        if self.num_workers == 0:
            return self._cut(pieces, start)
        return _ahead(self._cut(_ahead(pieces, PARTS_AHEAD), start), BATCHES_AHEAD)

    def _pieces(self, order: Iterator[tuple[int, np.ndarray]]) -> Generator[tuple[Any, np.ndarray], None, None]:
        """Yields the parts that hold any of this rank's samples, each with those in their order."""
        n_seen = 0
        for part, rows in order:
            rank_of_row = (n_seen + np.arange(len(rows))) // self.micro_batch_size % self.world_size
            n_seen += len(rows)
            rows = rows[rank_of_row == self.rank]
            if len(rows):
                yield self._read(part, rows)

    def _cut(self, pieces: Generator[tuple[Any, np.ndarray], None, None], start: int) -> Generator[Batch, None, None]:
        """Yields batches of B samples, across the borders of the pieces; what is left at their end is the last one."""
        held: list[Any] = []
        n_missing = self.micro_batch_size
        first_samples = itertools.count(
            start + self.rank * self.micro_batch_size, self.world_size * self.micro_batch_size
        )
        with closing(pieces):
            for part, rows in pieces:
                while len(rows) >= n_missing:
                    held.append(part[rows[:n_missing]])
                    yield self._pinned(held, next(first_samples))
                    rows = rows[n_missing:]
                    held, n_missing = [], self.micro_batch_size
                if len(rows):
                    held.append(part[rows])
                    n_missing -= len(rows)
                del part  # or three parts would be in memory while the next one is waited for
        if held:
            yield self._pinned(held, next(first_samples))

    def _pinned(self, samples: list[Any], first_sample: int) -> Batch:
        batch = self._make_batch(samples, first_sample)
        return batch.pin() if self.pin_memory else batch


def _ahead(items: Generator[Item, None, None], n_ahead: int) -> Generator[Item, None, None]:
    """Yields `items`, of which a thread of its own makes up to `n_ahead` before they are asked for.

    An exception in the thread is raised where its item would have come. Closing the generator ends the thread and
    closes `items`.
    """
    with closing(items), ThreadPoolExecutor(max_workers=1, thread_name_prefix="sample_stream") as thread:
        made = deque(thread.submit(next, items, None) for _ in range(n_ahead))
        try:
            while (item := made.popleft().result()) is not None:
                made.append(thread.submit(next, items, None))
                yield item
        finally:
            for future in made:
                future.cancel()
