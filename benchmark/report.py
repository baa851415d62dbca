#!/usr/bin/env python3
"""A report that people can read, from measurements, training runs and profiles.

  python3 benchmark/report.py results/throughput_pretrain
  python3 benchmark/report.py results/throughput_pretrain results/profile results/pretraining --output_dir report
  python3 benchmark/report.py compare results/before results/after

A RESULT is the folder of a sweep (points.jsonl) or of a run (dllogger.json), with the summaries of profiles in it
(kernels.json and timeline.json of benchmark/nsight.py). Writes report.html, one page that needs nothing else; the
pictures as PNG files; report.md; and report.csv with every point. A report card comes first, in the terminal too.
`compare` puts the first result beside each of the others, with ratios and what the repeats say of chance.
docs/benchmarking.md explains the figures and the pictures.
"""

import argparse
import string
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.reports.data import read_results, without_folders
from benchmark.reports.report_card import make_card
from benchmark.reports.sections import make_sections
from benchmark.reports.tables import points_table
from benchmark.tables import escape_markdown
from common.command_line import CommandLine
from common.errors import run_main
from file_utils import atomic_write

FRAME = Path(__file__).with_name("reports") / "page.html"  # needs nothing else: no network and no library


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `compare` tells whether results are put side by side."""
    usage = "%(prog)s [compare] RESULT [RESULT ...] [--output_dir DIR] [--title TITLE]"
    parser = CommandLine(__doc__, usage=usage)
    parser.add_argument("results", metavar="RESULT", nargs="+", help="folder of a sweep, of a run or of a profile")
    parser.add_argument("--output_dir", type=Path, help="where the report goes (default: report/ in the first result)")
    parser.add_argument("--title", help="heading of the page (default: of what is in it)")
    args = parser.parse_args(arguments)
    args.compare = args.results[0] == "compare"
    args.results = args.results[args.compare :]
    if len(args.results) < 1 + args.compare:
        parser.error("compare needs two results" if args.compare else "a result is needed")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, draw, and write each file whole or not at all, the page last."""
    args = parse_arguments(arguments)
    results = read_results(args.results)
    card, sections = make_card(results), make_sections(results, args.compare)
    folder = args.output_dir or Path(args.results[0]) / "report"
    names = [result.label for result in results]
    title = args.title or (f"{' and '.join(names)}, compared" if args.compare else f"BERT: {', '.join(names)}")
    commands = dict.fromkeys(point["command"] for result in results for point in result.points if "command" in point)
    page = string.Template(FRAME.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        card=card.html() if card.tiles else "",
        sections="".join(section.html() for section in sections),
        commands=escape(without_folders("\n\n".join(commands))),
    )
    figures = [figure for section in sections for figure in section.figures]
    files = {f"{figure.name}.png": figure.images["light"] for figure in figures}
    files |= {f"{figure.name}_dark.png": figure.images["dark"] for figure in figures}
    markdown = [f"# {escape_markdown(title)}\n", *([card.table().markdown()] if card.tiles else [])]
    markdown += [section.markdown() for section in sections]
    texts = {"report.md": "\n".join(markdown), "report.csv": points_table(results).csv(), "report.html": page}
    # What is no UTF-8 in the name of a folder is a lone surrogate here.
    files |= {name: text.encode(errors="backslashreplace") for name, text in texts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with atomic_write(folder / name, "wb") as file:
            file.write(content)
    print(card.plain())
    if args.compare:
        print("\n".join(section.markdown() for section in sections[: len(results) - 1]))
    print(f"report: {folder / 'report.html'}")


if __name__ == "__main__":
    run_main(main)
