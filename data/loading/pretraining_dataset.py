"""HDF5 shards to flat batches, in one endless, reproducible stream.

All samples of all epochs form one sequence that follows from the seed and the files alone: epoch e is a permutation of
the files, and within each file a permutation of its rows. Epochs follow each other without a gap and micro-batches
cross the borders of files, so that every sample is read exactly once per epoch, whatever the numbers of files, rows
and ranks. A position in the data is therefore one integer, the samples consumed by all ranks together, and to resume
there only the row counts and the permutations are needed.

Two background threads keep ahead of the consumer: one reads the next file while the other cuts batches out of the
current one, so that two files at most are in memory. Threads do, because reading HDF5 releases Python's lock.
"""

import itertools
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from common.errors import Problems
from data.loading.flat_batch import PaddedSamples, PretrainingBatch, flatten
from data.loading.hdf5_shards import check_shards, read_shard
from data.loading.prepared import prepared_shards

Item = TypeVar("Item")
Piece = tuple[PaddedSamples, np.ndarray]  # a file, and the rows of it that come next

BATCHES_AHEAD = 8
FILES_AHEAD = 1


class PretrainingDataset:
    """Micro-batches for one rank out of pre-training shards, ours or NVIDIA's.

    The global micro-batch k is the samples [k * B * world_size, (k + 1) * B * world_size) of the stream; rank r takes
    the r-th B of them.

    Args:
        input_dir_or_files: a folder with shards (see `prepared_shards`), or the shards themselves.
        micro_batch_size: B, sequences per batch and rank.
        max_seq_length: S, the length of the files' rows.
        max_predictions_per_seq: P, the width of the files' masked positions.
        seed: of the order of the samples; not negative.
        rank, world_size: this process among those that share the stream.
        vocab_size: if given, larger ids are refused, file by file as they are read.
        split: the shards to take from a folder, "training" or "test".
        num_workers: 0 reads files and makes batches in the calling thread, any other number in the background.
        pin_memory: page-locked batches; by default if there is a GPU.

    Raises:
        UserError: all that is wrong with the arguments and with the files' names, shapes and types; while iterating,
            what is wrong inside a file.
    """

    def __init__(
        self,
        input_dir_or_files: str | os.PathLike | Sequence[str | os.PathLike],
        micro_batch_size: int,
        max_seq_length: int,
        max_predictions_per_seq: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        *,
        vocab_size: int | None = None,
        split: str = "training",
        num_workers: int = 1,
        pin_memory: bool | None = None,
    ) -> None:
        problems = Problems()
        problems.check(micro_batch_size >= 1, f"The micro-batch holds {micro_batch_size} sequences", "take at least 1")
        problems.check(seed >= 0, f"The seed {seed} is negative", "give 0 or more")
        problems.check(num_workers >= 0, f"--num_workers {num_workers} is negative", "give 0 or more")
        problems.check(0 <= rank < world_size, f"Rank {rank} is not among the {world_size} ranks, counted from 0.")
        if isinstance(input_dir_or_files, str | os.PathLike):
            self.files = prepared_shards(Path(input_dir_or_files), split, problems)
        else:
            self.files = [Path(file) for file in input_dir_or_files]
            problems.check(bool(self.files), "The list of .hdf5 files is empty", "name at least one")
        self.rows_per_file = check_shards(self.files, max_seq_length, max_predictions_per_seq, problems)
        problems.raise_if_any()

        self.n_samples = int(self.rows_per_file.sum())
        needed = micro_batch_size * world_size if split == "training" else 1
        problems.check(
            self.n_samples >= needed,
            f"The {len(self.files)} .hdf5 files in {self.files[0].parent} hold {self.n_samples} samples, and one "
            f"micro-batch on all ranks takes {needed}",
            "make more data or take a smaller batch",
        )
        problems.raise_if_any()

        self.source = str(self.files[0].parent)
        self.micro_batch_size = micro_batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.vocab_size = vocab_size
        self.num_workers = num_workers
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory

    def epoch(self, position: int) -> int:
        """Returns the epoch, from 0, of the stream's sample at `position`."""
        return position // self.n_samples

    @contextmanager
    def iterate(self, start_sample: int = 0) -> Iterator[Iterator[PretrainingBatch]]:
        """Context of an endless iterator over this rank's batches from `start_sample` of the stream on.

        Each batch takes micro_batch_size * world_size samples of the stream. Leaving the context ends the threads.
        """
        with closing(self._batches(self._training_pieces(start_sample), start_sample)) as batches:
            yield batches

    @contextmanager
    def evaluation_batches(self) -> Iterator[Iterator[PretrainingBatch]]:
        """Context of one pass over all samples in the order of the files.

        The last batch may hold fewer sequences, and on some of several ranks be missing.
        """
        with closing(self._batches(self._evaluation_pieces(), 0)) as batches:
            yield batches

    def _batches(self, pieces: Generator[Piece, None, None], start: int) -> Generator[PretrainingBatch, None, None]:
        if self.num_workers == 0:
            return self._cut(pieces, start)
        return _ahead(self._cut(_ahead(pieces, FILES_AHEAD), start), BATCHES_AHEAD)

    def _cut(self, pieces: Generator[Piece, None, None], start: int) -> Generator[PretrainingBatch, None, None]:
        """Yields batches of B rows, across the borders of the pieces; what is left at their end is the last one."""
        held: list[PaddedSamples] = []
        n_missing = self.micro_batch_size
        first_samples = itertools.count(
            start + self.rank * self.micro_batch_size, self.world_size * self.micro_batch_size
        )
        with closing(pieces):
            for shard, rows in pieces:
                while len(rows) >= n_missing:
                    held.append(shard.take(rows[:n_missing]))
                    yield self._batch(held, next(first_samples))
                    rows = rows[n_missing:]
                    held, n_missing = [], self.micro_batch_size
                if len(rows):
                    held.append(shard.take(rows))
                    n_missing -= len(rows)
                del shard  # or three files would be in memory while the next one is waited for
        if held:
            yield self._batch(held, next(first_samples))

    def _batch(self, parts: list[PaddedSamples], first_sample: int) -> PretrainingBatch:
        batch = flatten(PaddedSamples.concatenate(parts), self.micro_batch_size, first_sample)
        return batch.pin() if self.pin_memory else batch

    def _training_pieces(self, start_sample: int) -> Generator[Piece, None, None]:
        n_skipped = start_sample % self.n_samples
        n_seen = 0
        for epoch in itertools.count(self.epoch(start_sample)):
            for file in np.random.default_rng([self.seed, epoch]).permutation(len(self.files)):
                n_rows = self.rows_per_file[file]
                if n_skipped >= n_rows:
                    n_skipped -= n_rows
                    continue
                rows = np.random.default_rng([self.seed, epoch, file]).permutation(n_rows)[n_skipped:]
                n_skipped = 0
                yield from self._piece(file, rows, n_seen)
                n_seen += len(rows)

    def _evaluation_pieces(self) -> Generator[Piece, None, None]:
        n_seen = 0
        for file, n_rows in enumerate(self.rows_per_file):
            yield from self._piece(file, np.arange(n_rows), n_seen)
            n_seen += n_rows

    def _piece(self, file: int, rows: np.ndarray, n_seen: int) -> Iterator[Piece]:
        """Yields the file with this rank's share of `rows`, which come after `n_seen` others, if it has any."""
        rank_of_row = (n_seen + np.arange(len(rows))) // self.micro_batch_size % self.world_size
        rows = rows[rank_of_row == self.rank]
        if len(rows):
            yield read_shard(self.files[file], self.vocab_size), rows


def _ahead(items: Generator[Item, None, None], n_ahead: int) -> Generator[Item, None, None]:
    """Yields `items`, of which a thread of its own makes up to `n_ahead` before they are asked for.

    An exception in the thread is raised where its item would have come. Closing the generator ends the thread and
    closes `items`.
    """
    with closing(items), ThreadPoolExecutor(max_workers=1, thread_name_prefix="pretraining_dataset") as thread:
        made = deque(thread.submit(next, items, None) for _ in range(n_ahead))
        try:
            while (item := made.popleft().result()) is not None:
                made.append(thread.submit(next, items, None))
                yield item
        finally:
            for future in made:
                future.cancel()
