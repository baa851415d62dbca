"""What a source of documents is: where they come from, and how they become one document per line."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from tqdm import tqdm

from common.errors import Problem, UserError
from common.workers import Workers
from data.artifacts.layout import Layout
from data.artifacts.manifest import FileRecord
from data.artifacts.stage_output import Preparation
from data.downloaders.folder import DownloadOptions


class DocumentSource:
    """Documents of one origin. Subclasses are named `Source`; they say what is left open here."""

    name: ClassVar[str]
    """Of the dataset."""
    document: ClassVar[str] = "document"
    """What one is called, in the formatted text's file name."""
    counted_as: ClassVar[str] = "documents"
    """What those in the formatted text are called."""
    parameters: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """What shapes the formatted text, for the manifest."""

    def problem(self, source: str | None) -> Problem | None:
        """What is wrong with `--source`, as far as can be told without the network."""
        raise NotImplementedError

    def download(self, preparation: Preparation, options: DownloadOptions) -> str:
        """Bring the documents into `preparation.layout.download`; returns what was done.

        Raises:
            UserError: they cannot be had, or are not what they should be.
        """
        raise NotImplementedError

    def extract(self, preparation: Preparation) -> str | None:
        """What is to be done between download and formatting; returns what was done."""

    def texts(self, layout: Layout) -> tuple[Path, Sequence[Path]]:
        """The folder to format, which may have a manifest, and the files there. Raises UserError if there are none."""
        raise NotImplementedError

    def parts(self, files: Sequence[Path]) -> Iterable[Any]:
        """The pieces that workers format, each at once: files, if they are small enough."""
        return files

    def part_name(self, part: Any) -> str:
        """What to call a piece when a worker dies at it."""
        return str(part)

    def documents(self, part: Any) -> list[str]:
        """The documents of a piece, each a line without its end; empty ones are left out.

        Raises:
            UserError: it holds something else.
        """
        raise NotImplementedError

    def formatted(self, layout: Layout) -> Path:
        """The file with a document per line."""
        return layout.formatted / f"{self.name}_one_{self.document}_per_line.txt"

    def write_documents(self, files: Sequence[Path], formatted: Path, pool: Workers) -> FileRecord:
        """Write the documents in `files` one per line, in their order; returns the record, with their number.

        Raises:
            UserError: a file holds something else, or nothing is prose.
        """
        digest, n_bytes, n_documents = hashlib.sha256(), 0, 0
        parts = pool.map(self.documents, self.parts(files), "text_formatting", self.part_name)
        with open(formatted, "wb") as file:
            for documents in tqdm(parts, "text_formatting", unit="part"):
                block = "".join(f"{document}\n" for document in documents if document).encode()
                file.write(block)
                digest.update(block)
                n_bytes += len(block)
                n_documents += sum(map(bool, documents))
        if n_documents == 0:
            raise UserError(
                f"There is no prose in any document of {files[0].parent}", "check that it is what it should be"
            )
        return FileRecord(n_bytes, digest.hexdigest(), {"documents": n_documents})
