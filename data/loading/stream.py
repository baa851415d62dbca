"""One endless, reproducible stream of samples, of which each rank cuts its micro-batches.

Epoch e is a permutation of the data's parts (files, or one part in memory), and within each part a permutation of its
samples. Epochs follow each other without a gap and micro-batches cross the borders of parts, so every sample is used
exactly once per epoch, whatever the numbers of parts, samples and ranks. A position in the data is therefore one
integer, the samples consumed by all ranks together, and all follows from it, the seed and the data.

Micro-batch k, counted over all ranks, is one of rank k % world_size. Without dealing it is the samples k * B to
(k + 1) * B. Where micro-batches differ in tokens, ranks wait for the one that has the most, so the samples of a few
micro-batches of one optimizer step are dealt among these by length (dealing.py). That follows from the number of
micro-batches in a step and not from that of ranks, so N ranks compute what one does that accumulates N times as often.
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
from data.loading.dealing import deal, n_dealt
from data.loading.flat_batch import FlatBatch

Batch = TypeVar("Batch", bound=FlatBatch)
Item = TypeVar("Item")
Dealt = tuple[int, np.ndarray, np.ndarray]
"""A part, some of its samples, and the micro-batch of each, counted over all ranks."""
Piece = tuple[Any, np.ndarray, np.ndarray, np.ndarray]

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

    def iterate(self, start_sample: int = 0, batches_per_step: int = 1) -> AbstractContextManager[Iterator[Batch]]:
        """Context of an endless iterator over this rank's batches from `start_sample` of the stream on.

        Each batch takes micro_batch_size * world_size samples of the stream. Leaving the context ends the threads.

        Args:
            start_sample: where an optimizer step begins.
            batches_per_step: micro-batches of a step over all ranks, a multiple of `world_size` or 1. Samples are dealt
                among some of them.
        """
        return closing(self._training_batches(start_sample, n_dealt(batches_per_step)))

    @abstractmethod
    def _training_batches(self, start_sample: int, n_batches: int) -> Generator[Batch, None, None]:
        """The batches of `iterate`, where samples are dealt among `n_batches` at a time."""


class SampleStream(BatchStream[Batch]):
    """Batches of samples that lie in parts, each of which is read as a whole."""

    num_workers = 0  # any other: a thread reads the next part while another cuts batches out of the current one

    def evaluation_batches(self) -> AbstractContextManager[Iterator[Batch]]:
        """Context of one pass over all samples in a fixed order.

        The last batch may hold fewer sequences, and on some of several ranks be missing.
        """
        return closing(self._batches(self._undealt(self._order(None)), 0))

    @abstractmethod
    def _order(self, epoch: int | None) -> Iterator[tuple[int, np.ndarray]]:
        """Each part's number and its samples, in the order of an epoch; in that of an evaluation for None."""

    @abstractmethod
    def _read(self, part: int, rows: np.ndarray) -> tuple[Any, np.ndarray]:
        """Samples of a part, at least those asked for, and the places of those among them.

        `[places]` of them gives some, which do not keep the others in memory.
        """

    @abstractmethod
    def _lengths(self, part: int, rows: np.ndarray) -> np.ndarray:
        """(n,) integers: the tokens of these samples of a part."""

    @abstractmethod
    def _make_batch(self, samples: list[Any], places: np.ndarray, first_sample: int) -> Batch:
        """The batch of samples that were taken out of one or more parts.

        Args:
            places: (n,) int64, where in the stream they are, ascending.
            first_sample: where the micro-batch would begin if nothing was dealt, which is its own alone.
        """

    def _training_batches(self, start_sample: int, n_batches: int) -> Generator[Batch, None, None]:
        order = self._training_order(start_sample)
        return self._batches(self._undealt(order) if n_batches == 1 else self._dealt(order, n_batches), start_sample)

    def _training_order(self, start_sample: int) -> Iterator[tuple[int, np.ndarray]]:
        n_skipped = start_sample % self.n_samples
        for epoch in itertools.count(self.epoch(start_sample)):
            for part, rows in self._order(epoch):
                if n_skipped < len(rows):
                    yield part, rows[n_skipped:]
                n_skipped = max(0, n_skipped - len(rows))

    def _dealt(self, order: Iterator[tuple[int, np.ndarray]], n_batches: int) -> Iterator[Dealt]:
        """Each part once all its samples are dealt among `n_batches` micro-batches each time, with theirs."""
        waiting: deque[tuple[int, np.ndarray]] = deque()
        lengths, numbers = np.empty(0, np.int64), np.empty(0, np.int64)
        n_numbered = 0
        for part, rows in order:
            waiting.append((part, rows))
            lengths = np.concatenate([lengths, self._lengths(part, rows)])
            new = deal(lengths, n_batches, self.micro_batch_size) + n_numbered // self.micro_batch_size
            lengths, numbers = lengths[len(new) :], np.concatenate([numbers, new])
            n_numbered += len(new)
            while waiting and len(waiting[0][1]) <= len(numbers):
                part, rows = waiting.popleft()
                yield part, rows, numbers[: len(rows)]
                numbers = numbers[len(rows) :]

    def _undealt(self, order: Iterator[tuple[int, np.ndarray]]) -> Iterator[Dealt]:
        """Each part with the micro-batches of its samples, in the order of the stream."""
        n_seen = 0
        for part, rows in order:
            yield part, rows, (n_seen + np.arange(len(rows))) // self.micro_batch_size
            n_seen += len(rows)

    def _batches(self, dealt: Iterator[Dealt], start: int) -> Generator[Batch, None, None]:
        pieces = self._pieces(dealt, start)
        if self.num_workers == 0:
            return self._cut(pieces, start)
        return _ahead(self._cut(_ahead(pieces, PARTS_AHEAD), start), BATCHES_AHEAD)

    def _pieces(self, dealt: Iterator[Dealt], start: int) -> Generator[Piece, None, None]:
        """The parts that hold any of this rank's samples, with what `_cut` takes of them."""
        place = start
        for part, rows, numbers in dealt:
            own = np.flatnonzero(numbers % self.world_size == self.rank)
            own = own[np.argsort(numbers[own], kind="stable")]
            if len(own):
                yield *self._read(part, rows[own]), place + own, numbers[own]
            place += len(rows)

    def _cut(self, pieces: Generator[Piece, None, None], start: int) -> Generator[Batch, None, None]:
        """Yields batches of B samples, across the borders of the pieces; what is left at their end is the last one.

        A piece is samples of a part, the indices of some of them, where in the stream these are, and their
        micro-batches, which ascend. At a border, one may be whole before another that comes before it.
        """
        held: dict[int, list[tuple[Any, np.ndarray]]] = {}
        coming = self.rank
        with closing(pieces):
            for part, indices, places, numbers in pieces:
                borders = np.flatnonzero(np.diff(numbers)) + 1
                for first, end in itertools.pairwise([0, *borders.tolist(), len(numbers)]):
                    number = int(numbers[first])
                    held.setdefault(number, []).append((part[indices[first:end]], places[first:end]))
                    while sum(len(found) for _, found in held.get(coming, ())) == self.micro_batch_size:
                        yield self._pinned(held.pop(coming), start + coming * self.micro_batch_size)
                        coming += self.world_size
                del part  # or three parts would be in memory while the next one is waited for
        for number, found in held.items():
            yield self._pinned(found, start + number * self.micro_batch_size)

    def _pinned(self, found: list[tuple[Any, np.ndarray]], first_sample: int) -> Batch:
        samples, places = zip(*found, strict=True)
        batch = self._make_batch(list(samples), np.concatenate(places), first_sample)
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
