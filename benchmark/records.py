#!/usr/bin/env python3
"""Keep results as records, and write their figures into README.md and docs/.

  python3 benchmark/records.py --keep results/scaling docs/records/2026-11-29-h200-scaling
  python3 benchmark/records.py --write
  python3 benchmark/records.py --check

--keep copies result files, with absolute paths shortened to names. --write fills what stands between `<!-- record: NAME
-->` and `<!-- end -->`, and draws the README's picture; --check ends with 1 where that would change anything. A test
does the same, so no figure in those places is typed, and none is older than its record.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.command_line import parser_of
from benchmark.reports.data import without_folders
from benchmark.reports.drawing import THEMES
from benchmark.reports.record_blocks import BLOCKS, PICTURE, picture_of
from benchmark.reports.records_picture import describe, svg
from common.errors import UserError, run_main
from file_utils import atomic_write

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("*.jsonl", "scaling.md", "dllogger.json", "result_*.txt")
"""What is copied; of a sweep's own processes (`runs/`) the points have every figure."""
BLOCK = re.compile(r"(?<=<!-- record: )([a-z]+) -->\n(?:.*?)(?=<!-- end -->)", re.DOTALL)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--keep", type=Path, nargs=2, metavar=("RESULTS", "RECORD"), help="copy results to a new record")
    what.add_argument("--write", action="store_true", help="write the figures of the records into README.md and docs/")
    what.add_argument("--check", action="store_true", help="name the files that --write would change")
    return parser.parse_args(arguments)


def keep(results: Path, record: Path) -> list[Path]:
    """Copy the result files and return their new paths.

    Raises:
        UserError: there is nothing to keep, or the record has such a file already.
    """
    found = sorted({file for pattern in KEPT for file in results.rglob(pattern)})
    files = [file.relative_to(results) for file in found]
    files = [file for file in files if "runs" not in file.parts]
    if not files:
        raise UserError(f"{results} has none of {', '.join(KEPT)}", "give the folder of results")
    for file in files:
        if (record / file).exists():
            raise UserError(f"{record / file} is there already", "choose another name for the record, or remove it")
    for file in files:
        (record / file).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(record / file) as copy:
            copy.write(without_folders((results / file).read_text(encoding="utf-8")))
    return [record / file for file in files]


def changes(root: Path) -> Iterator[tuple[Path, str]]:
    """Each document whose blocks, and each picture whose words, are not those of the records, with its new text."""
    records = root / "docs" / "records"
    for document in sorted([root / "README.md", *(root / "docs").rglob("*.md")]):
        before = document.read_text(encoding="utf-8")
        after = fill(before, records, document)
        if after != before:
            yield document, after
    drawn = picture_of(records)
    for theme in THEMES if drawn else ():
        file = records / PICTURE.format(theme=theme)
        if not file.is_file() or describe(*drawn) not in file.read_text(encoding="utf-8"):
            yield file, svg(*drawn, theme)


def fill(page: str, records: Path, document: Path) -> str:
    """A document's text with its blocks filled; one whose record is missing stays as it is."""

    def content(found: re.Match[str]) -> str:
        if found[1] not in BLOCKS:
            raise UserError(f"{document} has a block {found[1]}", f"choose of {', '.join(BLOCKS)}")
        made = BLOCKS[found[1]](records, document)
        return found[0] if made is None else f"{found[1]} -->\n{made}"

    return BLOCK.sub(content, page)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what was asked for."""
    args = parse_arguments(arguments)
    if args.keep:
        print("\n".join(map(str, keep(*args.keep))))
        return
    found = list(changes(ROOT))
    for file, content in found if args.write else ():
        with atomic_write(file) as written:
            written.write(content)
    for file, _ in found:
        print(f"{'written' if args.write else 'not of the records'}: {file.relative_to(ROOT)}")
    if args.check and found:
        print("write them: python3 benchmark/records.py --write")
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
