"""Errors that a user can act on: what is wrong, naming the file and the value, and the remedy.

The two are kept apart, as data, for programs that show or count them; people read them as one sentence. Configuration
is checked as a whole first (`Problems`), so that one run tells all.
"""

import contextlib
import dataclasses
import errno
import io
import sys
from collections.abc import Callable, Iterable, Iterator

from common.addresses import without_secrets
from common.lifetime import end_with_launchers
from common.output import NOBODY_READS, forgiving_output


@dataclasses.dataclass(frozen=True)
class Problem:
    """What cannot be used, and what to do about it; without a remedy, `problem` is a sentence with its full stop."""

    problem: str
    remedy: str = ""

    def __str__(self) -> str:
        return without_secrets(f"{self.problem}; {self.remedy}." if self.remedy else self.problem)


class UserError(Exception):
    """Something the user gave cannot be used: one problem with its remedy, or several, in text a line each."""

    def __init__(self, problem: "str | Problem | Iterable[str | Problem]", remedy: str = ""):
        several = [problem] if isinstance(problem, str | Problem) else problem
        self.problems = [each if isinstance(each, Problem) else Problem(each, remedy) for each in several]
        super().__init__("\n".join(self.sentences))

    def __reduce__(self):
        return UserError, (self.problems,)  # pickled whole, on its way from a worker

    @property
    def sentences(self) -> list[str]:
        return [str(problem) for problem in self.problems]


class Problems:
    """Collects what is wrong with a configuration, so that it is reported in one list."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, problem: str | Problem, remedy: str = "") -> None:
        """Note a problem."""
        self.found.append(Problem(problem, remedy) if isinstance(problem, str) else problem)

    def check(self, is_right: object, problem: str | Problem | None, remedy: str = "") -> None:
        """Note a problem unless the condition holds."""
        if not is_right:
            self.add(problem, remedy)

    def extend(self, problems: Iterable[Problem | None]) -> None:
        """Note several problems; None is none."""
        self.found.extend(problem for problem in problems if problem is not None)

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Note the problems of a UserError raised inside, and go on after the block."""
        try:
            yield
        except UserError as error:
            self.found.extend(error.problems)

    def raise_if_any(self) -> None:
        """Raises UserError with every problem noted, if there is one."""
        if self.found:
            raise UserError(self.found)


def run_main(main: Callable[[], object]) -> None:
    """Call `main`; what is wrong with its input or files becomes sentences on stderr and status 2, Ctrl-C 130.

    When the command that started this one ends, this one does (common/lifetime.py). It does not end when nobody reads
    its output any more (common/output.py).

    Text that the locale's encoding cannot write is escaped: an answer in Chinese must not end a run under Latin-1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    end_with_launchers()
    with forgiving_output(*NOBODY_READS):
        try:
            main()
            sys.stdout.flush()
        except (UserError, OSError) as error:
            explained = explain_os_error(error) if isinstance(error, OSError) else error
            if explained is None:
                raise
            for sentence in explained.sentences:
                print(f"error: {sentence}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)


def explain_os_error(error: OSError) -> UserError | None:
    """The same for a user; None where the error names neither a full disk nor a file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" for {error.filename}" if error.filename else ""
        return UserError(f"There is no space left on the disk{where}", "free some, and start again")
    if error.filename is not None and error.strerror:
        return UserError(f"{error.filename} cannot be used ({error.strerror})", "check the path and its permissions")
    return None
