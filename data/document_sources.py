"""The sources of documents: where they come from, how they become one document per line, and the datasets made of them.

Each file of data/sources/ holds one, as its class `Source`. The choices of the command lines, the stages and the names
of the folders follow from what is found there.
"""

import dataclasses
import functools
import importlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from tqdm import tqdm

from common.errors import Problem, Problems, UserError
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

    def documents(self, part: tuple[Path, int]) -> list[tuple[str, int]]:
        """The documents of a piece, each a line without its end, and the number of characters that are not in it.

        Raises UserError if the piece holds something else.
        """
        raise NotImplementedError

    def formatted(self, layout: Layout) -> Path:
        """The file with a document per line."""
        return layout.formatted / f"{self.name}_one_{self.document}_per_line.txt"

    def write_documents(self, files: Sequence[Path], formatted: Path, pool: Workers) -> FileRecord:
        """Write the documents in `files` one per line, in their order; in the record, what was left out is counted too.

        Raises UserError if there is none but empty, or with all pieces that hold something else.
        """
        counts = Counter(documents=0, documents_without_prose=0, characters=0, characters_left_out=0)
        problems = Problems()
        parts = pool.map(self._documents_or_problem, self.parts(files), "text_formatting", lambda part: str(part[0]))
        with open(formatted, "wb") as file:
            for found in tqdm(parts, "text_formatting", unit="part"):
                if isinstance(found, UserError):
                    problems.extend(found.problems)
                    continue
                for document, n_left_out in found:
                    # A text may hold half a surrogate pair, which no file can: references to them are in real dumps.
                    line = document.encode("utf-8", "ignore").strip()
                    file.write(line + b"\n" if line else b"")
                    counts.update(documents=bool(line), documents_without_prose=not line)
                    counts.update(characters=len(document), characters_left_out=n_left_out)
        problems.raise_if_any()
        if counts["documents"] == 0:
            raise UserError(
                f"There is no prose in any document of {files[0].parent}", "check that it is what it should be"
            )
        return FileRecord.of(formatted, **counts)

    def _documents_or_problem(self, part: tuple[Path, int]) -> list[tuple[str, int]] | UserError:
        try:
            return self.documents(part)
        except UserError as error:
            return error


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
