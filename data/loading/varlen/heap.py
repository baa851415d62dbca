"""Rows of any lengths out of an HDF5 file, read without the library.

HDF5 keeps such rows in a heap, and in the dataset an entry of 16 bytes for each: its length, and where in the heap it
lies. Two things make a reader of our own worth its lines. The library never returns from a heap with zeros in it, as
files that were copied in part have them. And to tell lengths it reads the rows: of a hundred million, for minutes,
where the entries take seconds.

Only what NVIDIA's scripts write is read: datasets in one piece, in files whose addresses have 8 bytes.
Source: HDF5 File Format Specification 3.0, III.E (global heap) and VIII.A (how vectors are stored).
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from common.errors import UserError

REMAKE_VARLEN = "get it again, or make it again with NVIDIA's scripts"
ENTRY = (("length", "<u4"), ("heap", "<u8"), ("index", "<u4"))
SIGNATURE, SIZE_AT, HEADER_BYTES = b"GCOL", 8, 16  # of a collection; of each object in it, a header of as many bytes
OBJECT = "<H6xQ"  # index, and size in bytes; index 0 is what is free behind them


def read_entries(values: h5py.Dataset, path: Path) -> np.ndarray:
    """(n,) ENTRY: the rows of a dataset of the file at `path`; raises UserError if it is stored in another way."""
    offset, sizes = values.id.get_offset(), values.file.id.get_create_plist().get_sizes()
    if not len(values):
        return np.zeros(0, np.dtype(list(ENTRY)))
    if offset is None or values.file.userblock_size or sizes != (8, 8):
        what = f"{path} keeps the rows of {values.name[1:]} in another way than NVIDIA's shards"
        raise UserError(what, "write it anew, without compression, chunks and user block")
    return np.fromfile(path, np.dtype(list(ENTRY)), len(values), offset=offset)


def read_heap(content: bytes, entries: np.ndarray, kind: np.dtype, name: str, path: Path) -> np.ndarray:
    """All numbers of a dataset, one row after the other.

    Args:
        content: of the file.
        kind: the type of the numbers.
        name, path: of the dataset and the file, for errors.

    Raises:
        UserError: a row is not there.
    """
    collections: dict[int, dict[int, tuple[int, int]]] = {}
    pieces, whole = [], memoryview(content)
    for row, (length, heap, index) in enumerate(entries.tolist()):
        if not length:
            continue
        if heap not in collections:
            collections[heap] = dict(_objects(content, heap))
        start, size = collections[heap].get(index, (0, 0))
        n_bytes = length * kind.itemsize
        if size < n_bytes:
            raise UserError(f"Row {row} of {path} has no {name} where the file says", REMAKE_VARLEN)
        pieces.append(whole[start : start + n_bytes])
    return np.frombuffer(b"".join(pieces), kind)


def _objects(content: bytes, start: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yields the index of each object in a collection, its first byte and its size, up to where that cannot be."""
    if content[start : start + len(SIGNATURE)] != SIGNATURE:
        return
    end = min(len(content), start + int.from_bytes(content[start + SIZE_AT : start + HEADER_BYTES], "little"))
    at = start + HEADER_BYTES
    while at + HEADER_BYTES <= end:
        index, size = struct.unpack_from(OBJECT, content, at)
        at += HEADER_BYTES
        if not index or at + size > end:
            return
        yield index, (at, size)
        at += -(-size // 8) * 8
