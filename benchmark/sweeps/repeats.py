"""The repeats of one configuration: what a row of a table and a mark of a chart is made from.

It must work on whatever a machine could measure: nothing but the configuration and the status is required of a point,
and what is absent stays absent (None).
"""

import dataclasses
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any

from benchmark.sweeps.points import Point
from benchmark.tables import number, text


@dataclasses.dataclass
class Repeats:
    """The points of one configuration, of the result with this label where there are several."""

    configuration: dict[str, Any]
    label: str = ""
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
        known = self.told("gpus", "environment") + self.told("cpu", "environment")
        return next((str(name[0] if isinstance(name, list) else name) for name in known), None)

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
        """How the points ended, in words, and how many did so."""
        return Counter(point["status"].replace("_", " ") for point in self.points)

    @property
    def status(self) -> str:
        """ "ok" where anything was measured and is right, else "wrong", "out of memory" or "failed"."""
        return "wrong" if self.problem else min(self.ended, key=("ok", "out of memory", "failed").index)

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

    def cells(self) -> dict[str, str]:
        """A row of a table, by column."""
        rates = self.values("sequences_per_second")
        memory = self.median("peak_memory_allocated_bytes")
        return {
            "batch": text(self.batch_size, ","),
            "sequences/s": text(self.median("sequences_per_second"), ",.1f"),
            "lowest": text(min(rates, default=None), ",.1f"),
            "highest": text(max(rates, default=None), ",.1f"),
            "n": str(len(rates)),
            "tokens/s": text(self.median("tokens_per_second"), ",.0f"),
            "TFLOP/s": text(self.median("model_tflops_per_second"), ".3g"),
            "of peak": text(self.median("fraction", "utilisation"), ".1%"),
            "of products": text(self.median("fraction", "measured_peak"), ".1%"),
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
