#!/usr/bin/env python3
"""A report that people can read, from measurements, training runs and profiles.

  python3 benchmark/report.py results/throughput_pretrain
  python3 benchmark/report.py results/throughput_pretrain results/profile results/pretraining --output_dir report
  python3 benchmark/report.py compare results/before results/after

A RESULT is the folder of a sweep (points.jsonl) or of a run (dllogger.json); the summaries of profiles in it
(kernels.json and timeline.json of benchmark/nsight.py) are shown too. Writes report.html, one page that needs nothing
else; the pictures by themselves as PNG files; report.md, whose tables can be pasted into a README; and report.csv with
every point. `compare` puts the first result beside each of the others, with ratios and what the repeats say of chance.
docs/benchmarking.md explains the figures and how to read the pictures.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# Run as a script, Python's path holds benchmark/ and not the root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.reports.data import Result, read_results
from benchmark.reports.drawing import Figure
from benchmark.reports.figures import make_figures
from benchmark.reports.page import make_page
from benchmark.reports.tables import (
    commands,
    comparison_tables,
    environment_table,
    points_csv,
    profile_tables,
    run_tables,
    throughput_tables,
)
from benchmark.tables import Table
from common.errors import UserError, run_main
from file_utils import atomic_write

COMPARE = "compare"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `compare` tells whether results are put side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [compare] RESULT [RESULT ...] [--output_dir DIR] [--title TITLE]",
    )
    parser.add_argument("results", metavar="RESULT", nargs="+", help="folder of a sweep, of a run or of a profile")
    parser.add_argument("--output_dir", type=Path, help="where the report goes (default: report/ in the first result)")
    parser.add_argument("--title", help="heading of the page (default: of what is in it)")
    args = parser.parse_args(arguments)
    args.compare = args.results[0] == COMPARE
    args.results = args.results[args.compare :]
    if len(args.results) < 1 + args.compare:
        parser.error("compare needs two results" if args.compare else "a result is needed")
    return args


def make_tables(results: Sequence[Result], compare: bool) -> list[Table]:
    """All tables of a report, the most wanted first.

    Raises:
        UserError: results to compare have no configuration in common.
    """
    tables = comparison_tables(results) if compare else []
    if compare and not any(table.rows for table in tables):
        raise UserError(
            f"{results[0].label} has no configuration in common with the others",
            "sweep the same batch sizes, lengths and windows",
        )
    tables += [*throughput_tables(results), *run_tables(results), *profile_tables(results)]
    return [*tables, environment_table(results)]


def write_report(
    folder: Path, title: str, tables: Sequence[Table], figures: Sequence[Figure], results: Sequence[Result]
) -> None:
    """Each file whole or not at all; the page last."""
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        for theme, image in figure.images.items():
            with atomic_write(folder / f"{figure.name}{'_dark' if theme == 'dark' else ''}.png", "wb") as file:
                file.write(image)
    pictures = "".join(
        f"## {figure.title}\n\n![{figure.finding}]({figure.name}.png)\n\n{figure.finding}\n\n" for figure in figures
    ).rstrip("\n")
    with atomic_write(folder / "report.md") as file:
        file.write(f"# {title}\n\n" + "\n".join(table.markdown() for table in tables) + f"\n{pictures}\n")
    with atomic_write(folder / "report.csv") as file:
        file.write(points_csv(results))
    with atomic_write(folder / "report.html") as file:
        file.write(make_page(title, tables, figures, commands(results)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, draw and write."""
    args = parse_arguments(arguments)
    results = read_results(args.results)
    tables = make_tables(results, args.compare)
    first = Path(args.results[0])
    folder = args.output_dir or (first if first.is_dir() else first.parent) / "report"
    names = [result.label for result in results]
    title = args.title or (f"{' and '.join(names)}, compared" if args.compare else f"BERT: {', '.join(names)}")
    write_report(folder, title, tables, make_figures(results), results)
    if args.compare:
        print("\n".join(table.markdown() for table in tables[: len(results) - 1]))
    print(f"report: {folder / 'report.html'}")


if __name__ == "__main__":
    run_main(main)
