"""Where a download goes: known by its hashes when it is there, and whole or not there at all.

A finished download is recognized without asking the network. Pieces of one that is not finished wait in a folder beside
it, from which the next call resumes.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.published_models import PRETRAINED_MODELS
from data.artifacts.manifest import FILE_NAME, FileRecord, Manifest
from data.artifacts.stage_output import Preparation

SQUAD_MIRROR = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
WEIGHTS_MIRROR = "https://storage.googleapis.com/bert_models"
WIKI_MIRROR = "https://dumps.wikimedia.org"


@dataclasses.dataclass(frozen=True)
class DownloadOptions:
    """What to download and from where; names as on the command line."""

    source: str | None = None
    models: Sequence[str] = tuple(PRETRAINED_MODELS)
    max_failed_share: float = 0.05
    wiki_mirror: str = WIKI_MIRROR
    squad_mirror: str = SQUAD_MIRROR
    weights_mirror: str = WEIGHTS_MIRROR


class DownloadFolder:
    """Where a download goes, and whether it is there already.

    Args:
        folder: appears when the download is whole.
        source: what was asked for; another download is not replaced without `--overwrite`.
        inputs: the files of this machine that it is made from, by name.
    """

    def __init__(
        self, preparation: Preparation, folder: Path, source: str, inputs: Mapping[str, FileRecord] | None = None
    ):
        self.folder = folder
        self._output = preparation.output(
            folder / FILE_NAME, "download", {"source": source}, inputs or {}, ["requests"]
        )

    @property
    def cache(self) -> Path:
        """Where pieces of the download wait until it is whole."""
        return self.folder.parent / f".{self.folder.name}.partial"

    def finished(self) -> Manifest | None:
        """The manifest of this download, if all of its files are there and whole; refuses what is there otherwise."""
        return self._output.finished(path for path in self.folder.rglob("*") if path.is_file())

    def fill(self, make: Callable[[Path], tuple[Mapping[str, FileRecord], Mapping[str, Any]]]) -> Manifest:
        """Put what `make` fills in into its place; see `StageOutput.make_folder`."""
        manifest = self._output.make_folder(make)
        shutil.rmtree(self.cache, ignore_errors=True)
        return manifest


def link_or_copy(source: Path, target: Path) -> None:
    """The file under another name too; without a second copy where both are on one file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
