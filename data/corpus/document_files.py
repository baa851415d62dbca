"""The files that documents of any origin come in: Parquet, JSON lines, plain lines and whole texts.

Each kind is a reader with the same methods, chosen by the ending of the file's name. A part of a file is read as a
stream: of Parquet one column and a page at a time, of a compressed file a block. Only that column's type is looked at,
since files of one data set differ in the others.

A line or row that cannot be used is a `Failure` in its place, and the caller counts it. A damaged file is an error.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.json_files import parse_json
from data.corpus.documents import LINES, Document, Failure, FormatOptions, Part, as_it_is, prose
from data.corpus.lines import AGAIN, DamagedFile, is_compressed, lines_from, opened, starts
from data.corpus.sharding import MAX_DOCUMENT_BYTES

BYTES_PER_PART = 2**24
ROWS_AT_ONCE = 64  # of which the texts are in memory
NAMES_SHOWN = 10
PARQUET = ".parquet"
JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")
KINDS = (PARQUET,) + JSON_LINES + (".txt", ".txt.gz", ".txt.zst")  # noqa: RUF005  # how names of these files end
TOO_LONG = f"has more than {MAX_DOCUMENT_BYTES:,} bytes, and documents are handled whole"
BOM = b"\xef\xbb\xbf"


class Reader:
    """Reads files of one kind."""

    unit = ""  # what a document is there, for messages; empty: the file

    def __init__(self, options: FormatOptions):
        self.options = options

    def starts(self, file: Path) -> Sequence[int]:
        """Where its parts begin. Raises UserError if the file is not of this kind, as far as its beginning tells."""
        raise NotImplementedError

    def documents(self, part: Part) -> Iterator[Document | Failure | None]:
        """One for each row or line; None for a blank one. Raises UserError where the file is damaged."""
        raise NotImplementedError


class ParquetReader(Reader):
    """A document is a row. A part is a row group."""

    unit = "row"

    def starts(self, file: Path) -> Sequence[int]:
        with self._opened(file) as parquet:
            self._check_column(file, parquet.schema_arrow)
            return range(parquet.num_row_groups)

    def documents(self, part: Part) -> Iterator[Document | Failure | None]:
        column, min_words = self.options.text_column, self.options.min_words
        how = {"batch_size": ROWS_AT_ONCE, "columns": [column], "use_threads": False}
        with self._opened(part.file) as parquet:
            self._check_column(part.file, parquet.schema_arrow)
            for batch in parquet.iter_batches(row_groups=[part.start], **how):
                for value in batch.column(0):
                    try:
                        text = value.as_py() or ""
                    except UnicodeDecodeError as error:
                        yield Failure(f"is not UTF-8 ({error.reason})")
                    else:
                        yield _bounded(prose(text.split("\n"), min_words))

    @contextlib.contextmanager
    def _opened(self, file: Path) -> Iterator[Any]:
        import pyarrow  # here, where it is needed: it takes a tenth of a second
        from pyarrow import parquet

        # Without `pre_buffer` and with a buffer, pages come one by one and by no other thread.
        how = {"pre_buffer": False, "buffer_size": 2**20, "page_checksum_verification": True}
        try:
            with parquet.ParquetFile(str(file), **how) as opened_file:
                yield opened_file
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's error, not the file's
                raise
            raise DamagedFile(f"{file} is no whole Parquet file ({error})", AGAIN) from error

    def _check_column(self, file: Path, schema: Any) -> None:
        import pyarrow

        column = self.options.text_column
        if schema.names.count(column) != 1:  # pyarrow would give no rows, and no error
            found = "several columns" if column in schema.names else "no column"
            raise UserError(
                f"{file} has {found} {column!r}; there are {_some(schema.names)}", "give --text_column another"
            )
        kind = schema.field(column).type
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        is_text = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
        if not any(is_kind(kind) for is_kind in is_text):
            remedy = "give --text_column one of strings"
            raise UserError(f"The column {column!r} of {file} holds {kind}, not strings", remedy)


class LineReader(Reader):
    """A document is a line. A part is what lies between two bytes, or a whole compressed file."""

    unit = "line"
    wanted = "text in UTF-8"

    def starts(self, file: Path) -> Sequence[int]:
        """Raises UserError too where no line of the first block can be used."""
        first = None
        with opened(file) as content:
            for number, document in enumerate(self._documents(lines_from(content, 0, 2**20)), 1):
                if not isinstance(document, Failure | None):
                    break
                if first is None and document is not None:
                    first = f"line {number} {document.reason}"
            else:
                if first:
                    raise UserError(f"{file} is not {self.wanted}: {first}", self._remedy(file))
        return starts(file, BYTES_PER_PART)

    def documents(self, part: Part) -> Iterator[Document | Failure | None]:
        n_bytes = float("inf") if is_compressed(part.file) else BYTES_PER_PART
        with opened(part.file) as content:
            yield from self._documents(lines_from(content, part.start, n_bytes))

    def _documents(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Document | Failure | None]:
        for at, line in lines:
            content = line.removeprefix(BOM) if at == 0 else line
            if len(content) > MAX_DOCUMENT_BYTES:
                yield Failure(TOO_LONG)
            elif content.isspace() or not content:
                yield None
            else:
                found = self._document(content)
                yield _bounded(found) if isinstance(found, Document) else found

    def _document(self, line: bytes) -> Document | Failure:
        text = _decoded(line)
        return text if isinstance(text, Failure) else as_it_is(text)

    def _remedy(self, file: Path) -> str:
        return "convert it, or leave it out"


class JsonLinesReader(LineReader):
    """A document is the value of a key in a JSON object on a line of its own."""

    wanted = "JSON lines with text"

    def _document(self, line: bytes) -> Document | Failure:
        key = self.options.text_column
        text = _decoded(line)
        if isinstance(text, Failure):
            return text
        try:
            value = parse_json(text)
        except ValueError as error:
            return Failure(f"is not JSON ({error})")
        if not isinstance(value, dict):
            return Failure("is no JSON object")
        if key not in value:
            return Failure(f"has no key {key!r}; there are {_some(value)}")
        found = value[key]
        if isinstance(found, str | None):
            return prose((found or "").split("\n"), self.options.min_words)
        return Failure(f"has a {type(found).__name__} as its {key!r}, not text")

    def _remedy(self, file: Path) -> str:
        return "name the key with --text_column, or write one JSON object a line (jq -c '.[]' does, of an array)"


class FileReader(Reader):
    """A document is a file."""

    def starts(self, file: Path) -> Sequence[int]:
        return range(1)

    def documents(self, part: Part) -> Iterator[Document | Failure | None]:
        with opened(part.file) as content:
            whole = content.read(MAX_DOCUMENT_BYTES + 1)
        text = Failure(TOO_LONG) if len(whole) > MAX_DOCUMENT_BYTES else _decoded(whole.removeprefix(BOM))
        yield text if isinstance(text, Failure) else as_it_is(text)


def reader_of(file: Path, options: FormatOptions) -> Reader:
    """The reader of a file, whose name ends as one of KINDS."""
    name = file.name.lower()
    if name.endswith(PARQUET):
        return ParquetReader(options)
    if name.endswith(JSON_LINES):
        return JsonLinesReader(options)
    return LineReader(options) if options.text_documents == LINES else FileReader(options)


def _decoded(content: bytes) -> str | Failure:
    try:
        text = content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        return Failure(f"is not UTF-8 ({error.reason} at byte {error.start})")
    return Failure("holds zero bytes") if "\0" in text else text


def _bounded(document: Document) -> Document | Failure:
    is_long = 4 * len(document.line) > MAX_DOCUMENT_BYTES and len(document.line.encode("utf-8", "ignore"))
    return Failure(TOO_LONG) if is_long > MAX_DOCUMENT_BYTES else document


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:NAMES_SHOWN])) + (", ..." if len(names) > NAMES_SHOWN else "") or "none"
