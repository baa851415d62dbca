"""HDF5 shards to flat batches: the stream of `data/loading/stream.py`, whose parts are files.

They are read in a background thread, which does, because reading HDF5 releases Python's lock.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.errors import Problems
from data.loading.flat_batch import PaddedSamples, PretrainingBatch, flatten
from data.loading.hdf5_shards import check_shards, read_shard
from data.loading.prepared import prepared_shards
from data.loading.stream import SampleStream


class PretrainingDataset(SampleStream[PretrainingBatch]):
    """Micro-batches for one rank out of pre-training shards, ours or NVIDIA's.

    Args:
        input_dir_or_files: a folder with shards (see `prepared_shards`), or the shards themselves.
        micro_batch_size, seed, rank, world_size, pin_memory: see `BatchStream`.
        max_seq_length: S, the length of the files' rows.
        max_predictions_per_seq: P, the width of the files' masked positions.
        vocab_size: if given, larger ids are refused, file by file as they are read.
        split: the shards to take from a folder, "training" or "test".
        num_workers: 0 reads files and makes batches in the calling thread, any other number in the background.

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
        super().__init__(micro_batch_size, seed, rank, world_size, pin_memory, problems)
        problems.check(num_workers >= 0, f"--num_workers {num_workers} is negative", "give 0 or more")
        if isinstance(input_dir_or_files, str | os.PathLike):
            self.files = prepared_shards(Path(input_dir_or_files), split, problems)
        else:
            self.files = [Path(file) for file in input_dir_or_files]
            problems.check(self.files, "The list of .hdf5 files is empty", "name at least one")
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
        self.vocab_size = vocab_size
        self.num_workers = num_workers

    def _order(self, epoch: int | None) -> Iterator[tuple[int, np.ndarray]]:
        if epoch is None:
            yield from enumerate(map(np.arange, self.rows_per_file))
            return
        for file in np.random.default_rng([self.seed, epoch]).permutation(len(self.files)):
            yield file, np.random.default_rng([self.seed, epoch, file]).permutation(self.rows_per_file[file])

    def _read(self, part: int) -> PaddedSamples:
        return read_shard(self.files[part], self.vocab_size)

    def _make_batch(self, samples: list[PaddedSamples], first_sample: int) -> PretrainingBatch:
        return flatten(PaddedSamples.concatenate(samples), self.micro_batch_size, first_sample)
