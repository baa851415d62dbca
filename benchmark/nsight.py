#!/usr/bin/env python3
"""Tables of what profilers saw: which kernels took the time, how the GPU's units were used, when it waited.

  python3 benchmark/nsight.py results/profile/ncu.csv              # Nsight Compute: ncu --csv --page raw
  python3 benchmark/nsight.py results/profile/nsys.sqlite          # Nsight Systems: nsys export --type sqlite
  python3 benchmark/nsight.py results/profile/trace_rank0.json     # torch.profiler: --profile torch

Prints the tables, and writes them beside each file for benchmark/report.py: kernels.json of Nsight Compute's, and
timeline.json of the others. An .nsys-rep is exported first, where nsys is at hand. docs/profiling.md says how to read
them.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark.nsight_metrics import SHARES
from benchmark.profiles import nsight_compute, timeline
from benchmark.profiles.ncu_csv import read_launches
from benchmark.tables import markdown_table, text
from common.errors import Problems, UserError, run_main
from file_utils import atomic_write

KERNEL_HEADER = ("kernel", "launches", "ms", "share")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help=".csv, .sqlite, .nsys-rep, .json or .json.gz"
    )
    parser.add_argument("--output", type=Path, help="folder for the .json files (default: beside each file)")
    parser.add_argument("--top", type=int, default=20, help="kernels in a table (default: 20)")
    parser.add_argument("--gpu", help="the device's name, such as 'NVIDIA H200', where a file does not say it")
    return parser.parse_args(arguments)


def summarize(path: Path, gpu: str | None) -> dict[str, Any]:
    """What a file of any of the kinds comes to.

    Raises:
        UserError: it is of none of them, or cannot be read.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}", "give what ncu, nsys or --profile torch wrote")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty", "the profiler was stopped before it wrote anything, so profile again")
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        return nsight_compute.summarize(read_launches(path), path, gpu)
    if name.endswith(".json"):
        return timeline.summarize(timeline.read_torch_trace(path), path)
    if name.endswith((".sqlite", ".nsys-rep")):
        database = path if name.endswith(".sqlite") else export(path)
        return timeline.summarize(timeline.read_nsys_sqlite(database), path)
    raise UserError(f"{path} is no .csv of ncu, no .sqlite or .nsys-rep of nsys, and no .json of torch.profiler.")


def export(report: Path) -> Path:
    """The SQLite form of a report of Nsight Systems, which only its own program can make."""
    if shutil.which("nsys") is None:
        raise UserError(
            f"{report} needs nsys to be read, and there is none", "run `nsys export --type sqlite` where it is"
        )
    target = report.with_suffix(".sqlite")
    words = ["nsys", "export", "--type", "sqlite", "--force-overwrite", "true", "--output", str(target), str(report)]
    finished = subprocess.run(words, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise UserError(f"nsys cannot export {report}: {(finished.stderr or finished.stdout).strip()[-300:]}")
    return target


def kernel_tables(summary: dict[str, Any], top: int) -> str:
    """Nsight Compute's: the units over all launches, then the kernels that took longest."""
    units = summary["core_utilisation"]
    known = [unit for unit in SHARES if unit in units]
    line = (
        f"{summary['launches']:,} launches, processes: {summary['processes']}, {ms(summary['seconds'])} ms, "
        f"{summary['device'] or 'an unnamed device'}, compute capability {summary['compute_capability'] or 'unknown'}"
    )
    of_all = ["all", *(text(units[unit], ".1%") for unit in known)]
    rows = []
    for kernel in summary["kernels"][:top]:
        seconds, flops, n_bytes = kernel["seconds"], kernel.get("flops"), kernel.get("dram_bytes")
        rows.append(
            [
                *kernel_cells(kernel),
                *(text(kernel.get(unit), ".0%") for unit in known),
                text(flops / n_bytes if n_bytes and flops is not None else None, ",.1f"),
                text(flops / seconds / 1e12 if flops is not None and seconds else None, ",.1f"),
                text(n_bytes / seconds / 1e12 if n_bytes is not None and seconds else None, ".2f"),
                nsight_compute.bound(kernel, summary["ceilings"]) or "-",
            ]
        )
    units_table = markdown_table(["share of peak, weighted by cycles", *known], [of_all])
    header = [*KERNEL_HEADER, *known, "FLOP/byte", "TFLOP/s", "TB/s", "bound by"]
    return f"{line}\n\n{units_table}\n\n{markdown_table(header, rows)}{_left_out(summary, top)}"


def timeline_tables(summary: dict[str, Any], top: int) -> str:
    """The others': busy and idle, steps, parts, and what took longest."""
    span, gaps = summary["span_seconds"], summary["launch_gaps"]
    line = (
        f"{summary['device'] or 'an unnamed device'}: {ms(span)} ms, of which busy "
        f"{share(summary['busy_seconds'], span)}, idle {ms(summary['idle_seconds'])} ms in {gaps['count']:,} gaps"
    )
    if gaps["count"]:
        p50, p95, longest = (gaps[name] * 1e6 for name in ("p50", "p95", "max"))
        line += f" (median {p50:,.1f} us, 95 % below {p95:,.1f}, longest {longest:,.1f})"
    if summary["processes"] > 1:
        line += f"; the first of {summary['processes']} processes"
    steps = [
        [
            step["name"],
            ms(step["seconds"]),
            share(step["busy_seconds"], step["seconds"]),
            ms(step["idle_before_seconds"]),
        ]
        for step in summary["steps"]
    ]
    parts = [[name, ms(seconds)] for name, seconds in summary.get("parts", {}).items()]
    kernels = [kernel_cells(kernel) for kernel in summary["kernels"][:top]]
    tables = (
        (["step", "ms", "busy", "idle before, ms"], steps),
        (["part of a step", "ms of work"], parts),
        (KERNEL_HEADER, kernels),
    )
    shown = [markdown_table(header, rows) for header, rows in tables if rows]
    return "\n\n".join([line, *shown]) + _left_out(summary, top)


def kernel_cells(kernel: dict[str, Any]) -> list[str]:
    """Under KERNEL_HEADER."""
    return [kernel["name"][:70], f"{kernel['launches']:,}", ms(kernel["seconds"]), text(kernel["share"], ".1%")]


def ms(seconds: float | None) -> str:
    """Milliseconds, as text."""
    return text(seconds and seconds * 1e3, ",.3f")


def share(busy: float, whole: float) -> str:
    """As text; a moment is all busy."""
    return f"{busy / whole if whole else 1:.1%}"


def _left_out(summary: dict[str, Any], top: int) -> str:
    rest = summary["kernels"][top:]
    of_time = sum(kernel["share"] for kernel in rest)
    return f"\nand {len(rest)} others, {of_time:.1%} of the time (--top)" if rest else ""


def write(summary: dict[str, Any], path: Path, output: Path | None, is_alone: bool) -> Path:
    """Write a summary under the name that reports look for; of several files of a kind, under that of the file too."""
    name = summary["kind"] if is_alone else f"{path.name.split('.')[0]}.{summary['kind']}"
    target = (output or path.parent) / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        json.dump(summary, file, indent=1)
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, print, write."""
    args = parse_arguments(arguments)
    problems = Problems()
    found = []
    for path in args.files:
        with problems.collect():
            found.append((path, summarize(path, args.gpu)))
    problems.raise_if_any()
    written = []
    for path, summary in found:
        same_kind = [other for _, other in found if other["kind"] == summary["kind"]]
        tables = kernel_tables if summary["kind"] == "kernels" else timeline_tables
        print(f"\n{path}\n\n{tables(summary, args.top)}")
        written.append(write(summary, path, args.output, len(same_kind) == 1))
    print("\nsummaries: " + ", ".join(map(str, written)))


if __name__ == "__main__":
    run_main(main)
