"""Google's TensorFlow checkpoints, read without TensorFlow.

The first BERTs, and many since, exist as TensorFlow checkpoints only, and TensorFlow is a large thing to install in
order to read a few arrays. The format is public and small. A checkpoint is a "tensor bundle": `PREFIX.index` says what
the tensors are and where, `PREFIX.data-00000-of-00001` holds their bytes, one after the other.

The index is a sorted string table, as LevelDB has them: blocks of (key, value), keys without what they share with the
key before; then a block that says where the blocks are; then a footer that says where that one is. The values are
protocol buffers of a few fields each. Blocks and tensors carry a CRC-32C, and all of them are checked: nothing else
would notice a flipped bit.

Tensors are mapped from the data files, not copied.

Sources: tensorflow/core/util/tensor_bundle, tensorflow/core/protobuf/tensor_bundle.proto, LevelDB's
doc/table_format.md.
"""

import math
import os
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

FOOTER_BYTES = 48
FOOTER_MAGIC = 0xDB4775248B80FB57
BLOCK_TRAILER_BYTES = 5  # the kind of compression, and the checksum
MASK_DELTA = 0xA282EAD8

# TensorFlow's DataType -> numpy's. bfloat16, which numpy has not, is read as the integers of its bits.
BFLOAT16 = 14
DTYPES = MappingProxyType({1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64, BFLOAT16: np.int16, 19: np.float16})

CRC_CHUNK_BYTES = 2**24  # at a time, as the library takes a copy


class BundleEntry(NamedTuple):
    """What an index says of a tensor; `crc32c` is masked, as it is stored. `n_slices` is 0 unless it is partitioned."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc32c: int
    n_slices: int


class TensorBundle:
    """A TensorFlow checkpoint: `entries`, name -> BundleEntry, in the order of the names, and `read`.

    Args:
        prefix: what its files have in common: `bert_model.ckpt` of `bert_model.ckpt.index`.

    Raises:
        UserError: there is no index, or it is damaged or none.
    """

    def __init__(self, prefix: str | os.PathLike):
        self.prefix = Path(prefix)
        self.index = Path(f"{self.prefix}.index")
        if not self.index.is_file():
            raise UserError(f"There is no TensorFlow checkpoint {self.prefix}: {self.index} is missing.")
        try:
            table = dict(_table(self.index.read_bytes()))
            self.n_shards = _n_shards(table.pop(b""))
            self.entries = {name.decode(): _bundle_entry(value) for name, value in table.items()}
        except (IndexError, KeyError, ValueError, struct.error) as error:
            raise UserError(
                f"{self.index} is not the index of a TensorFlow checkpoint, or is damaged or cut short ({error})",
                "get the file again",
            ) from error
        self._shards: dict[int, np.ndarray] = {}

    def shard_path(self, shard: int) -> Path:
        """The data file of that number, from 0."""
        return Path(f"{self.prefix}.data-{shard:05d}-of-{self.n_shards:05d}")

    def read(self, name: str) -> Tensor:
        """The tensor of that name, on the CPU, in pages of the data file; writing to it does not change the file.

        Raises:
            UserError: its data file is missing, cut short or damaged, or it is of a kind that is not read.
        """
        entry, path = self.entries[name], self.shard_path(self.entries[name].shard)
        if entry.dtype not in DTYPES or entry.n_slices:
            what = f"in {entry.n_slices} slices" if entry.n_slices else f"of TensorFlow's type {entry.dtype}"
            raise UserError(f"{self.index}: the tensor {name} is {what}, which is not read", "convert it in TensorFlow")
        dtype = np.dtype(DTYPES[entry.dtype])
        if entry.size != math.prod(entry.shape) * dtype.itemsize or entry.offset < 0:
            raise UserError(
                f"{self.index}: the tensor {name} is said to have the shape {entry.shape} and {entry.size} bytes at "
                f"{entry.offset}, which cannot be",
                "get the checkpoint again",
            )
        content = self._shard(entry.shard, name)[entry.offset : entry.offset + entry.size]
        if len(content) < entry.size:
            raise UserError(
                f"{path} is cut short: it ends before the tensor {name} does ({entry.size:,} bytes at "
                f"{entry.offset:,})",
                "get the file again",
            )
        if masked_crc32c(content) != entry.crc32c:
            raise UserError(f"{path} is damaged: the checksum of the tensor {name} differs", "get the file again")
        array = content.view(dtype) if entry.offset % dtype.itemsize == 0 else content.copy().view(dtype)
        tensor = torch.from_numpy(array.reshape(entry.shape))
        return tensor.view(torch.bfloat16) if entry.dtype == BFLOAT16 else tensor

    def _shard(self, shard: int, name: str) -> np.ndarray:
        path = self.shard_path(shard)
        if shard not in self._shards:
            if not path.is_file():
                raise UserError(f"{path} is missing, and the tensor {name} lies in it", f"put it beside {self.index}")
            # numpy maps no empty file. "c": what is written to the array never reaches the file.
            empty = path.stat().st_size == 0
            self._shards[shard] = np.empty(0, np.uint8) if empty else np.memmap(path, np.uint8, "c")
        return np.asarray(self._shards[shard])


PUBLISHED_NAMES = (
    (re.compile(r"/layer_(\d+)/"), r"/layer/\1/"),
    (re.compile(r"^cls/squad/output_"), "qa_outputs/"),
    (re.compile(r"^cls/seq_relationship/output_"), "cls/seq_relationship/"),
    (re.compile(r"^cls/predictions/output_"), "cls/predictions/"),
    (re.compile(r"^output_"), "classifier/"),
    (re.compile(r"/(gamma|weights|kernel)$"), "/weight"),
    (re.compile(r"/beta$"), "/bias"),
    (re.compile(r"_embeddings$"), "_embeddings/weight"),
)
OPTIMIZER_NAMES = re.compile(
    r"(^|/)(adam_[mv]|lamb_[mv]|Adam(_1)?|beta[12]_power|global_step|good_steps|loss_scale)$|^_CHECKPOINTABLE_OBJECT_GRAPH$"
)


def read_google_weights(prefix: str | os.PathLike) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights of Google's BERT under the published names, and the names of what only its optimizer needs.

    Matrices that TensorFlow multiplies from the left, its kernels, are transposed: as views, which are not contiguous.

    Raises:
        UserError: see TensorBundle.
    """
    bundle = TensorBundle(prefix)
    dropped = tuple(name for name in bundle.entries if OPTIMIZER_NAMES.search(name))
    weights = {}
    for name in bundle.entries.keys() - set(dropped):
        tensor = bundle.read(name)
        weights[published_name(name)] = tensor.T if name.endswith("/kernel") and tensor.dim() == 2 else tensor
    return dict(sorted(weights.items())), dropped


def published_name(name: str) -> str:
    """`bert/encoder/layer_0/output/LayerNorm/gamma` -> `bert.encoder.layer.0.output.LayerNorm.weight`."""
    for pattern, replacement in PUBLISHED_NAMES:
        name = pattern.sub(replacement, name)
    return name.replace("/", ".")


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a sorted string table."""
    footer = data[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != FOOTER_MAGIC:
        raise ValueError("it does not end as such files end")
    _, _, at = _block_handle(footer, 0)
    index_offset, index_size, _ = _block_handle(footer, at)
    for _, handle in _block_entries(_block(data, index_offset, index_size)):
        offset, size, _ = _block_handle(handle, 0)
        yield from _block_entries(_block(data, offset, size))


def _block_handle(data: bytes, at: int) -> tuple[int, int, int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return offset, size, at


def _block(data: bytes, offset: int, size: int) -> bytes:
    content, trailer = data[offset : offset + size], data[offset + size : offset + size + BLOCK_TRAILER_BYTES]
    compression, checksum = struct.unpack("<BI", trailer)
    if masked_crc32c(np.frombuffer(content + trailer[:1], np.uint8)) != checksum:
        raise ValueError(f"the checksum of the block at byte {offset} differs")
    if compression:
        raise ValueError(f"the block at byte {offset} is compressed, which TensorFlow never does")
    return content


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    (n_restarts,) = struct.unpack("<I", block[-4:])
    end, at, key = len(block) - 4 * (n_restarts + 1), 0, b""
    while at < end:
        n_shared, at = _varint(block, at)
        n_own, at = _varint(block, at)
        n_value, at = _varint(block, at)
        if n_shared > len(key) or at + n_own + n_value > end:
            raise ValueError("an entry leaves its block")
        key = key[:n_shared] + block[at : at + n_own]
        at += n_own + n_value
        yield key, block[at - n_value : at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, seven bits a byte and the lowest first, and the place behind it."""
    number = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("a number is longer than 64 bits")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a protocol buffer: integers, or the bytes of strings and messages."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, at = _varint(message, at)
        elif wire_type == 2:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
            value, at = int.from_bytes(message[at : at + size], "little"), at + size
        else:
            raise ValueError(f"a message has a field of the unknown kind {wire_type}")
        if at > len(message):
            raise ValueError("a message is cut short")
        yield number, value


def _n_shards(header: bytes) -> int:
    fields = dict(_fields(header))
    if fields.get(2, 0) != 0:
        raise ValueError("its numbers are big-endian")
    return fields.get(1, 0)


def _bundle_entry(message: bytes) -> BundleEntry:
    values, shape, n_slices = {}, (), 0
    for number, value in _fields(message):
        if number == 2:
            shape = tuple(dict(_fields(dim)).get(1, 0) for key, dim in _fields(value) if key == 2)
        elif number == 7:
            n_slices += 1
        else:
            values[number] = value
    return BundleEntry(values.get(1, 0), shape, *(values.get(number, 0) for number in (3, 4, 5, 6)), n_slices)


def masked_crc32c(data: np.ndarray) -> int:
    """The CRC-32C of bytes, masked as LevelDB does it, since checksums of data with checksums in it are weak."""
    crc = 0
    for start in range(0, len(data), CRC_CHUNK_BYTES):
        crc = google_crc32c.extend(crc, data[start : start + CRC_CHUNK_BYTES].tobytes())
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF
