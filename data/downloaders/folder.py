"""Where a download goes: recognized by its hashes when it is there, and whole or not there at all."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.addresses import is_remote
from common.errors import UserError
from common.published_models import PRETRAINED_MODELS
from common.words import counted
from data.artifacts.manifest import FILE_NAME
from data.artifacts.stage_output import Preparation
from data.corpus.documents import FormatOptions
from file_utils import cached_path

SQUAD_MIRROR = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
GLUE_MIRROR = "https://dl.fbaipublicfiles.com"
WEIGHTS_MIRROR = "https://storage.googleapis.com/bert_models"
WIKI_MIRROR = "https://dumps.wikimedia.org"
MAX_LIST_BYTES = 2**26  # of a file of addresses


@dataclasses.dataclass(frozen=True)
class DownloadOptions:
    """What to download and from where; names as on the command line."""

    source: str | None = None
    more_sources: Sequence[str] = ()  # where the dataset takes several
    text_column: str = FormatOptions.text_column
    text_documents: str = FormatOptions.text_documents
    models: Sequence[str] = tuple(PRETRAINED_MODELS)
    max_failed_share: float = 0.05
    wiki_mirror: str = WIKI_MIRROR
    squad_mirror: str = SQUAD_MIRROR
    glue_mirror: str = GLUE_MIRROR
    weights_mirror: str = WEIGHTS_MIRROR


def download_folder(
    preparation: Preparation,
    folder: Path,
    what: str,
    source: str,
    make: Callable[[Path, Path], Mapping[str, Any]],
    local: Mapping[str, Path] | None = None,
) -> str:
    """Fill `folder` with a download, unless it is there and whole; returns what was done.

    Args:
        what, source: what is downloaded, for people; and what was asked for, for the manifest.
        make: fills the new folder that it is given first. The second, beside it, is for pieces from which the next call
            resumes, should this one be killed. Returns what became known on the way, for the manifest.
        local: the files of this machine that it is made from, by name.

    Raises:
        UserError: another download is there, and not to be overwritten.
    """
    local = local or {}
    records = preparation.records(local.values(), f"checking {what}")
    inputs = {name: records[path] for name, path in local.items()}
    output = preparation.output(folder / FILE_NAME, "download", {"source": source}, inputs, ["requests"])
    if output.finished(path for path in folder.rglob("*") if path.is_file()):
        return f"{what} was downloaded before and is as it was: {folder}"
    pieces = folder.with_name(f".{folder.name}.partial")

    def fill(new: Path) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
        facts = make(new, pieces)
        files = sorted(path for path in new.rglob("*") if path.is_file())
        return {path.relative_to(new).as_posix(): {} for path in files}, facts

    manifest = output.make_folder(fill)
    shutil.rmtree(pieces, ignore_errors=True)
    n_bytes = sum(record.bytes for record in manifest.outputs.values())
    facts = "".join(f", {name} {value}" for name, value in manifest.facts.items() if name != "left_out")
    left_out = manifest.facts.get("left_out", "")
    return f"{what}: {counted(len(manifest.outputs), 'file')}, {n_bytes / 1e6:,.1f} MB, in {folder}{facts}{left_out}"


@contextlib.contextmanager
def checked_file(address: str, pieces: Path, name: str | None = None, progress: bool = True) -> Iterator[Path]:
    """`file_utils.cached_path` for a block that checks the file, and raises UserError for one that cannot be used.

    A download that is refused so is removed, or the next start would take it for finished. A local file, as of a mirror
    that is a folder, is its owner's and stays.
    """
    path = cached_path(address, pieces, name=name, progress=progress)
    try:
        yield path
    except UserError as error:
        remedy = f"put the right file at {path}, or give another address"
        if is_remote(address):
            path.unlink()
            remedy = "the download was removed, so start again to download it once more, or give another address"
        raise UserError([dataclasses.replace(problem, remedy=remedy) for problem in error.problems]) from error


def addresses_in(path: Path) -> list[str]:
    """The addresses in a file that holds nothing else but comments and empty lines; none if it is another file."""
    try:
        is_small = path.stat().st_size <= MAX_LIST_BYTES and os.access(path, os.R_OK)
        lines = path.read_text(encoding="utf-8-sig").split("\n") if is_small else []
    except UnicodeDecodeError:
        return []
    addresses = [line for each in lines if (line := each.strip()) and not line.startswith("#")]
    return list(dict.fromkeys(addresses)) if all(map(is_remote, addresses)) else []


def link_or_copy(source: Path, target: Path) -> None:
    """The file under another name too; without a second copy where both are on one file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
