"""Where a download goes: known by its hashes when it is there, and whole or not there at all.

A finished download is recognised without asking the network. Pieces of one that is not finished wait in a folder beside
it, from which the next call goes on.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from common.published_models import PRETRAINED_MODELS
from common.workers import Workers
from data.artifacts.manifest import FILE_NAME, FileRecord, Manifest, versions_of
from data.artifacts.stage_output import StageOutput, replace_folder, scratch_folder
from data.downloaders.sources import SQUAD_MIRROR, WEIGHTS_MIRROR, WIKI_MIRROR


@dataclasses.dataclass(frozen=True)
class DownloadOptions:
    """What to download and from where; names as on the command line."""

    source: str | None = None
    models: Sequence[str] = tuple(PRETRAINED_MODELS)
    max_failed_share: float = 0.05
    overwrite: bool = False
    wiki_mirror: str = WIKI_MIRROR
    squad_mirror: str = SQUAD_MIRROR
    weights_mirror: str = WEIGHTS_MIRROR


class DownloadFolder:
    """Where a download goes, and whether it is there already.

    Args:
        folder: appears when the download is whole.
        source: what was asked for; another download is not replaced without `overwrite`.
        inputs: the files of this machine that it is made from, by name.
    """

    def __init__(
        self,
        folder: Path,
        dataset: str,
        source: str,
        pool: Workers,
        overwrite: bool,
        inputs: Mapping[str, FileRecord] | None = None,
    ):
        self.folder = folder
        self._pool = pool
        wanted = Manifest("download", dataset, {"source": source}, inputs or {}, {}, versions_of(["requests"]))
        self._output = StageOutput(folder / FILE_NAME, wanted, overwrite)

    @property
    def cache(self) -> Path:
        """Where pieces of the download wait until it is whole."""
        return self.folder.parent / f".{self.folder.name}.partial"

    def finished(self) -> Manifest | None:
        """The manifest of this download, if all of its files are there and whole; refuses what is there otherwise."""
        there = [path for path in self.folder.rglob("*") if path.is_file()]
        return self._output.finished(self._output.whole_files(self._pool, there))

    @contextlib.contextmanager
    def new(self) -> Iterator[Path]:
        """An empty folder to fill, gone afterwards; see `publish`."""
        with scratch_folder(self.folder) as scratch:
            folder = scratch / self.folder.name
            folder.mkdir()
            yield folder

    def publish(self, new: Path, outputs: Mapping[str, FileRecord], **facts: object) -> None:
        """Put the filled folder in its place, with its manifest."""
        for name in outputs:
            with open(new / name, "rb") as file:
                os.fsync(file.fileno())
        dataclasses.replace(self._output.wanted, outputs=outputs, facts=facts).write(new / FILE_NAME)
        replace_folder(new, self.folder)
        shutil.rmtree(self.cache, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """The file under another name too; without a second copy where both are on one file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
