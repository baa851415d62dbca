"""What lies where a stage would write: nothing, its finished output, a part of it, or something else.

Starting the preparation again must cost little and lose nothing. So a stage first looks at what is there. Output of the
same parameters and inputs whose files still have their recorded hashes is finished, and skipped. Files that are missing
or damaged are made again. Anything else, made with other parameters, from other inputs, or with no manifest to account
for it, is somebody's work and is not touched without --overwrite.

Stages with many independent files keep a journal of those that are done, a line each, so that they resume where they
were killed. It becomes the manifest at the end; a folder with a journal and no manifest is unfinished.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.errors import UserError
from common.workers import Workers
from data.artifacts.layout import Layout
from data.artifacts.manifest import FILE_NAME, JOURNAL_NAME, FileRecord, Manifest, versions_of
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
        wanted = Manifest(stage, self.layout.dataset, parameters, named, {}, versions_of(libraries))
        return StageOutput(manifest_path, wanted, self.pool, self.overwrite)


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


class StageOutput:
    """The output of one stage, with its manifest at `manifest_path`. The stage is locked: nobody else works on it.

    Args:
        manifest_path: beside the files it lists.
        wanted: what the stage is about to do: everything but the outputs.
        overwrite: take what is there away instead of refusing it.
    """

    def __init__(self, manifest_path: Path, wanted: Manifest, pool: Workers, overwrite: bool = False):
        self.manifest_path = manifest_path
        self.folder = manifest_path.parent
        self.wanted = wanted
        self.pool = pool
        self.overwrite = overwrite
        self._journal_path = self.folder / JOURNAL_NAME

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
            UserError: what is there is not this stage's output, and `overwrite` is not set.
        """
        found = self._found()
        strangers = [] if found else [path for path in unaccounted if path.exists()]
        if self.overwrite or (found is None and not strangers):
            return {}
        if found is None:
            raise UserError(
                f"{strangers[0]} is there and no {FILE_NAME} says what it was made from",
                "move it away, or add --overwrite to replace it",
            )
        if difference := _difference(found, self.wanted):
            raise UserError(
                f"{self.folder} holds the {found.stage} of {found.dataset} {difference}",
                "add --overwrite to replace it, or give another BERT_PREP_WORKING_DIR",
            )
        named = list(found.outputs.items())
        checks = self.pool.map(
            _is_whole, [(self.folder / name, record) for name, record in named], "checking", _name_of
        )
        bar = tqdm(checks, total=len(named), unit="file", desc=f"checking {self.wanted.stage}", leave=False)
        return {name: record for (name, record), whole in zip(named, bar, strict=True) if whole}

    def make_folder(self, make: Callable[[Path], tuple[Mapping[str, FileRecord], Mapping[str, Any]]]) -> Manifest:
        """Replace the whole folder.

        Args:
            make: fills the empty folder it is given; returns its files, by name, and the manifest's facts.
        """
        remove_leftovers(self.folder.parent, self.folder.name)
        with atomic_folder(self.folder) as new:
            outputs, facts = make(new)
            manifest = dataclasses.replace(self.wanted, outputs=outputs, facts=facts)
            manifest.write(new / FILE_NAME)
        return manifest

    def start_journal(self, whole: Mapping[str, FileRecord]) -> None:
        """Record the files that are done already; from here on the output is unfinished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
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

    def _found(self) -> Manifest | None:
        if self.manifest_path.is_file():
            return Manifest.read(self.manifest_path)
        return _read_journal(self._journal_path) if self._journal_path.is_file() else None


def _read_journal(path: Path) -> Manifest | None:
    """What an unfinished stage has done so far; None if it did not come to write that down."""
    entries = []
    with open(path, "rb") as lines, contextlib.suppress(ValueError):  # from a line that a kill or a power cut spoilt on
        for line in lines:
            if line.endswith(b"\n"):
                entries.append(json.loads(line))
    return Manifest.from_fields({**entries[0], "outputs": dict(entries[1:])}) if entries else None


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
