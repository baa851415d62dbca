"""Lines of large files: those that begin in a part of a plain one, or all of a compressed one.

Compressed files are read with pyarrow, which reports a stream of gzip or zstd that is cut short, and is twice as fast
as Python's own gzip. Lines end with "\\n" alone: a text may hold any other line end of Unicode.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.errors import UserError
from data.corpus.sharding import MAX_DOCUMENT_BYTES

COMPRESSED = (".gz", ".zst")
BLOCK = 2**20
AGAIN = "replace it where it is from, and run --action download with --overwrite"


class DamagedFile(UserError):
    """A file is not what its name says: it should be had again."""


def is_compressed(file: Path) -> bool:
    """Whether its name says so."""
    return file.suffix.lower() in COMPRESSED


def starts(file: Path, n_bytes: int) -> range:
    """Where the parts of a file begin: every `n_bytes`, or its beginning alone where one cannot start elsewhere."""
    return range(1) if is_compressed(file) else range(0, file.stat().st_size, n_bytes)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """The content of a file, decompressed. Raises DamagedFile, while it is read too, where it is damaged or cut."""
    if not is_compressed(file):
        with open(file, "rb") as content:
            yield content
        return
    import pyarrow  # here, where it is needed: it takes a tenth of a second

    if not file.stat().st_size:
        raise DamagedFile(f"{file} is empty, and a compressed file never is", AGAIN)
    kind = {".gz": "gzip", ".zst": "zstd"}[file.suffix.lower()]
    try:
        with pyarrow.input_stream(str(file), compression=kind, buffer_size=BLOCK) as content:
            yield io.BufferedReader(content, BLOCK)
    except OSError as error:
        if error.errno is not None:  # the disk's error, not the file's
            raise
        raise DamagedFile(f"{file} is damaged or cut short ({error})", AGAIN) from error


def lines_from(content: BinaryIO, start: int = 0, n_bytes: float = float("inf")) -> Iterator[tuple[int, bytes]]:
    """The lines that begin within `n_bytes` from byte `start` on, and at which byte each does.

    Of a line of more than MAX_DOCUMENT_BYTES bytes come one more than these, and the rest is passed over.
    """
    at = start
    if start:  # the end of a line of the part before, or only its newline
        content.seek(start - 1)
        at = start - 1 + _pass_over(content)
    while at < start + n_bytes and (line := content.readline(MAX_DOCUMENT_BYTES + 1)):
        yield at, line
        at += len(line)
        if not line.endswith(b"\n"):
            at += _pass_over(content)


def _pass_over(content: BinaryIO) -> int:
    """Read up to the end of a line; returns how many bytes."""
    n_bytes = 0
    while piece := content.readline(BLOCK):
        n_bytes += len(piece)
        if piece.endswith(b"\n"):
            break
    return n_bytes
