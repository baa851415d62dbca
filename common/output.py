"""Standard output and error that end no work when they can no longer be written.

A run of days must not die of a terminal that was closed, a `tee` that was killed, or a full disk under its output.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

NOBODY_READS = (errno.EPIPE, errno.EIO)  # the pipe's reader has ended; the terminal is gone


class _Stream:
    """A stream that forgives some errors of the one that it writes to; None: any."""

    def __init__(self, stream: TextIO, forgiven: tuple[int, ...] | None):
        self._stream, self._forgiven = stream, forgiven

    def write(self, text: str) -> int:
        with self._forgiving():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._forgiving():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._forgiven is not None and error.errno not in self._forgiven:
                raise
            if error.errno in NOBODY_READS:
                _to_nowhere(self._stream)


def _to_nowhere(stream: TextIO) -> None:
    """Lead what is still to come, what the stream holds back and what C libraries print to where it is lost."""
    with open(os.devnull, "w") as nowhere, contextlib.suppress(OSError):
        os.dup2(nowhere.fileno(), stream.fileno())


@contextlib.contextmanager
def forgiving_output(*forgiven: int) -> Iterator[None]:
    """Inside, text that cannot be printed is lost without an error, if for one of these reasons; none: for any."""
    before = sys.stdout, sys.stderr
    # A descriptor that was closed before the start would be that of the next file, into which C libraries would print.
    opened = [stream or open(os.devnull, "w") for stream in before]  # noqa: SIM115  # for as long as the process lives
    sys.stdout, sys.stderr = (_Stream(stream, forgiven or None) for stream in opened)
    try:
        yield
    finally:
        for stream in opened:
            try:
                stream.flush()
            except OSError:
                _to_nowhere(stream)  # or Python, which flushes it at its end, would make a status of it
        sys.stdout, sys.stderr = before
