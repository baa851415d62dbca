"""Tokens in texts to ids, for texts that a tokenizer cut and joined by blanks.

This is the hot loop of reading. Blanks are found in pyarrow's memory without a copy of any token; pyarrow's hash table
finds the distinct tokens, a fifteenth of a shard's, and Python looks up those alone. It is four times as fast as
looking up each, and most of it runs outside of Python's lock.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.tokenizer_files import CLS, SEP

if TYPE_CHECKING:
    import pyarrow

BLANK = 32  # its byte
UNKNOWN = -1


class Words:
    """The words of a vocabulary, each token's id in the order of the ids."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self.cls, self.sep, self.size = vocabulary[CLS], vocabulary[SEP], len(vocabulary)
        words = {word.encode(): index for word, index in vocabulary.items() if word and " " not in word}
        # A token is looked up with the blank behind it, which all but a text's last one have.
        self._ids = words | {word + b" ": index for word, index in words.items()}

    def look_up(self, columns: Sequence["pyarrow.Array"]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each column of texts the ids of its tokens, int32, UNKNOWN where the vocabulary lacks one, and how many
        each text has, (texts,) int64."""
        import pyarrow as pa

        texts = pa.concat_arrays([column.cast(pa.large_binary()) for column in columns])
        ids, lengths = self._ids_of(*bytes_of(texts))
        lengths_of = np.split(lengths, np.cumsum([len(column) for column in columns])[:-1])
        ids_of = np.split(ids, np.cumsum([int(part.sum()) for part in lengths_of])[:-1])
        return list(zip(ids_of, lengths_of, strict=True))

    def _ids_of(self, offsets: np.ndarray, content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import pyarrow as pa

        begins = np.zeros(len(content) + 1, dtype=bool)
        np.equal(content, BLANK, out=begins[1:])
        begins[offsets] = True
        edges = np.flatnonzero(begins)
        lengths = np.diff(np.searchsorted(edges, offsets))
        buffers = [None, pa.py_buffer(edges), pa.py_buffer(content)]
        tokens = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(edges) - 1, buffers).dictionary_encode()
        ends, distinct = bytes_of(tokens.dictionary)
        distinct = distinct.tobytes()
        found = (self._ids.get(distinct[start:end], UNKNOWN) for start, end in itertools.pairwise(ends.tolist()))
        return np.fromiter(found, np.int32, len(tokens.dictionary))[tokens.indices.to_numpy()], lengths


def bytes_of(column: "pyarrow.LargeBinaryArray") -> tuple[np.ndarray, np.ndarray]:
    """The memory of a column: offsets, (n + 1,) int64 from 0 on, and the bytes, (offsets[-1],) uint8."""
    _, offsets, content = column.buffers()
    offsets = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    content = np.frombuffer(content or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    return offsets - offsets[0], content
