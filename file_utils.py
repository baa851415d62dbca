"""Files that are whole or absent, and errors that a user can act on.

A long run is killed sooner or later, and a half-written file that looks like a whole one costs more than the run. So
everything is written under a temporary name in the target's own folder (a rename is atomic only within a file system),
synced, and renamed; whatever was there before stays until that moment.

Errors in what a user gave are `UserError`s: sentences that name the file, the value and the remedy. Entry points print
them without a traceback. Configuration is checked as a whole first (`Problems`), so that one run tells all.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any


class UserError(Exception):
    """Something the user gave cannot be used.

    Args:
        sentences: one sentence, or a list of them; `str()` puts each on a line of its own.
    """

    def __init__(self, sentences: str | list[str]):
        self.sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        super().__init__("\n".join(self.sentences))


class Problems:
    """Collects what is wrong with a configuration, so that it is reported in one list."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def add(self, sentence: str) -> None:
        """Note a problem."""
        self.sentences.append(sentence)

    def check(self, condition_ok: object, sentence: str) -> None:
        """Note a problem unless the condition holds."""
        if not condition_ok:
            self.add(sentence)

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Note the problems of a UserError raised inside, and go on after the block."""
        try:
            yield
        except UserError as error:
            self.sentences.extend(error.sentences)

    def raise_if_any(self) -> None:
        """Raises UserError with every problem noted, if there is one."""
        if self.sentences:
            raise UserError(self.sentences)


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


def run_main(main: Callable[[], object]) -> None:
    """Call `main`; a UserError becomes its sentences on stderr and exit status 2, Ctrl-C exit status 130."""
    try:
        main()
    except UserError as error:
        for sentence in error.sentences:
            print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
