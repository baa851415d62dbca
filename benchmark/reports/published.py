"""What others published of the same work: throughputs, and a loss curve, each with its source.

None was measured under the conditions of a report, so every label names the hardware and the system, and no ratio is
computed against them. Only what those who measured it published is here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.logs import Phase
from benchmark.tables import Table

FILE = Path(__file__).with_name("references.json")


def references_for(configuration: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`rate` per GPU, `gpu`, `system`, `precision`, `clock` and `source` of the same model, work and lengths."""
    mean_length = str(configuration.get("lengths")).split(" ")[-1]  # "full", or the last word of "evenly around 254"
    work = (configuration.get("workload"), configuration.get("max_seq_length"), mean_length)
    return [
        each
        for each in every_reference()
        if configuration.get("model") == "large"
        and work == tuple(each[name] for name in ("workload", "max_seq_length", "mean_length"))
    ]


def every_reference() -> list[dict[str, Any]]:
    """All published rates, all of BERT-large: the keys of `references_for`, and of which work."""
    published = json.loads(FILE.read_text(encoding="utf-8"))
    return [
        each | {"source": published["sources"][each["system"]], "clock": published["clocks"][each["clock"]]}
        for each in published["references"]
    ]


def published_table(configuration: Mapping[str, Any]) -> Table:
    """A row for each published throughput; none where nobody published any of this work."""
    rows = [
        {
            "system": each["system"],
            "GPU": each["gpu"],
            "precision": each["precision"],
            "sequences/s per GPU": f"{each['rate']:,g}",
            "counted": each["clock"],
            "source": each["source"],
        }
        for each in references_for(configuration)
    ]
    return Table("Published by others", rows, ["Other hardware, precision or software: no ratio is computed."])


def loss_curves_for(task: str, number: int, phase: Phase) -> list[dict[str, Any]]:
    """`steps`, `losses`, `uncertainty`, `label` and `source` of what was published of this phase, batch and length.

    They are of BERT-large, and none is for a run of another model.
    """
    published = json.loads(FILE.read_text(encoding="utf-8"))
    model, batches, flags = (phase.settings.get(name) or {} for name in ("model", "batches", "arguments"))
    is_large = (model.get("hidden_size"), model.get("num_hidden_layers")) == (1024, 24)
    conditions = (number, batches.get("global"), flags.get("max_seq_length"))
    return [
        each | {"source": published["sources"][each["source"]]}
        for each in published["loss_curves"]
        if task == "pretraining"
        and is_large
        and conditions == tuple(each[name] for name in ("phase", "global_batch", "max_seq_length"))
    ]
