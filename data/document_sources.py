"""The sources of documents: where they come from, how they become one document per line, and the datasets made of them.

Each file of data/sources/ holds one, as its class `Source`. The choices of the command lines, the stages and the names
of the folders follow from what is found there.
"""

import dataclasses
import functools
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, ClassVar

from common.errors import Problem
from common.workers import Workers
from data.artifacts.layout import BOTH, Layout
from data.artifacts.stage_output import Preparation
from data.corpus.documents import Document, Failure, FormatOptions, Part
from data.downloaders.folder import DownloadOptions

COMBINED = MappingProxyType({BOTH: ("wikicorpus_en", "bookscorpus")})  # made of several sources, from sharding on


class DocumentSource:
    """Documents of one origin. Subclasses are named `Source`; they say what is left open here."""

    name: ClassVar[str]  # of the dataset
    document: ClassVar[str] = "document"  # what one is called in the formatted text's file name
    libraries: ClassVar[Sequence[str]] = ()  # whose versions the formatted text may depend on
    takes_several: ClassVar[bool] = False  # words after --source

    def problems(self, options: DownloadOptions) -> Iterable[Problem | None]:
        """What is wrong with `--source`, as far as can be told without the network; None is nothing."""
        raise NotImplementedError

    def download(self, preparation: Preparation, options: DownloadOptions) -> str:
        """Bring the documents into `preparation.layout.download`, see `download_folder`; returns what was done."""
        raise NotImplementedError

    def extract(self, preparation: Preparation) -> str | None:
        """What is to be done between download and formatting; returns what was done."""

    def texts(self, layout: Layout) -> tuple[Path, Sequence[Path]]:
        """The folder to format, which may have a manifest, and the files there."""
        raise NotImplementedError

    def parameters(self, options: FormatOptions) -> Mapping[str, Any]:
        """What shapes the formatted text, for the manifest."""
        return {}

    def parts(self, files: Sequence[Path], options: FormatOptions, pool: Workers) -> Iterable[Part]:
        """The pieces that workers format, each at once."""
        return map(Part, files)

    def documents(self, part: Part, options: FormatOptions) -> Iterator[Document | Failure | None]:
        """The documents of a piece; None for what counts as none, as a blank line.

        Raises UserError if the piece holds something else.
        """
        raise NotImplementedError

    def corpus_of(self, name: PurePath) -> str:
        """Which corpus a file is of, by its path from the folder of `texts`; each one's documents are counted apart."""
        return self.name

    def unit(self, file: Path, options: FormatOptions) -> str:
        """What each of the documents in a file is there, "line"; empty: all of it."""
        return ""

    def formatted(self, layout: Layout) -> Path:
        """The file with a document per line."""
        return layout.formatted / f"{self.name}_one_{self.document}_per_line.txt"


@functools.cache
def document_sources() -> Mapping[str, DocumentSource]:
    """All sources, by name; Wikipedia first, as in NVIDIA's script."""
    files = sorted(Path(__file__).with_name("sources").glob("*.py"), reverse=True)
    sources = [importlib.import_module(f"data.sources.{file.stem}").Source() for file in files]
    return MappingProxyType({source.name: source for source in sources})


def datasets() -> tuple[str, ...]:
    """The names of all datasets that can be sharded."""
    return (*document_sources(), *COMBINED)


def formatted_texts(layout: Layout) -> dict[Path, Path]:
    """The manifest of each formatted text of the dataset, and that text; several for a combined one."""
    names = COMBINED.get(layout.dataset, (layout.dataset,))
    layouts = (dataclasses.replace(layout, dataset=name) for name in names)
    return {each.formatted_manifest: document_sources()[each.dataset].formatted(each) for each in layouts}
