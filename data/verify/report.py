"""What a verification found: in each file, and over all files as a line per check with the first file that fails it."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import Problem
from common.words import counted

OK, WARNING, FAILED = "ok", "warning", "FAILED"


@dataclasses.dataclass(frozen=True)
class Offence:
    """How a file fails a check: in how many rows or documents (0: as a whole), and in which row first."""

    what: str
    n_rows: int = 0
    row: int | None = None
    status: str = FAILED


@dataclasses.dataclass
class Findings:
    """What was found in one file."""

    offences: dict[str, Offence] = dataclasses.field(default_factory=dict)  # by the name of the check
    counts: dict[str, int | np.ndarray] = dataclasses.field(default_factory=dict)  # what adds up over files
    hashes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    """(n,) uint64, distinct and ascending: of the rows or documents that no other file should hold."""

    def offend(self, check: str, offence: Offence) -> None:
        """Note how the file, or one more block of its rows, fails a check; the first block's words stay."""
        first = self.offences.setdefault(check, offence)
        if first is not offence:
            self.offences[check] = dataclasses.replace(first, n_rows=first.n_rows + offence.n_rows)

    def count(self, **counts: int | np.ndarray) -> None:
        """Add to the counts of these names."""
        for name, number in counts.items():
            self.counts[name] = self.counts.get(name, 0) + number


@dataclasses.dataclass
class Check:
    """The outcome of one check over all files."""

    name: str
    status: str = OK
    n_files: int = 0  # that fail it, or that it warns of
    n_rows: int = 0  # rows or documents in them, where it looks at those
    first_file: str | None = None
    first_row: int | None = None
    what: str = ""  # how the first one fails it

    def line(self, width: int) -> str:
        """The check as a line of a table, its name `width` characters wide."""
        if self.status == OK:
            return f"{self.status:8} {self.name}"
        files = counted(self.n_files, "file")
        rows = f" ({self.n_rows:,} rows or documents)" if self.n_rows else ""
        first = f"{self.first_file}" + ("" if self.first_row is None else f", row {self.first_row:,}")
        return f"{self.status:8} {self.name:{width}}  {files}{rows}; first {first}: {self.what}"


class Report:
    """What was checked, and what was counted; the checks are filled as files come in."""

    def __init__(self, folder: Path, checks: Iterable[str], notes: Iterable[str] = (), maker: str = "data/bertPrep.py"):
        self.folder = str(folder)
        self.maker = maker  # of the shards
        self.notes = list(notes)  # what the checks rest on; a sentence each
        self.statistics: dict[str, Mapping[str, Any]] = {}  # by split: numbers, and tables of them, by their names
        self._checks = {name: Check(name) for name in checks}

    @property
    def checks(self) -> list[Check]:
        """All of them, in their order."""
        return list(self._checks.values())

    def status(self, name: str) -> str:
        """OK, or what was found so far."""
        return self._checks[name].status

    def offend(self, name: str, file: str, offence: Offence) -> None:
        """Note that a file fails a check."""
        check = self._checks[name]
        # A failure takes the place of earlier warnings; among equals the first file stays.
        if check.status not in (FAILED, offence.status):
            check.status, check.what = offence.status, offence.what
            check.first_file, check.first_row = file, offence.row
        check.n_files += 1
        check.n_rows += offence.n_rows

    def failure(self) -> Problem | None:
        """The first offending file and the check that it fails, or None."""
        failed = [check for check in self.checks if check.status == FAILED]
        if not failed:
            return None
        first = failed[0]
        row = "" if first.first_row is None else f"in row {first.first_row:,} "
        return Problem(
            f"{Path(self.folder) / first.first_file} fails the check '{first.name}': {row}{first.what}",
            f"make it again with {self.maker}, or get a whole copy",
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        checks = [dataclasses.asdict(check) for check in self.checks]
        fields = {"folder": self.folder, "checks": checks, "statistics": self.statistics, "notes": self.notes}
        return {"failed": self.failure() is not None, **fields}

    def text(self) -> str:
        """Notes, statistics and a line per check."""
        lines = [self.folder, *(f"  {note}" for note in self.notes)]
        for split, numbers in self.statistics.items():
            lines += ["", f"{split}:"]
            for name, value in numbers.items():
                if isinstance(value, Mapping):
                    lines += [f"  {name}:", *(f"    {key:>10} {number:12,}" for key, number in value.items())]
                else:
                    lines.append(f"  {name}: {value:,}" if isinstance(value, int) else f"  {name}: {value:.4f}")
        width = max(len(check.name) for check in self.checks)
        return "\n".join([*lines, "", *(check.line(width) for check in self.checks)])
