"""What each stage of the data preparation read, made and with what: the file that lies beside its output.

It lets the next stage and the trainer find and check what they read, a finished stage be recognized, and anybody prove
months later that the data is what it was. Paths are relative, so that a folder may be moved or mounted elsewhere. There
is no time in it: the same input and parameters give the same bytes.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.json_files import read_json
from common.words import counted
from file_utils import atomic_write, sha256_of

FILE_NAME = "manifest.json"
JOURNAL_NAME = "manifest.unfinished.jsonl"  # what a stage has done so far; see data/artifacts/stage_output.py
FORMAT_VERSION = 1
NAMES_SHOWN = 10  # of what a stage left out; its manifest has all


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """A file as it was: its size, its hash and what was counted in it."""

    bytes: int
    sha256: str
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)  # such as {"rows": 1000}, or sentences

    @classmethod
    def of(cls, path: Path, **counts: int) -> "FileRecord":
        """Reads the file at `path` for its size and hash."""
        return cls(path.stat().st_size, sha256_of(path), counts)


class LeftOut(dict[str, int | list[str]]):
    """What a stage did not take, by the reason: how many, or their names. As text it is the end of a sentence."""

    def add(self, reason: str, name: str | None = None) -> None:
        """Count one, and keep its name if it has one to keep."""
        if name is None:
            self[reason] = self.get(reason, 0) + 1
        else:
            self.setdefault(reason, []).append(name)

    def __str__(self) -> str:
        parts = []
        for reason, which in self.items():
            names = [] if isinstance(which, int) else which
            some = [*names[:NAMES_SHOWN], *(["..."] if len(names) > NAMES_SHOWN else [])]
            parts.append(f"{len(names) or which:,} {reason}" + (f" ({', '.join(some)})" if some else ""))
        return f"; left out: {', '.join(parts)}" if parts else ""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a stage did. Written as JSON with these fields, and `format_version`."""

    stage: str  # download, extraction, text_formatting, sharding or create_hdf5_files
    dataset: str
    parameters: Mapping[str, Any]  # what shapes the output, by the names of the flags
    inputs: Mapping[str, FileRecord]  # by path from the working folder, or what else they are called
    outputs: Mapping[str, FileRecord]  # by path relative to the manifest's folder
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of Python, Unicode and libraries
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # found on the way, what was LeftOut too

    def total(self, count: str) -> int:
        """The sum of a count over the outputs."""
        return sum(record.counts.get(count, 0) for record in self.outputs.values())

    def skipped(self, folder: Path) -> str:
        """Says that the stage was finished before."""
        files = counted(len(self.outputs), "file")
        return f"{self.stage} of {self.dataset} was finished before: {files} as written then; nothing to do in {folder}"

    def write(self, path: Path) -> None:
        """Write to `path` in one piece."""
        fields = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        with atomic_write(path) as file:
            json.dump(fields, file, indent=1)
            file.write("\n")

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Raises UserError if the file cannot be read or is no manifest of this format."""
        remedy = "make the data beside it anew, or remove this file to go without"
        fields = read_json(path, "manifest", remedy)
        try:
            if (version := fields.pop("format_version")) != FORMAT_VERSION:
                raise TypeError(f"format_version {version}")
            return cls.from_fields(fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no manifest of format {FORMAT_VERSION} ({error!r})", remedy) from error

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "Manifest":
        """From the fields as JSON has them."""
        files = {name: fields[name].items() for name in ("inputs", "outputs")}
        records = {name: {path: FileRecord(**each) for path, each in items} for name, items in files.items()}
        return cls(**{**fields, **records})
