"""What lies where a stage would write: nothing, its finished output, a part of it, or something else.

Starting the preparation again must cost little and lose nothing. So a stage first looks at what is there. Output of the
same parameters and inputs whose files still have their recorded hashes is finished, and skipped. Files that are missing
or damaged are made again. Anything else, made with other parameters, from other inputs, or with no manifest to account
for it, is somebody's work and is not touched without --overwrite.

Stages with many independent files keep a journal of those that are done, a line each, so that they go on where they
were killed. It becomes the manifest at the end; a folder with a journal and no manifest is unfinished.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError
from common.workers import Workers
from data.artifacts.manifest import FILE_NAME, JOURNAL_NAME, FileRecord, Manifest
from file_utils import atomic_write


def file_records(paths: Iterable[Path], pool: Workers, what: str) -> list[FileRecord]:
    """Sizes and hashes of files, read side by side."""
    paths = list(paths)
    records = pool.map(FileRecord.of, paths, what, str)
    return list(tqdm(records, total=len(paths), unit="file", desc=what, leave=False, disable=len(paths) < 2 or None))


def relative_to(path: Path, folder: Path) -> str:
    """The path from `folder` on if it lies there, else the absolute one; with slashes."""
    path, folder = path.absolute(), folder.absolute()
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


class StageOutput:
    """The output of one stage, with its manifest at `manifest_path`.

    Args:
        manifest_path: beside the files it lists.
        wanted: what the stage is about to do: everything but the outputs.
        overwrite: take what is there away instead of refusing it.
    """

    def __init__(self, manifest_path: Path, wanted: Manifest, overwrite: bool = False):
        self.manifest_path = manifest_path
        self.folder = manifest_path.parent
        self.wanted = wanted
        self.overwrite = overwrite
        self._journal_path = self.folder / JOURNAL_NAME

    def whole_files(self, pool: Workers, unaccounted: Iterable[Path] = ()) -> dict[str, FileRecord]:
        """The files of this output that are there and as they were recorded, by their names.

        Args:
            unaccounted: files that would be replaced, and are refused if there is no record of how they were made.

        Raises:
            UserError: what is there is not this stage's output, and `overwrite` is not set.
        """
        self.remove_leftovers()
        found = self._found()
        if found is None:
            strangers = [path for path in unaccounted if path.exists()]
            if strangers and not self.overwrite:
                raise UserError(
                    f"{strangers[0]} is there and no {FILE_NAME} says what it was made from",
                    "move it away, or add --overwrite to replace it",
                )
            return {}
        difference = _difference(found, self.wanted)
        if difference and not self.overwrite:
            raise UserError(
                f"{self.folder} holds the {found.stage} of {found.dataset} {difference}",
                "add --overwrite to replace it, or give another BERT_PREP_WORKING_DIR",
            )
        if difference or self.overwrite:
            return {}
        named = list(found.outputs.items())
        checks = pool.map(_is_whole, [(self.folder / name, record) for name, record in named], "checking", _name_of)
        bar = tqdm(checks, total=len(named), unit="file", desc=f"checking {self.wanted.stage}", leave=False)
        return {name: record for (name, record), whole in zip(named, bar, strict=True) if whole}

    def finished(self, whole: Mapping[str, FileRecord]) -> Manifest | None:
        """The manifest, if there is one and all its files are among the whole ones."""
        if self.manifest_path.is_file():
            manifest = Manifest.read(self.manifest_path)
            if whole and whole.keys() == manifest.outputs.keys():
                return manifest
        return None

    def start_journal(self, whole: Mapping[str, FileRecord]) -> None:
        """Record the files that are done already; from here on the output is unfinished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._journal_path) as file:
            file.write(_line(dataclasses.asdict(self.wanted)))
            file.writelines(_line([name, dataclasses.asdict(record)]) for name, record in whole.items())
        self.manifest_path.unlink(missing_ok=True)

    def add_to_journal(self, name: str, record: FileRecord) -> None:
        """Record a file that is done."""
        with open(self._journal_path, "a", encoding="utf-8") as file:
            file.write(_line([name, dataclasses.asdict(record)]))
            file.flush()
            os.fsync(file.fileno())

    def finish(self, outputs: Mapping[str, FileRecord]) -> Manifest:
        """Write the manifest; the output is finished."""
        manifest = dataclasses.replace(self.wanted, outputs=outputs)
        manifest.write(self.manifest_path)
        self._journal_path.unlink(missing_ok=True)
        return manifest

    def remove_leftovers(self) -> None:
        """Take away what a killed run or worker was just writing. The stage is locked, so nobody is at work on it."""
        prefixes = (f".{self.wanted.dataset}", f".{FILE_NAME}", f".{JOURNAL_NAME}")
        for path in self.folder.glob(".*/"):
            if path.name.startswith(prefixes):
                shutil.rmtree(path, ignore_errors=True)

    def _found(self) -> Manifest | None:
        if self.manifest_path.is_file():
            return Manifest.read(self.manifest_path)
        return read_journal(self._journal_path) if self._journal_path.is_file() else None


def read_journal(path: Path) -> Manifest | None:
    """What an unfinished stage has done so far; None if it did not come to write that down."""
    entries = []
    with open(path, "rb") as lines, contextlib.suppress(ValueError):  # from a line that a kill or a power cut spoilt on
        for line in lines:
            if line.endswith(b"\n"):
                entries.append(json.loads(line))
    if not entries:
        return None
    fields, outputs = entries[0], {name: FileRecord(**record) for name, record in entries[1:]}
    fields["inputs"] = {name: FileRecord(**record) for name, record in fields["inputs"].items()}
    return Manifest(**{**fields, "outputs": outputs})


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, removed at the end; what a killed run left of it is removed first.

    Callers hold the lock of their stage, so nobody is at work in what is there.
    """
    folder = target.parent / f".{target.name}.unfinished"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`; an old one goes only after it has been moved aside."""
    if target.exists():
        old = new.parent / f"{target.name}.old"
        target.rename(old)
        new.rename(target)
        shutil.rmtree(old)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        new.rename(target)


def _line(value: object) -> str:
    return json.dumps(value) + "\n"


def _name_of(task: tuple[Path, FileRecord]) -> str:
    return str(task[0])


def _is_whole(task: tuple[Path, FileRecord]) -> bool:
    path, record = task
    return record.describes(path)


def _difference(found: Manifest, wanted: Manifest) -> str:
    """How what was found differs from what is wanted, as the end of a sentence; empty if it does not."""
    if (found.stage, found.dataset) != (wanted.stage, wanted.dataset):
        return f"and not the {wanted.stage} of {wanted.dataset}"
    # As JSON has them: tuples are lists there.
    asked = json.loads(json.dumps(wanted.parameters))
    names = sorted(
        name for name in found.parameters.keys() | asked.keys() if found.parameters.get(name) != asked.get(name)
    )
    if names:
        changes = (f"{name} {found.parameters.get(name)} where {asked.get(name)} is asked for" for name in names)
        return f"made with {', '.join(changes)}"
    was, now = ([record.sha256 for record in manifest.inputs.values()] for manifest in (found, wanted))
    if was != now:
        changed = [name for name, record in wanted.inputs.items() if record.sha256 not in was]
        return f"made from other input than {changed[0] if changed else 'there is now'}"
    return ""
