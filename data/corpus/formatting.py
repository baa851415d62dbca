"""Documents of a source to one file with a line for each, by many workers, in an order that does not depend on them.

A worker formats a part of a file. What it makes of a small one it hands back; more than HELD_BYTES go to a file beside
the output, so that a part may be a whole compressed file and memory is not a matter of its size.
"""

import functools
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from common.errors import Problem, Problems, UserError
from common.workers import Workers
from data.artifacts.manifest import FileRecord
from data.corpus.documents import Document, Failure, FormatOptions, Part
from data.document_sources import DocumentSource

HELD_BYTES = 2**23
FAILURES_SHOWN = 10
COUNTS = ("documents", "documents_without_prose", "words", "characters", "characters_left_out", "failed")


class _Piece(NamedTuple):
    """What became of a part."""

    part: Part
    lines: bytes | Path  # of documents
    n_read: int  # rows or lines, blank ones too
    counts: Mapping[str, int]
    failures: Sequence[tuple[int, str]]  # the first: which row or line, from 1, and what it does
    problems: Sequence[Problem]  # why the part could not be read


class Formatted(NamedTuple):
    """What was written: the record of the file, and the counts of each corpus in it with the first failures."""

    record: FileRecord
    corpora: Mapping[str, Mapping[str, int]]
    failures: Sequence[str]


def write_documents(
    source: DocumentSource,
    texts: tuple[Path, Sequence[Path]],
    formatted: Path,
    pool: Workers,
    options: FormatOptions | None = None,
) -> Formatted:
    """Write the documents in files one per line, in their order; what was left out is counted too.

    Args:
        texts: a folder, and the files in it, as the source's method of this name gives them.

    Raises UserError if there is none but empty, if more of a corpus than `max_failed_share` cannot be used, or with all
    pieces that could not be read.
    """
    folder, files = texts
    options = options or FormatOptions()
    problems = Problems()
    corpus_of = {file: source.corpus_of(file.relative_to(folder)) for file in files}
    corpora: dict[str, Counter] = {corpus: Counter(dict.fromkeys(COUNTS, 0)) for corpus in corpus_of.values()}
    n_before: Counter[Path] = Counter()
    failures: dict[str, list[str]] = defaultdict(list)
    parts = source.parts(files, options, pool)
    with tempfile.TemporaryDirectory(prefix=".pieces.", dir=formatted.parent) as scratch, open(formatted, "wb") as out:
        work = functools.partial(_format_part, source=source, options=options, scratch=Path(scratch))
        pieces = pool.map(work, parts, "text_formatting", lambda part: str(part.file))
        for piece in tqdm(pieces, "text_formatting", unit="part"):
            file, corpus = piece.part.file, corpus_of[piece.part.file]
            problems.extend(piece.problems)
            _append(piece.lines, out)
            corpora[corpus].update(piece.counts)
            for number, reason in piece.failures[: FAILURES_SHOWN - len(failures[corpus])]:
                unit = source.unit(file, options)
                where = f"{unit} {n_before[file] + number} of " if unit else ""
                failures[corpus].append(f"{where}{file.relative_to(folder).as_posix()} {reason}")
            n_before[file] += piece.n_read
    for corpus, counts in corpora.items():
        problems.extend(_too_many_failures(folder, corpus, counts, failures[corpus], options.max_failed_share))
    problems.raise_if_any()
    total = sum(corpora.values(), Counter(dict.fromkeys(COUNTS, 0)))
    if total["documents"] == 0:
        raise UserError(f"There is no prose in any document of {files[0].parent}", "check that it is what it should be")
    record = FileRecord.of(formatted, **{name: total[name] for name in COUNTS})
    plain = {corpus: dict(counts) for corpus, counts in corpora.items()}  # a Counter is no JSON
    return Formatted(record, plain, [failure for each in failures.values() for failure in each])


def _format_part(part: Part, source: DocumentSource, options: FormatOptions, scratch: Path) -> _Piece:
    held, spilled, n_read = bytearray(), None, 0
    counts: Counter[str] = Counter()
    failures: list[tuple[int, str]] = []
    try:
        for n_read, document in enumerate(source.documents(part, options), 1):
            if isinstance(document, Failure):
                counts["failed"] += 1
                failures += [(n_read, document.reason)] if len(failures) < FAILURES_SHOWN else []
            elif document is not None:
                held += _count(document, counts)
                if len(held) > HELD_BYTES:
                    spilled = _spill(held, spilled, scratch)
    except UserError as error:
        return _Piece(part, b"", n_read, {}, [], error.problems)
    if spilled:
        _spill(held, spilled, scratch)
    return _Piece(part, spilled or bytes(held), n_read, counts, failures, [])


def _count(document: Document, counts: Counter) -> bytes:
    # A text may hold half a surrogate pair, which no file can: references to them are in real dumps.
    line = document.line.encode("utf-8", "ignore").strip()
    counts["documents"] += bool(line)
    counts["documents_without_prose"] += not line
    counts["words"] += document.n_words
    counts["characters"] += len(document.line)
    counts["characters_left_out"] += document.n_left_out
    return line + b"\n" if line else b""


def _spill(held: bytearray, path: Path | None, scratch: Path) -> Path:
    """Move what is held to the end of a file, at first a new one: of two workers at one part, each has its own."""
    if path is None:
        descriptor, name = tempfile.mkstemp(dir=scratch)
        os.close(descriptor)
        path = Path(name)
    with open(path, "ab") as file:
        file.write(held)
    held.clear()
    return path


def _append(lines: bytes | Path, out: Any) -> None:
    if isinstance(lines, bytes):
        out.write(lines)
        return
    with open(lines, "rb") as piece:
        shutil.copyfileobj(piece, out, 2**20)
    lines.unlink()


def _too_many_failures(
    folder: Path, corpus: str, counts: Mapping[str, int], sentences: Sequence[str], max_failed_share: float
) -> list[Problem]:
    n_failed = counts["failed"]
    n_all = n_failed + counts["documents"] + counts["documents_without_prose"]
    if n_failed <= max_failed_share * n_all:
        return []
    share = f"{n_failed:,} of {n_all:,} documents of {corpus} in {folder} cannot be used, more than --max_failed_share"
    remedy = "mend them where they are from, or give a larger share to leave them out"
    return [
        *(Problem(f"{sentence[:1].upper()}{sentence[1:]}.") for sentence in sentences),
        Problem(f"{share} {max_failed_share}", remedy),
    ]
