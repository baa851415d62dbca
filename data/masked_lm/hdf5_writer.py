"""Blocks of training instances into one HDF5 file, which is whole or absent.

The HDF5 library does not survive a full disk: it cannot close the file any more, and the process crashes later, often
without a word. So it writes through a Python file that keeps the first failure and writes nothing after it; the failure
is raised once the library has closed its file. (Building the file in memory would do as well, but takes the memory.)
"""

import contextlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import IO

import h5py
import numpy as np

from data.artifacts.manifest import FileRecord
from data.masked_lm.instances import Instances
from file_utils import atomic_write

ROWS_PER_CHUNK = 1024

# The name on the command line -> h5py's. NVIDIA's files are gzip; every h5py reads lzf, other HDF5 readers may not.
COMPRESSIONS = MappingProxyType({"gzip": "gzip", "lzf": "lzf", "none": None})


class _FailureKeeper(io.RawIOBase):
    """What h5py needs of a binary file. The first failure to write is kept, and nothing is written after it."""

    def __init__(self, file: IO[bytes]):
        super().__init__()
        self._file = file
        self.failure: OSError | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer)

    def write(self, data: memoryview) -> int:
        left = memoryview(data).cast("B")
        with self._keep_failure():
            while left and self.failure is None:
                left = left[self._file.write(left) :]
        return len(data)

    def truncate(self, size: int) -> int:
        with self._keep_failure():
            if self.failure is None:
                self._file.truncate(size)
        return size

    @contextlib.contextmanager
    def _keep_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error


def write_instances(path: Path, n_rows: int, blocks: Iterable[Instances], compression: str) -> FileRecord:
    """Write `n_rows` rows, which come in blocks, to the HDF5 file `path`.

    Args:
        compression: a key of COMPRESSIONS.

    Returns:
        size, hash and the counts rows, tokens (special ones too) and masked.

    Raises:
        OSError: with `path`, if the disk is full; whatever was there before is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    n_written = n_tokens = n_masked = 0
    with atomic_write(path, "w+b", buffering=0) as file:
        keeper = _FailureKeeper(file)
        with h5py.File(keeper, "w") as hdf5:
            datasets: dict[str, h5py.Dataset] = {}
            for block in blocks:
                _append(hdf5, datasets, block, n_rows, n_written, compression)
                n_written += len(block.input_ids)
                n_tokens += int(np.count_nonzero(block.input_mask))
                n_masked += int(np.count_nonzero(block.masked_lm_positions))
                if keeper.failure:
                    break
            for dataset in datasets.values():
                dataset.flush()
        if keeper.failure:
            raise OSError(keeper.failure.errno, keeper.failure.strerror, str(path)) from keeper.failure
    return FileRecord.of(path, rows=n_rows, tokens=n_tokens, masked=n_masked)


def _append(
    file: h5py.File, datasets: dict[str, h5py.Dataset], block: Instances, n_rows: int, start: int, compression: str
) -> None:
    for name, rows in vars(block).items():
        # Opened once: closing one writes its chunks, and when Python closes it depends on who else looks at it, which
        # Dask's profiler does from another thread. The file's bytes are not to depend on that.
        if name not in datasets:
            shape = (n_rows, *rows.shape[1:])
            chunks = (min(n_rows, ROWS_PER_CHUNK), *rows.shape[1:])
            datasets[name] = file.create_dataset(
                name, shape, rows.dtype, chunks=chunks, compression=COMPRESSIONS[compression], track_times=False
            )
        datasets[name][start : start + len(rows)] = rows
