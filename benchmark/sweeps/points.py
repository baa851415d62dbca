"""Measured points: what a sweep writes and reports read, one JSON object per line of a points.jsonl.

docs/benchmarking.md describes the fields; `SCHEMA` counts up whenever one of them changes its meaning. Lines are
written when their measurement has ended, so a file is good at any moment but for a last line that was torn.
"""

import dataclasses
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmark.tables import number, text
from common.errors import UserError
from common.json_files import mismatch, parse_json

SCHEMA = 1
FILE_NAME = "points.jsonl"
STATUSES = ("ok", "out_of_memory", "failed")  # from the best to the worst
PERCENTILES = ("min", "p5", "p50", "p95", "p99", "max")  # of the times of steps
OPTIMIZERS = MappingProxyType({"pretrain": "lamb", "squad": "adamw"})  # the usual ones
START, STEPS_IN_WINDOW = 10, 20  # the usual window

Point = dict[str, Any]


def read_points(path: str | Path) -> list[Point]:
    """All points of a file, or of the points.jsonl in a folder; raises UserError for a line that is none."""
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError as error:
        remedy = "give the folder of a sweep (scripts/measure_throughput_pretrain.sh)"
        raise UserError(f"{file} cannot be read ({error.strerror})", remedy) from error
    points = []
    for place, line in enumerate(lines, 1):
        try:
            point = parse_json(line)
        except ValueError:
            if not line.strip() or not line.endswith("\n"):
                continue
            point = None
        wrong = mismatch(point, {"schema": int, "status": str, "configuration": {str: object}})
        if wrong or point["schema"] != SCHEMA or point["status"] not in STATUSES:
            remedy = "remove the line and measure that point again, or use the version that wrote it"
            raise UserError(f"{file}, line {place} is no point of schema {SCHEMA}", remedy)
        points.append(point)
    return points


def subject(configuration: Mapping[str, Any]) -> str:
    """What a rate is of, in words: model, workload and lengths."""
    model, length, lengths = (configuration.get(name) for name in ("model", "max_seq_length", "lengths"))
    name = f"BERT-{model}" if model in ("tiny", "base", "large") else Path(model).name
    return f"{name} {configuration.get('workload')} {length} tokens ({lengths})"


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


@dataclasses.dataclass
class Repeats:
    """The points of one configuration: what a row of a table and a mark of a chart is made from.

    Nothing but configuration and status is required of a point; what a machine could not measure stays absent (None).
    """

    configuration: dict[str, Any]
    label: str = ""  # of the result
    name: str = ""  # how the work was done, and in which result where there are several
    points: list[Point] = dataclasses.field(default_factory=list)

    def values(self, name: str, part: str = "measured") -> list[float]:
        """A figure of every repeat that was measured and has it; `part` is the key of a point that holds it."""
        told = [number((point.get(part) or {}).get(name)) for point in self.points if point["status"] == "ok"]
        return [value for value in told if value is not None and math.isfinite(value)]

    def median(self, name: str, part: str = "measured") -> float | None:
        """The median of `values`."""
        values = self.values(name, part)
        return statistics.median(values) if values else None

    def told(self, name: str, part: str = "measured") -> list[Any]:
        """What the points say that is no figure: sentences, lists, mappings."""
        return [value for point in self.points if (value := (point.get(part) or {}).get(name))]

    @property
    def hardware(self) -> str | None:
        """The GPU that was measured, or the CPU where there was none; None where that was not recorded."""
        gpus, cpus = self.told("gpus", "environment"), self.told("cpu", "environment")
        return str(gpus[0][0]) if gpus else next(iter(cpus), None)

    @property
    def unit(self) -> str:
        """What a rate and a batch are per: a GPU, or a process where there is none."""
        return "process" if self.told("cpu", "environment") and not self.told("gpus", "environment") else "GPU"

    @property
    def batch_size(self) -> int:
        """Sequences per GPU and optimizer step."""
        return self.configuration["batch_size"]

    @property
    def problem(self) -> str | None:
        """Why the rate must not be believed: what a fast wrong run lost."""
        return next(iter(self.told("loss_problem")), None)

    @property
    def ended(self) -> Counter[str]:
        """How the points ended, in words, and how many did so; the best comes first."""
        ends = sorted((point["status"] for point in self.points), key=STATUSES.index)
        return Counter(end.replace("_", " ") for end in ends)

    @property
    def status(self) -> str:
        """ "ok" where anything was measured and is right, else "wrong", "out of memory" or "failed"."""
        return "wrong" if self.problem else next(iter(self.ended))

    @property
    def state(self) -> str:
        """The status, and how many of the repeats ended otherwise: a median of what is left must not hide them."""
        others = [f"{count} {name}" for name, count in self.ended.items() if name not in ("ok", self.status)]
        return ", ".join([self.status, *others])

    @property
    def parts(self) -> dict[str, float]:
        """Seconds per step by part, medians over the repeats."""
        told = self.told("part_seconds")
        names = dict.fromkeys(name for parts in told for name in parts)
        return {name: statistics.median(parts[name] for parts in told if name in parts) for name in names}

    @property
    def step_percentiles(self) -> dict[str, float]:
        """Seconds of rank 0's steps by percentile, medians over the repeats; empty where they were not measured."""
        told = [each for each in self.told("step_seconds_percentiles") if each.keys() >= set(PERCENTILES)]
        found = {name: statistics.median(each[name] for each in told) for name in PERCENTILES} if told else {}
        return found if found.get("p50") else {}

    def cells(self) -> dict[str, str]:
        """A row of a table, by column."""
        rates = self.values("sequences_per_second")
        memory = self.median("peak_memory_allocated_bytes")
        tflops = self.median("model_tflops_per_second")
        return {
            "batch": f"{self.batch_size:,}",
            "sequences/s": text(self.median("sequences_per_second"), ",.1f"),
            "lowest": text(min(rates, default=None), ",.1f"),
            "highest": text(max(rates, default=None), ",.1f"),
            "n": str(len(rates)),
            "tokens/s": text(self.median("tokens_per_second"), ",.0f"),
            "TFLOP/s": text(tflops, ",.0f" if tflops and tflops >= 100 else ".3g"),
            "of peak": text(self.median("fraction", "utilisation"), ".1%"),
            "of matmuls": text(self.median("fraction", "measured_peak"), ".1%"),
            "GiB": text(memory and memory / 2**30, ".1f"),
            "sequences/J": text(self.median("sequences_per_joule"), ".3g"),
            "loss at end": text(self.median("final_loss"), ".3f"),
            "state": self.state,
        }


def by_configuration(points: Iterable[Point], label: str = "") -> dict[str, Repeats]:
    """The repeats of each configuration, by its JSON, in the order in which they first appear."""
    found: dict[str, Repeats] = {}
    for point in points:
        key = json.dumps(point["configuration"], sort_keys=True)
        found.setdefault(key, Repeats(point["configuration"], label)).points.append(point)
    return found
