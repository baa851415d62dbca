"""HDF5 shards, ours or NVIDIA's, padded or not, or LDDL's Parquet to flat batches: the stream of `stream.py` by files.

Everything that shapes and types can tell is checked for all files before any work, since reading them whole would take
minutes; what only the contents can tell is checked once per file, when it is read. That is done in a background thread,
which does, because reading HDF5 releases Python's lock.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import Problems, UserError
from data.loading.flat_batch import PaddedSamples, PretrainingBatch, flatten
from data.loading.lddl.files import lddl_files
from data.loading.lddl.shards import LddlShards
from data.loading.masking import DynamicMasking
from data.loading.prepared import check_shards, prepared_shards
from data.loading.shard_files import REMAKE, datasets_of, open_shard
from data.loading.stream import SampleStream
from data.loading.varlen.shards import VarlenShards
from data.masked_lm.instances import DATASETS


class PretrainingDataset(SampleStream[PretrainingBatch]):
    """Micro-batches for one rank out of pre-training shards.

    Args:
        input_dir_or_files: a folder with shards (see `prepared_shards`, or `LddlShards`), or HDF5 shards themselves.
        micro_batch_size, seed, rank, world_size: see `BatchStream`.
        max_seq_length, max_predictions_per_seq: S and P, the widths of padded rows, and the most that others may have.
        vocab_size: if given, larger ids are refused, file by file as they are read.
        vocab_file: the vocabulary of LDDL's shards.
        masking: how rows are masked anew; without it they keep the masks that they have.
        n_predictions: how many masked positions the rows may have in the files; None: P, of rows without padding at
            most P.
        split: the HDF5 shards to take from a folder, "training" or "test".
        num_workers: 0 reads files and makes batches in the calling thread, any other number in the background.
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
        vocab_file: str | None = None,
        masking: DynamicMasking | None = None,
        n_predictions: range | None = None,
        split: str = "training",
        num_workers: int = 1,
    ) -> None:
        problems = Problems()
        super().__init__(micro_batch_size, seed, rank, world_size, problems)
        problems.check(num_workers >= 0, f"--num_workers {num_workers} is negative", "give 0 or more")
        n_predictions = n_predictions or range(max_predictions_per_seq, max_predictions_per_seq + 1)
        self._shards: LddlShards | VarlenShards | None = None  # of rows without padding
        is_folder = isinstance(input_dir_or_files, str | os.PathLike)
        if is_folder and lddl_files(Path(input_dir_or_files)):
            rows = max_seq_length, n_predictions, masking is None
            self._shards = LddlShards(Path(input_dir_or_files), vocab_file, *rows, problems)
            self.files = self._shards.files
        elif is_folder:
            self.files = prepared_shards(Path(input_dir_or_files), split, problems)
        else:
            self.files = [Path(file) for file in input_dir_or_files]
            problems.check(self.files, "The list of .hdf5 files is empty", "name at least one")
        if self._shards is None and self.files and (wanted := datasets_of(self.files[0])) is not DATASETS:
            rows = max_seq_length, n_predictions, vocab_size, masking
            self._shards = VarlenShards(self.files, wanted, *rows, problems)
        if self._shards is None:
            self.rows_per_file = check_shards(self.files, max_seq_length, n_predictions, problems)
        else:
            self.rows_per_file = self._shards.rows_per_file
        problems.raise_if_any()
        self._rows_per_part = self._shards.rows_per_part if self._shards else self.rows_per_file

        self.n_samples = int(self.rows_per_file.sum())
        needed = micro_batch_size * world_size if split == "training" else 1
        problems.check(
            self.n_samples >= needed,
            f"The {len(self.files)} files in {self.files[0].parent} hold {self.n_samples} samples, and one "
            f"micro-batch on all ranks takes {needed}",
            "make more data or take a smaller batch",
        )
        problems.raise_if_any()
        self.source = str(self.files[0].parent)
        self.vocab_size = vocab_size
        self.masking = masking
        if masking:
            self.reading = str(masking)
        self.num_workers = num_workers

    def _order(self, epoch: int | None) -> Iterator[tuple[int, np.ndarray]]:
        if epoch is None:
            yield from enumerate(map(np.arange, self._rows_per_part))
            return
        for part in np.random.default_rng([self.seed, epoch]).permutation(len(self._rows_per_part)):
            yield part, np.random.default_rng([self.seed, epoch, part]).permutation(self._rows_per_part[part])

    def _read(self, part: int, rows: np.ndarray) -> tuple[Any, np.ndarray]:
        if self._shards:
            return self._shards.read(part, rows)
        samples = read_shard(self.files[part], self.vocab_size)
        if self.masking:
            self.masking.check(samples, self.files[part])
        return samples, rows

    def _lengths(self, part: int, rows: np.ndarray) -> np.ndarray:
        return (self._shards.lengths(part) if self._shards else read_lengths(self.files[part]))[rows]

    def _make_batch(self, samples: list[PaddedSamples], places: np.ndarray, first_sample: int) -> PretrainingBatch:
        together = PaddedSamples.concatenate(samples)
        if self.masking:
            together = self.masking.mask(together, places)
        return flatten(together, self.micro_batch_size, first_sample)


def read_shard(file: Path, vocab_size: int | None = None) -> PaddedSamples:
    """Reads a whole shard, of any integer types; raises UserError where it holds what cannot be.

    Masked positions are padded with zeros, as 0 is [CLS], which is never masked.
    """
    values = _read_datasets(file, DATASETS)
    n_ids = 2**31 if vocab_size is None else vocab_size
    limits = {"input_ids": n_ids, "masked_lm_ids": n_ids, "segment_ids": 2, "next_sentence_labels": 2}
    for name, limit in limits.items():
        least, most = values[name].min(initial=0), values[name].max(initial=0)
        if least < 0 or most >= limit:
            raise UserError(
                f"{file} holds {least if least < 0 else most} in {name}, which takes 0 to {limit - 1}",
                f"give the --vocab_file and --config_file it was made with, or {REMAKE}",
            )

    mask, positions = values["input_mask"], values["masked_lm_positions"]
    lengths = np.count_nonzero(mask, axis=1)
    n_masked = np.count_nonzero(positions, axis=1)
    is_real = np.arange(mask.shape[1]) < lengths[:, None]
    is_masked = np.arange(positions.shape[1]) < n_masked[:, None]
    is_outside = (positions < 0) | (positions >= lengths[:, None])
    for name, wrong, what in (
        ("input_mask", (mask != is_real).any(axis=1) | (lengths == 0), "is not ones followed by zeros"),
        (
            "masked_lm_positions",
            ((positions != 0) != is_masked).any(axis=1) | is_outside.any(axis=1),
            "has a zero before a position, or a position outside its sequence",
        ),
    ):
        if wrong.any():
            raise UserError(f"Row {wrong.argmax()} of {name} in {file} {what}", REMAKE)

    return PaddedSamples(
        input_ids=values["input_ids"].astype(np.int32, copy=False),
        segment_ids=values["segment_ids"].astype(np.int8, copy=False),
        lengths=lengths.astype(np.int32),
        masked_lm_positions=positions.astype(np.int32, copy=False),
        masked_lm_ids=values["masked_lm_ids"].astype(np.int32, copy=False),
        n_masked=n_masked.astype(np.int32),
        next_sentence_labels=values["next_sentence_labels"].astype(np.int8, copy=False),
    )


def read_lengths(file: Path) -> np.ndarray:
    """(n,) int64: the tokens of a shard's rows, which are not checked yet; raises UserError where it cannot be read."""
    (mask,) = _read_datasets(file, ["input_mask"]).values()
    return np.count_nonzero(mask, axis=1)


def _read_datasets(file: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    try:
        with open_shard(file) as datasets:
            return {name: datasets[name][:] for name in names}
    except UserError:
        raise
    except Exception as error:  # there is hardly one that no damaged file makes h5py raise
        raise UserError(f"{file} cannot be read ({error})", REMAKE) from error
