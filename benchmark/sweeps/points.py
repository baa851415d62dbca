"""Measured points: what a sweep writes and reports read, one JSON object per line of a points.jsonl.

A line is one measurement by one process. docs/benchmarking.md describes its fields; `SCHEMA` counts up whenever one of
them changes its meaning. A line is written whole when its measurement has ended, so a file is good at any moment, but
for a last line that a killed writer may have torn, which is left out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

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
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError as error:
        remedy = "give the folder of a sweep (scripts/measure_throughput_pretrain.sh)"
        raise UserError(f"{file} cannot be read ({error.strerror})", remedy) from error
    points = []
    for number, line in enumerate(lines, 1):
        remedy = "remove the line, and measure that point again"
        try:
            point = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            if not line.endswith("\n"):
                break
            raise UserError(f"{file}, line {number} is not JSON ({error.msg})", remedy) from error
        if point is None:
            continue
        schema = point.get("schema") if isinstance(point, dict) else None
        if schema != SCHEMA:
            wrong = f"{file}, line {number} has schema {schema}, and this version reads {SCHEMA}"
            raise UserError(wrong, "use the version that wrote it, or measure again")
        if point.get("status") not in STATUSES or not isinstance(point.get("configuration"), dict):
            raise UserError(f"{file}, line {number} has no status or no configuration", remedy)
        points.append(point)
    return points


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
