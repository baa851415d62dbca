"""The HDF5 files of a folder: which are training and which test data, and the one way to open them.

HDF5 can keep data outside of its file, where neither a manifest nor a checksum covers them, declare more than it holds,
and have a plugin of the machine unpack it. Such a file is refused by name, before anything of it is read.
"""

import contextlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from common.errors import Problem, UserError
from common.json_files import regular
from common.words import counted
from data.artifacts.layout import SPLITS
from data.masked_lm.instances import DATASETS

RAGGED = 0  # in place of a number of dimensions: each row has a length of its own
VARLEN = MappingProxyType(
    {
        **dict.fromkeys(("input_ids", "segment_ids", "masked_lm_positions", "masked_lm_ids"), RAGGED),
        "next_sentence_labels": 1,
    }
)
"""The datasets of NVIDIA's shards for MLPerf: a row has no padding, and so no mask."""
PACKED = MappingProxyType(dict.fromkeys((*VARLEN, "packed_input_len", "packed_masked_lm_len"), RAGGED))
"""The same with a few samples in a row, one after the other."""
NVIDIA_NAME = re.compile(
    r"part_\d+(_of_\d+)?(\.hdf)?"
)  # of shuffled and packed shards, which end otherwise or not at all
REMAKE = "get it again, or make it again with data/bertPrep.py --action create_hdf5_files"
SPLIT_OF_WORD = MappingProxyType({"training": "training", "train": "training", "test": "test"})
# Deflate, shuffle, Fletcher32, szip, n-bit and scale-offset are HDF5's own, and LZF is h5py's.
FILTERS = frozenset((1, 2, 3, 4, 5, 6, 32000))
# Real rows are packed to a tenth, padded ones to a fiftieth. Small files may declare more, as they do little harm.
MAX_EXPANSION, HARMLESS_BYTES = 200, 2**30


def shard_files(folder: Path, kind: str = "hdf5") -> list[Path]:
    """The files of a kind in a folder, by name, without hidden ones; the case of the ending does not matter.

    HDF5 shards of NVIDIA's have other endings too: part_00000_of_04320.hdf, part_00000.
    """
    found = {path for path in folder.glob("[!.]*") if path.suffix.lower() == f".{kind}"}
    if kind == "hdf5":
        found |= {path for path in folder.glob("part_*") if NVIDIA_NAME.fullmatch(path.name)}
    return sorted(found)


def datasets_of(path: Path) -> Mapping[str, int]:
    """The datasets that a file should have, by which of them it has: DATASETS, VARLEN or PACKED.

    What cannot be read counts as DATASETS: `open_shard` tells of it.
    """
    try:
        with h5py.File(regular(path), "r") as file:
            if "packed_input_len" in file:
                return PACKED
            is_ragged = "input_mask" not in file and h5py.check_vlen_dtype(file["input_ids"].dtype) is not None
            return VARLEN if is_ragged else DATASETS
    except Exception:  # there is hardly one that no damaged file makes h5py raise
        return DATASETS


def splits_of(files: Sequence[Path]) -> dict[Path, str]:
    """The split that a word in each file's name says, as in `wiki_training_0.hdf5`; "all" where it says none, or both.

    Of a name with both words the one counts that is not in the beginning of all names, as of a corpus called `test`.
    """
    names = sorted(file.name for file in files) or [""]
    pairs = zip(names[0], names[-1], strict=False)
    common = "".join(one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    beginning = re.match(r"(.*[^a-zA-Z])?", common)[0]
    return {file: _split_of(file.name, beginning) for file in files}


def _split_of(name: str, beginning: str) -> str:
    for part in (name, name.removeprefix(beginning)):
        found = {SPLIT_OF_WORD[word] for word in re.split(r"[^a-z]+", part.lower()) if word in SPLIT_OF_WORD}
        if len(found) == 1:
            return found.pop()
    return "all"


def naming_problem(files: Sequence[Path]) -> Problem | None:
    """Which files' names leave open whether they are trained on; None where all are told apart, or none is."""
    splits = splits_of(files)
    unclear = [file for file in files if splits[file] == "all"]
    parts = {(("train" in name), ("test" in name)) for name in (file.name.lower() for file in unclear)}
    if {(True, False), (False, True)} <= parts:
        return Problem(
            f"The files in {files[0].parent} have 'train' and 'test' in their names as parts of longer words",
            "rename them so that 'training' and 'test' are words, as in wiki_training_0.hdf5",
        )
    if not unclear or len({*splits.values()}) == 1:
        return None
    words = " nor ".join(repr(split) for split in SPLITS)
    return Problem(
        f"{unclear[0]} has neither the word {words} in its name, or both, and other files beside it have one "
        f"({counted(len(unclear), 'such file')})",
        "rename or move it, so that it is known whether it is trained on",
    )


@contextlib.contextmanager
def open_shard(path: Path, wanted: Mapping[str, int] = DATASETS, **options: Any) -> Iterator[dict[str, h5py.Dataset]]:
    """The `wanted` datasets of a shard by name, all of which lie in the file as a whole; `options` are h5py.File's.

    Raises:
        UserError: it is no such file; the problem begins with its path.
    """
    try:
        file = h5py.File(regular(path), "r", **options)
    except OSError as error:
        raise UserError(f"{path} cannot be read as HDF5 ({error.strerror or error})", REMAKE) from error
    with file:
        try:
            fault = next(filter(None, (_fault(file, *described) for described in wanted.items())), None)
            datasets = {} if fault else {name: file[name] for name in wanted}
            declared = sum(math.prod(values.shape) * values.dtype.itemsize for values in datasets.values())
        except Exception as error:  # there is hardly one that no damaged file makes h5py raise
            raise UserError(f"{path} cannot be read as HDF5 ({error})", REMAKE) from error
        if fault:
            raise UserError(f"{path} {fault}", f"give other shards, or {REMAKE}")
        if declared > max(HARMLESS_BYTES, MAX_EXPANSION * path.stat().st_size):
            raise UserError(f"{path} declares more rows than a file of its size holds", REMAKE)
        yield datasets


def _fault(file: h5py.File, name: str, n_dimensions: int) -> str | None:
    """Why a dataset is none of a shard's, as the end of a sentence that starts with the file's name."""
    if isinstance(file.get(name, getlink=True), h5py.SoftLink | h5py.ExternalLink):
        return f"holds a link in place of the dataset {name}"
    values = file.get(name)
    if not _is_of_integers(values, n_dimensions):
        shape = "rows of any lengths" if n_dimensions == RAGGED else f"{n_dimensions} dimensions"
        return f"has no dataset {name} of integers in {shape}"
    how = values.id.get_create_plist()
    if values.is_virtual or how.get_external_count():
        return f"keeps {name} in other files, which nothing vouches for"
    filters = {how.get_filter(index)[0] for index in range(how.get_nfilters())}
    if filters - FILTERS:
        return f"has {name} packed by the filter {min(filters - FILTERS)}, which takes a plugin of HDF5"
    if not _is_whole(values):
        return f"declares {len(values):,} rows of {name} and does not hold them all"
    return None


def _is_of_integers(values: object, n_dimensions: int) -> bool:
    if not isinstance(values, h5py.Dataset):
        return False
    of_row = h5py.check_vlen_dtype(values.dtype)
    if n_dimensions == RAGGED:
        return values.ndim == 1 and isinstance(of_row, np.dtype) and of_row.kind in "iu"
    return values.ndim == n_dimensions and values.dtype.kind in "iu"


def _is_whole(values: h5py.Dataset) -> bool:
    """Whether every part of a dataset was written."""
    if values.chunks is None:
        return values.id.get_storage_size() == math.prod(values.shape) * values.id.get_type().get_size()
    parts = zip(values.shape, values.chunks, strict=True)
    return values.id.get_num_chunks() == math.prod(-(-n // width) for n, width in parts)
