"""Files that are whole or absent.

A long run is killed sooner or later, and a half-written file that looks like a whole one costs more than the run. So
everything is written under a temporary name in the target's own folder (a rename is atomic only within a file system),
synced, and renamed; whatever was there before stays until that moment.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, for libraries that open files by name; becomes `path` when the block succeeds.

    On an error it is removed, and a file that was at `path` before stays as it was.
    """
    path = Path(path)
    # Its own folder, made safely unique; mkstemp would fix the permissions to 0600.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    _sync_folder(path.parent)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w", **open_kwargs: Any) -> Iterator[IO]:
    """An open file that becomes `path` when the block succeeds; see `atomic_path`. Text is UTF-8 by default."""
    if "b" not in mode:
        open_kwargs.setdefault("encoding", "utf-8")
    with atomic_path(path) as temporary, open(temporary, mode, **open_kwargs) as file:
        yield file


def _sync_folder(folder: Path) -> None:
    # The rename itself is durable only once the folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
