"""Measured points: what a sweep writes and reports read, one JSON object per line of a points.jsonl.

A line is one measurement by one process. docs/benchmarking.md describes its fields; `SCHEMA` counts up whenever one of
them changes its meaning. A line is written whole when its measurement has ended, so a file is good at any moment, but
for a last line that a killed writer may have torn, which is left out.
"""

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from common.errors import UserError

SCHEMA = 1
FILE_NAME = "points.jsonl"
STATUSES = ("ok", "out_of_memory", "failed")
OPTIMIZERS = MappingProxyType({"pretrain": "lamb", "squad": "adamw"})  # the usual ones

Point = dict[str, Any]


def read_points(path: str | Path) -> list[Point]:
    """All points of a file, or of the points.jsonl in a folder.

    Raises:
        UserError: there is none, or a line is not a point of this schema.
    """
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(
            f"{file} cannot be read ({reason})", "give the folder of a sweep (scripts/measure_throughput_pretrain.sh)"
        ) from error
    lines = text.splitlines()
    if lines and not text.endswith("\n") and _is_torn(lines[-1]):
        lines.pop()
    return [_parse(line, f"{file}, line {number}") for number, line in enumerate(lines, 1) if line]


def _is_torn(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return True
    return False


def _parse(line: str, where: str) -> Point:
    try:
        point = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where} is not JSON ({error.msg})", "remove the line, and measure that point again"
        ) from error
    schema = point.get("schema") if isinstance(point, dict) else None
    if schema != SCHEMA:
        raise UserError(
            f"{where} has schema {schema}, and this version reads {SCHEMA}",
            "use the version that wrote it, or measure again",
        )
    if point.get("status") not in STATUSES or not isinstance(point.get("configuration"), dict):
        raise UserError(f"{where} has no status or no configuration", "remove the line, and measure that point again")
    return point


def key(point: Point) -> str:
    """The same for all repeats of a measurement, and for nothing else."""
    return json.dumps(point["configuration"], sort_keys=True)


def title(configuration: Mapping[str, Any]) -> str:
    """A configuration without its batch size and its window, in words."""
    subject = f"{configuration['max_seq_length']} tokens ({configuration['lengths']})"
    return ", ".join([configuration["workload"], str(configuration["model"]), subject, *settings(configuration)])


def settings(configuration: Mapping[str, Any]) -> list[str]:
    """How the work was done, in words; what is usual is left out."""
    gpus, accumulated = configuration.get("n_gpus") or 1, configuration.get("accumulation_steps") or 1
    optimizer = configuration.get("optimizer")
    words = [
        configuration.get("precision"),
        "compiled" if configuration.get("compile") else "",
        optimizer if optimizer != OPTIMIZERS.get(str(configuration.get("workload"))) else "",
        f"{accumulated} micro-batches" if accumulated > 1 else "",
        f"{gpus} processes" if gpus > 1 else "",
        configuration.get("flags"),
    ]
    return [word for word in words if word]


def window(configuration: Mapping[str, Any]) -> str:
    """The optimizer steps that were measured, in words."""
    return f"steps {configuration.get('start', 0) + 1} to {configuration.get('stop')}"


class Rate(NamedTuple):
    """Sequences per second of the repeats of one configuration."""

    median: float
    lowest: float
    highest: float
    n: int


def rate_of(points: Iterable[Point]) -> Rate | None:
    """Over those that were measured; None where none was."""
    rates = [point["measured"]["sequences_per_second"] for point in points if point["status"] == "ok"]
    return Rate(statistics.median(rates), min(rates), max(rates), len(rates)) if rates else None


def by_configuration(points: Iterable[Point]) -> dict[str, list[Point]]:
    """The repeats of each configuration, by `key`, in the order in which they first appear."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(key(point), []).append(point)
    return found
