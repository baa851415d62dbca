"""Where MLPerf's files come from: a folder that the user filled, or the server that MLCommons publishes them on.

MLCommons describes a set of files by two small ones: NAME.uri, whose text is the address of a folder, and NAME.md5
beside it, which lists the folder's files with their sums. A server that wants a login redirects to a page.

Source of the rule: mlcommons/r2-downloader.
"""

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol
from urllib.parse import quote

from common.addresses import below, is_remote, shown
from common.errors import UserError
from common.remote_files import download
from common.words import counted
from data.artifacts.manifest import FILE_NAME, FileRecord, Manifest
from data.downloaders.folder import link_or_copy
from data.mlperf.published import PublishedFile, check_file
from file_utils import atomic_path, sha256_of

METADATA = "https://training.mlcommons-storage.org/metadata"
CHECKPOINT_URI = f"{METADATA}/bert-input-files.uri"
TEXT_URI = f"{METADATA}/bert-preprocessed-wikipedia-dataset.uri"
SUM_LINE = re.compile(r"([0-9a-fA-F]{32})\s+\*?(\S.*)")
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip", ".gz")
NAMES_SHOWN = 3


class Listed(NamedTuple):
    """A file in a list of sums."""

    md5: str
    path: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


def read_sums(text: str) -> list[Listed]:
    """The lines of md5sum in a text; others are left out."""
    return [Listed(found[1].lower(), found[2].strip()) for line in text.splitlines() if (found := SUM_LINE.match(line))]


class FileSource(Protocol):
    """Where files are."""

    keeps_earlier: bool
    """Whether files that were taken before need not be looked for again."""

    def check(self, files: Sequence[PublishedFile]) -> None:
        """Raises UserError if there are not all of these, or wrong ones as far as can be told before any is taken."""

    def take(self, file: PublishedFile, target: Path) -> None:
        """Puts a file where it is wanted. Raises UserError, and leaves nothing there, if it is not the right one."""


class LocalFolder:
    """A folder that has the files, at any depth, and maybe lists of their sums (.md5, md5.txt)."""

    keeps_earlier = False  # the user may have put others there since

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: dict[str, list[Path]] = {}
        for path in sorted(folder.rglob("*"), key=lambda path: (len(path.parts), path)):
            if path.is_file():
                self.paths.setdefault(path.name, []).append(path)
        lists = [path for name in self.paths if name.endswith((".md5", "md5.txt")) for path in self.paths[name]]
        self.sums = {each.name: each.md5 for path in lists for each in read_sums(path.read_text(errors="replace"))}

    def check(self, files: Sequence[PublishedFile]) -> None:
        if absent := [file.name for file in files if file.name not in self.paths]:
            more = f" and {counted(len(absent) - NAMES_SHOWN, 'more file')}" if len(absent) > NAMES_SHOWN else ""
            archives = [name for name in self.paths if name.endswith(ARCHIVES)]
            unpack = f"unpack {archives[0]} there" if archives else "put all files there"
            raise UserError(
                f"{self.folder} lacks {', '.join(absent[:NAMES_SHOWN])}{more}",
                f"{unpack}, or leave --files (MLPERF_FILES) out to download what is missing",
            )
        wrong = []
        for file in files:
            try:
                check_file(self._find(file), file, self.sums.get(file.name))
            except UserError as error:
                wrong += error.problems
        if wrong:
            raise UserError(wrong)

    def take(self, file: PublishedFile, target: Path) -> None:
        with atomic_path(target) as new:
            link_or_copy(self._find(file), new)

    def _find(self, file: PublishedFile) -> Path:
        """Of several of this name, as both formats of the checkpoint have them, the one of the right size."""
        found = self.paths[file.name]
        return next((path for path in found if path.stat().st_size == file.bytes), found[0])


class Server:
    """Two sets of files, each by the address of its .uri."""

    keeps_earlier = True

    def __init__(self, checkpoint_uri: str = CHECKPOINT_URI, text_uri: str = TEXT_URI) -> None:
        self.uris = {False: checkpoint_uri, True: text_uri}
        self.addresses: dict[PublishedFile, tuple[str, str]] = {}  # with the listed MD5

    def check(self, files: Sequence[PublishedFile]) -> None:
        absent = []
        for in_text, uri in self.uris.items():
            of_set = [file for file in files if file.path.startswith("text/") is in_text]
            base, listed = self._read_list(uri) if of_set else ("", [])
            for file in of_set:
                found = [each for each in listed if each.name == file.name]
                chosen = next((each for each in found if each.md5 == file.md5), found[0] if found else None)
                if chosen is None or file.md5 not in (None, chosen.md5):
                    what = f"{file.name} with the MD5 {file.md5}" if found else file.name
                    absent.append(f"the list beside {shown(uri)} has no {what}")
                    continue
                self.addresses[file] = below(base, quote(chosen.path.removeprefix("./"))), chosen.md5
        if absent:
            more = f" (and {counted(len(absent) - 1, 'more file')} missing there)" if len(absent) > 1 else ""
            remedy = "download the files by other means and name their folder: --files (MLPERF_FILES)"
            raise UserError(f"{absent[0][0].upper()}{absent[0][1:]}{more}", remedy)

    def take(self, file: PublishedFile, target: Path) -> None:
        address, md5 = self.addresses[file]
        partial = target.with_name(f".{target.name}.part")
        download(address, partial, label=target.name)
        try:
            check_file(partial, file, md5, f"start again to download {shown(address)} once more")
        except UserError:
            partial.unlink()
            raise
        finally:
            partial.with_name(f"{partial.name}.json").unlink(missing_ok=True)
        os.replace(partial, target)

    @staticmethod
    def _read_list(uri: str) -> tuple[str, list[Listed]]:
        """The address of the folder, and what is in it."""
        texts = []
        for address in (uri, f"{uri.removesuffix('.uri')}.md5"):
            with tempfile.TemporaryDirectory() as folder:
                content = Path(folder, "content")
                download(address, content, progress=False)
                texts.append(content.read_text(encoding="utf-8", errors="replace"))
        base, listed = texts[0].strip(), read_sums(texts[1])
        if not is_remote(base) or not listed:
            wrong = (
                f"{shown(uri)} holds no address" if not is_remote(base) else f"No file is listed beside {shown(uri)}"
            )
            raise UserError(f"{wrong}, so MLCommons may have moved the files", "name a folder of them: --files")
        return base, listed


def take_files(folder: Path, files: Sequence[PublishedFile], source: FileSource) -> dict[str, FileRecord]:
    """Brings all files into a folder, each whole or not at all; returns their records, by path.

    A manifest there has those that were taken, so that a server is asked for the others only.

    Raises:
        UserError: everything that is wrong.
    """
    manifest_path = folder / FILE_NAME
    are_stand_ins = all(file.md5 is None for file in files)
    parameters = {"stand_ins": are_stand_ins}
    earlier = Manifest.read(manifest_path) if manifest_path.is_file() else None
    records = dict(earlier.outputs) if earlier and earlier.parameters == parameters else {}
    kept = {file.path for file in files if source.keeps_earlier and _is_whole(folder, file, records)}
    wanted = [file for file in files if file.path not in kept]
    if wanted:
        source.check(wanted)
    for file in wanted:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        source.take(file, target)
        records[file.path] = FileRecord.of(target)
        Manifest("download", folder.name, parameters, {}, records).write(manifest_path)
    return {file.path: records[file.path] for file in files}


def _is_whole(folder: Path, file: PublishedFile, records: dict[str, FileRecord]) -> bool:
    path, record = folder / file.path, records.get(file.path)
    return record is not None and path.is_file() and sha256_of(path) == record.sha256
