"""The sources of documents: where they come from, how they become one document per line, and the datasets made of them.

Each file of data/sources/ holds one, as its class `Source`. The choices of the command lines, the stages and the names
of the folders follow from what is found there.
"""

import dataclasses
import functools
import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from tqdm import tqdm

from common.errors import Problem, UserError
from common.workers import Workers
from data.artifacts.layout import BOTH, Layout
from data.artifacts.manifest import FileRecord
from data.artifacts.stage_output import Preparation
from data.downloaders.folder import DownloadOptions

COMBINED = MappingProxyType({BOTH: ("wikicorpus_en", "bookscorpus")})  # made of several sources, from sharding on


class DocumentSource:
    """Documents of one origin. Subclasses are named `Source`; they say what is left open here."""

    name: ClassVar[str]  # of the dataset
    document: ClassVar[str] = "document"  # what one is called in the formatted text's file name
    parameters: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # what shapes the formatted text, for the manifest

    def problem(self, source: str | None) -> Problem | None:
        """What is wrong with `--source`, as far as can be told without the network."""
        raise NotImplementedError

    def download(self, preparation: Preparation, options: DownloadOptions) -> str:
        """Bring the documents into `preparation.layout.download`, see `download_folder`; returns what was done."""
        raise NotImplementedError

    def extract(self, preparation: Preparation) -> str | None:
        """What is to be done between download and formatting; returns what was done."""

    def texts(self, layout: Layout) -> tuple[Path, Sequence[Path]]:
        """The folder to format, which may have a manifest, and the files there."""
        raise NotImplementedError

    def parts(self, files: Sequence[Path]) -> Iterable[tuple[Path, int]]:
        """The pieces that workers format, each at once: a file, and where in it the piece begins."""
        return ((file, 0) for file in files)

    def documents(self, part: tuple[Path, int]) -> list[str]:
        """The documents of a piece, each a line without its end. Raises UserError if it holds something else."""
        raise NotImplementedError

    def formatted(self, layout: Layout) -> Path:
        """The file with a document per line."""
        return layout.formatted / f"{self.name}_one_{self.document}_per_line.txt"

    def write_documents(self, files: Sequence[Path], formatted: Path, pool: Workers) -> FileRecord:
        """Write the documents in `files` one per line, in their order. Raises UserError if there is none but empty."""
        n_documents = n_given = 0
        parts = pool.map(self.documents, self.parts(files), "text_formatting", lambda part: str(part[0]))
        with open(formatted, "wb") as file:
            for documents in tqdm(parts, "text_formatting", unit="part"):
                # A text may hold half a surrogate pair, which no file can: references to them are in real dumps.
                lines = [line for document in documents if (line := document.encode("utf-8", "ignore").strip())]
                file.writelines(line + b"\n" for line in lines)
                n_documents, n_given = n_documents + len(lines), n_given + len(documents)
        if n_documents == 0:
            raise UserError(
                f"There is no prose in any document of {files[0].parent}", "check that it is what it should be"
            )
        return FileRecord.of(formatted, documents=n_documents, documents_without_prose=n_given - n_documents)


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
