"""What a verification found: a line per check, with the first file that fails it, and what was counted.

Shared by the verification of HDF5 shards (shards.py) and of text shards (text.py).
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import Problem, UserError
from data.artifacts.layout import SPLITS
from data.artifacts.manifest import FILE_NAME, JOURNAL_NAME, FileRecord, Manifest
from data.loading.prepared import changed_files
from file_utils import sha256_of

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "FAILED", "skipped"
MAX_COMPARED = 2**22  # hashes in memory at a time; at 14 bytes each, 60 MB


@dataclasses.dataclass
class Check:
    """The outcome of one check over all files."""

    name: str
    status: str = OK
    n_files: int = 0
    """That fail it, or that it warns of."""
    n_rows: int = 0
    """Rows or documents in them, where it looks at those."""
    first_file: str | None = None
    first_row: int | None = None
    what: str = ""
    """How the first one fails it, or why the check was skipped."""

    def line(self, width: int) -> str:
        """The check as a line of a table, its name `width` characters wide."""
        line = f"{self.status:8} {self.name:{width}}"
        if self.status == SKIPPED:
            return f"{line}  {self.what}"
        if self.status == OK:
            return line.rstrip()
        rows = f" ({self.n_rows:,} rows or documents)" if self.n_rows else ""
        return f"{line}  {self.n_files:,} file{'s' * (self.n_files != 1)}{rows}; first {self.where()}: {self.what}"

    def where(self) -> str:
        """The first offending file, and its row if it is one."""
        return f"{self.first_file}" + ("" if self.first_row is None else f", row {self.first_row:,}")


@dataclasses.dataclass(frozen=True)
class Report:
    """What was checked, and what was counted."""

    folder: str
    checks: list[Check]
    statistics: dict[str, dict[str, Any]]
    """By split: numbers and lists of numbers, by their names."""
    notes: list[str]
    """What the checks rest on, such as where the special tokens' ids are from; a sentence each."""

    def failed(self) -> list[Check]:
        """The checks that failed, the first offending first."""
        return [check for check in self.checks if check.status == FAILED]

    def failure(self) -> Problem | None:
        """The first offending file and the check that it fails, or None."""
        failed = self.failed()
        if not failed:
            return None
        first = failed[0]
        others = f" (also failed: {', '.join(check.name for check in failed[1:])})" if failed[1:] else ""
        row = "" if first.first_row is None else f"in row {first.first_row:,} "
        return Problem(
            f"{Path(self.folder) / first.first_file} fails the check '{first.name}': {row}{first.what}{others}",
            "make it again with data/bertPrep.py, or get a whole copy",
        )

    def raise_if_failed(self) -> None:
        """Raises UserError with the sentence of `failure`, if there is one."""
        if failure := self.failure():
            raise UserError(failure)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"failed": bool(self.failed()), **dataclasses.asdict(self)}

    def text(self) -> str:
        """Notes, statistics and a line per check."""
        width = max((len(check.name) for check in self.checks), default=0)
        lines = [f"{self.folder}", *(f"  {note}" for note in self.notes)]
        for split, numbers in self.statistics.items():
            lines += ["", f"{split}:", *(line for name, value in numbers.items() for line in _lines_of(name, value))]
        return "\n".join([*lines, "", *(check.line(width) for check in self.checks)])


def _lines_of(name: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        largest = max(value.values(), default=0) or 1
        bars = (f"    {key:>10}  {'#' * round(40 * number / largest):40} {number:,}" for key, number in value.items())
        return [f"  {name}:", *bars]
    return [f"  {name}: {value:,}" if isinstance(value, int) else f"  {name}: {value:.4f}"]


class Checks:
    """The checks of a run, in their order, filled as files come in."""

    def __init__(self, names: Iterable[str]):
        self._checks = {name: Check(name) for name in names}

    def offend(
        self, name: str, file: str, what: str, n_rows: int = 0, row: int | None = None, status: str = FAILED
    ) -> None:
        """Note that a file fails a check."""
        check = self._checks[name]
        # A failure takes the place of earlier warnings; among equals the first file stays.
        if check.status not in (FAILED, status):
            check.status, check.first_file, check.first_row, check.what = status, file, row, what
        check.n_files += 1
        check.n_rows += n_rows

    def skip(self, names: Iterable[str], why: str) -> None:
        """Note that checks could not be made."""
        for name in names:
            self._checks[name].status, self._checks[name].what = SKIPPED, why

    def is_ok(self, name: str) -> bool:
        """Whether no file fails the check so far, or makes it warn."""
        return self._checks[name].status == OK

    def as_list(self) -> list[Check]:
        """All of them, in their order."""
        return list(self._checks.values())


class Repetitions:
    """Finds hashes that occur in more than one file, in memory that does not grow with their number.

    Up to `MAX_COMPARED` all are compared. Beyond, only those below a limit are kept, which is halved as often as
    needed: equal ones are kept or dropped together, so that of many repetitions some are found.

    Args:
        max_compared: how many to keep at most.
    """

    def __init__(self, max_compared: int = MAX_COMPARED):
        self.limit = 2**64 - 1
        self._max_compared = max_compared
        self._hashes = np.zeros(0, dtype=np.uint64)
        self._files = np.zeros(0, dtype=np.int32)

    def add(self, hashes: np.ndarray, file: int) -> None:
        """Hashes, (n,) uint64, of the file of this number."""
        hashes = hashes[hashes <= self.limit]
        self._hashes = np.concatenate([self._hashes, hashes])
        self._files = np.concatenate([self._files, np.full(len(hashes), file, dtype=np.int32)])
        while len(self._hashes) > self._max_compared:
            self.limit //= 2
            kept = self._hashes <= self.limit
            self._hashes, self._files = self._hashes[kept], self._files[kept]

    @property
    def share(self) -> float:
        """Of all hashes, those that were compared."""
        return (self.limit + 1) / 2**64

    def between_files(self) -> list[tuple[int, int, int]]:
        """Pairs of files that share hashes, and how many: of more than two with one, each and the next."""
        order = np.lexsort((self._files, self._hashes))
        hashes, files = self._hashes[order], self._files[order]
        same = (hashes[1:] == hashes[:-1]) & (files[1:] != files[:-1])
        pairs, counts = np.unique(np.stack([files[:-1][same], files[1:][same]], axis=1), axis=0, return_counts=True)
        return [(int(a), int(b), int(n)) for (a, b), n in zip(pairs, counts, strict=True)]


def manifest_of(folder: Path, checks: Checks, files: Iterable[Path], skipped: Iterable[str]) -> Manifest | None:
    """The folder's manifest, after noting which files are missing or not in it; without one, `skipped` are skipped."""
    path, names = folder / FILE_NAME, {file.name for file in files}
    if not path.is_file():
        checks.skip(skipped, f"there is no {FILE_NAME}")
        if (folder / JOURNAL_NAME).is_file():
            checks.offend("finished", JOURNAL_NAME, f"the stage was not finished: there is no {FILE_NAME} yet")
        return None
    manifest = Manifest.read(path)
    for name, size in sorted(changed_files(folder, manifest).items()):
        if size is None:
            checks.offend("files", name, f"it is in {FILE_NAME} and not in the folder")
    for name in sorted(names - manifest.outputs.keys()):
        checks.offend("files", name, f"it is not in {FILE_NAME}")
    return manifest


def offence_of_bytes(path: Path, record: FileRecord) -> str | None:
    """How a file's bytes differ from those that the manifest records; None if they are the same."""
    n_bytes = path.stat().st_size
    if n_bytes != record.bytes:
        return f"it has {n_bytes:,} bytes, and {FILE_NAME} says {record.bytes:,}"
    return None if sha256_of(path) == record.sha256 else f"its SHA-256 is not the one in {FILE_NAME}"


def name_of(task: tuple[Path, FileRecord | None]) -> str:
    """A worker's task, for people."""
    return task[0].name


def split_of(name: str) -> str:
    """training or test, as the file's name says; all if it says neither."""
    return next((split for split in SPLITS if split in name), "all")
