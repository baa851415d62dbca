#!/usr/bin/env python3
"""Tables of what profilers saw: which kernels took the time, how the GPU's units were used, when it waited.

  python3 benchmark/nsight.py results/profile/ncu.csv              # Nsight Compute: ncu --csv --page raw
  python3 benchmark/nsight.py results/profile/nsys.sqlite          # Nsight Systems: nsys export --type sqlite
  python3 benchmark/nsight.py results/profile/trace_rank0.json     # torch.profiler: --profile torch

Prints the tables, and writes them beside each file for benchmark/report.py: kernels.json of Nsight Compute's, and
timeline.json of the others. docs/profiling.md says how to read them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.command_line import parser_of
from benchmark.nsight_metrics import SHARES
from benchmark.profiles import nsight_compute, timeline
from benchmark.tables import markdown_table, text
from common.errors import Problems, UserError, run_main
from file_utils import atomic_write


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".csv, .sqlite, .json or .json.gz")
    parser.add_argument("--output", type=Path, help="folder for the .json files, if not beside each file")
    parser.add_argument("--top", type=int, default=20, help="kernels in a table")
    parser.add_argument("--gpu", help="the device's name, such as 'NVIDIA H200', which ncu does not write")
    return parser.parse_args(arguments)


def summarize(path: Path, gpu: str | None) -> dict[str, Any]:
    """What a file of any of the kinds comes to; a UserError if it is of none of them."""
    if not path.is_file() or path.stat().st_size == 0:
        problem = f"{path} {'is empty' if path.exists() else 'is not there'}"
        raise UserError(problem, "let ncu, nsys or --profile torch end, and give what it wrote")
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        return nsight_compute.summarize(path, gpu)
    if name.endswith(".json"):
        return timeline.summarize(timeline.read_torch_trace(path), path)
    if name.endswith(".sqlite"):
        return timeline.summarize(timeline.read_nsys_sqlite(path), path)
    problem = f"{path} is no .csv of ncu, no .sqlite of nsys and no .json of torch.profiler"
    raise UserError(problem, "run `nsys export --type sqlite` for an .nsys-rep")


def kernel_tables(summary: dict[str, Any], top: int) -> str:
    """Nsight Compute's: all launches together, weighted by cycles, then the kernels that took longest."""
    line = (
        f"{summary['device'] or 'an unnamed device'}, compute capability {summary['compute_capability']}, "
        f"processes: {summary['processes']}; tensor to sm are shares of the unit's peak, weighted by cycles"
    )
    units = summary["core_utilisation"]
    together = {"name": "all", "launches": summary["launches"], "seconds": summary["seconds"], "share": 1.0, **units}
    known = [unit for unit in SHARES if unit in units]
    rows = []
    for kernel in (together, *summary["kernels"][:top]):
        seconds, flops, n_bytes = kernel["seconds"], kernel.get("flops"), kernel.get("dram_bytes")
        rows.append(
            [
                *kernel_cells(kernel),
                *(text(kernel.get(unit), ".1%") for unit in known),
                text(flops / n_bytes if n_bytes and flops is not None else None, ",.1f"),
                text(flops / seconds / 1e12 if seconds and flops is not None else None, ",.1f"),
                text(n_bytes / seconds / 1e12 if seconds and n_bytes is not None else None, ".2f"),
                nsight_compute.bound(kernel, summary["ceilings"]) or "-",
            ]
        )
    header = ("kernel", "launches", "ms", "share", *known, "FLOP/byte", "TFLOP/s", "TB/s", "bound by")
    return f"{line}\n\n{markdown_table(header, rows)}"


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
    steps = []
    for step in summary["steps"]:
        busy = share(step["busy_seconds"], step["seconds"])
        steps.append([step["name"], ms(step["seconds"]), busy, ms(step["idle_before_seconds"])])
    tables = (
        (["step", "ms", "busy", "idle before, ms"], steps),
        (["part of a step", "ms of work"], [[name, ms(seconds)] for name, seconds in summary.get("parts", {}).items()]),
        (["kernel", "launches", "ms", "share"], [kernel_cells(kernel) for kernel in summary["kernels"][:top]]),
    )
    return "\n\n".join([line, *(markdown_table(header, rows) for header, rows in tables if rows)])


def kernel_cells(kernel: dict[str, Any]) -> list[str]:
    """Name, launches, milliseconds and share of the time."""
    return [kernel["name"][:70], f"{kernel['launches']:,}", ms(kernel["seconds"]), text(kernel["share"], ".1%")]


def ms(seconds: float | None) -> str:
    """Milliseconds, as text."""
    return text(seconds and seconds * 1e3, ",.3f")


def share(busy: float, whole: float) -> str:
    """As text; a moment is all busy."""
    return f"{busy / whole if whole else 1:.1%}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read all, print tables, write summaries under the names that reports look for."""
    args = parse_arguments(arguments)
    problems = Problems()
    found = []
    for path in args.files:
        with problems.collect():
            found.append((path, summarize(path, args.gpu)))
    problems.raise_if_any()
    written = []
    for path, summary in found:
        kind = summary["kind"]
        tables = kernel_tables if kind == "kernels" else timeline_tables
        print(f"\n{path}\n\n{tables(summary, args.top)}")
        is_alone = [other["kind"] for _, other in found].count(kind) == 1
        name = f"{kind}.json" if is_alone else f"{path.name.split('.')[0]}.{kind}.json"
        target = (args.output or path.parent) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as file:
            json.dump(summary, file, indent=1)
        written.append(str(target))
    print("\nsummaries: " + ", ".join(written))


if __name__ == "__main__":
    run_main(main)
