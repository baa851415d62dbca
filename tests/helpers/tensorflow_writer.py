"""Writes TensorFlow checkpoints for tests, from the formats' descriptions: LevelDB's tables and tensor_bundle.proto.

It shares nothing with the reader: checksums bit by bit, integers by division, blocks as short as is asked.
"""

import struct

import numpy as np

DATA_TYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "int64": 9,
    "bfloat16": 14,
    "float16": 19,
}


def slow_crc32c(data):
    """CRC-32C as polynomial division, one bit after the other."""
    remainder = 2**32 - 1
    for byte in bytes(data):
        remainder ^= byte
        for _ in range(8):
            remainder, carry = remainder >> 1, remainder & 1
            if carry:
                remainder ^= 0x82F63B78
    return 2**32 - 1 - remainder


def masked(crc):
    rotated = crc // 2**15 + crc % 2**15 * 2**17
    return (rotated + 0xA282EAD8) % 2**32


def varint(number):
    encoded = []
    while number >= 128:
        encoded.append(128 + number % 128)
        number //= 128
    return bytes([*encoded, number])


def field(number, value):
    """A field of a protocol buffer; zeros are left out, as proto3 has it."""
    if isinstance(value, bytes):
        return varint(8 * number + 2) + varint(len(value)) + value
    return varint(8 * number) + varint(value) if value else b""


def entry_message(dtype, shape, shard, offset, size, crc, n_slices=0):
    dims = b"".join(field(2, field(1, n)) for n in shape)
    message = field(1, dtype) + field(2, dims) + field(3, shard) + field(4, offset) + field(5, size)
    return message + varint(8 * 6 + 5) + struct.pack("<I", crc) + field(7, b"") * n_slices


def block(pairs, restart_interval=16):
    """A block of sorted (key, value) pairs, without its trailer."""
    content, restarts, before = b"", [], b""
    for i, (key, value) in enumerate(pairs):
        shared = 0
        if i % restart_interval == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    restarts = restarts or [0]
    return content + b"".join(struct.pack("<I", n) for n in [*restarts, len(restarts)])


class Table:
    """The bytes of a sorted string table, growing block by block."""

    def __init__(self):
        self.data = b""

    def add(self, content):
        """Returns the block's handle."""
        handle = varint(len(self.data)) + varint(len(content))
        self.data += content + b"\0" + struct.pack("<I", masked(slow_crc32c(content + b"\0")))
        return handle


def table(pairs, pairs_per_block=5):
    pairs = sorted(pairs.items())
    written = Table()
    handles = []
    for start in range(0, len(pairs), pairs_per_block):
        group = pairs[start : start + pairs_per_block]
        # A key of the index lies at or behind the last one of its block, and is not always one of the keys.
        handles.append((group[-1][0] + b"\0", written.add(block(group, restart_interval=3))))
    meta, index = written.add(block([])), written.add(block(handles, restart_interval=1))
    return written.data + (meta + index).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write_bundle(prefix, tensors, n_shards=1, messages=None, header=None):
    """Write a checkpoint.

    Args:
        tensors: name -> array; a pair ("bfloat16", array of uint16) for bits of that type.
        n_shards: data files, which the tensors go to in turn.
        messages: name -> bytes, entries of the index as they are.
        header: the header's bytes, instead of the right ones.
    """
    shards = [b""] * n_shards
    pairs = {b"": field(1, n_shards) + field(3, field(1, 1)) if header is None else header}
    for i, (name, tensor) in enumerate(tensors.items()):
        dtype, array = tensor if isinstance(tensor, tuple) else (str(tensor.dtype), np.asarray(tensor))
        content, shard = array.tobytes(), i % n_shards
        offset = len(shards[shard])
        crc = masked(slow_crc32c(content))
        pairs[name.encode()] = entry_message(DATA_TYPES[dtype], array.shape, shard, offset, len(content), crc)
        shards[shard] += content
    pairs |= {name.encode(): message for name, message in (messages or {}).items()}
    with open(f"{prefix}.index", "wb") as file:
        file.write(table(pairs))
    for shard, content in enumerate(shards):
        with open(f"{prefix}.data-{shard:05}-of-{n_shards:05}", "wb") as file:
            file.write(content)
