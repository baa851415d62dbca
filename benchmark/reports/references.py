"""Published throughputs to draw beside measured ones, each with where it comes from: references.json.

None of them was measured here, and none under the conditions of a chart that it is drawn in: another GPU, another
precision or other software. They say where others stand, not who wins, so their labels name the hardware, and no ratio
is computed against them. "Second hand" are figures that are often quoted and that we did not find in a document of
those who measured them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("references.json")


class Reference(NamedTuple):
    """Sequences per second and GPU, as published for BERT-large."""

    workload: str
    max_seq_length: int
    full: bool  # padded or full sequences; else the true lengths of a corpus, without padding
    rate: float
    label: str
    source: str


def references_for(configuration: Mapping[str, Any]) -> list[Reference]:
    """Those of the same model, work and length, by rate; full lengths and true lengths apart."""
    if configuration.get("model") != "large":
        return []
    published = json.loads(FILE.read_text(encoding="utf-8"))
    found = [Reference(**each | {"source": published["sources"][each["source"]]}) for each in published["references"]]
    work = (configuration.get("workload"), configuration.get("max_seq_length"), configuration.get("lengths") == "full")
    return [reference for reference in found if reference[:3] == work]
