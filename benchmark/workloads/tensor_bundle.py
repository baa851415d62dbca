"""Writes a TensorFlow checkpoint tensor by tensor, so that one of any size takes little memory.

pretrained/tensorflow.py reads it and describes the format. The index has all keys in one block, none shortened.
"""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from pretrained.tensorflow import FOOTER_BYTES, FOOTER_MAGIC, masked_crc32c

DATA_TYPES = MappingProxyType({"float32": 1, "int64": 9})  # TensorFlow's
HEADER = b"\x08\x01\x1a\x02\x08\x01"  # one data file, little-endian, version 1


def write_tensor_bundle(prefix: Path, tensors: Iterable[tuple[str, np.ndarray]]) -> int:
    """Write PREFIX.data-00000-of-00001 and PREFIX.index; returns the bytes of the former.

    Args:
        tensors: names and arrays of float32 or int64, each looked at once.
    """
    entries, offset = [(b"", HEADER)], 0
    with open(f"{prefix}.data-00000-of-00001", "wb") as data:
        for name, array in tensors:
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            entries.append((name.encode(), _entry(array, offset, masked_crc32c(content))))
            data.write(content)
            offset += len(content)
    Path(f"{prefix}.index").write_bytes(_table(sorted(entries)))
    return offset


def _entry(array: np.ndarray, offset: int, crc32c: int) -> bytes:
    shape = b"".join(_field(2, _field(1, n)) for n in array.shape)
    where = _field(4, offset) + _field(5, array.nbytes)
    checksum = b"\x35" + struct.pack("<I", crc32c)  # field 6, of four bytes
    return _field(1, DATA_TYPES[str(array.dtype)]) + _field(2, shape) + where + checksum


def _field(number: int, value: int | bytes) -> bytes:
    """Of a protocol buffer."""
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(value)


def _table(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A sorted string table: a block of pairs, one of nothing, one that says where the first is, and the footer."""
    table = b""

    def add(block_pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
        """Returns the block's handle."""
        nonlocal table
        block = b"".join(
            _varint(0) + _varint(len(key)) + _varint(len(value)) + key + value for key, value in block_pairs
        )
        block += struct.pack("<II", 0, 1)  # one place to start reading from
        handle = _varint(len(table)) + _varint(len(block))
        block += b"\0"  # not compressed
        table += block + struct.pack("<I", masked_crc32c(np.frombuffer(block, np.uint8)))
        return handle

    first, nothing = add(pairs), add([])
    index = add([(pairs[-1][0], first)])
    return table + (nothing + index).ljust(FOOTER_BYTES - len(FOOTER_MAGIC), b"\0") + FOOTER_MAGIC


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])
