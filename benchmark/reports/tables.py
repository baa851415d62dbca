"""The tables of a report."""

import json
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from benchmark.reports.compare import comparison_table
from benchmark.reports.data import Result, loss_curves_for, measured, references_for
from benchmark.sweeps.points import Repeats, subject
from benchmark.tables import MISSING, Table, text
from common.errors import UserError

FACTS = ("gpus", "driver", "torch", "cuda", "cudnn", "python", "cpu", "cpu_cores", "git_commit", "git_dirty")
PROFILE = MappingProxyType({"result": "label", "source": "source", "GPU": "device"})
LONGEST_ERROR = 300


def report_tables(results: Sequence[Result], compare: bool) -> list[Table]:
    """All tables of a report, the most wanted first."""
    tables = [comparison_table(results[0], other) for other in results[1:]] if compare else []
    if compare and not any(table.rows for table in tables):
        nothing = f"{results[0].label} has no configuration in common with the others"
        raise UserError(nothing, "sweep the same batch sizes, lengths and windows")
    tables += map(throughput_table, measured(results))
    tables += filter(
        lambda table: table.rows, [runs_table(results), published_losses_table(results), profiles_table(results)]
    )
    return [*tables, environment_table(results)]


def throughput_table(group: Sequence[Repeats]) -> Table:
    """A row for each configuration of one subject."""
    rows = [{"configuration": repeats.name} | repeats.cells() for repeats in group]
    notes = sorted({f"Peak: {peak}." for repeats in group for peak in repeats.told("peak", "utilisation")[:1]})
    slowed = [(each.batch_size, gpu["throttle_reasons"]) for each in group for gpu in each.told("gpu")]
    sizes = ", ".join(f"{size:,}" for size in sorted({size for size, reasons in slowed if reasons}))
    if sizes:
        reasons = sorted({reason for _, reasons in slowed for reason in reasons})
        notes.append(f"The driver lowered clocks at batch {sizes}: {', '.join(reasons)}.")
    for published in references_for(group[0].configuration):
        notes.append("Published: {label}, {rate:,g} sequences/s per GPU; {source}.".format(**published))
    for repeats in group:
        if repeats.status in ("wrong", "failed"):
            why = repeats.problem or next((point["error"] for point in repeats.points if point.get("error")), "")
            notes.append(f"Batch {repeats.batch_size}, {repeats.status}: {why[-LONGEST_ERROR:]}")
    return Table(subject(group[0].configuration), rows, notes)


def runs_table(results: Sequence[Result]) -> Table:
    """What training runs came to."""
    rows = []
    for run in (run for result in results for run in result.runs):
        rows += [{"run": run.label, "phase": run.name_of(n)} | phase.cells() for n, phase in run.phases.items()]
    return Table("Runs", rows)


def published_losses_table(results: Sequence[Result]) -> Table:
    """The losses of runs at the steps of a published curve that they logged; no row where no curve is of such runs."""
    theirs: dict[str, dict[int, float]] = {}
    ours: dict[str, dict[int, float]] = {}
    notes: list[str] = []
    for run in (run for result in results for run in result.runs):
        for number, phase in run.phases.items():
            for published in loss_curves_for(run.task, number, phase):
                label = f"{published['label']}, ±{published['uncertainty']:g}"
                theirs[label] = dict(zip(published["steps"], published["losses"], strict=True))
                ours[run.label] = dict(phase.curve("average_loss"))
                notes.append(f"{label}: a run of others; {published['source']}.")
    steps = set().union(*theirs.values()) & set().union(*ours.values())
    curves = theirs | ours
    rows = [
        {"step": f"{step:,}"} | {name: text(curve.get(step), ".2f") for name, curve in curves.items()}
        for step in sorted(steps)
    ]
    return Table("Loss of phase 1 beside a published curve", rows, list(dict.fromkeys(notes)))


def profiles_table(results: Sequence[Result]) -> Table:
    """Core utilization, of the peak of each unit, and how busy the device was."""
    rows = []
    for profile in (profile for result in results for profile in result.profiles):
        row = {name: str(profile.get(key) or MISSING) for name, key in PROFILE.items()}
        if profile.get("kind") == "kernels":
            row |= {unit: text(share, ".1%") for unit, share in (profile.get("core_utilisation") or {}).items()}
        else:
            span, busy = profile.get("span_seconds"), profile.get("busy_seconds")
            row["ms in all"] = text(span and span * 1e3, ",.1f")
            row["busy"] = text(busy / span if span and busy else None, ".1%")
            row["gaps"] = text((profile.get("launch_gaps") or {}).get("count"), ",.0f")
        rows.append(row)
    return Table("Profiles", rows, ["Shares of each unit's peak are weighted by cycles."])


def environment_table(results: Sequence[Result]) -> Table:
    """Where each result was measured, with a warning for what differs."""
    rows, differing = [], []
    for name in FACTS:
        row = {"fact": name}
        for result in results:
            told = [each.get("environment") or {} for each in (*result.points, *map(vars, result.runs))]
            values = [each[name] for each in told if each.get(name) not in (None, [])]
            words = [f"{len(v)} x {' / '.join(dict.fromkeys(v))}" if isinstance(v, list) else str(v) for v in values]
            row[result.label] = " / ".join(sorted(set(words))) or MISSING
        known = set(row.values()) - {MISSING, name}
        rows += [row] if known else []
        differing += [name] if len(known) > 1 else []
    warning = f"The results differ in {', '.join(differing)}: a ratio between them has that cause too."
    return Table("Environment", rows, [warning] if differing else [])


def points_table(results: Sequence[Result]) -> Table:
    """A row for each point."""
    return Table("Points", [_flat({"result": each.label} | point) for each in results for point in each.points])


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """A value by its name; the fields of a mapping by names such as `measured.part_seconds.data`."""
    if not isinstance(value, dict):
        return {name: json.dumps(value) if isinstance(value, list) else value}
    row: dict[str, Any] = {}
    for inner, item in value.items():
        row |= _flat(item, f"{name}.{inner}" if name else inner)
    return row
