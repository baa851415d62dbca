"""What lies where a stage would write: nothing, its finished output, a part of it, or something else.

Starting the preparation again must cost little and lose nothing. Output of the same parameters and inputs whose files
still have their recorded hashes is finished, and skipped. Files that are missing or damaged are made again. Anything
else is somebody's work and is not touched without --overwrite.

Stages with many independent files keep a journal of those that are done, a line each, so that they resume where they
were killed. It becomes the manifest at the end; a folder with a journal and no manifest is unfinished.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.errors import UserError
from common.workers import Workers
from data.artifacts.layout import Layout
from data.artifacts.manifest import FILE_NAME, JOURNAL_NAME, FileRecord, Manifest
from file_utils import atomic_folder, atomic_write, remove_leftovers


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What all stages share: where things lie, who works, and whether to replace what is there."""

    layout: Layout
    pool: Workers
    overwrite: bool = False

    def records(self, paths: Iterable[Path], what: str = "checking the input") -> dict[Path, FileRecord]:
        """Sizes and hashes of files, read side by side."""
        paths = list(paths)
        records = self.pool.map(FileRecord.of, paths, what, str)
        hide = len(paths) < 2 or None
        return dict(zip(paths, tqdm(records, what, len(paths), leave=False, unit="file", disable=hide), strict=True))

    def output(
        self,
        manifest_path: Path,
        stage: str,
        parameters: Mapping[str, object],
        inputs: Mapping[Path | str, FileRecord],
        libraries: Sequence[str],
    ) -> "StageOutput":
        """What `stage` would write from `inputs`: paths, or what else to call them."""
        working_dir = self.layout.working_dir
        named = {relative_to(key, working_dir) if isinstance(key, Path) else key: inputs[key] for key in inputs}
        versions = {"python": platform.python_version(), "unicode": unicodedata.unidata_version}
        versions |= {library: importlib.metadata.version(library) for library in libraries}
        return StageOutput(manifest_path, Manifest(stage, self.layout.dataset, parameters, named, {}, versions), self)


def relative_to(path: Path, folder: Path) -> str:
    """The path from `folder` on if it lies there, else the absolute one; with slashes."""
    path, folder = path.absolute(), folder.absolute()
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def check_written_as(records: Mapping[Path, FileRecord], manifest: Path) -> None:
    """Raises UserError if a manifest that is there says otherwise of a file, or nothing."""
    if not manifest.is_file():
        return
    written = Manifest.read(manifest)
    action = "text_formatting" if written.stage == "extraction" else written.stage
    for path, record in records.items():
        was = written.outputs.get(path.relative_to(manifest.parent).as_posix())
        if was is None or was.sha256 != record.sha256:
            what = "is not in" if was is None else "has changed since it was recorded in"
            raise UserError(
                f"{path} {what} {manifest}",
                f"start --action {action} --dataset {written.dataset} again, with --overwrite if it is to be replaced",
            )


@dataclasses.dataclass(frozen=True)
class StageOutput:
    """The output of one stage. The stage is locked: nobody else works on it."""

    manifest_path: Path  # beside the files it lists
    wanted: Manifest  # what the stage is about to do: everything but the outputs
    preparation: Preparation

    @property
    def folder(self) -> Path:
        return self.manifest_path.parent

    def finished(self, unaccounted: Iterable[Path] = ()) -> Manifest | None:
        """The manifest, if there is one and all its files are whole; see `whole_files`."""
        return self.manifest_of(self.whole_files(unaccounted))

    def manifest_of(self, whole: Mapping[str, FileRecord]) -> Manifest | None:
        """The manifest, if there is one and all its files are among the whole ones."""
        manifest = Manifest.read(self.manifest_path) if whole and self.manifest_path.is_file() else None
        return manifest if manifest and whole.keys() == manifest.outputs.keys() else None

    def whole_files(self, unaccounted: Iterable[Path] = ()) -> dict[str, FileRecord]:
        """The files of this output that are there and as they were recorded, by their names.

        Args:
            unaccounted: files that would be replaced, and are refused if there is no record of how they were made.

        Raises:
            UserError: what is there is not this stage's output, and is not to be overwritten.
        """
        if self.preparation.overwrite:
            return {}
        found = Manifest.read(self.manifest_path) if self.manifest_path.is_file() else self._read_journal()
        if found is None:
            if stranger := next((path for path in unaccounted if path.exists()), None):
                raise UserError(
                    f"{stranger} is there and no {FILE_NAME} says what it was made from",
                    "move it away, or add --overwrite to replace it",
                )
            return {}
        if difference := _difference(found, self.wanted):
            raise UserError(
                f"{self.folder} holds the {found.stage} of {found.dataset} made {difference}",
                "add --overwrite to replace it, or give another BERT_PREP_WORKING_DIR",
            )
        there = [path for name in found.outputs if (path := self.folder / name).is_file()]
        now = self.preparation.records(there, f"checking {self.wanted.stage}")
        hashes = {path.relative_to(self.folder).as_posix(): record.sha256 for path, record in now.items()}
        return {name: record for name, record in found.outputs.items() if record.sha256 == hashes.get(name)}

    def make_folder(
        self, make: Callable[[Path], tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]]
    ) -> Manifest:
        """Replace the whole folder.

        Args:
            make: fills the empty folder it is given; returns its files' counts, by name, and the manifest's facts.
        """
        remove_leftovers(self.folder.parent, self.folder.name)
        with atomic_folder(self.folder) as new:
            counts, facts = make(new)
            records = self.preparation.records([new / name for name in counts], f"hashing {self.wanted.stage}")
            outputs = {name: dataclasses.replace(records[new / name], counts=counts[name]) for name in counts}
            manifest = dataclasses.replace(self.wanted, outputs=outputs, facts=facts)
            manifest.write(new / FILE_NAME)
        return manifest

    def start_journal(self, whole: Mapping[str, FileRecord]) -> None:
        """Record the files that are done already; from here on the output is unfinished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        entries = [dataclasses.asdict(self.wanted), *([name, dataclasses.asdict(whole[name])] for name in whole)]
        with atomic_write(self.folder / JOURNAL_NAME) as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
        self.manifest_path.unlink(missing_ok=True)

    def add_to_journal(self, name: str, record: FileRecord) -> None:
        """Record a file that is done."""
        with open(self.folder / JOURNAL_NAME, "a", encoding="utf-8") as file:
            file.write(json.dumps([name, dataclasses.asdict(record)]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, outputs: Mapping[str, FileRecord], **facts: object) -> Manifest:
        """Write the manifest, with what was found on the way; the output is finished."""
        manifest = dataclasses.replace(self.wanted, outputs=outputs, facts=facts)
        manifest.write(self.manifest_path)
        (self.folder / JOURNAL_NAME).unlink(missing_ok=True)
        return manifest

    def _read_journal(self) -> Manifest | None:
        """What an unfinished stage has done so far; None if it did not come to write that down."""
        entries = []
        # From a line that a kill or a power cut spoilt on, nothing counts.
        with contextlib.suppress(FileNotFoundError, ValueError), open(self.folder / JOURNAL_NAME, "rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    entries.append(json.loads(line))
        return Manifest.from_fields({**entries[0], "outputs": dict(entries[1:])}) if entries else None


def _difference(found: Manifest, wanted: Manifest) -> str:
    """How what was found differs from what is wanted, as the end of a sentence; empty if it does not."""
    # As JSON has the parameters: tuples are lists there.
    was, asked = (
        {"stage": manifest.stage, "dataset": manifest.dataset, **json.loads(json.dumps(manifest.parameters))}
        for manifest in (found, wanted)
    )
    names = sorted(name for name in was.keys() | asked.keys() if was.get(name) != asked.get(name))
    if names:
        return "with " + ", ".join(f"{name} {was.get(name)} where {asked.get(name)} is asked for" for name in names)
    before, now = ([record.sha256 for record in manifest.inputs.values()] for manifest in (found, wanted))
    if before != now:
        changed = (name for name, record in wanted.inputs.items() if record.sha256 not in before)
        return f"from other input than {next(changed, 'there is now')}"
    return ""
