"""GLUE's official TSV files, read and checked as a whole.

They are lines and tabs, without any quoting: a program that takes `"` for a quote loses rows. A file that is another
task's, or that a tool has written again as CSV, would train a worse model without a word, so the header and every row
are checked, and what is wrong is named by its line. Columns are found by name, so their order does not matter.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from common.errors import UserError
from common.text_files import read_text
from tasks.glue.benchmarks import Benchmark

NO_AGREEMENT = "-"  # the label of a pair that MNLI's annotators did not agree on
HIGHEST_SCORE = 5.0


class GlueExamples(NamedTuple):
    """N rows of a file, in their order."""

    texts: tuple[tuple[str, ...], ...]  # N first texts and, of pairs, N second ones
    labels: np.ndarray  # (N,) int64 classes, or fp32 scores; zeros in a file to predict


def read_glue(
    path: Path,
    benchmark: Benchmark,
    use: Literal["train", "score", "predict"] = "train",
    report: Callable[[str], object] = print,
) -> GlueExamples:
    """The rows of one of a task's files.

    Args:
        use: what for; to predict, no label is looked for.
        report: is told how many rows were left out, of files whose makers left unusable ones in.

    Raises:
        UserError: no such file, not UTF-8, empty; columns missing; rows of other columns, or with a label that is none.
    """
    dataset = f"python3 data/bertPrep.py --action download --dataset {benchmark.name}"
    remedy = f"give --data_dir GLUE's own folder {benchmark.folder}, which this downloads: {dataset}"
    lines = read_text(path, "file of GLUE", remedy).rstrip("\n").split("\n")
    predicts = use == "predict"
    header = None if predicts else benchmark.header
    first_line = 1 if header else 2
    header = header or lines.pop(0).split("\t")
    columns = _columns(path, header, (*benchmark.texts, *([] if predicts else [benchmark.label])), remedy)
    rows, labels, broken, wrong, n_without_label = [], [], [], [], 0
    for number, line in enumerate(lines, first_line):
        cells = line.split("\t")
        if len(cells) != len(header):
            broken.append(f"line {number} is not of {len(header)} columns but of {len(cells)}")
            continue
        row = [cells[column].strip() for column in columns]
        word = "" if predicts else row.pop()
        label = 0 if predicts else _label(word, benchmark.labels)
        if label is not None:
            rows.append(row)
            labels.append(label)
        elif word == NO_AGREEMENT and len(benchmark.labels) > 2:
            n_without_label += 1
        else:
            kinds = " or ".join(benchmark.labels) or f"number from 0 to {HIGHEST_SCORE:g}"
            wrong.append(f"line {number} has the {benchmark.label} {word!r:.60}, which is no {kinds}")
    if benchmark.has_broken_rows and broken and not predicts:
        report(f"{path}: rows left out, which have too few columns: {len(broken):,}.")
        broken = []
    if n_without_label:
        report(f"{path}: pairs left out, which annotators did not agree on: {n_without_label:,}.")
    if faults := broken + wrong:
        more = f", the first of {len(faults):,} wrong lines" if len(faults) > 1 else ""
        raise UserError(f"{path}: {faults[0]}{more}", remedy)
    if not rows:
        raise UserError(f"{path} holds no row", remedy)
    kind = np.int64 if benchmark.labels else np.float32
    return GlueExamples(tuple(zip(*rows, strict=True)), np.array(labels, dtype=kind))


def _columns(path: Path, header: Sequence[str], wanted: Sequence[str], remedy: str) -> list[int]:
    """Where the wanted columns are in the header."""
    if missing := [name for name in wanted if name not in header]:
        first = "\t".join(header)
        found = f"has no column {missing[0]} in its first line, {first!r:.80}" if first else "is empty"
        raise UserError(f"{path} {found}", remedy)
    return [header.index(name) for name in wanted]


def _label(word: str, labels: Sequence[str]) -> float | None:
    if labels:
        return labels.index(word) if word in labels else None
    try:
        score = float(word)
    except ValueError:
        return None
    return score if 0 <= score <= HIGHEST_SCORE else None
