"""Google's TensorFlow checkpoints, read without TensorFlow, which is a large thing to install for a few arrays.

A checkpoint is a "tensor bundle": `PREFIX.index` says where in `PREFIX.data-00000-of-00001` the bytes of each tensor
lie. The index is a sorted string table, as LevelDB has them: blocks of (key, value), keys without what they share with
the key before; then a block that says where the blocks are; then a footer that says where that one is. The values are
protocol buffers. Blocks and tensors carry a CRC-32C, and all are checked: nothing else would notice a flipped bit.

Sources: tensorflow/core/util/tensor_bundle, tensorflow/core/protobuf/tensor_bundle.proto, LevelDB's
doc/table_format.md.
"""

import math
import operator
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import google_crc32c
import numpy as np
import torch
from torch import Tensor

from common.errors import UserError

FOOTER_BYTES, FOOTER_MAGIC = 48, b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
BLOCK_TRAILER_BYTES = 5  # the kind of compression, which TensorFlow does not use, and the checksum
MASK_DELTA = 0xA282EAD8
CRC_CHUNK_BYTES = 2**24  # at a time, as the library takes a copy

# TensorFlow's DataType -> torch's.
DTYPES = MappingProxyType(
    {1: torch.float32, 2: torch.float64, 3: torch.int32, 9: torch.int64, 14: torch.bfloat16, 19: torch.float16}
)
OPTIMIZER_NAMES = re.compile(
    r"(^|/)(adam_[mv]|lamb_[mv]|(Adam|LAMB)(_1)?|beta[12]_power|global_step|good_steps|loss_scale)$"
    r"|^_CHECKPOINTABLE_OBJECT_GRAPH$"
)


class Entry(NamedTuple):
    """What an index says of a tensor."""

    dtype: int
    shape: tuple[int, ...]
    shard: int  # the number of its data file
    offset: int
    size: int  # in bytes
    crc32c: int  # masked
    is_sliced: bool


def read_google_weights(index: Path) -> dict[str, Tensor]:
    """The weights of Google's BERT under TensorFlow's names, without what only its optimizer needs.

    Matrices that TensorFlow multiplies from the left, its kernels, are transposed: as views, which are not contiguous.
    """
    tensors = read_tensor_bundle(index, OPTIMIZER_NAMES)
    return {name: t.T if name.endswith("/kernel") and t.dim() == 2 else t for name, t in tensors.items()}


def read_tensor_bundle(index: Path, left_out: re.Pattern | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint, on the CPU, in pages of its data files; writing to them changes no file.

    Args:
        index: `bert_model.ckpt.index`, with the data files beside it.
        left_out: what names are not read.

    Raises:
        UserError: a file is missing, cut short or damaged, or a tensor is of a kind that is not read.
    """
    n_shards, entries = _read_index(index)
    tensors, mapped = {}, {}
    for name, entry in entries.items():
        if left_out and left_out.search(name):
            continue
        dtype = DTYPES.get(entry.dtype)
        if dtype is None or entry.is_sliced:
            what = "in slices" if entry.is_sliced else f"of TensorFlow's type {entry.dtype}"
            raise UserError(f"{index}: the tensor {name} is {what}, which is not read", "convert it in TensorFlow")
        if entry.size != math.prod(entry.shape) * dtype.itemsize:
            raise UserError(
                f"{index}: the tensor {name} is said to have the shape {entry.shape} and {entry.size} bytes, which "
                "cannot be",
                "get the checkpoint again",
            )
        path = index.with_suffix(f".data-{entry.shard:05d}-of-{n_shards:05d}")
        if path not in mapped:
            mapped[path] = _mapped(path)
        content = mapped[path][entry.offset : entry.offset + entry.size]
        if len(content) < entry.size:
            raise UserError(
                f"{path} is missing or cut short: it does not hold the tensor {name} ({entry.size:,} bytes at "
                f"{entry.offset:,})",
                f"put the whole file beside {index}",
            )
        if masked_crc32c(content) != entry.crc32c:
            raise UserError(f"{path} is damaged: the checksum of the tensor {name} differs", "get the file again")
        aligned = content if entry.offset % dtype.itemsize == 0 else content.copy()
        tensor = torch.frombuffer(aligned, dtype=dtype) if entry.size else torch.empty(0, dtype=dtype)
        tensors[name] = tensor.reshape(entry.shape)
    return tensors


def _mapped(path: Path) -> np.ndarray:
    """The bytes of a file; none of one that is missing. What is written to the array never reaches the file ("c")."""
    is_there = path.is_file() and path.stat().st_size > 0  # numpy maps no empty file
    return np.asarray(np.memmap(path, np.uint8, "c")) if is_there else np.empty(0, np.uint8)


def _read_index(index: Path) -> tuple[int, dict[str, Entry]]:
    """The number of data files, and what is in them."""
    try:
        table = dict(_table(index.read_bytes()))
        header = dict(_fields(table.pop(b"")))
        if header.get(2, 0) != 0:
            raise ValueError("its numbers are big-endian")
        return operator.index(header.get(1, 0)), {name.decode(): _entry(value) for name, value in table.items()}
    except FileNotFoundError as error:
        raise UserError(f"There is no TensorFlow checkpoint here: {index} is missing.") from error
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise UserError(
            f"{index} is not the index of a TensorFlow checkpoint, or is damaged or cut short ({error})",
            "get the file again",
        ) from error


def _entry(message: bytes) -> Entry:
    fields = dict(_fields(message))
    dimensions = [dict(_fields(value)).get(1, 0) for number, value in _fields(fields.get(2, b"")) if number == 2]
    dtype, shard, offset, size, crc32c = (operator.index(fields.get(number, 0)) for number in (1, 3, 4, 5, 6))
    return Entry(dtype, tuple(map(operator.index, dimensions)), shard, offset, size, crc32c, is_sliced=7 in fields)


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a sorted string table."""
    footer = data[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or not footer.endswith(FOOTER_MAGIC):
        raise ValueError("it does not end as such files end")
    (_, _, *index_block), _ = _varints(footer, 0, 4)
    for _, handle in _block(data, *index_block):
        yield from _block(data, *_varints(handle, 0, 2)[0])


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values in a block."""
    block, trailer = data[offset : offset + size], data[offset + size : offset + size + BLOCK_TRAILER_BYTES]
    compression, checksum = struct.unpack("<BI", trailer)
    if compression or masked_crc32c(np.frombuffer(block + trailer[:1], np.uint8)) != checksum:
        raise ValueError(f"the checksum of the block at byte {offset} differs")
    (n_restarts,) = struct.unpack("<I", block[-4:])
    end, at, key = size - 4 * (n_restarts + 1), 0, b""
    while at < end:
        (n_shared, n_own, n_value), at = _varints(block, at, 3)
        if n_shared > len(key) or at + n_own + n_value > end:
            raise ValueError("an entry leaves its block")
        key = key[:n_shared] + block[at : at + n_own]
        at += n_own + n_value
        yield key, block[at - n_value : at]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a protocol buffer: integers, or the bytes of strings and messages."""
    at = 0
    while at < len(message):
        (tag,), at = _varints(message, at, 1)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            (value,), at = _varints(message, at, 1)
        elif wire_type == 2:
            (length,), at = _varints(message, at, 1)
            value, at = message[at : at + length], at + length
        elif wire_type == 5:
            value, at = int.from_bytes(message[at : at + 4], "little"), at + 4
        else:
            raise ValueError(f"a message has a field of the unknown kind {wire_type}")
        if at > len(message):
            raise ValueError("a message is cut short")
        yield number, value


def _varints(data: bytes, at: int, n: int) -> tuple[list[int], int]:
    """n numbers from a place on, seven bits a byte and the lowest first, and the place behind them."""
    numbers, number, shift = [], 0, 0
    while len(numbers) < n:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    return numbers, at


def masked_crc32c(data: np.ndarray) -> int:
    """The CRC-32C of bytes, masked as LevelDB does it, since checksums of data with checksums in it are weak."""
    crc = 0
    for start in range(0, len(data), CRC_CHUNK_BYTES):
        crc = google_crc32c.extend(crc, data[start : start + CRC_CHUNK_BYTES].tobytes())
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF
