"""Vectors of integers as `np.save` writes them, thousands at once.

LDDL keeps each row's masked positions as a .npy file in a cell. `np.load` takes longer for one than all else of a row
takes. But vectors of one length have one header: so headers are compared, and `np.load` gets what differs.
"""

import io

import numpy as np

from data.loading.token_rows import indices_of_ranges

HEADER = 128  # bytes before the values, for vectors of up to some 10 ** 20 values
USUAL, USUAL_BYTES = "<u2", 2


class VectorError(ValueError):
    """Which vector, by its index, is what instead."""

    def __init__(self, index: int, what: str) -> None:
        super().__init__(index, what)
        self.index, self.what = index, what


def read_vectors(offsets: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of all vectors, (values,) int64, and their lengths, (n,) int64.

    Args:
        offsets: (n + 1,) int64: vector i is data[offsets[i]:offsets[i + 1]].
        data: (bytes,) uint8.

    Raises:
        VectorError: the first that is no vector of integers.
    """
    sizes = np.diff(offsets)
    lengths = (sizes - HEADER) // USUAL_BYTES
    if _are_usual(data, offsets[:-1], sizes, lengths):
        values = data[indices_of_ranges(offsets[:-1] + HEADER, lengths * USUAL_BYTES)]
        return values.view(USUAL).astype(np.int64), lengths
    vectors = [_load(i, data[offsets[i] : offsets[i + 1]].tobytes()) for i in range(len(sizes))]
    return np.concatenate(vectors), np.array([len(vector) for vector in vectors])


def _are_usual(data: np.ndarray, starts: np.ndarray, sizes: np.ndarray, lengths: np.ndarray) -> bool:
    if (sizes < HEADER).any() or (sizes % USUAL_BYTES).any():
        return False
    known, which = np.unique(lengths, return_inverse=True)
    headers = [_header(length) for length in known.tolist()]
    if {len(header) for header in headers} != {HEADER}:
        return False
    wanted = np.stack([np.frombuffer(header, dtype=np.uint8) for header in headers])[which]
    return bool((data[starts[:, None] + np.arange(HEADER)] == wanted).all())


def _header(length: int) -> bytes:
    file = io.BytesIO()
    description = {"descr": USUAL, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()


def _load(index: int, content: bytes) -> np.ndarray:
    try:
        vector = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # there is hardly one that no damaged header makes numpy raise
        raise VectorError(index, f"no .npy bytes ({str(error).partition(chr(10))[0] or 'they are cut'})") from error
    if not isinstance(vector, np.ndarray) or vector.ndim != 1 or vector.dtype.kind not in "iu":
        raise VectorError(index, "no vector of integers")
    return vector.astype(np.int64)
