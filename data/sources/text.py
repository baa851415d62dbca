"""Text that is text already: Parquet, JSON lines and plain text, of one corpus or of several together.

This is how corpora are published today, Wikipedia's articles without markup among them. A word after --source is a
folder, a file, an address or a file of addresses; NAME= before it says which corpus that is of. The files lie below the
download in a folder of that name, so that each later stage knows whose they are.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

from tqdm import tqdm

from common.addresses import shown
from common.errors import Problem, Problems, UserError
from common.words import counted
from common.workers import Workers
from data.artifacts.layout import Layout
from data.artifacts.stage_output import Preparation
from data.corpus.document_files import KINDS, reader_of
from data.corpus.documents import Document, Failure, FormatOptions, Part
from data.corpus.lines import DamagedFile
from data.corpus.text_files import texts_in
from data.document_sources import DocumentSource
from data.downloaders.folder import DownloadOptions, checked_file, download_folder, link_or_copy
from data.downloaders.named_files import NamedFiles

AT_ONCE = 2
PROBLEMS_SHOWN = 10


class Source(DocumentSource):
    """Documents in files of KINDS."""

    name = "text"
    libraries = ("pyarrow",)
    takes_several = True

    def problems(self, options: DownloadOptions) -> Iterator[Problem]:
        wanted, reading = _named(options), _reading(options)
        checks = (functools.partial(_check, file, reading) for file in wanted.files.values())
        yield from _first([*wanted.problems, *(problem for check in checks for problem in _problems_of(check))])

    def download(self, preparation: Preparation, options: DownloadOptions) -> str:
        """The files of all corpora. Raises UserError where one cannot be had, or is not what its name says."""
        wanted = _named(options)

        def take(new: Path, pieces: Path) -> Mapping[str, Any]:
            for name, file in wanted.files.items():
                link_or_copy(file, new / name)
            fetch = functools.partial(_fetch, pieces=pieces, folder=new, options=_reading(options))
            addresses = list(wanted.addresses.items())
            # The first alone: what is wrong with it, as its columns, most likely is with all.
            for several in (addresses[:1], addresses[1:]):
                with ThreadPoolExecutor(AT_ONCE) as threads:
                    found = threads.map(fetch, several)
                    bar = tqdm(found, "downloading text", len(several), unit="file", disable=not several)
                    if wrong := [problem for problems in bar for problem in problems]:
                        raise UserError(_first(wrong))
            return {"left_out": wanted.left_out} if wanted.left_out else {}

        asked = " ".join(map(shown, wanted.addresses.values())) or "local files"
        return download_folder(preparation, preparation.layout.download, "text", asked, take, wanted.files)

    def texts(self, layout: Layout) -> tuple[Path, Sequence[Path]]:
        """The files that were downloaded, in the order of their names."""
        return layout.download, list(texts_in(layout.download, KINDS)[0].values())

    def parameters(self, options: FormatOptions) -> Mapping[str, Any]:
        names = ("text_column", "text_documents", "min_words")
        return {name: getattr(options, name) for name in names}

    def parts(self, files: Sequence[Path], options: FormatOptions, pool: Workers) -> Iterable[Part]:
        """Row groups of Parquet, pieces of plain files, and compressed ones whole.

        Raises UserError with everything that can be told of the files by their beginnings.
        """
        checked = list(pool.map(functools.partial(_starts, options=options), files, "text_formatting", str))
        if problems := [problem for found in checked if isinstance(found, UserError) for problem in found.problems]:
            raise UserError(_first(problems))
        return (Part(file, start) for file, found in zip(files, checked, strict=True) for start in found)

    def documents(self, part: Part, options: FormatOptions) -> Iterator[Document | Failure | None]:
        """The documents of a part."""
        return reader_of(part.file, options).documents(part)

    def corpus_of(self, name: PurePath) -> str:
        """The folder that it is in."""
        return name.parts[0]

    def unit(self, file: Path, options: FormatOptions) -> str:
        """A row or a line."""
        return reader_of(file, options).unit


def _fetch(item: tuple[str, str], pieces: Path, folder: Path, options: FormatOptions) -> list[Problem]:
    """Download a file to its name in the folder; returns what is wrong. A damaged one will be downloaded again."""
    name, address = item
    problems = Problems()
    with problems.collect(), checked_file(address, pieces, progress=False) as file:
        link_or_copy(file, folder / name)
        try:
            _check(file, options)
        except DamagedFile:
            raise
        except UserError as error:
            problems.extend(error.problems)
    return problems.found


def _reading(options: DownloadOptions) -> FormatOptions:
    return FormatOptions(text_column=options.text_column, text_documents=options.text_documents)


def _starts(file: Path, options: FormatOptions) -> Sequence[int] | UserError:
    try:
        return reader_of(file, options).starts(file)
    except UserError as error:
        return error


def _check(file: Path, options: FormatOptions) -> None:
    """Raises UserError if it is not what its name says, as far as can be told without reading all of it."""
    reader_of(file, options).starts(file)


def _problems_of(function: Callable[[], object]) -> list[Problem]:
    problems = Problems()
    with problems.collect():
        function()
    return problems.found


def _first(problems: Sequence[Problem]) -> list[Problem]:
    n_more = len(problems) - PROBLEMS_SHOWN
    more = [Problem(f"The files of --source have {counted(n_more, 'more problem')}.")] if n_more > 0 else []
    return [*problems[:PROBLEMS_SHOWN], *more]


def _named(options: DownloadOptions) -> NamedFiles:
    return NamedFiles([word for word in (options.source, *options.more_sources) if word], KINDS)
