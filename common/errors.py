"""Errors that a user can act on.

What a user gave and cannot be used is a `UserError`: sentences that name the file, the value and the remedy. Entry
points print them without a traceback. Configuration is checked as a whole first (`Problems`), so that one run tells
all.
"""

import contextlib
import errno
import sys
from collections.abc import Callable, Iterator


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


def run_main(main: Callable[[], object]) -> None:
    """Call `main`; what is wrong with its input or files becomes sentences on stderr and status 2, Ctrl-C 130."""
    try:
        main()
    except UserError as error:
        for sentence in error.sentences:
            print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" for {error.filename}" if error.filename else ""
            sentence = f"There is no space left on the disk{where}; free some, and start again."
        elif error.filename is not None and error.strerror:
            sentence = (
                f"{error.filename} cannot be used ({error.strerror}); check the path and who may read and write there."
            )
        else:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
