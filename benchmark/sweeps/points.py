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
START, STEPS_IN_WINDOW = 10, 20  # the usual window

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
        try:
            point = json.loads(line)
        except json.JSONDecodeError:
            if not line.endswith("\n"):
                break
            point = None
        known = point if isinstance(point, dict) else {}
        if known.get("schema") != SCHEMA or known.get("status") not in STATUSES or "configuration" not in known:
            remedy = "remove the line and measure that point again, or use the version that wrote it"
            raise UserError(f"{file}, line {number} is no point of schema {SCHEMA}", remedy)
        points.append(point)
    return points


def subject(configuration: Mapping[str, Any]) -> str:
    """What a rate is of, in words: model, workload and lengths."""
    model, length, lengths = (configuration.get(name) for name in ("model", "max_seq_length", "lengths"))
    name = f"BERT-{model}" if model in ("tiny", "base", "large") else Path(model or "a model").name
    words = [
        name,
        configuration.get("workload"),
        f"{length} tokens" if length else "",
        f"({lengths})" if lengths else "",
    ]
    return " ".join(word for word in words if word)


def settings(configuration: Mapping[str, Any]) -> str:
    """How the work was done, in words; what is usual is left out."""
    gpus, accumulated = configuration.get("n_gpus") or 1, configuration.get("accumulation_steps") or 1
    optimizer, workload = configuration.get("optimizer"), str(configuration.get("workload"))
    start, stop = configuration.get("start", START), configuration.get("stop", START + STEPS_IN_WINDOW)
    words = [
        configuration.get("precision"),
        "compiled" if configuration.get("compile") else "",
        optimizer if optimizer != OPTIMIZERS.get(workload) else "",
        f"{accumulated} micro-batches" if accumulated > 1 else "",
        f"{gpus} processes" if gpus > 1 else "",
        configuration.get("flags"),
        f"steps {start + 1} to {stop}" if (start, stop) != (START, START + STEPS_IN_WINDOW) else "",
    ]
    return ", ".join(word for word in words if word)
