"""A scaling table: what each number of GPUs comes to beside one, of points with the same work per GPU."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmark.sweeps.points import Point, Repeats, by_configuration
from benchmark.tables import Table, text

NOTES = (
    "Each GPU has the same work on any number of GPUs. Of linear: sequences per second and GPU over those of one GPU. "
    "Added: milliseconds of a step that one GPU does not need. Reduction: what is left of it after the last gradient; "
    "what runs beside the backward pass and slows it is in added alone. Rank spread: how much longer the slowest rank "
    "takes for its own work in a step than the fastest. J: of all GPUs, by the driver's counter.",
    "A single GPU need not be as fast as another of the same machine, and of several the slowest sets the pace.",
)


def scaling_rows(points: Sequence[Point]) -> Iterator[dict[str, Any]]:
    """The figures of each configuration, in seconds and joules; what was not measured is None.

    `share_of_linear` and `added_seconds` are None where the same work was not measured on one GPU.
    """
    same_work: dict[str, dict[int, Repeats]] = {}  # by what one GPU does, and by their number
    for repeats in by_configuration(points).values():
        work = json.dumps(repeats.configuration | {"n_gpus": None}, sort_keys=True)
        same_work.setdefault(work, {})[repeats.configuration["n_gpus"]] = repeats
    for numbers in same_work.values():
        for _, repeats in sorted(numbers.items()):
            yield _row(repeats, numbers.get(1))


def _row(repeats: Repeats, alone: Repeats | None) -> dict[str, Any]:
    configuration, n_gpus = repeats.configuration, repeats.configuration["n_gpus"]
    lengths, flags = configuration["lengths"], configuration["flags"]
    step, one_step = (each and each.median("step_seconds") for each in (repeats, alone))
    rate, one_rate = (each and each.median("sequences_per_second") for each in (repeats, alone))
    busy = [rank["busy_seconds"] for ranks in repeats.told("ranks") for rank in ranks]
    energy = repeats.median("sequences_per_joule")
    told = repeats.points[0]
    words = [configuration["precision"], "compiled" * configuration["compile"], flags]
    return {
        "workload": f"{configuration['workload']} {configuration['max_seq_length']}, {lengths}".removesuffix(", full"),
        "settings": ", ".join(filter(None, words)),
        "micro_batch": configuration["batch_size"] // configuration["accumulation_steps"],
        "accumulation_steps": configuration["accumulation_steps"],
        "n_gpus": n_gpus,
        "sequences_per_second": rate,
        "sequences_per_second_per_gpu": rate and rate / n_gpus,
        "share_of_linear": rate / n_gpus / one_rate if rate and one_rate else None,
        "step_seconds": step,
        "added_seconds": step - one_step if step and one_step else None,
        "reduction_seconds": repeats.parts.get("reduction"),
        "rank_spread": max(busy) / min(busy) - 1 if busy and min(busy) > 0 else None,
        "joules_per_sequence": energy and 1 / energy,
        "cuda_graphs": told.get("cuda_graphs"),
        "side_by_side": told.get("side_by_side"),
        "state": repeats.state,
    }


def scaling_table(points: Sequence[Point]) -> Table:
    """The rows for people."""
    rows = list(scaling_rows(points))
    everything = Repeats({}, points=list(points))
    counted = "processes" if everything.unit == "process" else "GPUs"
    models = ", ".join(dict.fromkeys(f"BERT-{point['configuration']['model']}" for point in points))
    return Table(
        f"Scaling of {models} on {everything.hardware}",
        [_cells(row, counted) for row in rows],
        [*NOTES, *_remarks(rows)],
    )


def _cells(row: Mapping[str, Any], counted: str) -> dict[str, str]:
    return {
        "work": f"{row['workload']}, {row['settings']}",
        "micro-batches": f"{row['accumulation_steps']} x {row['micro_batch']}",
        counted: str(row["n_gpus"]),
        "sequences/s": text(row["sequences_per_second"], ",.1f"),
        "of each": text(row["sequences_per_second_per_gpu"], ",.1f"),
        "of linear": text(row["share_of_linear"], ".1%"),
        "step, ms": text(_ms(row["step_seconds"]), ",.1f"),
        "added, ms": text(_ms(row["added_seconds"]), ",.1f"),
        "reduction, ms": text(_ms(row["reduction_seconds"]), ",.1f"),
        "rank spread": text(row["rank_spread"], ".1%"),
        "J/sequence": text(row["joules_per_sequence"], ".3g"),
        "state": row["state"],
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _remarks(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What else tells numbers of GPUs apart."""
    graphs: dict[tuple[Any, ...], set[bool]] = {}
    for row in rows:
        work = tuple(row[name] for name in ("workload", "settings", "micro_batch", "accumulation_steps"))
        graphs.setdefault(work, set()).add(bool(row["cuda_graphs"]))
    differing = dict.fromkeys(work[0] for work, kinds in graphs.items() if len(kinds) > 1)
    if differing:
        yield (
            f"{', '.join(differing)}: CUDA graphs were recorded on some numbers of GPUs and not on others, so that the "
            "share of linear has that cause too."
        )
    beside = max((row["side_by_side"] or 1 for row in rows), default=1)
    if beside > 1:
        yield f"Measurements of few GPUs ran side by side, up to {beside} at a time, on GPUs of their own."
